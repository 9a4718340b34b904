"""Every invariant of the ring's tables, as assertions in plain Python: what holds between two operations.

`validate_everything` takes a Kernel, or a machine that has one as `k`, and fails with what is wrong and where. Each
`validate_*` states one room's rules: frames, lists, the block pool, the cgroup tree, charges, enclaves, address
spaces, version slots, backing store, pinned pages, virtual EPC, queued work. Slow: it walks everything. A machine that
died (OOPS, HANG) stopped in the middle of an operation and is not looked at. Without the ledger (ledger.py) frames are
only counted by node, and there are no version slots and backing pages to look at.
"""

from itertools import pairwise

import numpy as np

from epcgroup.kernel.structs import (
    C_BACKING_ALLOC,
    C_BACKING_FREE,
    E_CREATED,
    E_INIT,
    E_OOM,
    FIRST_CGROUP_FIFO,
    K_MODIFIED,
    MAINLINE,
    NIL,
    P_KNOWN,
    P_MAPPED,
    P_NODE_SHIFT,
    P_NOT_ENCLAVE,
    P_RESIDENT,
    P_STALE,
    P_YOUNG,
    PAGE,
    PIN_SECS,
    PIN_VA,
    PIN_VEPC,
    ROLE_SECS,
    T_MASK,
    T_REG,
    V2,
    V17,
    VA_SLOT_COUNT,
)


def validate_everything(machine_or_kernel):
    """All of them; AssertionError says which broke."""
    k = getattr(machine_or_kernel, "k", machine_or_kernel)
    if k.g.fatal != 0:
        return
    for validate in (
        validate_globals,
        validate_frames,
        validate_blocks,
        validate_lists,
        validate_cgroup_tree,
        validate_references,
        validate_charges,
        validate_enclaves,
        validate_address_spaces,
        validate_va_pages,
        validate_backing,
        validate_pins,
        validate_vepcs,
        validate_works,
        validate_walks,
    ):
        validate(k)


# ---- reading the tables --------------------------------------------------------------------------


def used_rows(table):
    return [int(row) for row in np.flatnonzero(table["used"])]


def used_cgroups(k):
    return [c for c in range(k.g.nr_cgroups) if k.cgroups[c].used]


def used_pins(k):
    return [int(pin) for pin in np.flatnonzero(k.pins["kind"][: k.g.pin_brk])]


def children_of(k, c):
    children, at = [], k.cgroups[c].first_child
    while at != NIL:
        children.append(at)
        assert len(children) <= k.g.nr_cgroups, f"children of cgroup {c} form a ring"
        at = k.cgroups[at].next
    return children


def subtree_of(k, c):
    """c and its descendants, in pre-order."""
    return [c] + [each for child in children_of(k, c) for each in subtree_of(k, child)]


def slots_of(k, f):
    """Slots of list f, head to tail."""
    q = k.fifos[f]
    slot, slots = q.head, []
    for _ in range(q.len):
        slots.append(slot)
        slot = k.block_next[slot >> 4] << 4 if slot & 15 == 15 else slot + 1
    return slots


def live_entries(k, f):
    """Entries of list f that have not left, oldest first."""
    stale = {}
    for i in range(k.g.nr_tombs):
        if k.tombs[i].fifo == f:
            stale[k.tombs[i].page] = stale.get(k.tombs[i].page, 0) + 1
    live = []
    for slot in slots_of(k, f):
        entry = k.slots[slot]
        if stale.get(entry, 0):
            stale[entry] -= 1
        else:
            live.append(entry)
    assert not any(stale.values()), f"list {f} has no entry for a tomb of pages {stale}"
    return live


def states_of(k, e):
    """The state bytes of an enclave's pages."""
    encl = k.encls[e]
    return k.state[encl.start : encl.start + encl.length]


def resident_pages(k):
    """encl_pages with an EPC page, of all enclaves."""
    return np.flatnonzero(k.state[0 : len(k.state)] & P_RESIDENT)


def charged_to(k, v):
    """The cgroup a resident page is charged to."""
    encl = k.encls[k.encl_of[v >> 5]]
    if k.g.ledger != 0 or encl.lru_many != 0:
        return k.place[v].who
    return encl.lru_cgroup


