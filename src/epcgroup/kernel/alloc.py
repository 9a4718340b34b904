"""Allocate one EPC page: charge, take a free page, or reclaim and try again (sgx_alloc_epc_page in main.c).

The one place where the series meet: their files have the same function names, chosen here by the series of the machine.
"""

from epcgroup.kernel import mainline, v2, v17
from epcgroup.kernel.cgroup import css_put
from epcgroup.kernel.encl import eremove
from epcgroup.kernel.epc_page import free_epc_page, take_epc_page
from epcgroup.kernel.jit import kernel
from epcgroup.kernel.misc import misc_uncharge
from epcgroup.kernel.resched import cond_resched
from epcgroup.kernel.structs import (
    EBUSY,
    ENOMEM,
    ERESTARTSYS,
    MAINLINE,
    NIL,
    NO_RECLAIM,
    NR_LOW_PAGES,
    V2,
    V17,
)


@kernel
def try_charge(k, cg, mode):
    series = k.g.series
    if series == V17:
        return v17.try_charge(k, cg, mode)
    if series == V2:
        return v2.try_charge(k, cg, mode)
    return mainline.try_charge(k, cg, mode)


@kernel
def reclaim_global(k):
    """One round over everybody's pages."""
    series = k.g.series
    if series == V17:
        v17.reclaim_global(k)
    elif series == V2:
        v2.reclaim_global(k)
    else:
        mainline.reclaim_global(k)


@kernel
def reclaim_direct(k):
    """Before an SGX2 ioctl takes the enclave's lock, per page."""
    if k.g.series == V17:
        v17.reclaim_direct(k)
    if k.g.nr_free < NR_LOW_PAGES and k.g.nr_lru != 0:
        reclaim_global(k)


@kernel
def wake_ksgxd(k):
    """An allocation that leaves few pages free wakes ksgxd."""
    if k.g.nr_free < NR_LOW_PAGES and k.g.nr_lru != 0:
        k.g.ksgxd_woken = 1
        k.g.woke = 1


@kernel
def alloc_epc_page(k, mode):
    """A frame charged to current's cgroup, which the caller must give a css reference; or a negative errno."""
    g = k.g
    cg = g.cgroup
    result = try_charge(k, cg, mode)
    if result != 0:
        return result
    while True:
        result = take_epc_page(k)
        if result != NIL:
            break
        if g.nr_lru == 0:
            result = -ENOMEM
        elif mode == NO_RECLAIM:
            result = -EBUSY
        elif g.signal != 0:
            result = -ERESTARTSYS
        else:
            reclaim_global(k)
            cond_resched(k)
        if g.fatal != 0:
            result = -EBUSY
        if result != NIL:
            break
    if result < 0:
        misc_uncharge(k, cg, 1)
    if result != -ENOMEM or g.series != MAINLINE:
        wake_ksgxd(k)
    return result


@kernel
def encl_free_epc_page(k, cgroup, frame):
    """EREMOVE, then give a page back that never got a css reference."""
    eremove(k)
    misc_uncharge(k, cgroup, 1)
    css_put(k, cgroup)
    free_epc_page(k, frame)
