"""What operations cost, in cycles: counts times a table of weights, nothing of which any decision depends on.

The ring has no clock; a caller that has one (sim) sets the weights (k.costs) and reads what a task's touches
have used. A stall is the time from the first attempt of a fault to its success, repeats and whatever the caller
added to task.open included.
"""

import math

from epcgroup.kernel.jit import inline, kernel, syscall
from epcgroup.kernel.structs import NR_COUNTERS
from epcgroup.trace import STALL_BUCKETS, STALL_BUCKETS_PER_OCTAVE


@syscall
def spent(k):
    """Cycles of everything that has been counted since boot."""
    total = 0
    for i in range(NR_COUNTERS):
        total += k.counters[i] * k.costs[i]
    return total


@kernel
def stall_bucket(k, cycles):
    """Bucket of the histogram for a stall of so many cycles (trace.py has the law)."""
    ns = cycles * 1000 // k.g.mhz
    if ns < 1:
        return 0
    return min(int(math.log2(float(ns)) * STALL_BUCKETS_PER_OCTAVE), STALL_BUCKETS - 1)


@inline
def add_stalls(k, t, n, cycles):
    """n stalls of so many cycles each."""
    k.stalls[t * STALL_BUCKETS + stall_bucket(k, cycles)] += n


@kernel
def end_stall(k, t):
    """Task t's fault has succeeded."""
    task = k.tasks[t]
    if task.open != 0:
        add_stalls(k, t, 1, task.open)
        task.open = 0
