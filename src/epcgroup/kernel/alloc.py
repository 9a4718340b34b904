"""Allocate one EPC page: charge, take a free page, or reclaim and try again (sgx_alloc_epc_page in main.c)."""

from epcgroup.kernel.encl import eremove
from epcgroup.kernel.epc_page import free_epc_page, take_epc_page
from epcgroup.kernel.jit import kernel, operation
from epcgroup.kernel.misc import misc_uncharge
from epcgroup.kernel.ops import reclaim_global, try_charge
from epcgroup.kernel.resched import cond_resched
from epcgroup.kernel.structs import EBUSY, ENOMEM, ERESTARTSYS, NIL, NO_RECLAIM, NR_LOW_PAGES


@kernel
def wake_ksgxd(k):
    """An allocation that leaves few pages free wakes ksgxd."""
    if k.g.nr_free < NR_LOW_PAGES and k.g.nr_lru != 0:
        k.g.ksgxd_woken = 1
        k.g.woke = 1


@operation
def alloc_epc_page(k, mode, _b, _c):
    """ops.alloc_epc_page."""
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
    wake_ksgxd(k)
    return result


@kernel
def encl_free_epc_page(k, cgroup, frame):
    """EREMOVE, then give a page back that never got a css reference."""
    eremove(k)
    misc_uncharge(k, cgroup, 1)
    free_epc_page(k, frame)
