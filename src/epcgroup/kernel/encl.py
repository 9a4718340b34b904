"""An enclave: its pages, VA slots, backing store, write-out and release (arch/x86/kernel/cpu/sgx/encl.c).

A known page is resident (where = frame, who = charged cgroup) or swapped out (where = VA page, who = memory
cgroup of its backing page). Slots of a VA page are counted, not numbered. 32 PCMD records share a backing page.
"""

from epcgroup.kernel.cgroup import css_get_page, css_put, lru
from epcgroup.kernel.epc_page import free_epc_page
from epcgroup.kernel.fifo import fifo_drop, fifo_leave, fifo_nr, fifo_push
from epcgroup.kernel.jit import inline, kernel, operation
from epcgroup.kernel.ledger import forget, free_place, page_cgroup, swap_out, take_place
from epcgroup.kernel.misc import misc_uncharge
from epcgroup.kernel.ops import encl_free_pages as free_pages
from epcgroup.kernel.structs import (
    C_EREMOVE,
    C_ETRACK,
    C_EWB,
    C_EWB_NT,
    C_IPI,
    C_IPI_CPU,
    E_CREATED,
    E_INIT,
    E_OOM,
    E_RUNNING,
    MAINLINE,
    NIL,
    P_KNOWN,
    P_MAPPED,
    P_NOT_ENCLAVE,
    P_RESIDENT,
    P_UNTRACKED,
    P_YOUNG,
    PIN_SECS,
    PIN_VA,
    TP_AGE,
    TP_EWB,
    V2,
)
from epcgroup.kernel.tracepoint import trace

# ---- pinned pages: SECS, VA, virtual EPC ---------------------------------------------------------


@kernel
def pin_page(k, kind, owner, index, frame, cgroup):
    """A row for an EPC page that no reclaimer takes."""
    g = k.g
    pin = g.pin_free
    if pin != NIL:
        g.pin_free = k.pins[pin].next
    else:
        pin = g.pin_brk
        g.pin_brk = pin + 1
    p = k.pins[pin]
    p.kind = kind
    p.owner = owner
    p.index = index
    p.frame = frame
    p.cgroup = cgroup
    p.used = 0
    p.role = 0
    p.secs = NIL
    p.listed = 0
    p.next = NIL
    p.prev = NIL
    return pin


@kernel
def record_unreclaimable(k, pin):
    """v2: append to the unreclaimable list of the page's cgroup."""
    if k.g.series != V2:
        return
    p = k.pins[pin]
    cg = k.cgroups[p.cgroup]
    p.next = NIL
    p.prev = cg.unrec_tail
    if cg.unrec_tail == NIL:
        cg.unrec_head = pin
    else:
        k.pins[cg.unrec_tail].next = pin
    cg.unrec_tail = pin
    cg.nr_unrec += 1
    p.listed = 1


@kernel
def drop_unreclaimable(k, pin):
    """v2: unlink from the unreclaimable list, if it is still on it."""
    p = k.pins[pin]
    if p.listed == 0:
        return
    cg = k.cgroups[p.cgroup]
    if p.prev == NIL:
        cg.unrec_head = p.next
    else:
        k.pins[p.prev].next = p.next
    if p.next == NIL:
        cg.unrec_tail = p.prev
    else:
        k.pins[p.next].prev = p.prev
    cg.nr_unrec -= 1
    p.listed = 0


@kernel
def unpin_page(k, pin):
    """Uncharge and free the EPC page of a row, and the row."""
    p = k.pins[pin]
    drop_unreclaimable(k, pin)
    uncharge_page(k, p.cgroup)
    free_epc_page(k, p.frame)
    p.kind = 0
    p.next = k.g.pin_free
    k.g.pin_free = pin


@inline
def uncharge_pages(k, cgroup, n):
    misc_uncharge(k, cgroup, n)
    cg = k.cgroups[cgroup]
    cg.pages -= n
    if cg.online == 0:
        css_put(k, cgroup)


