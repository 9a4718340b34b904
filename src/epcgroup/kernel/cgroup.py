"""The cgroup tree: pre-order walk, life cycle, references (kernel/cgroup/cgroup.c).

A css lives as long as something refers to it: being online, tasks, charged EPC pages or other bytes, child
csses. When the last reference goes it is put on the release list; the release itself is deferred work
(cgroup_deferred). Left out: every other controller.
"""

from epcgroup.kernel.jit import inline, kernel, syscall
from epcgroup.kernel.structs import FIRST_CGROUP_FIFO, MAX_UNLIMITED, NIL, V2


@inline
def css_refs(k, c):
    cg = k.cgroups[c]
    return cg.online + cg.tasks + cg.pages + cg.children + cg.other


@syscall
def css_put(k, c):
    """Called after a reference of c is gone: queue the release when it was the last."""
    cg = k.cgroups[c]
    if cg.dead == 0 and c != 0 and css_refs(k, c) == 0:
        cg.dead = 1
        cg.dead_next = NIL
        g = k.g
        if g.dead_head == NIL:
            g.dead_head = c
        else:
            k.cgroups[g.dead_tail].dead_next = c
        g.dead_tail = c


@inline
def css_get_page(k, c):
    k.cgroups[c].pages += 1


@kernel
def css_next_descendant_pre(k, pos, root):
    """The next cgroup in pre-order of root's subtree after pos; NIL after the last."""
    if k.cgroups[pos].first_child != NIL:
        return k.cgroups[pos].first_child
    while pos != root:
        if k.cgroups[pos].next != NIL:
            return k.cgroups[pos].next
        pos = k.cgroups[pos].parent
    return NIL


@syscall
def css_online(k, c, parent):
    """Make row c a new cgroup, the last child of parent (NIL: c is the root)."""
    cg = k.cgroups[c]
    cg.parent = parent
    cg.first_child = NIL
    cg.last_child = NIL
    cg.next = NIL
    cg.prev = NIL
    cg.serial = k.g.serial
    k.g.serial += 1
    cg.online = 1
    cg.used = 1
    cg.dead = 0
    cg.tasks = 0
    cg.pages = 0
    cg.children = 0
    cg.usage = 0
    cg.other = 0
    cg.max = MAX_UNLIMITED
    cg.events = 0
    cg.events_local = 0
    cg.peak = 0
    cg.backing = 0
    cg.next_cg = c
    cg.iter = NIL
    cg.epoch = 0
    cg.pending = 0
    cg.unrec_head = NIL
    cg.unrec_tail = NIL
    cg.nr_unrec = 0
    if parent != NIL:
        up = k.cgroups[parent]
        up.children += 1
        if up.last_child == NIL:
            up.first_child = c
        else:
            k.cgroups[up.last_child].next = c
            cg.prev = up.last_child
        up.last_child = c


@kernel
def cancel_work(k, c):
    g = k.g
    if k.cgroups[c].pending == 0:
        return
    k.cgroups[c].pending = 0
    g.nr_works -= 1
    before = NIL
    at = g.work_head
    while at != c:
        before = at
        at = k.cgroups[at].work_next
    after = k.cgroups[c].work_next
    if before == NIL:
        g.work_head = after
    else:
        k.cgroups[before].work_next = after
    if g.work_tail == c:
        g.work_tail = before


@kernel
def queue_work(k, c):
    """Queue c's reclaim work, once."""
    cg = k.cgroups[c]
    if cg.pending == 0:
        g = k.g
        cg.pending = 1
        cg.work_next = NIL
        if g.nr_works == 0:
            g.work_head = c
        else:
            k.cgroups[g.work_tail].work_next = c
        g.work_tail = c
        g.nr_works += 1


@kernel
def css_release(k, c):
    """The last reference of c is gone: no walk may end at it any more, then unlink it from its parent."""
    parent = k.cgroups[c].parent
    above = parent
    while above != NIL:
        up = k.cgroups[above]
        if k.g.series == V2:
            if up.iter == c:
                up.iter = NIL
        elif up.next_cg == c:
            following = css_next_descendant_pre(k, c, above)
            up.next_cg = following if following != NIL else above
        above = up.parent
    cancel_work(k, c)
    cg = k.cgroups[c]
    up = k.cgroups[parent]
    if cg.prev == NIL:
        up.first_child = cg.next
    else:
        k.cgroups[cg.prev].next = cg.next
    if cg.next == NIL:
        up.last_child = cg.prev
    else:
        k.cgroups[cg.next].prev = cg.prev
    cg.used = 0
    up.children -= 1
    css_put(k, parent)


@inline
def lru(c):
    """The list that holds c's reclaimable pages."""
    return FIRST_CGROUP_FIFO + c


@kernel
def lru_empty(k, root):
    """No reclaimable page in the whole subtree of root."""
    pos = root
    while pos != NIL:
        if k.fifos[lru(pos)].len != k.fifos[lru(pos)].stale:
            return False
        pos = css_next_descendant_pre(k, pos, root)
    return True
