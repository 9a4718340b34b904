"""The loop over a batch of touches: what a task does between two system calls.

Hits and plain reloads run in `touch_run`: reloads that fit below every limit and into one NUMA node's free pages
cannot change anything but the page, so they only append to the list at first and are booked together
(`book_pages`). Everything else takes the general path, one fault at a time. Both are the same machine:
docs/decisions/0004.
"""

from epcgroup.kernel.alloc import wake_ksgxd
from epcgroup.kernel.cost import add_stalls, end_stall, spent
from epcgroup.kernel.encl import list_of
from epcgroup.kernel.epc_page import free_node
from epcgroup.kernel.fifo import fifo_room, fifo_take
from epcgroup.kernel.jit import inline, kernel, prefetch, syscall, u32_at
from epcgroup.kernel.ksgxd import ksgxd, run_deferred, run_works
from epcgroup.kernel.ledger import free_va_slot
from epcgroup.kernel.misc import headroom, misc_charge_many
from epcgroup.kernel.ops import vma_fault
from epcgroup.kernel.structs import (
    C_BACKING_FREE,
    C_EACCEPT,
    C_ELDU,
    C_FAULT,
    EBUSY,
    K_MODIFIED,
    NIL,
    P_KNOWN,
    P_MAPPED,
    P_NODE_SHIFT,
    P_RESIDENT,
    P_YOUNG,
    P_YOUNG_SHIFT,
    SEGV,
    TP_ELDU,
)
from epcgroup.kernel.tracepoint import trace

# Flags of a touch batch.
ACCESS = 1  # access the page after the fault; without it only the fault
ACCEPT = 2  # EACCEPT it too
ONLY_HITS = 4  # an access that faulted is not seen in the accessed bit (page caches count so; a processor does not)

GRANT_MAX = 1 << 16
AHEAD = 16  # touches ahead of which a page's state is fetched
LOOK = 1024  # touches looked at together: is one outside the enclave?
SKIP_CREDIT = 64
SKIP = 8  # touches looked at together: when all pages are mapped and young, nothing can change
HIT = P_MAPPED | P_YOUNG


@kernel
def enter_task(k, t):
    g = k.g
    task = k.tasks[t]
    g.task = t
    g.kthread = 0
    g.cgroup = task.cgroup
    g.node = task.node
    g.node_has_epc = task.node_has_epc
    g.idle_resched = 0


@kernel
def touch_page(k, t, v, flags):
    """One touch: 0, -EBUSY, -SIGBUS."""
    mm = k.tasks[t].mm
    m = k.mms[mm]
    if m.ptes == NIL:
        mapped = k.state[v] & P_MAPPED
    else:
        mapped = k.ptes[m.ptes + v - k.encls[m.encl].start] & P_MAPPED
    if mapped == 0:
        result = vma_fault(k, mm, v)
        if result != 0:
            return result
        if flags & ONLY_HITS != 0:
            flags &= ACCEPT
    if flags & ACCESS != 0:
        if m.ptes == NIL:
            k.state[v] |= P_YOUNG
        else:
            k.ptes[m.ptes + v - k.encls[m.encl].start] |= P_YOUNG
    if flags & ACCEPT != 0:
        k.counters[C_EACCEPT] += 1
        k.kind[v] &= 255 ^ K_MODIFIED
    return 0


@kernel
def grant(k, e, node):
    """Pages of NUMA node `node` that current can put into enclave e for certain: nothing refuses, no list runs dry."""
    g = k.g
    encl = k.encls[e]
    if encl.secs == NIL or (encl.lru_cgroup != g.cgroup and encl.lru_many == 0):
        return 0
    return headroom(k, g.cgroup, min(k.fifos[node].len, GRANT_MAX))


@kernel
def load_with_ledger(k, e, node, first, n):
    """The ledger's part of n reloads: backing pages and VA slots go, frames come."""
    g = k.g
    freed = n
    for i in range(n):
        prefetch(k.place, k.slots[first + i])
    fifo_take(k, node, k.scan, 0, n)
    for i in range(n):
        v = k.slots[first + i]
        place = k.place[v]
        k.cgroups[place.who].backing -= 1
        group = v >> 5
        k.pcmd[group] -= 1
        if k.pcmd[group] == 0:
            k.cgroups[k.pcmd_who[group]].backing -= 1
            freed += 1
        free_va_slot(k, e, place.where)
        place.where = k.scan[i]
        place.who = g.cgroup
    k.counters[C_BACKING_FREE] += freed
    k.encls[e].backing -= freed


