"""Virtual EPC for KVM guests (arch/x86/kernel/cpu/sgx/virt.c): pages a host never reclaims.

What the guest did with a page (SECS, child of a SECS) is told by the caller; it decides whether EREMOVE works.
"""

from epcgroup.kernel.cgroup import css_get_page
from epcgroup.kernel.encl import drop_unreclaimable, pin_page, record_unreclaimable, unpin_page
from epcgroup.kernel.jit import kernel, syscall, u32_at
from epcgroup.kernel.ops import alloc_epc_page
from epcgroup.kernel.structs import (
    C_ENCLS_ERR,
    C_EREMOVE,
    C_FAULT,
    EBUSY,
    NIL,
    NO_RECLAIM,
    PIN_VEPC,
    ROLE_FREE,
    SEGV,
    SIGBUS,
)
from epcgroup.kernel.touch import enter_task, run_background


@kernel
def vepc_fault_page(k, ve, page):
    at = k.vepcs[ve].map + page
    if k.vmap[at] != 0:
        return 0
    k.counters[C_FAULT] += 1
    frame = alloc_epc_page(k, NO_RECLAIM)
    if frame < 0:
        return -EBUSY if frame == -EBUSY else -SIGBUS
    pin = pin_page(k, PIN_VEPC, ve, page, frame, k.g.cgroup)
    css_get_page(k, k.g.cgroup)
    k.vmap[at] = pin + 1
    record_unreclaimable(k, pin)
    return 0


@syscall
def vepc_fault(k, t, ve, address, n, retries):
    """Guest page faults, as fault.touch does for enclaves."""
    g = k.g
    enter_task(k, t)
    pages = u32_at(address)
    g.status = 0
    g.retries = 0
    for i in range(n):
        page = pages[i]
        if page >= k.vepcs[ve].length:
            g.status = -SEGV
            return i
        result = vepc_fault_page(k, ve, page)
        left = retries
        while result == -EBUSY and left > 0 and g.fatal == 0:
            left -= 1
            g.retries += 1
            run_background(k, t)
            if g.fatal != 0:
                return i
            result = vepc_fault_page(k, ve, page)
        if result != 0 or g.fatal != 0:
            g.status = result
            return i
    return n


@kernel
def eremove_guest(k, pin):
    """EREMOVE of a guest's page: False for a SECS that still has children."""
    p = k.pins[pin]
    k.counters[C_EREMOVE] += 1
    if p.used != 0:
        k.counters[C_ENCLS_ERR] += 1
        return False
    if p.secs != NIL:
        k.pins[p.secs].used -= 1
        p.secs = NIL
    p.role = ROLE_FREE
    k.g.progress += 1
    return True


@syscall
def vepc_remove_all(k, ve):
    """REMOVE_ALL: EREMOVE every page without freeing it; returns the SECS pages still pinned by children."""
    failures = 0
    vepc = k.vepcs[ve]
    for at in range(vepc.map, vepc.map + vepc.length):
        if k.vmap[at] != 0 and not eremove_guest(k, k.vmap[at] - 1):
            failures += 1
    return failures


@syscall
def vepc_release(k, ve):
    """Two passes of EREMOVE and free; SECS pages that still fail join the zombies, which are all tried again."""
    g = k.g
    vepc = k.vepcs[ve]
    for _ in range(2):
        for at in range(vepc.map, vepc.map + vepc.length):
            if k.vmap[at] != 0 and eremove_guest(k, k.vmap[at] - 1):
                unpin_page(k, k.vmap[at] - 1)
                k.vmap[at] = 0
    # The zombies of earlier releases are tried before ours join them.
    pin = g.zombie_head
    g.zombie_head = NIL
    g.nr_zombies = 0
    while pin != NIL:
        following = k.pins[pin].next
        if eremove_guest(k, pin):
            unpin_page(k, pin)
        else:
            add_zombie(k, pin)
        pin = following
    for at in range(vepc.map, vepc.map + vepc.length):
        if k.vmap[at] != 0:
            drop_unreclaimable(k, k.vmap[at] - 1)
            add_zombie(k, k.vmap[at] - 1)
            k.vmap[at] = 0
    vepc.used = 0
    return 0


@kernel
def add_zombie(k, pin):
    k.pins[pin].next = k.g.zombie_head
    k.g.zombie_head = pin
    k.g.nr_zombies += 1


@syscall
def guest(k, pin, role, secs):
    """The guest made the page a SECS, a child of a SECS page (secs), or free again."""
    p = k.pins[pin]
    if p.secs != NIL:
        k.pins[p.secs].used -= 1
    p.role = role
    p.secs = secs
    if secs != NIL:
        k.pins[secs].used += 1
