"""Charge and uncharge EPC bytes along the cgroup path (kernel/cgroup/misc.c).

A charge succeeds at every level up to the root or leaves no usage at any. What differs: v2 counts in a C int
and its events reach the root; today's controller keeps peaks, local events, and spares the root's event
counter. Pages are charged by the EPC manager; `charge_bytes` is for any other holder. Left out: other resources.
"""

from epcgroup.kernel.cgroup import css_put
from epcgroup.kernel.jit import inline, kernel, syscall
from epcgroup.kernel.structs import C_REFUSED, EBUSY, EINVAL, NIL, PAGE, V2, W_CANCEL_CHARGE
from epcgroup.kernel.tracepoint import warn_on


@inline
def refuses(k, c, new):
    """Would level c refuse a usage of `new` bytes?"""
    if k.g.series == V2 and (new < 0 or new > 0x7FFFFFFF):
        return True  # v2: int arithmetic, a negative value compares as a huge one
    return new > k.cgroups[c].max or new > k.g.capacity


@kernel
def refuse(k, cg, level, nr_bytes):
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
        k.cgroups[c].usage -= nr_bytes
        c = k.cgroups[c].parent


@kernel
def try_charge_bytes(k, cg, nr_bytes):
    """Charge cg and all its ancestors: 0, or -EBUSY when a level refuses."""
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        new = level.usage + nr_bytes
        if refuses(k, c, new):
            refuse(k, cg, c, nr_bytes)
            return -EBUSY
        level.usage = new
        # A peak raised below a level that refuses later stays (kernel.md 4.3).
        if new > level.peak:
            level.peak = new
        c = level.parent
    return 0


@kernel
def misc_try_charge(k, cg):
    """Charge one page."""
    return try_charge_bytes(k, cg, PAGE)


@kernel
def cancel_bytes(k, cg, nr_bytes):
    c = cg
    while c != NIL:
        level = k.cgroups[c]
        level.usage -= nr_bytes
        if level.usage < 0:
            warn_on(k, W_CANCEL_CHARGE)  # v2: the root's refused charges are uncharged all the same (D14)
        c = level.parent


@kernel
def misc_uncharge(k, cg, nr_pages):
    cancel_bytes(k, cg, nr_pages * PAGE)


@syscall
def charge_bytes(k, cg, nr_bytes):
    """A charge of bytes that are no pages of ours: 0, -EBUSY, or -EINVAL where there is no capacity."""
    if k.g.capacity == 0:
        return -EINVAL
    if nr_bytes == 0:
        return 0
    result = try_charge_bytes(k, cg, nr_bytes)
    if result == 0:
        k.cgroups[cg].other += nr_bytes
    return result


@syscall
def uncharge_bytes(k, cg, nr_bytes):
    """Give back what `charge_bytes` took; cg may have been removed since."""
    k.cgroups[cg].other -= nr_bytes
    cancel_bytes(k, cg, nr_bytes)
    css_put(k, cg)


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