def swapped_pages(k, e):
    """encl_pages of an enclave that were written out, its SECS included."""
    encl = k.encls[e]
    pages = [encl.start + int(i) for i in np.flatnonzero(states_of(k, e) & (P_KNOWN | P_RESIDENT) == P_KNOWN)]
    if encl.flags & (E_CREATED | E_OOM) == E_CREATED and encl.secs == NIL:
        pages.append(encl.start + encl.length)
    return pages


def va_list(k, e):
    vas, at = [], k.encls[e].va_head
    while at != NIL:
        vas.append(at)
        assert len(vas) <= k.g.pin_brk, f"VA pages of enclave {e} form a ring"
        at = k.pins[at].va_next
    return vas


def mms_of(k, e):
    mms, at = [], k.encls[e].mm_head
    while at != NIL:
        mms.append(at)
        assert len(mms) <= len(k.mms), f"address spaces of enclave {e} form a ring"
        at = k.mms[at].next
    return mms


# ---- the rules -----------------------------------------------------------------------------------


def validate_globals(k):
    g = k.g
    sizes = [k.sections[s].nr_frames for s in range(g.nr_sections)]
    assert sum(sizes) == g.nr_frames, f"sections have {sum(sizes)} frames, the machine {g.nr_frames}"
    assert g.capacity == g.nr_frames * PAGE
    assert g.trace_lost == 0, f"{g.trace_lost} tracepoints lost"
    bits = int(np.unpackbits(k.poison[0 : len(k.poison)]).sum())
    assert bits == g.nr_poison, f"{bits} frames poisoned, nr_poison says {g.nr_poison}"


def validate_frames(k):
    """Every frame is in one place: on its node's free list, on its poison list, or in use once."""
    g = k.g
    if g.ledger == 0:
        count_frames(k)
        return
    poison = np.unpackbits(k.poison[0 : len(k.poison)], bitorder="little")[: g.nr_frames]
    owner = np.zeros(g.nr_frames, np.int64)
    node_of = np.zeros(g.nr_frames, np.int64)
    for s in range(g.nr_sections):
        section = k.sections[s]
        node_of[section.first : section.first + section.nr_frames] = section.node
    free = 0
    for node in range(g.nr_nodes):
        frames = live_entries(k, node)
        assert k.fifos[node].stale == 0, f"free list {node} has stale entries"
        assert not poison[frames].any(), f"free list {node} has a poisoned page"
        assert (node_of[frames] == node).all(), f"free list {node} has another node's page"
        np.add.at(owner, frames, 1)
        free += len(frames)
    used = [k.place[int(v)].where for v in resident_pages(k)] + [k.pins[pin].frame for pin in used_pins(k)]
    np.add.at(owner, used, 1)
    assert (owner <= 1).all(), f"frames {np.flatnonzero(owner > 1)} are in two places"
    idle = np.flatnonzero(owner == 0)
    assert poison[idle].all(), f"frames {idle[poison[idle] == 0]} are lost"
    for node in range(g.nr_nodes):
        listed = int((node_of[idle] == node).sum())
        counted = k.nodes[node].nr_poison
        assert listed == counted, f"node {node}: {listed} idle poisoned pages, counts {counted}"
    assert free + len(idle) == g.nr_free, f"{free} free and {len(idle)} poisoned idle pages, nr_free says {g.nr_free}"


def count_frames(k):
    """Without the ledger: each node's frames are free or in use."""
    g = k.g
    used = [k.state[int(v)] >> P_NODE_SHIFT for v in resident_pages(k)] + [k.pins[pin].frame for pin in used_pins(k)]
    free = 0
    for node in range(g.nr_nodes):
        n = k.fifos[node].len
        assert n + used.count(node) == k.nodes[node].nr_frames, f"node {node}: {n} free, {used.count(node)} in use"
        free += n
    assert free == g.nr_free, f"{free} free pages, nr_free says {g.nr_free}"
    assert g.nr_poison == 0, "poison without the ledger"
    elsewhere = k.state[0 : len(k.state)] >> P_NODE_SHIFT != 0
    assert not (elsewhere & (k.state[0 : len(k.state)] & P_RESIDENT == 0)).any(), "a page that is out has a node"