@inline
def uncharge_page(k, cgroup):
    uncharge_pages(k, cgroup, 1)


# ---- the reclaimable list ------------------------------------------------------------------------


@inline
def list_of(k, cgroup):
    """Mainline has one list, the root's; the series keep one a cgroup."""
    return lru(0 if k.g.series == MAINLINE else cgroup)


@inline
def mark_page_reclaimable(k, e, v):
    """Append to the tail of its cgroup's list."""
    fifo_push(k, list_of(k, page_cgroup(k, e, v)), v)
    k.g.nr_lru += 1


@inline
def unmark_page_reclaimable(k, e, v):
    if k.g.series == MAINLINE and k.state[v] & P_UNTRACKED != 0:
        k.state[v] &= 255 ^ P_UNTRACKED  # a memory error has taken it off already
        return
    fifo_leave(k, list_of(k, page_cgroup(k, e, v)), v)
    k.g.nr_lru -= 1


# ---- age, block, write ---------------------------------------------------------------------------


@kernel
def charge_mm(k, e):
    """The memory cgroup that pays for a backing page: current's, or for kernel threads the first live mm's, else root.

    v2 knows ksgxd only: a queued work's and an administrator's pages go to the root.
    """
    g = k.g
    if g.task != NIL:
        return k.tasks[g.task].cgroup
    if g.series == V2 and g.kthread != 1:
        return 0
    mm = k.encls[e].mm_head
    if mm == NIL:
        return 0
    return k.tasks[k.mms[mm].task].cgroup


@kernel
def encl_age(k, e, v):
    """Was the page accessed since the last look? Clears the accessed bit of the first process that has it set."""
    mm = k.encls[e].mm_head
    while mm != NIL:
        ptes = k.mms[mm].ptes
        if ptes == NIL:
            if k.state[v] & P_YOUNG != 0:
                k.state[v] &= 255 ^ P_YOUNG
                k.g.progress += 1
                if k.g.tracing > 1:
                    trace(k, TP_AGE, e, v)
                return True
        else:
            at = ptes + v - k.encls[e].start
            if k.ptes[at] & P_YOUNG != 0:
                k.ptes[at] &= 255 ^ P_YOUNG
                k.g.progress += 1
                return True
        mm = k.mms[mm].next
    return False


@inline
def zap_ptes(k, e, v):
    """Remove the page from all address spaces."""
    encl = k.encls[e]
    k.state[v] &= 255 ^ (P_MAPPED | P_YOUNG)
    if encl.nr_mms > 1 or (encl.nr_mms == 1 and k.mms[encl.mm_head].ptes != NIL):
        mm = encl.mm_head
        while mm != NIL:
            ptes = k.mms[mm].ptes
            if ptes != NIL:
                k.ptes[ptes + v - encl.start] = 0
            mm = k.mms[mm].next


@inline
def etrack(k, e):
    """The first EWB of a batch finds no ETRACK since its EBLOCK, and CPUs inside the enclave need an IPI."""
    encl = k.encls[e]
    if encl.tracked != k.g.batch:
        encl.tracked = k.g.batch
        k.counters[C_ETRACK] += 1
        k.counters[C_EWB] += 1
        k.counters[C_EWB_NT] += 1
        if encl.flags & E_RUNNING != 0:
            k.counters[C_IPI] += 1
            k.counters[C_IPI_CPU] += encl.cpus
            k.counters[C_EWB] += 1
            k.counters[C_EWB_NT] += 1


@kernel
def evict_secs(k, e, memcg):
    """The last child of an initialised enclave has been written out: its SECS follows."""
    encl = k.encls[e]
    v = encl.start + encl.length
    k.counters[C_EWB] += 1
    k.counters[C_EREMOVE] += 1
    pin = encl.secs
    encl.secs = NIL
    unpin_page(k, pin)
    swap_out(k, e, v, memcg)
    k.state[v] = P_KNOWN
    if k.g.tracing != 0:
        trace(k, TP_EWB, e, v)


