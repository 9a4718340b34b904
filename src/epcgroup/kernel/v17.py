"""Series v17 (30 Aug 2024, the last posted): a list a cgroup, turns by next_cg, -ENOMEM when nothing is left.

Mirrors v17 epc_cgroup.c. A limit lowered below usage frees nothing by itself; the next charge does.
"""

from epcgroup.kernel.cgroup import css_next_descendant_pre, lru, lru_empty, queue_work
from epcgroup.kernel.jit import kernel, operation
from epcgroup.kernel.misc import misc_try_charge
from epcgroup.kernel.reclaim import reclaim_pages
from epcgroup.kernel.resched import cond_resched
from epcgroup.kernel.structs import (
    EBUSY,
    ENOMEM,
    ERESTARTSYS,
    NIL,
    NO_RECLAIM,
    NR_TO_SCAN,
    PAGE,
    V17_CREDIT,
)


@kernel
def next_cgroup(k, root):
    """The cgroup of root's subtree whose turn it is; after the last descendant comes root again."""
    c = k.cgroups[root].next_cg
    while c != root and k.cgroups[c].dead != 0:
        c = css_next_descendant_pre(k, c, root)
        if c == NIL:
            c = root
    following = css_next_descendant_pre(k, c, root)
    k.cgroups[root].next_cg = following if following != NIL else root
    return c


@kernel
def reclaim_subtree(k, root, nr):
    """Scan at least nr pages of root's subtree, one batch a cgroup in turn, unless all lists are empty."""
    scanned = 0
    while not lru_empty(k, root) and scanned < nr:
        scanned += reclaim_pages(k, lru(next_cgroup(k, root)))


@operation
def try_charge(k, cg, mode, _c):
    """Charge one page to cg: 0, -ENOMEM, -ERESTARTSYS, or -EBUSY when this caller may not reclaim."""
    while True:
        if misc_try_charge(k, cg) == 0:
            return 0
        if lru_empty(k, cg):
            return -ENOMEM
        if k.g.signal != 0:
            return -ERESTARTSYS
        if mode == NO_RECLAIM:
            queue_work(k, cg)
            return -EBUSY
        reclaim_subtree(k, cg, 1)
        cond_resched(k)
        if k.g.fatal != 0:
            return -EBUSY


@kernel
def should_reclaim(k, cg):
    """Has cg come within the credit of the smallest limit on its path, and is there something to reclaim?"""
    if lru_empty(k, cg):
        return False
    limit = k.cgroups[cg].max
    c = k.cgroups[cg].parent
    while c != NIL:
        limit = min(limit, k.cgroups[c].max)
        c = k.cgroups[c].parent
    limit //= PAGE
    # The credit keeps a limit from thrashing; small limits cannot afford it.
    if limit > 4 * V17_CREDIT:
        limit -= V17_CREDIT
    return k.cgroups[cg].usage // PAGE >= limit


@operation
def work(k, cg, batches, _c):
    """cg's queued reclaim work, for at most so many batches: 1 when it is done."""
    for _ in range(batches):
        if k.g.fatal != 0 or not should_reclaim(k, cg):
            return 1
        reclaim_subtree(k, cg, NR_TO_SCAN)
        cond_resched(k)
    return 0


@operation
def reclaim_global(k, _a, _b, _c):
    reclaim_subtree(k, 0, NR_TO_SCAN)
    return 0


@operation
def reclaim_direct(k, _a, _b, _c):
    """Before an SGX2 ioctl takes the enclave's lock: keep current's cgroup below its credit."""
    if should_reclaim(k, k.g.cgroup):
        reclaim_subtree(k, k.g.cgroup, NR_TO_SCAN)
    return 0
