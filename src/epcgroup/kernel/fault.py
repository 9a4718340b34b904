"""A page fault, and the loop over a batch of touches (arch/x86/kernel/cpu/sgx/encl.c: load, EAUG, vma_fault).

A touch is one access: of a mapped page it sets the accessed bit, of any other it takes a fault first. A fault
may not reclaim: at a limit it is refused, the cgroup's work is queued, and the task faults again until somebody
has made room.
"""

from epcgroup.kernel.alloc import encl_free_epc_page
from epcgroup.kernel.cgroup import css_get_page
from epcgroup.kernel.encl import mark_page_reclaimable, pin_secs, pin_va
from epcgroup.kernel.jit import inline, kernel, operation
from epcgroup.kernel.ledger import set_place, swap_in, va_add_head
from epcgroup.kernel.ops import alloc_epc_page
from epcgroup.kernel.structs import (
    C_EAUG,
    C_ELDU,
    C_EPA,
    C_FAULT,
    E_INIT,
    EBUSY,
    NIL,
    NO_RECLAIM,
    OOPS,
    P_KNOWN,
    P_MAPPED,
    P_NOT_ENCLAVE,
    P_RESIDENT,
    P_YOUNG,
    SIGBUS,
    TP_ELDU,
    V2,
    VA_SLOT_COUNT,
)
from epcgroup.kernel.tracepoint import trace


@kernel
def encl_eldu(k, e, v):
    """Load the content of v: its backing pages and its VA slot become free."""
    k.counters[C_ELDU] += 1
    swap_in(k, e, v)
    k.g.progress += 1
    if k.g.tracing != 0:
        trace(k, TP_ELDU, e, v)


@kernel
def load_secs(k, e):
    """Make the SECS resident."""
    encl = k.encls[e]
    if encl.secs != NIL:
        return 0
    frame = alloc_epc_page(k, NO_RECLAIM)
    if frame < 0:
        return frame
    v = encl.start + encl.length
    encl_eldu(k, e, v)
    k.state[v] = 0
    pin_secs(k, e, frame, k.g.cgroup)
    return 0


@inline
def set_resident(k, e, v, frame):
    """v got a frame charged to current's cgroup."""
    cgroup = k.g.cgroup
    set_place(k, e, v, frame, cgroup)
    css_get_page(k, cgroup)
    encl = k.encls[e]
    encl.child += 1
    encl.nr_resident += 1


@kernel
def load_page(k, e, v):
    """Make a known page resident: 0, or the allocation's error. A SECS loaded on the way stays."""
    s = k.state[v]
    if s & P_RESIDENT != 0:
        return 0
    result = load_secs(k, e)
    if result != 0:
        return result
    frame = alloc_epc_page(k, NO_RECLAIM)
    if frame < 0:
        return frame
    encl_eldu(k, e, v)
    set_resident(k, e, v, frame)
    k.encls[e].nr_eldu += 1
    k.state[v] |= P_RESIDENT
    mark_page_reclaimable(k, e, v)
    return 0


@kernel
def encl_grow(k, e, mode):
    """Count one more page; every 512th needs a VA page. Returns its pin, NIL when none was needed, or errno - 1."""
    encl = k.encls[e]
    va = NIL
    if encl.page_cnt % VA_SLOT_COUNT == 0:
        frame = alloc_epc_page(k, mode)
        if frame < 0:
            return frame - 1
        k.counters[C_EPA] += 1
        va = pin_va(k, e, frame, k.g.cgroup)
    encl.page_cnt += 1
    return va


@kernel
def eaug_page(k, e, v):
    """Add a page to an initialised enclave at its first touch: 0, -EBUSY (fault again), or -SIGBUS."""
    encl = k.encls[e]
    if encl.flags & E_INIT == 0:
        return -SIGBUS
    if k.g.series != V2:
        result = load_secs(k, e)
        if result != 0:
            return -EBUSY if result == -EBUSY else -SIGBUS
    frame = alloc_epc_page(k, NO_RECLAIM)
    if frame < 0:
        return -EBUSY if frame == -EBUSY else -SIGBUS
    cgroup = k.g.cgroup
    va = encl_grow(k, e, NO_RECLAIM)
    if va < NIL:
        encl_free_epc_page(k, cgroup, frame)
        return -EBUSY if va + 1 == -EBUSY and k.g.series != V2 else -SIGBUS
    if va != NIL:
        va_add_head(k, e, va)
    if encl.secs == NIL:
        k.g.fatal = OOPS  # v2: the SECS was swapped out, or zapped by OOM (defect D6)
        return -SIGBUS
    k.counters[C_EAUG] += 1
    k.g.progress += 1
    set_resident(k, e, v, frame)
    encl.nr_pages += 1
    encl.nr_eaug += 1
    k.state[v] |= P_RESIDENT | P_KNOWN
    if k.g.series == V2:
        k.state[v] |= P_NOT_ENCLAVE
    mark_page_reclaimable(k, e, v)
    return 0


@inline
def set_pte(k, mm, v, bits):
    m = k.mms[mm]
    if m.ptes == NIL:
        k.state[v] |= bits
    else:
        k.ptes[m.ptes + v - k.encls[m.encl].start] |= bits


@operation
def vma_fault(k, mm, v, _c):
    """ops.vma_fault."""
    e = k.mms[mm].encl
    k.counters[C_FAULT] += 1
    k.encls[e].nr_fault += 1
    if k.mms[mm].detached != 0:
        return -SIGBUS
    if k.state[v] & P_KNOWN == 0:
        if k.g.sgx2 == 0:
            return -SIGBUS
        result = eaug_page(k, e, v)
        if result == 0:
            set_pte(k, mm, v, P_MAPPED | P_YOUNG)  # this path does not clear the accessed bit
        return result
    result = load_page(k, e, v)
    if result != 0:
        return -EBUSY if result == -EBUSY else -SIGBUS
    set_pte(k, mm, v, P_MAPPED)
    return 0
