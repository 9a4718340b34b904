"""Charge and uncharge EPC bytes along the cgroup path (kernel/cgroup/misc.c).

A charge succeeds at every level up to the root or leaves no usage at any. What differs: v2 counts in a C int
and its events reach the root; today's controller keeps peaks, local events, and spares the root's event
counter. Left out: other resources.
"""

from epcgroup.kernel.jit import inline, kernel
from epcgroup.kernel.structs import C_REFUSED, EBUSY, NIL, PAGE, V2, W_CANCEL_CHARGE
from epcgroup.kernel.tracepoint import warn_on


@inline
def refuses(k, c, new):
    """Would level c refuse a usage of `new` bytes?"""
    if k.g.series == V2 and (new < 0 or new > 0x7FFFFFFF):
        return True  # v2: int arithmetic, a negative value compares as a huge one
    return new > k.cgroups[c].max or new > k.g.capacity


@kernel
def refuse(k, cg, level):
    """Level refused a charge of cg: count the event there and above, roll back the usage below."""
    k.counters[C_REFUSED] += 1
    k.cgroups[level].events_local += 1
    c = level
    while c != NIL:
        if k.g.series == V2 or c != 0:
            k.cgroups[c].events += 1
        c = k.cgroups[c].parent
    c = cg
    while c != level:
        k.cgroups[c].usage -= PAGE
        c = k.cgroups[c].parent


@kernel
def misc_try_charge(k, cg):
    """Charge one page to cg and all its ancestors: 0, or -EBUSY when a level refuses."""
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        new = level.usage + PAGE
        if refuses(k, c, new):
            refuse(k, cg, c)
            return -EBUSY
        level.usage = new
        # A peak raised below a level that refuses later stays (kernel.md 4.3).
        if new > level.peak:
            level.peak = new
        c = level.parent
    return 0


@kernel
def misc_uncharge(k, cg, nr_pages):
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        level.usage -= nr_pages * PAGE
        if level.usage < 0:
            warn_on(k, W_CANCEL_CHARGE)  # v2: the root's refused charges are uncharged all the same (D14)
        c = level.parent


@kernel
def headroom(k, cg, limit):
    """Pages that can be charged to cg without any level refusing, at most `limit`."""
    room = limit
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        top = min(level.max, k.g.capacity)
        if k.g.series == V2:
            top = min(top, 0x7FFFFFFF)
            if level.usage < 0:
                return 0
        room = min(room, (top - level.usage) // PAGE)
        c = level.parent
    return max(room, 0)


@kernel
def misc_charge_many(k, cg, nr_pages):
    """Charge pages that `headroom` said fit."""
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        level.usage += nr_pages * PAGE
        if level.usage > level.peak:
            level.peak = level.usage
        c = level.parent
