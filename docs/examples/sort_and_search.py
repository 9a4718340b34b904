"""Random access: a hash table in arrays, sorting, searching, grouping; two threads. Usage: sort_and_search.py [N]."""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

n = int(sys.argv[1]) if len(sys.argv) > 1 else 24_000
random = np.random.default_rng(2)
keys = random.integers(0, 1 << 40, n)
values = np.arange(n)


def build(keys, values):
    """Open addressing, all keys of a round at once; who loses a slot tries the next one."""
    slots = np.full(1 << (2 * len(keys)).bit_length(), -1, np.int64)
    held = np.zeros_like(slots)
    left, at = np.arange(len(keys)), keys * 0x9E3779B1 % len(slots)
    while len(left):
        empty = slots[at] < 0
        slots[at[empty]] = keys[left[empty]]
        mine = slots[at] == keys[left]
        held[at[mine]] = values[left[mine]]
        left, at = left[~mine], (at[~mine] + 1) % len(slots)
    return slots, held


def rank(half):
    """Sort it; how many of all keys are below each of its."""
    return np.searchsorted(np.sort(keys), np.sort(half, kind="stable"))


keys = np.unique(keys)
values = values[: len(keys)]
slots, held = build(keys, values)
with ThreadPoolExecutor(2) as threads:
    ranks = list(threads.map(rank, np.array_split(random.permutation(keys), 2)))
groups, counts = np.unique(keys % 1009, return_counts=True)
sums = np.bincount(keys % 1009, weights=values)
results = {"table": slots, "values": held, "ranks": np.concatenate(ranks), "counts": counts, "sums": sums}
for name, result in results.items():
    print(f"{name:<8} {hashlib.sha256(result).hexdigest()[:16]}")