def validate_blocks(k):
    """Every block of the pool belongs to one list or is free; empty lists have none."""
    g = k.g
    seen = []
    for f in range(0 if g.ledger else FIRST_CGROUP_FIFO, FIRST_CGROUP_FIFO + g.nr_cgroups):
        q = k.fifos[f]
        slots = slots_of(k, f)
        if not slots:
            assert q.tail == 0, f"empty list {f} has tail {q.tail}"
            continue
        assert slots[-1] + 1 == q.tail, f"list {f} ends at {slots[-1]}, tail {q.tail}"
        seen += sorted({slot >> 4 for slot in slots})
    block = g.block_free
    while block != 0:
        seen.append(block)
        assert len(seen) <= g.block_brk, "free blocks form a ring"
        block = k.block_next[block]
    assert sorted(seen) == list(range(1, g.block_brk)), "a block is lost or in two places"
    assert g.block_brk <= len(k.block_next), "blocks beyond the pool"
    assert len(k.slots) == 16 * len(k.block_next)


def validate_lists(k):
    """Reclaimable lists: each resident page once, on the list of the cgroup that is charged for it."""
    g = k.g
    total, seen = 0, []
    for c in range(g.nr_cgroups):
        f = FIRST_CGROUP_FIFO + c
        pages = live_entries(k, f)
        assert len(pages) == k.fifos[f].len - k.fifos[f].stale
        total += len(pages)
        seen += pages
        for v in pages:
            assert k.state[v] & P_RESIDENT, f"page {v} on the list of cgroup {c} is not resident"
            charged = 0 if g.series == MAINLINE else charged_to(k, v)
            assert charged == c, f"page {v} on the list of cgroup {c} is charged to {charged}"
    assert total == g.nr_lru, f"{total} pages on lists, nr_lru says {g.nr_lru}"
    assert len(set(seen)) == len(seen), "a page is on a list twice"
    missing = {int(v) for v in resident_pages(k)} - set(seen)
    if g.series == MAINLINE and g.ledger:
        missing = {v for v in missing if not (k.poison[k.place[v].where >> 3] >> (k.place[v].where & 7)) & 1}
    assert not missing, f"resident pages {sorted(missing)} are on no list"
    tombs = {k.tombs[i].page for i in range(g.nr_tombs)}
    flagged = {int(v) for v in np.flatnonzero(k.state[0 : len(k.state)] & P_STALE)}
    assert tombs == flagged, f"pages with stale entries: {tombs ^ flagged}"


def validate_cgroup_tree(k):
    reached = subtree_of(k, 0)
    assert sorted(reached) == used_cgroups(k), "a cgroup is not in the tree"
    for c in reached:
        cg = k.cgroups[c]
        children = children_of(k, c)
        assert len(children) == cg.children, f"cgroup {c} has {len(children)} children, counts {cg.children}"
        assert cg.last_child == (children[-1] if children else NIL)
        for child in children:
            assert k.cgroups[child].parent == c
            assert cg.online or not k.cgroups[child].online, f"cgroup {child} is online below a removed one"
        for before, after in pairwise(children):
            assert k.cgroups[after].prev == before
            assert k.cgroups[before].serial < k.cgroups[after].serial, f"children of {c} out of creation order"
    assert k.cgroups[0].online
    assert k.cgroups[0].parent == NIL
    dead, at = [], k.g.dead_head
    while at != NIL:
        dead.append(at)
        at = k.cgroups[at].dead_next
    # `reached` is in order of creation, which is not that of rows once rows are used again.
    released = sorted(c for c in reached if k.cgroups[c].dead)
    assert sorted(dead) == released, "the release list and the dead cgroups differ"


def validate_references(k):
    """What keeps a cgroup alive is counted right, and a removed cgroup that nothing keeps is on the release list."""
    rows = np.array(k.cgroups["used"])
    pages = np.zeros(len(rows), np.int64)
    np.add.at(pages, [charged_to(k, int(v)) for v in resident_pages(k)], 1)
    np.add.at(pages, [k.pins[pin].cgroup for pin in used_pins(k)], 1)
    tasks = np.zeros(len(rows), np.int64)
    np.add.at(tasks, [k.tasks[t].cgroup for t in used_rows(k.tasks)], 1)
    for c in range(k.g.nr_cgroups):
        cg = k.cgroups[c]
        if not cg.used:
            assert pages[c] == 0 and tasks[c] == 0, f"released cgroup {c} has pages or tasks"
            continue
        assert cg.pages == pages[c], f"cgroup {c} is charged {pages[c]} pages, holds references for {cg.pages}"
        assert cg.tasks == tasks[c], f"cgroup {c} has {tasks[c]} tasks, counts {cg.tasks}"
        assert cg.online or not cg.tasks, f"removed cgroup {c} has tasks"
        kept = cg.online + cg.tasks + cg.pages + cg.children + cg.other
        assert (kept == 0) == (cg.dead != 0), f"cgroup {c}: {kept} references, dead {cg.dead}"


