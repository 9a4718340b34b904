"""Which functions a machine's operations are: the common ones, and those that its series does in its own way.

mainline.py, v2.py and v17.py have the same function names, so that one file tells one series.
"""

from epcgroup.kernel import alloc, encl, fault, mainline, reclaim, structs, v2, v17
from epcgroup.kernel.jit import Kernel, install

_SERIES = {structs.MAINLINE: mainline, structs.V2: v2, structs.V17: v17}


def install_operations(k: Kernel) -> None:
    """Boot: fill k.ops for the series of the machine."""
    own = _SERIES[k.g.series]
    for slot, function in {
        structs.OP_TRY_CHARGE: own.try_charge,
        structs.OP_RECLAIM_GLOBAL: own.reclaim_global,
        structs.OP_RECLAIM_DIRECT: own.reclaim_direct,
        structs.OP_WORK: own.work,
        structs.OP_ALLOC: alloc.alloc_epc_page,
        structs.OP_RECLAIM: reclaim.reclaim_candidates,
        structs.OP_FREE_PAGES: encl.encl_free_pages,
        structs.OP_FAULT: fault.vma_fault,
    }.items():
        install(k, slot, function)
