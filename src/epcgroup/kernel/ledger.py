"""The ledger: what the machine remembers about a page but never decides by.

Which frame a page has, which VA page holds the slot of a swapped-out page, who pays for its backing pages and
their metadata. A machine booted without the ledger (g.ledger 0) does the same to the same pages, at a third of
the cost; it cannot say these things, and its backing_* counters stay 0 (docs/decisions/0005). It then keeps of
a frame only its NUMA node, and of the charged cgroup only the enclave's, until an enclave is charged to a
second one.
"""

from epcgroup.kernel.epc_page import free_epc_page
from epcgroup.kernel.jit import inline, kernel
from epcgroup.kernel.structs import (
    C_BACKING_ALLOC,
    C_BACKING_FREE,
    NIL,
    P_NODE_SHIFT,
    P_RESIDENT,
    VA_SLOT_COUNT,
)

# ---- where a resident page is, and who is charged ---------------------------------------------------


@inline
def page_cgroup(k, e, v):
    """The cgroup a resident page is charged to."""
    if k.g.ledger != 0 or k.encls[e].lru_many != 0:
        return k.place[v].who
    return k.encls[e].lru_cgroup


@kernel
def second_cgroup(k, e):
    """Pages of the enclave are charged to a second cgroup: from now on each page has to know its own."""
    encl = k.encls[e]
    encl.lru_many = 1
    if k.g.ledger == 0:
        for v in range(encl.start, encl.start + encl.length):
            if k.state[v] & P_RESIDENT != 0:
                k.place[v].who = encl.lru_cgroup


@inline
def set_place(k, e, v, frame, cgroup):
    """A page becomes resident in a frame charged to a cgroup."""
    encl = k.encls[e]
    if encl.lru_cgroup != cgroup and encl.lru_many == 0:
        if encl.lru_cgroup == NIL:
            encl.lru_cgroup = cgroup
        else:
            second_cgroup(k, e)
    if k.g.ledger != 0:
        k.place[v].where = frame
    else:
        k.state[v] |= frame << P_NODE_SHIFT
    if k.g.ledger != 0 or encl.lru_many != 0:
        k.place[v].who = cgroup


@inline
def take_place(k, v):
    """The frame that a page gives up."""
    if k.g.ledger != 0:
        return k.place[v].where
    node = k.state[v] >> P_NODE_SHIFT
    k.state[v] &= (1 << P_NODE_SHIFT) - 1
    return node


@inline
def free_place(k, v):
    """Give the frame of a page back."""
    free_epc_page(k, take_place(k, v))


@kernel
def swap_out(k, e, v, memcg):
    """Room outside the EPC for the content of a page: backing pages and a VA slot."""
    if k.g.ledger != 0:
        get_backing(k, e, v, memcg)
        k.place[v].where = alloc_va_slot(k, e)
        k.place[v].who = memcg


@kernel
def swap_in(k, e, v):
    """The content of a page is back in the EPC."""
    if k.g.ledger != 0:
        put_backing(k, e, v)
        free_va_slot(k, e, k.place[v].where)


@kernel
def forget(k, e, v):
    """A swapped-out page is no more: its slot goes with its VA page, its backing pages with the file."""
    if k.g.ledger != 0:
        put_backing(k, e, v)


# ---- VA pages ------------------------------------------------------------------------------------


@inline
def va_unlink(k, e, va):
    encl = k.encls[e]
    p = k.pins[va]
    if p.va_prev == NIL:
        encl.va_head = p.va_next
    else:
        k.pins[p.va_prev].va_next = p.va_next
    if p.va_next == NIL:
        encl.va_tail = p.va_prev
    else:
        k.pins[p.va_next].va_prev = p.va_prev


@inline
def va_add_head(k, e, va):
    encl = k.encls[e]
    p = k.pins[va]
    p.va_prev = NIL
    p.va_next = encl.va_head
    if encl.va_head == NIL:
        encl.va_tail = va
    else:
        k.pins[encl.va_head].va_prev = va
    encl.va_head = va


@inline
def va_add_tail(k, e, va):
    encl = k.encls[e]
    p = k.pins[va]
    p.va_next = NIL
    p.va_prev = encl.va_tail
    if encl.va_tail == NIL:
        encl.va_head = va
    else:
        k.pins[encl.va_tail].va_next = va
    encl.va_tail = va


@inline
def alloc_va_slot(k, e):
    """A slot of the first VA page; a page that is now full goes to the tail."""
    va = k.encls[e].va_head
    p = k.pins[va]
    p.used += 1
    if p.used == VA_SLOT_COUNT and p.va_next != NIL:
        va_unlink(k, e, va)
        va_add_tail(k, e, va)
    return va


@inline
def free_va_slot(k, e, va):
    """Give a slot back; its VA page goes to the head."""
    k.pins[va].used -= 1
    if k.encls[e].va_head != va:
        va_unlink(k, e, va)
        va_add_head(k, e, va)


# ---- backing store -------------------------------------------------------------------------------


@inline
def get_backing(k, e, v, memcg):
    """Shmem pages for the content of v and, if it is the first of its 32, their metadata."""
    pages = 1
    group = v >> 5
    if k.pcmd[group] == 0:
        k.pcmd_who[group] = memcg
        pages = 2
    k.pcmd[group] += 1
    k.counters[C_BACKING_ALLOC] += pages
    k.cgroups[memcg].backing += pages
    k.encls[e].backing += pages


@inline
def put_backing(k, e, v):
    """Punch the content of v out of the backing file, and the metadata page when no record is left in it."""
    pages = 1
    k.cgroups[k.place[v].who].backing -= 1
    group = v >> 5
    k.pcmd[group] -= 1
    if k.pcmd[group] == 0:
        k.cgroups[k.pcmd_who[group]].backing -= 1
        pages = 2
    k.counters[C_BACKING_FREE] += pages
    k.encls[e].backing -= pages
