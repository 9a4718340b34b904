"""The loop over a batch of touches: what a task does between two system calls."""

from epcgroup.kernel.fault import vma_fault
from epcgroup.kernel.jit import kernel, syscall, u32_at
from epcgroup.kernel.ksgxd import ksgxd, run_deferred, run_works
from epcgroup.kernel.structs import (
    C_EACCEPT,
    EBUSY,
    K_MODIFIED,
    NIL,
    P_MAPPED,
    P_YOUNG,
    SEGV,
)

# Flags of a touch batch.
ACCESS = 1  # access the page after the fault; without it only the fault
ACCEPT = 2  # EACCEPT it too


@kernel
def enter_task(k, t):
    g = k.g
    task = k.tasks[t]
    g.task = t
    g.kthread = 0
    g.cgroup = task.cgroup
    g.node = task.node
    g.node_has_epc = task.node_has_epc
    g.idle_resched = 0


@kernel
def touch_page(k, t, v, flags):
    """One touch: 0, -EBUSY, -SIGBUS."""
    mm = k.tasks[t].mm
    m = k.mms[mm]
    if m.ptes == NIL:
        mapped = k.state[v] & P_MAPPED
    else:
        mapped = k.ptes[m.ptes + v - k.encls[m.encl].base] & P_MAPPED
    if mapped == 0:
        result = vma_fault(k, mm, v)
        if result != 0:
            return result
    if flags & ACCESS != 0:
        if m.ptes == NIL:
            k.state[v] |= P_YOUNG
        else:
            k.ptes[m.ptes + v - k.encls[m.encl].base] |= P_YOUNG
    if flags & ACCEPT != 0:
        k.counters[C_EACCEPT] += 1
        k.kind[v] &= 255 ^ K_MODIFIED
    return 0


@syscall
def touch(k, t, address, n, flags, retries):
    """Touch n pages (uint32 offsets in the enclave at `address`) as task t; returns how many were done.

    Stops at the first that fails: g.status says why (0, -EBUSY, -SIGBUS, -SEGV). With retries, a fault that is
    to be repeated is, up to so many times a page, after deferred work, queued works and a woken ksgxd have run;
    g.retries counts.
    """
    g = k.g
    enter_task(k, t)
    pages = u32_at(address)
    encl = k.encls[k.tasks[t].encl]
    g.status = 0
    g.retries = 0
    for i in range(n):
        page = pages[i]
        if page >= encl.size:
            g.status = -SEGV
            return i
        result = touch_page(k, t, encl.base + page, flags)
        left = retries
        while result == -EBUSY and left > 0 and g.fatal == 0:
            left -= 1
            g.retries += 1
            signal = g.signal
            run_deferred(k)
            run_works(k)
            if g.ksgxd_woken != 0:
                ksgxd(k, 1 << 62)
            enter_task(k, t)
            g.signal = signal
            result = touch_page(k, t, encl.base + page, flags)
        if result != 0 or g.fatal != 0:
            g.status = result
            return i
    return n