@inline
def by_others(k, e):
    """Who reclaims now is neither a task of the enclave nor the work of its cgroup, which its own limit has queued."""
    g = k.g
    if g.task != NIL:
        return k.tasks[g.task].encl != e
    return g.kthread != 2 or g.work != k.encls[e].lru_cgroup


@kernel
def encl_ewb(k, e, v):
    """Write a blocked page out, free and uncharge its EPC page, and evict the SECS after the last child."""
    g = k.g
    encl = k.encls[e]
    etrack(k, e)
    k.counters[C_EWB] += 1
    cgroup = page_cgroup(k, e, v)
    frame = take_place(k, v)
    memcg = charge_mm(k, e)
    swap_out(k, e, v, memcg)
    k.state[v] &= 255 ^ (P_RESIDENT | P_NOT_ENCLAVE)
    encl.child -= 1
    encl.nr_resident -= 1
    encl.nr_ewb += 1
    if by_others(k, e):
        encl.nr_ewb_others += 1
    g.progress += 1
    if g.tracing != 0:
        trace(k, TP_EWB, e, v)
    if encl.child == 0 and encl.flags & E_INIT != 0:
        evict_secs(k, e, memcg)
    uncharge_page(k, cgroup)
    free_epc_page(k, frame)


# ---- release -------------------------------------------------------------------------------------


@inline
def eremove(k):
    k.counters[C_EREMOVE] += 1
    k.g.progress += 1


@operation
def encl_free_pages(k, e, _b, _c):
    """Records in ascending order, then the SECS, then the VA pages from the list head, then the backing file."""
    encl = k.encls[e]
    base, end = encl.start, encl.start + encl.length
    if encl.lru_cgroup != NIL:
        for c in range(k.g.nr_cgroups):
            f = lru(c)
            if k.fifos[f].len != 0 and (encl.lru_many != 0 or f == list_of(k, encl.lru_cgroup)):
                before = fifo_nr(k, f)
                fifo_drop(k, f, base, end)
                k.g.nr_lru -= before - fifo_nr(k, f)
    for v in range(base, end):
        s = k.state[v]
        if s & P_RESIDENT != 0:
            eremove(k)
            uncharge_page(k, page_cgroup(k, e, v))
            free_place(k, v)
        elif s & P_KNOWN != 0:
            forget(k, e, v)
        if s != 0:
            k.state[v] = 0
        if encl.nr_pages != 0 and s & P_KNOWN != 0:
            k.kind[v] = 0
    if encl.flags & E_CREATED != 0:
        if encl.secs != NIL:
            eremove(k)
            unpin_page(k, encl.secs)
            encl.secs = NIL
        elif k.state[end] & P_KNOWN != 0:
            forget(k, e, end)
            k.state[end] = 0
    va = encl.va_head
    while va != NIL:
        following = k.pins[va].va_next
        eremove(k)
        unpin_page(k, va)
        va = following
    encl.va_head = NIL
    encl.va_tail = NIL
    encl.lru_cgroup = NIL
    encl.lru_many = 0
    encl.child = 0
    encl.nr_pages = 0
    encl.nr_resident = 0
    return 0


@kernel
def encl_put(k, e):
    """Drop a reference; the last one releases the enclave."""
    encl = k.encls[e]
    encl.refs -= 1
    if encl.refs == 0:
        if encl.flags & E_OOM == 0:
            free_pages(k, e)
        encl.used = 0
        k.g.progress += 1


@inline
def pin_secs(k, e, frame, cgroup):
    pin = pin_page(k, PIN_SECS, e, 0, frame, cgroup)
    k.encls[e].secs = pin
    css_get_page(k, cgroup)
    record_unreclaimable(k, pin)


@inline
def pin_va(k, e, frame, cgroup):
    pin = pin_page(k, PIN_VA, e, 0, frame, cgroup)
    css_get_page(k, cgroup)
    record_unreclaimable(k, pin)
    return pin
