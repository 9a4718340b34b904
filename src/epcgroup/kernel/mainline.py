"""Series mainline: no cgroup control, one global list (arch/x86/kernel/cpu/sgx/main.c).

Usage is still counted per cgroup, for reports only: nothing refuses, and there are no misc.* lines of sgx_epc.
"""

from epcgroup.kernel.cgroup import lru
from epcgroup.kernel.jit import kernel
from epcgroup.kernel.misc import misc_charge_many
from epcgroup.kernel.reclaim import reclaim_pages


@kernel
def try_charge(k, cg, mode):
    misc_charge_many(k, cg, 1)
    return 0


@kernel
def reclaim_global(k):
    reclaim_pages(k, lru(0))


@kernel
def reclaim_direct(k):
    """Nothing before the global test."""