def validate_charges(k):
    """usage is what is charged in the subtree, 4096 bytes a page; limits, peaks and events fit together."""
    for c in used_cgroups(k):
        cg = k.cgroups[c]
        subtree = subtree_of(k, c)
        bytes_charged = sum(PAGE * k.cgroups[each].pages + k.cgroups[each].other for each in subtree)
        if k.g.series == V2 and c == 0:
            # A page charged to v2's root counts only if it fitted, and is uncharged in any case (defect D14).
            assert cg.usage <= bytes_charged and cg.usage % PAGE == 0
        else:
            assert cg.usage == bytes_charged, f"cgroup {c}: usage {cg.usage}, {bytes_charged} bytes charged"
        assert cg.usage <= k.g.capacity, f"cgroup {c} uses {cg.usage} of {k.g.capacity} bytes"
        assert cg.max >= 0
        if k.g.series == V17:
            assert cg.peak >= cg.usage, f"cgroup {c}: peak {cg.peak} below usage {cg.usage}"
            local = sum(k.cgroups[each].events_local for each in subtree)
            assert cg.events == 0 if c == 0 else cg.events >= local, f"cgroup {c}: {cg.events} events, {local} below"


def validate_enclaves(k):
    inside = np.zeros(len(k.state), bool)
    for e in used_rows(k.encls):
        encl = k.encls[e]
        states = states_of(k, e)
        known, resident = states & P_KNOWN != 0, states & P_RESIDENT != 0
        kinds = k.kind[encl.start : encl.start + encl.length]
        where = f"enclave {e}"
        assert encl.start % 32 == 0
        groups = slice(encl.start >> 5, (encl.start + encl.length >> 5) + 1)
        assert (k.encl_of[groups] == e).all(), f"{where}: encl_of names another enclave"
        assert not inside[encl.start : encl.start + encl.length + 1].any(), f"{where} overlaps another enclave"
        inside[encl.start : encl.start + encl.length + 1] = True
        assert not (resident & ~known).any(), f"{where}: resident pages without a record"
        assert not kinds[~known].any(), f"{where}: a page without a record has a type"
        assert not ((kinds & T_MASK == T_REG) & (kinds & K_MODIFIED != 0)).any(), f"{where}: a modified REG page"
        assert known.sum() == encl.nr_pages, f"{where}: {known.sum()} pages, counts {encl.nr_pages}"
        assert resident.sum() == encl.nr_resident, f"{where}: {resident.sum()} resident, counts {encl.nr_resident}"
        assert encl.child == encl.nr_resident, f"{where}: secs_child_cnt {encl.child}, {encl.nr_resident} resident"
        assert encl.child == 0 or encl.secs != NIL, f"{where}: children without a SECS"
        assert encl.secs != NIL or encl.flags & (E_INIT | E_OOM), f"{where}: lost its SECS before EINIT"
        if k.g.series == V17:
            assert not (states & P_NOT_ENCLAVE).any(), f"{where}: v2's mark in another series"
        assert not ((states & P_NOT_ENCLAVE != 0) & ~resident).any()
        if not encl.flags & E_OOM:
            assert encl.page_cnt == encl.nr_pages + 1, f"{where}: page_cnt {encl.page_cnt}, {encl.nr_pages} pages"
            assert encl.nr_ewb - encl.nr_eldu == encl.nr_pages - encl.nr_resident, f"{where}: pages written and loaded"
        assert 0 <= encl.nr_ewb_others <= encl.nr_ewb
    outside = np.flatnonzero(k.state[0 : len(k.state)][~inside])
    assert not len(outside), "state left behind by a released enclave"


