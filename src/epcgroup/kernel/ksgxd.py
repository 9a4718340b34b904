"""Background work: ksgxd, the queued cgroup reclaim works, and the deferred releases.

Nothing here runs by itself. The caller says when: the replayer by the log's rules, the simulated node as
threads of its own.
"""

from epcgroup.kernel.cgroup import css_release
from epcgroup.kernel.encl import encl_put
from epcgroup.kernel.jit import kernel, syscall
from epcgroup.kernel.ops import reclaim_global, work
from epcgroup.kernel.resched import cond_resched
from epcgroup.kernel.structs import NIL, NR_HIGH_PAGES


@syscall
def run_deferred(k):
    """The mmu notifier's references first, then released csses in order."""
    g = k.g
    while g.gone_head != NIL:
        e = g.gone_head
        g.gone_head = k.encls[e].gone_next
        while k.encls[e].gone != 0:
            k.encls[e].gone -= 1
            encl_put(k, e)
    while g.dead_head != NIL:
        c = g.dead_head
        g.dead_head = k.cgroups[c].dead_next
        css_release(k, c)


@kernel
def ksgxd_step(k):
    """One batch of ksgxd; False when it would sleep."""
    g = k.g
    if g.nr_free >= NR_HIGH_PAGES or g.nr_lru == 0:
        return False
    reclaim_global(k)
    cond_resched(k)
    return g.fatal == 0


@kernel
def enter_kthread(k, kthread):
    g = k.g
    g.task = NIL
    g.kthread = kthread
    g.cgroup = 0
    g.signal = 0
    g.idle_resched = 0


@syscall
def ksgxd(k, batches):
    """Run ksgxd for at most so many batches; returns 1 when it went to sleep. Running it clears its wake-up."""
    enter_kthread(k, 1)
    k.g.ksgxd_woken = 0
    done = 0
    for _ in range(batches):
        if not ksgxd_step(k):
            done = 1
            break
    run_deferred(k)
    return done


@kernel
def pop_work(k):
    """The cgroup whose work is next; it may be queued again from now on."""
    g = k.g
    c = g.work_head
    g.work_head = k.cgroups[c].work_next
    g.nr_works -= 1
    k.cgroups[c].pending = 0
    return c


@syscall
def work_batches(k, c, batches):
    """Run c's reclaim work for at most so many batches; returns 1 when it is done. v2's runs to its end."""
    enter_kthread(k, 2)
    k.g.work = c
    return work(k, c, batches)


@syscall
def next_work(k):
    """Take the next queued work off the queue: its cgroup, or NIL."""
    return pop_work(k) if k.g.nr_works != 0 else NIL


@syscall
def run_works(k):
    """Run queued works, first in first out, until none is left."""
    while k.g.nr_works != 0 and k.g.fatal == 0:
        work_batches(k, pop_work(k), 1 << 62)
        run_deferred(k)
