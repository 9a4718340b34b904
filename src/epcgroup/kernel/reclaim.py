"""One batch of reclaim: isolate, age, block, write (sgx_reclaim_pages in arch/x86/kernel/cpu/sgx/main.c).

All pages are blocked before the first is written, so one ETRACK usually serves a batch. The batch of mainline
and v17 takes up to 16 pages off one list; v2's may come from many lists, has a limit on pages written, and may
ignore age.
"""

from epcgroup.kernel.encl import charge_mm, encl_age, encl_ewb, get_backing, list_of, zap_ptes
from epcgroup.kernel.fifo import fifo_nr, fifo_pop_live, fifo_push
from epcgroup.kernel.jit import inline, kernel
from epcgroup.kernel.structs import C_AGE_SCAN, C_EBLOCK, NR_TO_SCAN


@inline
def isolate(k, f, at, n):
    """Take up to n pages off list f into scan[at:]; returns how many."""
    n = min(n, fifo_nr(k, f))
    for i in range(n):
        k.scan[at + i] = fifo_pop_live(k, f)
    k.g.nr_lru -= n
    return n


@inline
def put_back(k, v):
    """A candidate that stays: to the tail of its list."""
    fifo_push(k, list_of(k, k.who[v]), v)
    k.g.nr_lru += 1


@kernel
def reclaim_candidates(k, n, limit, ignore_age):
    """Age, block and write the n pages in scan; at most `limit` are written. Returns the pages written."""
    g = k.g
    g.batch += 1
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
        memcg = charge_mm(k, e)
        get_backing(k, e, v, memcg)
        k.scan[chosen] = v
        k.scan_who[chosen] = memcg
        chosen += 1
    for i in range(chosen):
        v = k.scan[i]
        zap_ptes(k, k.encl_of[v >> 5], v)
    k.counters[C_EBLOCK] += chosen
    for i in range(chosen):
        v = k.scan[i]
        encl_ewb(k, k.encl_of[v >> 5], v, k.scan_who[i])
    return chosen


@kernel
def reclaim_pages(k, f):
    """Mainline and v17: one batch from list f; returns the candidates taken off it."""
    n = isolate(k, f, 0, NR_TO_SCAN)
    if n != 0:
        reclaim_candidates(k, n, NR_TO_SCAN, 0)
    return n