@inline
def append_loads(k, e, f, node, n):
    """n reloads of enclave e whose pages stand behind the tail of list f join it, with what is kept a page."""
    q = k.fifos[f]
    first = q.tail
    if k.g.ledger != 0:
        load_with_ledger(k, e, node, first, n)
    elif k.encls[e].lru_many != 0:
        for slot in range(first, first + n):
            k.place[k.slots[slot]].who = k.g.cgroup
    if k.g.tracing != 0:
        for slot in range(first, first + n):
            trace(k, TP_ELDU, e, k.slots[slot])
    q.tail = first + n
    q.len += n


@kernel
def book_pages(k, e, node, n):
    """Charge and count n granted pages that enclave e has got from a node."""
    g = k.g
    encl = k.encls[e]
    misc_charge_many(k, g.cgroup, n)
    k.cgroups[g.cgroup].pages += n
    if g.ledger == 0:
        k.fifos[node].len -= n
    encl.child += n
    encl.nr_resident += n
    g.progress += n
    g.nr_free -= n
    g.nr_lru += n - 1
    wake_ksgxd(k)  # by the last of them, which is not on a list yet
    g.nr_lru += 1


@kernel
def touch_chunk(k, pages, at, end, ahead, start, tail, top, bits):
    """Hits and reloads from touch `at` on while nothing else is needed: the touch and the tail reached.

    Entries of reloaded pages go to slots[tail:top], `bits` to their states. Without branches but the one out; the
    tables' addresses and these numbers are all that must fit into registers.
    """
    state = k.state
    slots = k.slots
    while at < end:
        v = start + pages[at]
        prefetch(state, start + pages[at + ahead])
        s = state[v]
        miss = (s & P_MAPPED) ^ P_MAPPED
        if (miss & ((s != P_KNOWN) | (tail == top))) != 0:
            break
        state[v] = s | ((s & P_MAPPED) << P_YOUNG_SHIFT) | (bits & -miss)
        slots[tail & -miss] = v  # slot 0 belongs to no list
        tail += miss
        at += 1
    return at, tail


