"""Series v2 (2 Dec 2022, as posted, defects included): see spec/kernel.md part 2.

Mirrors v2 epc_cgroup.c: a shared walk with epochs, thresholds before age is ignored and before an enclave is
killed, and misc.max writes that reclaim at once. Its defects act as on a kernel: loops that cannot end are a
HANG, never ours.
"""

from epcgroup.kernel.cgroup import css_next_descendant_pre, lru, lru_empty, queue_work
from epcgroup.kernel.fifo import fifo_nr, fifo_peek_live, fifo_pop
from epcgroup.kernel.jit import kernel, operation, syscall
from epcgroup.kernel.misc import misc_try_charge
from epcgroup.kernel.oom import epc_cgroup_oom
from epcgroup.kernel.ops import reclaim_candidates
from epcgroup.kernel.resched import cond_resched
from epcgroup.kernel.structs import (
    EBUSY,
    ENOMEM,
    ERESTARTSYS,
    IGNORE_AGE_THRESHOLD,
    NIL,
    NO_RECLAIM,
    NR_TO_RECLAIM_MAX,
    NR_TO_SCAN,
    NR_TO_SCAN_MAX,
    OOM_THRESHOLD,
    P_NOT_ENCLAVE,
    PAGE,
    W_ISOLATE,
)
from epcgroup.kernel.tracepoint import warn_on


@kernel
def isolate_epc_pages(k, c, at, n):
    """Examine up to n pages at the head of c's list; returns (pages taken into scan, pages examined).

    A head without the ENCLAVE bit is not moved, so all that is left of n is spent on it (defect D1).
    """
    f = lru(c)
    taken = 0
    while taken < n and fifo_nr(k, f) != 0:
        v = fifo_peek_live(k, f)
        if k.state[v] & P_NOT_ENCLAVE != 0:
            warn_on(k, W_ISOLATE)
            k.g.nr_lru -= taken
            return taken, n
        k.scan[at + taken] = v
        fifo_pop(k, f)
        taken += 1
    k.g.nr_lru -= taken
    return taken, taken


@kernel
def isolate_pages(k, root, n):
    """The shared walk over root's subtree: goes on after the cgroup visited last, and does not wrap once under way."""
    r = k.cgroups[root]
    taken = 0
    epoch = r.epoch
    started = False
    pos = NIL
    while n > 0:
        if started and r.epoch != epoch:
            break
        if not started:
            last = r.iter
            if last != NIL and k.cgroups[last].dead != 0:
                r.iter = NIL
                last = NIL
            if last == NIL:
                pos = root
            else:
                pos = css_next_descendant_pre(k, last, root)
                if pos == NIL:
                    r.epoch += 1
                    pos = root
            epoch = r.epoch
            started = True
        else:
            pos = css_next_descendant_pre(k, pos, root)
            if pos == NIL:
                r.iter = NIL
                r.epoch += 1
                break
        if k.cgroups[pos].dead != 0:
            continue
        r.iter = pos
        got, examined = isolate_epc_pages(k, pos, taken, n)
        taken += got
        n -= examined
    return taken


@kernel
def reclaim_batch(k, root, nr, ignore_age):
    """Scan nr pages of root's subtree and write up to 32 of them; returns the pages written."""
    taken = isolate_pages(k, root, nr)
    if taken == 0:
        return 0
    k.g.ignore_age = ignore_age
    return reclaim_candidates(k, 0, taken, NR_TO_RECLAIM_MAX)


@kernel
def reclaim_subtree(k, root, nr, ignore_age):
    """A batch and a reschedule, as a cgroup's charges, work and misc.max writes do."""
    written = reclaim_batch(k, root, nr, ignore_age)
    cond_resched(k)
    return written


@kernel
def clamp_scan(nr):
    return min(max(nr, NR_TO_SCAN), NR_TO_SCAN_MAX)


@operation
def try_charge(k, cg, mode, _c):
    """Charge one page to cg. The limit looked at is cg's own, even when an ancestor refused (defect D2)."""
    if cg == 0:
        misc_try_charge(k, 0)  # the answer is ignored, the page is uncharged later all the same (D14)
        return 0
    fails = 0
    empty = 0
    ignore_age = 0
    while True:
        if misc_try_charge(k, cg) == 0:
            return 0
        limit = k.cgroups[cg].max // PAGE
        if limit < 1:
            return -ENOMEM
        if k.g.signal != 0:
            return -ERESTARTSYS
        if mode == NO_RECLAIM:
            queue_work(k, cg)
            return -EBUSY
        usage = k.cgroups[cg].usage // PAGE
        over = usage + 1 - limit if usage + 1 > limit else NR_TO_SCAN
        if reclaim_subtree(k, cg, clamp_scan(over), ignore_age) == 0:
            if lru_empty(k, cg):
                empty += 1
                if empty > OOM_THRESHOLD:
                    return -ENOMEM
                cond_resched(k)
            else:
                fails += 1
                if fails > IGNORE_AGE_THRESHOLD:
                    ignore_age = 1
        if k.g.fatal != 0:
            return -EBUSY


@operation
def work(k, cg, batches, _c):
    """cg's queued reclaim work; v2's runs to its end. Only its own limit counts."""
    fails = 0
    ignore_age = 0
    while True:
        limit = k.cgroups[cg].max // PAGE
        if limit > 0:
            limit -= 1
        if limit > NR_TO_SCAN_MAX:
            limit -= NR_TO_SCAN_MAX // 8
        usage = k.cgroups[cg].usage // PAGE
        if usage <= limit or k.g.fatal != 0:
            return 1
        if reclaim_subtree(k, cg, clamp_scan(usage - limit), ignore_age) == 0:
            if lru_empty(k, cg):
                return 1
            fails += 1
            if fails > IGNORE_AGE_THRESHOLD:
                ignore_age = 1


@syscall
def max_write(k, cg):
    """After a new misc.max is stored: reclaim down to it, then kill enclaves, one victim a round."""
    limit = k.cgroups[cg].max // PAGE
    fails = 0
    empty = 0
    ignore_age = 0
    while True:
        usage = k.cgroups[cg].usage // PAGE
        if usage <= limit or k.g.signal != 0 or k.g.fatal != 0:
            return
        if reclaim_subtree(k, cg, clamp_scan(usage - limit), ignore_age) == 0:
            if lru_empty(k, cg):
                empty += 1
                if empty > OOM_THRESHOLD:
                    epc_cgroup_oom(k, cg)
                cond_resched(k)
            else:
                fails += 1
                if fails > IGNORE_AGE_THRESHOLD:
                    ignore_age = 1


@operation
def reclaim_global(k, _a, _b, _c):
    return reclaim_batch(k, 0, NR_TO_SCAN, 0)


@operation
def reclaim_direct(k, _a, _b, _c):
    """v2 has no reclaim of current's cgroup before an ioctl."""
    return 0
