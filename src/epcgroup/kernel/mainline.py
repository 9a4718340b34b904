"""Series mainline: no cgroup control, one global list (arch/x86/kernel/cpu/sgx/main.c).

Usage is still counted per cgroup, for reports only: nothing refuses, and there are no misc.* lines of sgx_epc.
"""

from epcgroup.kernel.cgroup import lru
from epcgroup.kernel.jit import operation
from epcgroup.kernel.misc import misc_charge_many
from epcgroup.kernel.reclaim import reclaim_pages


@operation
def try_charge(k, cg, mode, _c):
    misc_charge_many(k, cg, 1)
    return 0


@operation
def reclaim_global(k, _a, _b, _c):
    return reclaim_pages(k, lru(0))


@operation
def reclaim_direct(k, _a, _b, _c):
    """Nothing before the global test."""
    return 0


@operation
def work(k, cg, batches, _c):
    """Nothing is ever queued."""
    return 1
