"""The enclave driver's ioctls and the life of a process (arch/x86/kernel/cpu/sgx/ioctl.c, driver.c).

Every function answers 0, a count or a negative errno. Entry checks that need no record (alignment, ranges) are
machine.py's.
"""

from epcgroup.kernel.alloc import encl_free_epc_page
from epcgroup.kernel.encl import (
    encl_put,
    eremove,
    list_of,
    mark_page_reclaimable,
    pin_secs,
    uncharge_page,
    unmark_page_reclaimable,
    unpin_page,
    zap_ptes,
)
from epcgroup.kernel.epc_page import free_node
from epcgroup.kernel.fault import encl_grow, load_page, set_resident
from epcgroup.kernel.fifo import fifo_append_range, fifo_pop
from epcgroup.kernel.jit import kernel, syscall
from epcgroup.kernel.ledger import free_place, page_cgroup, va_add_head
from epcgroup.kernel.ops import alloc_epc_page, reclaim_direct, reclaim_global
from epcgroup.kernel.structs import (
    C_EADD,
    C_ECREATE,
    C_EEXTEND,
    C_EINIT,
    C_EMODPR,
    C_EMODT,
    C_ENCLS_ERR,
    C_ETRACK,
    C_IPI,
    DO_RECLAIM,
    E_CREATED,
    E_INIT,
    EAGAIN,
    EBUSY,
    EEXTEND_PER_PAGE,
    EFAULT,
    EINVAL,
    EIO,
    EPERM,
    ERESTARTSYS,
    K_MODIFIED,
    NIL,
    NR_LOW_PAGES,
    OOPS,
    P_KNOWN,
    P_MAPPED,
    P_NODE_SHIFT,
    P_NOT_ENCLAVE,
    P_RESIDENT,
    P_YOUNG,
    T_MASK,
    T_REG,
    T_TCS,
    T_TRIM,
    V2,
    VA_SLOT_COUNT,
)
from epcgroup.kernel.touch import book_pages, enter_task, grant


@syscall
def create(k, t, e):
    """ENCLAVE_CREATE: VA page first, SECS second. ECREATE faults unless the size is a power of two."""
    enter_task(k, t)
    encl = k.encls[e]
    va = encl_grow(k, e, DO_RECLAIM)
    if va < NIL:
        return va + 1
    va_add_head(k, e, va)
    frame = alloc_epc_page(k, DO_RECLAIM)
    result = frame
    if frame >= 0:
        k.counters[C_ECREATE] += 1
        if encl.length & (encl.length - 1) == 0:
            k.g.progress += 1
            pin_secs(k, e, frame, k.g.cgroup)
            encl.flags |= E_CREATED
            return 0
        encl_free_epc_page(k, k.g.cgroup, frame)
        result = -EIO
    # Undo: the VA page goes back too.
    encl.va_head = NIL
    encl.va_tail = NIL
    encl.page_cnt -= 1
    eremove(k)
    unpin_page(k, va)
    return result


@kernel
def add_page(k, e, v, measure, tcs):
    encl = k.encls[e]
    frame = alloc_epc_page(k, DO_RECLAIM)
    if frame < 0:
        return frame
    cgroup = k.g.cgroup
    va = encl_grow(k, e, DO_RECLAIM)
    if va < NIL:
        encl_free_epc_page(k, cgroup, frame)
        return va + 1
    if va != NIL:
        va_add_head(k, e, va)
    if k.state[v] & P_KNOWN != 0:
        # A page is there already: the VA page stays, its count goes back.
        encl.page_cnt -= 1
        encl_free_epc_page(k, cgroup, frame)
        return -EBUSY
    if encl.secs == NIL:
        k.g.fatal = OOPS  # v2: zapped by OOM before it was initialised (defect D6)
        return -EFAULT
    k.counters[C_EADD] += 1
    if measure != 0:
        k.counters[C_EEXTEND] += EEXTEND_PER_PAGE
    k.g.progress += 1
    set_resident(k, e, v, frame)
    encl.nr_pages += 1
    k.kind[v] = T_TCS if tcs != 0 else T_REG
    k.state[v] |= P_KNOWN | P_RESIDENT
    mark_page_reclaimable(k, e, v)
    return 0


@kernel
def add_run(k, e, v, n, measure, tcs):
    """As add_page for as many of n pages from v on as are granted and need no VA page; none if one of them is known."""
    g = k.g
    encl = k.encls[e]
    node = free_node(k)
    n = min(n, grant(k, e, node), -encl.page_cnt % VA_SLOT_COUNT)
    state = k.state
    known = 0
    for page in range(v, v + n):
        known |= state[page]
    if n == 0 or known != 0:
        return 0
    f = list_of(k, g.cgroup)
    bits = P_KNOWN | P_RESIDENT
    if g.ledger == 0:
        bits |= node << P_NODE_SHIFT
    if g.ledger != 0 or encl.lru_many != 0:
        for page in range(v, v + n):
            k.place[page].who = g.cgroup
            if g.ledger != 0:
                k.place[page].where = fifo_pop(k, node)
    if tcs != 0:
        for page in range(v, v + n):
            k.kind[page] = T_TCS
    for page in range(v, v + n):
        state[page] = bits
    fifo_append_range(k, f, v, n)
    book_pages(k, e, node, n)
    k.counters[C_EADD] += n
    if measure != 0:
        k.counters[C_EEXTEND] += n * EEXTEND_PER_PAGE
    encl.page_cnt += n
    encl.nr_pages += n
    return n


