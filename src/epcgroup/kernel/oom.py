"""v2: choose a victim enclave and zap it (v2 patches 14/18 and 17/18).

The victim owns the oldest recorded SECS or VA page of the first cgroup, in pre-order, that has one; size, age
and idleness play no role. Virtual EPC pages are passed over, and stay unlinked for ever.
"""

from epcgroup.kernel.cgroup import css_next_descendant_pre
from epcgroup.kernel.encl import drop_unreclaimable
from epcgroup.kernel.jit import kernel
from epcgroup.kernel.ops import encl_free_pages
from epcgroup.kernel.structs import E_CREATED, E_OOM, NIL, PIN_VEPC, TP_OOM
from epcgroup.kernel.tracepoint import trace


@kernel
def victim(k, c):
    """Unlink pages from the head of c's unreclaimable list until one has a living enclave; NIL: none."""
    while k.cgroups[c].unrec_head != NIL:
        pin = k.cgroups[c].unrec_head
        drop_unreclaimable(k, pin)
        if k.pins[pin].kind != PIN_VEPC:
            return k.pins[pin].owner
    return NIL


@kernel
def encl_oom(k, e):
    """Zap all mappings, forget all processes, free every page; the object stays until its file is closed."""
    encl = k.encls[e]
    encl.flags |= E_OOM
    trace(k, TP_OOM, e, encl.start)
    if encl.flags & E_CREATED == 0:
        return
    mm = encl.mm_head
    while mm != NIL:
        encl.refs -= 1
        ptes = k.mms[mm].ptes
        if ptes != NIL:
            for i in range(encl.length):
                k.ptes[ptes + i] = 0
        k.mms[mm].listed = 0
        mm = k.mms[mm].next
    encl.mm_head = NIL
    encl.nr_mms = 0
    encl_free_pages(k, e)


@kernel
def epc_cgroup_oom(k, root):
    """Kill one enclave of root's subtree; False when there is no victim."""
    pos = root
    while pos != NIL:
        if k.cgroups[pos].dead == 0:
            e = victim(k, pos)
            if e != NIL:
                encl_oom(k, e)
                k.g.progress += 1
                return True
        pos = css_next_descendant_pre(k, pos, root)
    return False
