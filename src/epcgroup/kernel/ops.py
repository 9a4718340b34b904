"""The operations table as functions: what is called here is chosen at boot (series.py), as a struct of pointers is.

Also what keeps this room free of cycles: in the kernel main.c and epc_cgroup.c call each other.
"""

from epcgroup.kernel.jit import call, inline
from epcgroup.kernel.structs import (
    OP_ALLOC,
    OP_FAULT,
    OP_FREE_PAGES,
    OP_RECLAIM,
    OP_RECLAIM_DIRECT,
    OP_RECLAIM_GLOBAL,
    OP_TRY_CHARGE,
    OP_WORK,
)


@inline
def try_charge(k, cg, mode):
    """Charge one page to cg: 0, or -ENOMEM, -ERESTARTSYS, -EBUSY (this caller may not reclaim)."""
    return call(k, OP_TRY_CHARGE, cg, mode, 0)


@inline
def reclaim_global(k):
    """One round over everybody's pages."""
    return call(k, OP_RECLAIM_GLOBAL, 0, 0, 0)


@inline
def reclaim_direct(k):
    """Before an SGX2 ioctl takes the enclave's lock: reclaim of current's cgroup."""
    return call(k, OP_RECLAIM_DIRECT, 0, 0, 0)


@inline
def work(k, cg, batches):
    """cg's queued reclaim work, for at most so many batches: 1 when it is done."""
    return call(k, OP_WORK, cg, batches, 0)


@inline
def alloc_epc_page(k, mode):
    """A frame charged to current's cgroup, which the caller must give a css reference; or a negative errno."""
    return call(k, OP_ALLOC, mode, 0, 0)


@inline
def reclaim_candidates(k, at, n, limit):
    """Age, block and write n pages, at most `limit` of them; the number written.

    They stand in slots from `at` on, in a block that has just left its list, or, `at` being 0, in scan.
    """
    return call(k, OP_RECLAIM, at, n, limit)


@inline
def encl_free_pages(k, e):
    """Free all pages of an enclave."""
    return call(k, OP_FREE_PAGES, e, 0, 0)


@inline
def vma_fault(k, mm, v):
    """A page fault of a process at an encl_page: 0 (mapped), -EBUSY (to be repeated), or -SIGBUS."""
    return call(k, OP_FAULT, mm, v, 0)
