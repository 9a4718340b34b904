"""EPC pages: sections, NUMA free lists, poison (arch/x86/kernel/cpu/sgx/main.c).

A frame is one EPC page. Free lists are first in, first out: the page freed longest ago is handed out next. A
poisoned page never returns to a free list but still counts as free when freed.
"""

from epcgroup.kernel.fifo import fifo_pop, fifo_push
from epcgroup.kernel.jit import inline, kernel, syscall
from epcgroup.kernel.structs import HANG, MAINLINE, NIL


@inline
def node_of(k, frame):
    """Row of nodes that a frame belongs to. Without the ledger a frame is no more than that."""
    if k.g.ledger == 0:
        return frame
    if k.g.nr_nodes == 1:
        return 0
    section = k.g.nr_sections - 1
    while frame < k.sections[section].first:
        section -= 1
    return k.sections[section].node


@inline
def is_poisoned(k, frame):
    return k.g.nr_poison != 0 and (k.poison[frame >> 3] >> (frame & 7)) & 1 != 0


@inline
def free_node(k):
    """The node that the next free frame comes from: current's, else cyclically the next that has one."""
    node = k.g.node
    for _ in range(k.g.nr_nodes - 1):
        if k.fifos[node].len != 0:
            break
        node += 1
        if node == k.g.nr_nodes:
            node = 0
    return node


@kernel
def take_epc_page(k):
    """A free frame, from current's NUMA node if it has one, else cyclically from the others; NIL when all are empty."""
    g = k.g
    node = free_node(k)
    if k.fifos[node].len != 0:
        g.nr_free -= 1
        if g.ledger == 0:
            k.fifos[node].len -= 1
            return node
        return fifo_pop(k, node)
    if g.series != MAINLINE and g.node_has_epc == 0:
        g.fatal = HANG  # until after v17's base the walk ended only at the task's node, which is not in the mask
    return NIL


@inline
def free_epc_page(k, frame):
    """Give a frame back."""
    node = node_of(k, frame)
    if k.g.ledger == 0:
        k.fifos[node].len += 1
    elif is_poisoned(k, frame):
        k.nodes[node].nr_poison += 1
    else:
        fifo_push(k, node, frame)
    k.g.nr_free += 1


@syscall
def sanitize_section(k, section):
    """Boot: the pages of a section become free one by one, in ascending order."""
    s = k.sections[section]
    k.g.nr_free += s.nr_frames
    if k.g.ledger == 0:
        k.fifos[s.node].len += s.nr_frames
        return
    for frame in range(s.first, s.first + s.nr_frames):
        fifo_push(k, s.node, frame)