@kernel
def touch_run(k, t, pages, at, n, new, timed):
    """Hits and granted reloads of the first process from touch `at` on; returns the touch that needs more than that.

    `new` are the PTE bits of a page that was just mapped. Timed, it also stops when the task has used its cycles.
    """
    g = k.g
    state = k.state
    task = k.tasks[t]
    e = task.encl
    start = k.encls[e].start
    f = list_of(k, g.cgroup)
    q = k.fifos[f]
    node = free_node(k)
    budget = grant(k, e, node)
    granted = budget
    bits = P_RESIDENT | new
    if g.ledger == 0:
        bits |= node << P_NODE_SHIFT
    fault_cycles = k.costs[C_FAULT]
    load_cycles = fault_cycles + k.costs[C_ELDU]
    credit = min(g.skip_credit + 1, SKIP_CREDIT)
    last = n
    while at < n:
        left = task.limit - task.cycles
        if timed and left <= 0:
            break
        room = 0
        # A block that is opened here is certain to get the entry that comes now.
        if budget > 0:
            if q.tail & 15 == 0 and state[start + pages[at]] == P_KNOWN:
                fifo_room(k, f)
                room = 16
            else:
                room = (0 - q.tail) & 15
            room = min(room, budget)
        if timed:
            last = min(n, at + left // task.touch_cycles + 1)
            room = min(room, left // (load_cycles + 1) + 1)
        tail = q.tail
        top = tail + room
        begun = at
        while at < last:
            if credit > 0 and at + SKIP <= last:
                both = HIT
                for i in range(SKIP):
                    both &= state[start + pages[at + i]]
                if both == HIT:
                    at += SKIP
                    credit = min(credit + 4, SKIP_CREDIT)
                    continue
                credit -= 1
            end = min(at + 2 * SKIP, last)
            at, tail = touch_chunk(k, pages, at, end, min(AHEAD, n - end), start, tail, top, bits)
            if at != end:
                break
        loaded = tail - q.tail
        if loaded != 0:
            budget -= loaded
            append_loads(k, e, f, node, loaded)
        if timed:
            task.cycles += (at - begun) * task.touch_cycles + loaded * load_cycles
            if loaded != 0:
                task.stall += loaded * load_cycles
                # The first may be one that had been refused and repeated.
                add_stalls(k, t, loaded - 1, load_cycles)
                add_stalls(k, t, 1, load_cycles + task.open)
                task.open = 0
        if at == n:
            break
        v = start + pages[at]
        s = state[v]
        if s & P_MAPPED != 0:
            continue
        if s & P_RESIDENT != 0:
            # A resident page that this process has not mapped: the fault only inserts the PTE.
            k.counters[C_FAULT] += 1
            k.encls[e].nr_fault += 1
            state[v] = s | new
            at += 1
            if timed:
                task.cycles += fault_cycles + task.touch_cycles
                task.stall += fault_cycles
                add_stalls(k, t, 1, fault_cycles)
        elif s != P_KNOWN or budget <= 0:
            break
    g.skip_credit = credit
    if budget != granted:
        n = granted - budget
        book_pages(k, e, node, n)
        k.counters[C_ELDU] += n
        k.counters[C_FAULT] += n
        k.encls[e].nr_eldu += n
        k.encls[e].nr_fault += n
    return at


@kernel
def first_outside(pages, at, end, length):
    """The first touch from `at` on outside the enclave, or `end`."""
    highest = 0
    for i in range(at, end):
        highest = max(highest, pages[i])
    if highest < length:
        return end
    while pages[at] < length:
        at += 1
    return at


@syscall
def touch(k, t, address, n, flags, retries):
    """Touch n pages (uint32 offsets in the enclave at `address`) as task t; returns how many were done.

    Stops at the first that fails: g.status says why (0, -EBUSY, -SIGBUS, -SEGV). With retries, a fault that is
    to be repeated is, up to so many times a page, after deferred work, queued works and a woken ksgxd have run;
    g.retries counts.
    """
    return touch_batch(k, t, address, n, flags, retries, False)


@syscall
def touch_segments(k, segments, nr_segments, address, flags, retries):
    """As touch, for many tasks in turn: rows (task, touches) of uint32 at `segments`, their pages one after another.

    Between two of them everything runs that has been queued or woken.
    """
    g = k.g
    rows = u32_at(segments)
    done = 0
    repeated = 0
    for i in range(nr_segments):
        n = rows[2 * i + 1]
        reached = touch_batch(k, rows[2 * i], address + 4 * done, n, flags, retries, False)
        done += reached
        repeated += g.retries
        if reached != n or g.fatal != 0:
            break
        run_background(k, rows[2 * i])
    g.retries = repeated
    return done


@syscall
def touch_timed(k, t, address, n):
    """As touch, with accesses, until the task has used task.limit cycles: what a thread does in a time slice.

    A fault to be repeated is repeated at once, as a processor does, until the slice is over: g.status is then -EBUSY.
    """
    return touch_batch(k, t, address, n, ACCESS, 0, True)


@kernel
def touch_batch(k, t, address, n, flags, retries, timed):
    g = k.g
    enter_task(k, t)
    pages = u32_at(address)
    task = k.tasks[t]
    encl = k.encls[task.encl]
    m = k.mms[task.mm]
    simple = flags | ONLY_HITS == ACCESS | ONLY_HITS and m.ptes == NIL and m.detached == 0
    inside = 0
    g.status = 0
    g.retries = 0
    g.skip_credit = SKIP_CREDIT
    new = P_MAPPED if flags & ONLY_HITS != 0 else HIT
    i = 0
    left = retries
    while i < n:
        if i == inside:
            inside = first_outside(pages, i, min(n, i + LOOK), encl.length)
            if i == inside:
                g.status = -SEGV
                break
        if simple:
            reached = touch_run(k, t, pages, i, inside, new, timed)
            if reached != i:
                i = reached
                left = retries
                g.status = 0
            if i == inside:
                continue
        if timed and task.cycles >= task.limit:
            return i
        before = spent(k) if timed else 0
        result = touch_page(k, t, encl.start + pages[i], flags)
        if timed:
            stall = spent(k) - before
            task.cycles += stall
            task.stall += stall
            task.open += stall
        g.status = result
        if result == 0 and g.fatal == 0:
            i += 1
            left = retries
            if timed:
                task.cycles += task.touch_cycles
                end_stall(k, t)
        elif timed and result == -EBUSY and stall != 0 and g.fatal == 0:
            continue
        elif result == -EBUSY and left > 0 and g.fatal == 0:
            left -= 1
            g.retries += 1
            run_background(k, t)
            if g.fatal != 0:
                return i
        else:
            return i
    return i


@kernel
def run_background(k, t):
    """What happens between two repeats of task t's fault: deferred work, queued works, a woken ksgxd."""
    g = k.g
    signal = g.signal
    run_deferred(k)
    run_works(k)
    if g.ksgxd_woken != 0:
        ksgxd(k, 1 << 62)
    enter_task(k, t)
    g.signal = signal