@syscall
def add_pages(k, t, first, n, measure, tcs):
    """ENCLAVE_ADD_PAGES on a checked range: pages done; g.status has the error that ended it."""
    enter_task(k, t)
    g = k.g
    e = k.tasks[t].encl
    base = k.encls[e].start
    g.status = 0
    i = 0
    while i < n:
        if g.signal != 0:
            g.status = -ERESTARTSYS if i == 0 else 0
            return i
        added = add_run(k, e, base + first + i, n - i, measure, tcs)
        if added != 0:
            i += added
            continue
        result = add_page(k, e, base + first + i, measure, tcs)
        if result != 0 or g.fatal != 0:
            g.status = result
            return i
        i += 1
    return n


@syscall
def init(k, t):
    """ENCLAVE_INIT."""
    enter_task(k, t)
    encl = k.encls[k.tasks[t].encl]
    if encl.flags & E_INIT != 0:
        return -EINVAL
    if encl.secs == NIL:
        k.g.fatal = OOPS
        return -EFAULT
    k.counters[C_EINIT] += 1
    encl.flags |= E_INIT
    return 0


@kernel
def etrack_and_kick(k):
    """ETRACK, then IPIs to every CPU that may run the enclave."""
    k.counters[C_ETRACK] += 1
    k.counters[C_IPI] += 1


@kernel
def load_for_ioctl(k, e, v):
    """Load a page for an SGX2 ioctl; -EBUSY becomes -EAGAIN, everything else -EFAULT."""
    if k.state[v] & P_KNOWN == 0:
        return -EFAULT
    result = load_page(k, e, v)
    if result == -EBUSY:
        return -EAGAIN
    return -EFAULT if result != 0 else 0


@kernel
def restrict_page(k, e, v):
    result = load_for_ioctl(k, e, v)
    if result != 0:
        return result
    if k.kind[v] & T_MASK != T_REG:
        return -EINVAL
    k.counters[C_EMODPR] += 1
    etrack_and_kick(k)
    return 0


@kernel
def modify_page(k, e, v, new):
    result = load_for_ioctl(k, e, v)
    if result != 0:
        return result
    old = k.kind[v] & T_MASK
    if not (old == T_REG or (old == T_TCS and new == T_TRIM)):
        return -EINVAL
    if old == T_REG and new == T_TCS:
        unmark_page_reclaimable(k, e, v)
        zap_ptes(k, e, v)
        if k.g.series == V2:
            k.state[v] |= P_NOT_ENCLAVE
        mark_page_reclaimable(k, e, v)
    k.counters[C_EMODT] += 1
    k.kind[v] = new | K_MODIFIED
    etrack_and_kick(k)
    return 0


@kernel
def remove_page(k, e, v):
    encl = k.encls[e]
    result = load_for_ioctl(k, e, v)
    if result != 0:
        return result
    if k.kind[v] & T_MASK != T_TRIM:
        return -EPERM
    k.counters[C_EMODPR] += 1
    if k.kind[v] & K_MODIFIED != 0:
        k.counters[C_ENCLS_ERR] += 1  # EMODPR did not fault: the enclave has not accepted
        return -EPERM
    unmark_page_reclaimable(k, e, v)
    zap_ptes(k, e, v)
    eremove(k)
    uncharge_page(k, page_cgroup(k, e, v))
    free_place(k, v)
    encl.child -= 1
    encl.nr_resident -= 1
    encl.nr_pages -= 1
    encl.page_cnt -= 1
    k.kind[v] = 0
    k.state[v] &= 255 ^ (P_KNOWN | P_RESIDENT | P_NOT_ENCLAVE | P_MAPPED | P_YOUNG)
    return 0


RESTRICT, MODIFY_TRIM, MODIFY_TCS, REMOVE = 0, 1, 2, 3


@syscall
def sgx2_ioctl(k, t, what, first, n):
    """RESTRICT_PERMISSIONS, MODIFY_TYPES or REMOVE_PAGES on a checked range: pages done; g.status has the error."""
    enter_task(k, t)
    g = k.g
    e = k.tasks[t].encl
    base = k.encls[e].start
    g.status = 0
    for i in range(n):
        v = base + first + i
        reclaim_direct(k)
        if g.nr_free < NR_LOW_PAGES and g.nr_lru != 0:
            reclaim_global(k)
        if what == RESTRICT:
            result = restrict_page(k, e, v)
        elif what == MODIFY_TRIM:
            result = modify_page(k, e, v, T_TRIM)
        elif what == MODIFY_TCS:
            result = modify_page(k, e, v, T_TCS)
        else:
            result = remove_page(k, e, v)
        if result != 0 or g.fatal != 0:
            g.status = result
            return i
    return n


@syscall
def close(k, t):
    """Process exit: its mm goes (the mmu notifier drops that reference later), then its file is closed."""
    g = k.g
    task = k.tasks[t]
    mm = task.mm
    e = task.encl
    encl = k.encls[e]
    m = k.mms[mm]
    if m.ptes == NIL:
        for v in range(encl.start, encl.start + encl.length):
            if k.state[v] & (P_MAPPED | P_YOUNG) != 0:
                k.state[v] &= 255 ^ (P_MAPPED | P_YOUNG)
    if m.listed != 0:
        at = encl.mm_head
        if at == mm:
            encl.mm_head = m.next
        else:
            while k.mms[at].next != mm:
                at = k.mms[at].next
            k.mms[at].next = m.next
        m.listed = 0
        encl.nr_mms -= 1
        if encl.gone == 0:
            encl.gone_next = NIL
            if g.gone_head == NIL:
                g.gone_head = e
            else:
                k.encls[g.gone_tail].gone_next = e
            g.gone_tail = e
        encl.gone += 1
    m.used = 0
    encl.nr_files -= 1
    if encl.nr_files == 0:
        encl_put(k, e)
    return 0