def validate_address_spaces(k):
    """Only resident pages have PTEs; references are the open file, the address spaces, and those to be dropped."""
    ranges = []
    for e in used_rows(k.encls):
        encl = k.encls[e]
        mms = mms_of(k, e)
        owners = [t for t in used_rows(k.tasks) if k.tasks[t].encl == e]
        assert len(owners) == encl.nr_files, f"enclave {e}: {len(owners)} processes, {encl.nr_files} files"
        assert len(mms) == encl.nr_mms, f"enclave {e}: {len(mms)} address spaces, counts {encl.nr_mms}"
        held = (encl.nr_files > 0) + encl.nr_mms + encl.gone
        assert encl.refs == held, f"enclave {e}: refs {encl.refs}, held {held}"
        states = states_of(k, e)
        first = False
        for mm in (k.tasks[t].mm for t in owners):
            m = k.mms[mm]
            assert m.used and m.encl == e
            assert (m.listed != 0) == (mm in mms), f"address space {mm}: listed {m.listed}"
            if m.ptes == NIL:
                bits, first = states, True
            else:
                bits = k.ptes[m.ptes : m.ptes + encl.length]
                ranges.append((m.ptes, m.ptes + encl.length))
            mapped = bits & P_MAPPED != 0
            assert not (mapped & (states & P_RESIDENT == 0)).any(), f"enclave {e}: a PTE of a page that is not resident"
            assert not ((bits & P_YOUNG != 0) & ~mapped).any(), f"enclave {e}: young but not mapped"
            assert m.listed or not mapped.any(), f"enclave {e}: mappings in an address space it does not know"
        assert first or not (states & (P_MAPPED | P_YOUNG)).any(), f"enclave {e}: PTEs of a process that is gone"
    for (_, end), (start, _) in pairwise(sorted(ranges)):
        assert end <= start, "two processes share PTEs"
    gone, at = [], k.g.gone_head
    while at != NIL:
        gone.append(at)
        at = k.encls[at].gone_next
    assert sorted(gone) == [e for e in used_rows(k.encls) if k.encls[e].gone], "the mmu-notifier list is wrong"


def validate_va_pages(k):
    """Slots in use are the pages written out, slot by slot; pages with free slots stand before full ones."""
    if k.g.ledger == 0:
        return
    for e in used_rows(k.encls):
        vas = va_list(k, e)
        used = dict.fromkeys(vas, 0)
        for v in swapped_pages(k, e):
            assert k.place[v].where in used, f"page {v} has its version in no VA page of enclave {e}"
            used[k.place[v].where] += 1
        for va, count in used.items():
            pin = k.pins[va]
            assert pin.kind == PIN_VA and pin.owner == e
            assert pin.used == count <= VA_SLOT_COUNT, f"VA page {va}: {pin.used} slots used, {count} pages written"
        full = [k.pins[va].used == VA_SLOT_COUNT for va in vas]
        assert full == sorted(full), f"enclave {e}: a full VA page before one with room"
        assert k.encls[e].va_tail == (vas[-1] if vas else NIL)
        for before, after in pairwise(vas):
            assert k.pins[after].va_prev == before
        if k.encls[e].flags & (E_CREATED | E_OOM) == E_CREATED:
            room = VA_SLOT_COUNT * len(vas)
            assert room >= k.encls[e].page_cnt, f"enclave {e}: {room} slots for {k.encls[e].page_cnt} pages"


def validate_backing(k):
    """Shmem pages are the contents of what is written out and one metadata page for each 32 of those."""
    if k.g.ledger == 0:
        assert k.counters[C_BACKING_ALLOC] == k.counters[C_BACKING_FREE] == 0
        return
    charged = np.zeros(len(k.cgroups), np.int64)
    total = 0
    for e in used_rows(k.encls):
        pages = swapped_pages(k, e)
        groups = {}
        for v in pages:
            charged[k.place[v].who] += 1
            groups[v >> 5] = groups.get(v >> 5, 0) + 1
        encl = k.encls[e]
        for group in range(encl.start >> 5, (encl.start + encl.length >> 5) + 1):
            assert k.pcmd[group] == groups.get(group, 0), f"enclave {e}: metadata page {group} counts {k.pcmd[group]}"
        for group in groups:
            charged[k.pcmd_who[group]] += 1
        expected = len(pages) + len(groups)
        assert encl.backing == expected, f"enclave {e}: backing {encl.backing}, should be {expected}"
        total += expected
    for c in range(k.g.nr_cgroups):
        assert k.cgroups[c].backing == charged[c], f"cgroup {c}: backing {k.cgroups[c].backing}, charged {charged[c]}"
    live = k.counters[C_BACKING_ALLOC] - k.counters[C_BACKING_FREE]
    assert live == total, f"{live} backing pages by the counters, {total} by the enclaves"


