"""Memory errors in EPC pages (arch_memory_failure in arch/x86/kernel/cpu/sgx/main.c).

A poisoned free page leaves the free list but stays counted as free; a used one stays in use and is not handed
out again once freed. Rare: walks the free list, and for mainline the reclaimable list.
"""

from epcgroup.kernel.encl import list_of
from epcgroup.kernel.epc_page import is_poisoned, node_of
from epcgroup.kernel.fifo import fifo_leave, fifo_pop, fifo_push
from epcgroup.kernel.jit import syscall
from epcgroup.kernel.structs import MAINLINE, NIL, P_RESIDENT, P_UNTRACKED


@syscall
def memory_failure(k, frame):
    """Mark a frame poisoned; once."""
    if is_poisoned(k, frame):
        return
    k.poison[frame >> 3] |= 1 << (frame & 7)
    k.g.nr_poison += 1
    node = node_of(k, frame)
    for _ in range(k.fifos[node].len):
        entry = fifo_pop(k, node)
        if entry == frame:
            k.nodes[node].nr_poison += 1
        else:
            fifo_push(k, node, entry)
    if k.g.series == MAINLINE:
        unmark_poisoned(k, frame)


@syscall
def unmark_poisoned(k, frame):
    """Since Linux 6.16 a poisoned page in use is taken off the reclaimable list, so that EWB never reads it."""
    f = list_of(k, 0)
    hit = NIL
    for _ in range(k.fifos[f].len):
        entry = fifo_pop(k, f)
        fifo_push(k, f, entry)
        if k.state[entry] & P_RESIDENT != 0 and k.place[entry].where == frame:
            hit = entry
    if hit != NIL and k.state[hit] & P_UNTRACKED == 0:
        fifo_leave(k, f, hit)
        k.state[hit] |= P_UNTRACKED
        k.g.nr_lru -= 1
