"""Make a sample of bench/data: `valgrind --tool=lackey --trace-mem=yes --log-fd=9 PROGRAM 9>&1 >/dev/null |
python -m bench.record NAME [FIRST COUNT]` keeps COUNT events from FIRST on (default: all), pages numbered anew.
"""

import sys

import numpy as np

from bench.arrays import DATA
from epcgroup.sim.tracefile import PageTrace, read_trace, write_trace


def record(name: str, first: int = 0, count: int | None = None) -> None:
    trace = read_trace("-")
    pages = trace.pages[first : None if count is None else first + count]
    used, seen_first, dense = np.unique(pages, return_index=True, return_inverse=True)
    order = np.argsort(seen_first)
    rank = np.empty(len(used), np.uint32)
    rank[order] = np.arange(len(used), dtype=np.uint32)
    path = DATA / f"{name}.epctrace.xz"
    write_trace(path, PageTrace(rank[dense], trace.addresses[used[order]], name))
    print(f"{path}: {len(pages)} events of {len(used)} pages, {path.stat().st_size} bytes")


if __name__ == "__main__":
    record(sys.argv[1], *map(int, sys.argv[2:]))