def validate_pins(k):
    """SECS, VA and virtual EPC pages each have one owner; v2 has them on the unreclaimable lists."""
    g = k.g
    pins = used_pins(k)
    free, at = [], g.pin_free
    while at != NIL:
        free.append(at)
        assert len(free) <= g.pin_brk, "free pins form a ring"
        at = k.pins[at].next
    assert sorted(pins + free) == list(range(g.pin_brk)), "a pin is lost"
    listed = []
    for c in range(g.nr_cgroups):
        before, at, count = NIL, k.cgroups[c].unrec_head if k.cgroups[c].used else NIL, 0
        while at != NIL:
            assert k.pins[at].prev == before and k.pins[at].cgroup == c and k.pins[at].listed
            listed.append(at)
            count += 1
            before, at = at, k.pins[at].next
        if k.cgroups[c].used:
            assert k.cgroups[c].unrec_tail == before
            assert k.cgroups[c].nr_unrec == count, f"cgroup {c}: {count} unreclaimable, counts {k.cgroups[c].nr_unrec}"
    assert sorted(listed) == [pin for pin in pins if k.pins[pin].listed], "a listed pin is on no list"
    for pin in pins:
        p = k.pins[pin]
        if p.kind == PIN_SECS:
            assert k.encls[p.owner].used and k.encls[p.owner].secs == pin, f"SECS {pin} has no enclave"
        elif p.kind == PIN_VA:
            assert k.encls[p.owner].used and pin in va_list(k, p.owner), f"VA page {pin} has no enclave"
        if p.kind != PIN_VEPC:
            assert (p.listed != 0) == (g.series == V2), f"pin {pin}: listed {p.listed}"
    secs = [k.encls[e].secs for e in used_rows(k.encls) if k.encls[e].secs != NIL]
    assert all(k.pins[pin].kind == PIN_SECS for pin in secs)


def validate_vepcs(k):
    """A page of virtual EPC is in the table of an open file or a zombie; a guest's SECS knows its children."""
    zombies, at = [], k.g.zombie_head
    while at != NIL:
        zombies.append(at)
        assert len(zombies) <= k.g.pin_brk, "zombies form a ring"
        at = k.pins[at].next
    assert len(zombies) == k.g.nr_zombies
    mapped, inside = {}, np.zeros(len(k.vmap), bool)
    for ve in used_rows(k.vepcs):
        vepc = k.vepcs[ve]
        assert not inside[vepc.map : vepc.map + vepc.length].any(), f"virtual EPC {ve} overlaps another"
        inside[vepc.map : vepc.map + vepc.length] = True
        for page in np.flatnonzero(k.vmap[vepc.map : vepc.map + vepc.length]):
            pin = k.vmap[vepc.map + int(page)] - 1
            assert pin not in mapped, f"pin {pin} is mapped twice"
            mapped[pin] = ve
            assert (k.pins[pin].owner, k.pins[pin].index) == (ve, page), f"pin {pin} belongs elsewhere"
    assert not k.vmap[0 : len(k.vmap)][~inside].any(), "a closed virtual EPC left mappings"
    guests = [pin for pin in used_pins(k) if k.pins[pin].kind == PIN_VEPC]
    assert sorted([*mapped, *zombies]) == guests, "a page of virtual EPC is neither mapped nor a zombie"
    children = dict.fromkeys(guests, 0)
    for pin in guests:
        if k.pins[pin].secs != NIL:
            children[k.pins[pin].secs] += 1
    for pin in guests:
        counted = k.pins[pin].used
        assert counted == children[pin], f"guest page {pin}: {children[pin]} children, counts {counted}"
        assert not children[pin] or k.pins[pin].role == ROLE_SECS, f"guest page {pin} has children and is no SECS"


def validate_works(k):
    queued, at = [], k.g.work_head
    for _ in range(k.g.nr_works):
        queued.append(at)
        at = k.cgroups[at].work_next
    pending = [c for c in used_cgroups(k) if k.cgroups[c].pending]
    assert sorted(queued) == pending, f"works queued {queued}, pending {pending}"
    assert not queued or k.g.work_tail == queued[-1]


def validate_walks(k):
    """A walk's position is a living cgroup of the subtree it walks."""
    for c in used_cgroups(k):
        subtree = subtree_of(k, c)
        assert k.cgroups[c].next_cg in subtree, f"cgroup {c}: next_cg {k.cgroups[c].next_cg} outside its subtree"
        assert k.cgroups[c].iter in (NIL, *subtree), f"cgroup {c}: iter {k.cgroups[c].iter} outside its subtree"
