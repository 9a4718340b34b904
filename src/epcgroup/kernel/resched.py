"""Voluntary reschedules, and the watch over loops that can make no progress any more (spec/oplog.md, schedule rule 7).

A task that spins gets a signal after a thousand reschedules without progress, a kernel thread or a second
thousand is a HANG.
"""

from epcgroup.kernel.jit import kernel
from epcgroup.kernel.structs import HANG


@kernel
def cond_resched(k):
    g = k.g
    if g.progress != g.progress_seen:
        g.progress_seen = g.progress
        g.idle_resched = 0
    g.idle_resched += 1
    if g.idle_resched > g.patience:
        g.idle_resched = 0
        if g.kthread == 0 and g.signal == 0 and g.uninterruptible == 0:
            g.signal = 1
            g.signal_injected = 1
        else:
            g.fatal = HANG
