"""One batch of reclaim: isolate, age, block, write (sgx_reclaim_pages in arch/x86/kernel/cpu/sgx/main.c).

All pages are blocked before the first is written, so one ETRACK usually serves a batch. The batch of mainline
and v17 takes up to 16 pages off one list; v2's may come from many lists, has a limit on pages written, and may
ignore age.
"""

from epcgroup.kernel.encl import (
    by_others,
    charge_mm,
    encl_age,
    encl_ewb,
    etrack,
    list_of,
    uncharge_pages,
    zap_ptes,
)
from epcgroup.kernel.fifo import (
    fifo_append,
    fifo_nr,
    fifo_pop_live,
    fifo_prefetch,
    fifo_push,
    fifo_take,
    fifo_take_block,
    fifo_whole_block,
)
from epcgroup.kernel.jit import inline, kernel, operation, prefetch
from epcgroup.kernel.ledger import alloc_va_slot, free_place, page_cgroup
from epcgroup.kernel.ops import reclaim_candidates as write_candidates
from epcgroup.kernel.structs import (
    C_AGE_SCAN,
    C_BACKING_ALLOC,
    C_EBLOCK,
    C_EWB,
    NIL,
    NR_TO_SCAN,
    NR_TO_SCAN_MAX,
    P_MAPPED,
    P_NODE_SHIFT,
    P_NOT_ENCLAVE,
    P_RESIDENT,
    P_YOUNG,
    P_YOUNG_SHIFT,
    TP_AGE,
    TP_EWB,
    V2,
)
from epcgroup.kernel.tracepoint import trace

# What a page loses when it leaves the EPC, its node included.
P_ON_EPC = P_RESIDENT | P_MAPPED | P_NOT_ENCLAVE | (3 << P_NODE_SHIFT)


@inline
def isolate(k, f, at, n):
    """Take up to n pages off list f into scan[at:]; returns how many."""
    n = min(n, fifo_nr(k, f))
    if k.fifos[f].stale == 0:
        fifo_take(k, f, k.scan, at, n)
    else:
        for i in range(n):
            k.scan[at + i] = fifo_pop_live(k, f)
    k.g.nr_lru -= n
    fifo_prefetch(k, f)
    return n


@inline
def put_back(k, v):
    """A candidate that stays: to the tail of its list."""
    fifo_push(k, list_of(k, page_cgroup(k, k.encl_of[v >> 5], v)), v)
    k.g.nr_lru += 1


@kernel
def one_simple_enclave(k, table, at, n):
    """The enclave that all n pages in table[at:] belong to if its first process is its only one; NIL otherwise."""
    e = k.encl_of[table[at] >> 5]
    encl = k.encls[e]
    if encl.nr_mms != 1 or k.mms[encl.mm_head].ptes != NIL or encl.child <= n:
        return NIL
    low, last = encl.start, encl.start + encl.length - 1
    outside = 0
    for i in range(n):
        v = table[at + i]
        outside |= (v - low) | (last - v)
    return e if outside >= 0 else NIL


@kernel
def reclaim_simple(k, e, table, at, n, ignore_age):
    """reclaim_candidates for the common case: one enclave, one process, children left for the SECS to stay.

    The same steps with sums instead of single counts, for the pages in table[at:at + n]. Those to be written come to
    stand in the first half of scan, those that stay in the second.
    """
    g = k.g
    encl = k.encls[e]
    old = P_YOUNG & (ignore_age - 1)  # the bit that saves a page
    by_page = g.ledger != 0 or encl.lru_many != 0  # more to do about each than its state
    chosen = age_and_sort(k, table, at, n, old, 0 if by_page else P_ON_EPC)
    kept = n - chosen
    if ignore_age == 0:
        k.counters[C_AGE_SCAN] += n
    g.progress += n
    if g.tracing > 1:
        for i in range(kept):
            trace(k, TP_AGE, e, k.scan[NR_TO_SCAN_MAX + i])
    if kept != 0:
        if g.series == V2 or encl.lru_many != 0:
            for i in range(kept):
                put_back(k, k.scan[NR_TO_SCAN_MAX + i])
        else:
            fifo_append(k, list_of(k, encl.lru_cgroup), k.scan, NR_TO_SCAN_MAX, kept)
            g.nr_lru += kept
    if chosen == 0:
        return 0
    k.counters[C_EBLOCK] += chosen
    etrack(k, e)
    k.counters[C_EWB] += chosen
    if by_page:
        write_by_page(k, e, chosen)
    else:
        g.nr_free += chosen
        uncharge_pages(k, encl.lru_cgroup, chosen)
    encl.child -= chosen
    encl.nr_resident -= chosen
    encl.nr_ewb += chosen
    if by_others(k, e):
        encl.nr_ewb_others += chosen
    if g.tracing != 0:
        for i in range(chosen):
            trace(k, TP_EWB, e, k.scan[i])
    return chosen


