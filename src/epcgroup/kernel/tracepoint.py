"""What happened leaves the ring as records: pages written and loaded in exact order, OOM kills, warnings, counters.

Runs of ascending pages of one enclave share a record. The machine drains the records after each ring call.
"""

from epcgroup.kernel.jit import inline, kernel


@inline
def count(k, counter, n):
    k.counters[counter] += n


@kernel
def trace(k, kind, a, b):
    g = k.g
    n = g.nr_trace
    if n > 0:
        last = k.trace[n - 1]
        if last.kind == kind and last.a == a and last.b + last.n == b:
            last.n += 1
            return
    if n >= g.trace_size:
        g.trace_lost += 1
        return
    record = k.trace[n]
    record.kind = kind
    record.a = a
    record.b = b
    record.n = 1
    g.nr_trace = n + 1


@kernel
def warn_on(k, warning):
    """A WARN_ON fired: remember it once an op, in order (four bits each)."""
    g = k.g
    for i in range(g.nr_warned):
        if (g.warned >> (4 * i)) & 15 == warning:
            return
    g.warned |= warning << (4 * g.nr_warned)
    g.nr_warned += 1
