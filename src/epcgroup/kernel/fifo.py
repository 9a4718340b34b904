"""First-in first-out lists of page numbers (list.h as the EPC manager uses it): append, take the head, and leave.

A list is a chain of blocks of 16 entries out of one pool, a quarter of the memory of linked pages and one cache
line a batch. Leaving from the middle only remembers a *tomb*: the entry stays and is skipped when it comes up.
Entries of one page come up in the order they were appended, so skipping the oldest first is exact
(docs/decisions/0003).
"""

from epcgroup.kernel.jit import inline, kernel, prefetch
from epcgroup.kernel.structs import NR_TOMBS, P_STALE


@kernel
def block_get(k):
    g = k.g
    block = g.block_free
    if block != 0:
        g.block_free = k.block_next[block]
    else:
        block = g.block_brk
        g.block_brk = block + 1
    return block


@inline
def block_put(k, block):
    k.block_next[block] = k.g.block_free
    k.g.block_free = block


@inline
def fifo_room(k, f):
    """Room at the tail for at least one entry, which the caller puts there now."""
    q = k.fifos[f]
    if q.tail & 15 == 0:
        block = block_get(k)
        if q.len != 0:
            k.block_next[(q.tail - 1) >> 4] = block
        else:
            q.head = block << 4
        q.tail = block << 4


@inline
def fifo_push(k, f, entry):
    """Append an entry at the tail."""
    fifo_room(k, f)
    q = k.fifos[f]
    tail = q.tail
    k.slots[tail] = entry
    q.tail = tail + 1
    q.len += 1


@inline
def fifo_pop(k, f):
    """Take the head entry, stale or not; the list must have one."""
    q = k.fifos[f]
    head = q.head
    entry = k.slots[head]
    q.len -= 1
    if q.len == 0:
        block_put(k, head >> 4)
        q.tail = 0
    elif head & 15 == 15:
        block = k.block_next[head >> 4]
        block_put(k, head >> 4)
        q.head = block << 4
    else:
        q.head = head + 1
    return entry


@kernel
def tomb_take(k, entry, f):
    """Is this entry, just popped from list f, a stale one? Then forget its tomb."""
    g = k.g
    found = -1
    others = 0
    for i in range(g.nr_tombs):
        tomb = k.tombs[i]
        if tomb.page == entry:
            if found < 0 and tomb.fifo == f:
                found = i
            else:
                others += 1
    if found < 0:
        return False
    g.nr_tombs -= 1
    k.tombs[found].page = k.tombs[g.nr_tombs].page
    k.tombs[found].fifo = k.tombs[g.nr_tombs].fifo
    k.fifos[f].stale -= 1
    if others == 0:
        k.state[entry] &= 255 ^ P_STALE
    return True


@inline
def fifo_pop_live(k, f):
    """Take the oldest entry that has not left; the list must have one."""
    entry = fifo_pop(k, f)
    while k.state[entry] & P_STALE != 0 and tomb_take(k, entry, f):
        entry = fifo_pop(k, f)
    return entry


@inline
def fifo_take(k, f, table, at, n):
    """Take n entries, stale or not, from the head into a table from row `at` on; the list must have them."""
    q = k.fifos[f]
    slots = k.slots
    head = q.head
    q.len -= n
    left = n
    while left > 0:
        run = min(16 - (head & 15), left)
        for i in range(run):
            table[at + i] = slots[head + i]
        at += run
        left -= run
        head += run
        if head & 15 == 0 or (left == 0 and q.len == 0):
            block = (head - 1) >> 4
            head = k.block_next[block] << 4
            block_put(k, block)
    q.head = head
    if q.len == 0:
        q.tail = 0


@inline
def fifo_whole_block(k, f):
    """Does the list begin with a block of 16 entries, none of them stale?"""
    q = k.fifos[f]
    return q.stale == 0 and q.len >= 16 and q.head & 15 == 0


@inline
def fifo_take_block(k, f):
    """Take the whole block the list begins with: the slot of its first entry. They stand there until an append."""
    q = k.fifos[f]
    head = q.head
    q.head = k.block_next[head >> 4] << 4
    q.len -= 16
    if q.len == 0:
        q.tail = 0
    block_put(k, head >> 4)
    return head


@inline
def fifo_append(k, f, table, at, n):
    """Append n entries of a table from row `at` on."""
    q = k.fifos[f]
    slots = k.slots
    while n > 0:
        fifo_room(k, f)
        tail = q.tail
        run = min(16 - (tail & 15), n)
        for i in range(run):
            slots[tail + i] = table[at + i]
        q.tail = tail + run
        q.len += run
        at += run
        n -= run


@inline
def fifo_append_range(k, f, entry, n):
    """Append the n entries entry, entry + 1, ..."""
    q = k.fifos[f]
    slots = k.slots
    end = entry + n
    while entry < end:
        fifo_room(k, f)
        tail = q.tail
        run = min(16 - (tail & 15), end - entry)
        for i in range(run):
            slots[tail + i] = entry + i
        q.tail = tail + run
        q.len += run
        entry += run


@kernel
def fifo_drop(k, f, low, high):
    """Take all entries in [low, high) out of list f, stale ones included; the order of the others stays."""
    q = k.fifos[f]
    for _ in range(q.len):
        entry = fifo_pop(k, f)
        if k.state[entry] & P_STALE != 0 and tomb_take(k, entry, f):
            continue
        if not low <= entry < high:
            fifo_push(k, f, entry)


@inline
def fifo_peek_live(k, f):
    """The oldest entry that has not left, without taking it; the list must have one."""
    q = k.fifos[f]
    while True:
        entry = k.slots[q.head]
        if k.state[entry] & P_STALE == 0 or not tomb_take(k, entry, f):
            return entry
        fifo_pop(k, f)


@kernel
def fifo_leave(k, f, entry):
    """Entry leaves list f from wherever it stands."""
    g = k.g
    if g.nr_tombs == NR_TOMBS:
        for other in range(g.nr_cgroups + 8):
            if k.fifos[other].stale != 0:
                fifo_drop(k, other, 0, 0)
    k.tombs[g.nr_tombs].page = entry
    k.tombs[g.nr_tombs].fifo = f
    g.nr_tombs += 1
    k.state[entry] |= P_STALE
    k.fifos[f].stale += 1


@inline
def fifo_nr(k, f):
    """Entries that have not left."""
    return k.fifos[f].len - k.fifos[f].stale


@inline
def fifo_prefetch(k, f):
    """The states of the next entries are looked at soon."""
    q = k.fifos[f]
    if q.len != 0:
        head = q.head
        for slot in range(head, (head | 15) + 1):
            prefetch(k.state, k.slots[slot])