@inline
def age_and_sort(k, table, at, n, old, lost):
    """Sort pages into those to be written, which lose the bits `lost`, and those that stay: how many to write.

    The nodes of lost pages get their free frames back.
    """
    state = k.state
    scan = k.scan
    chosen = 0
    kept = 0
    freed = 0  # by node, 16 bits each
    for i in range(n):
        v = table[at + i]
        s = state[v]
        young = (s & old) >> P_YOUNG_SHIFT
        state[v] = s & (255 ^ (P_YOUNG | (lost & (young - 1))))
        scan[chosen] = v
        scan[NR_TO_SCAN_MAX + kept] = v
        freed += (1 ^ young) << (16 * (s >> P_NODE_SHIFT))
        kept += young
        chosen += 1 ^ young
    if lost != 0:
        for node in range(k.g.nr_nodes):
            k.fifos[node].len += (freed >> (16 * node)) & 0xFFFF
    return chosen


@kernel
def write_by_page(k, e, n):
    """The n pages in scan leave the EPC, each with its frame, its charge, a VA slot and backing pages."""
    for i in range(n):
        prefetch(k.place, k.scan[i])
    encl = k.encls[e]
    memcg = charge_mm(k, e)
    backing = n
    cgroup = k.place[k.scan[0]].who
    charged = 0
    for i in range(n):
        v = k.scan[i]
        place = k.place[v]
        if place.who != cgroup:
            uncharge_pages(k, cgroup, charged)
            cgroup = place.who
            charged = 0
        charged += 1
        free_place(k, v)
        k.state[v] &= 255 ^ (P_RESIDENT | P_MAPPED | P_YOUNG | P_NOT_ENCLAVE)
        if k.g.ledger != 0:
            group = v >> 5
            if k.pcmd[group] == 0:
                k.pcmd_who[group] = memcg
                backing += 1
            k.pcmd[group] += 1
            place.where = alloc_va_slot(k, e)
            place.who = memcg
    uncharge_pages(k, cgroup, charged)
    if k.g.ledger != 0:
        k.counters[C_BACKING_ALLOC] += backing
        k.cgroups[memcg].backing += backing
        encl.backing += backing


@operation
def reclaim_candidates(k, at, n, limit):
    """ops.reclaim_candidates."""
    g = k.g
    g.batch += 1
    ignore_age = g.ignore_age
    table = k.scan if at == 0 else k.slots
    if n <= limit:
        e = one_simple_enclave(k, table, at, n)
        if e != NIL:
            return reclaim_simple(k, e, table, at, n, ignore_age)
    if at != 0:
        for i in range(n):
            k.scan[i] = table[at + i]
    chosen = 0
    for i in range(n):
        v = k.scan[i]
        e = k.encl_of[v >> 5]
        if chosen >= limit:
            put_back(k, v)
            continue
        if ignore_age == 0:
            k.counters[C_AGE_SCAN] += 1
            if encl_age(k, e, v):
                put_back(k, v)
                continue
        k.scan[chosen] = v
        chosen += 1
    for i in range(chosen):
        v = k.scan[i]
        zap_ptes(k, k.encl_of[v >> 5], v)
    k.counters[C_EBLOCK] += chosen
    for i in range(chosen):
        v = k.scan[i]
        encl_ewb(k, k.encl_of[v >> 5], v)
    return chosen


@kernel
def reclaim_pages(k, f):
    """Mainline and v17: one batch from list f; returns the candidates taken off it."""
    if fifo_whole_block(k, f):
        at = fifo_take_block(k, f)
        n = NR_TO_SCAN
        k.g.nr_lru -= n
        fifo_prefetch(k, f)
    else:
        at = 0
        n = isolate(k, f, 0, NR_TO_SCAN)
    if n != 0:
        write_candidates(k, at, n, NR_TO_SCAN)
    return n
