"""1 TiB of EPC on two NUMA nodes, 1.5 TiB of enclave pages: `python -m bench.scale` measures in a process of its own.

96 enclaves of 16 GiB in as many limited cgroups under eight levels, then the same without limits. All pages are added,
two thirds stay in the EPC; then they are touched at random, 1024 touches of an enclave at a time.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bench.measure import Effort, Row, best_in_turn
from epcgroup.machine import Machine, Section

ENCLAVES = 96
OWN = 1 << 22  # pages of an enclave
NODE = 1 << 27  # EPC pages of a NUMA node
SEGMENT = 1024


def boot(limited: bool) -> Machine:
    """The whole machine, every page of every enclave added."""
    m = Machine([Section(0, NODE), Section(1, NODE)], enclave_pages=ENCLAVES * OWN, ledger=False)
    path = ""
    for level in range(6):
        path += f"/level{level}"
        m.mkdir(path)
    for i in range(ENCLAVES):
        if i % 8 == 0:
            m.mkdir(f"{path}/pod{i // 8}")
        cgroup = "/"
        if limited:
            cgroup = f"{path}/pod{i // 8}/container{i}"
            m.mkdir(cgroup)
            m.set_limit(cgroup, (2 * NODE // ENCLAVES - 64) * 4096)
        m.enclave_create(f"e{i}", cgroup, OWN, node=i % 2)
        batch = m.add_pages(f"e{i}", 0, OWN)
        assert batch.done == OWN, batch
        m.init(f"e{i}")
        if m.ksgxd_woken:
            m.ksgxd()
    return m


def measure(limited: bool, effort: Effort) -> dict[str, float]:
    _compile()
    started = time.thread_time()
    m = boot(limited)
    figures = {"boot": time.thread_time() - started}
    rng = np.random.default_rng(1)
    count = effort.touches * 4 // SEGMENT
    tasks = np.array([m.task_row(f"e{i}") for i in range(ENCLAVES)], np.uint32)

    def touches(enclaves: np.ndarray, low: int, high: int) -> dict[str, np.ndarray]:
        chosen = tasks[rng.choice(enclaves, count)]
        rows = np.column_stack([chosen, np.full(count, SEGMENT, np.uint32)])
        return {"segments": rows, "pages": rng.integers(low, high, count * SEGMENT, dtype=np.uint32)}

    def run(each: dict[str, np.ndarray]) -> None:
        batch = m.touch_segments(**each, retry=1000)
        assert batch.stop is None, batch

    everywhere = [touches(np.arange(ENCLAVES), 0, OWN) for _ in range(effort.turns)]
    before = m.counters()["ELDU"]
    turn = iter(everywhere)
    figures["mixed"] = best_in_turn({"": lambda: run(next(turn))}, effort.turns)[""] / (count * SEGMENT) * 1e9
    figures["reloads"] = (m.counters()["ELDU"] - before) / (count * SEGMENT * effort.turns)
    # Hits: the part of each enclave that was touched last of all stays resident and mapped.
    part = np.arange(OWN // 2, dtype=np.uint32)
    for i in range(ENCLAVES):
        m.touch(f"e{i}", part, retry=1000)
    hits = [touches(np.arange(ENCLAVES), OWN // 16, OWN // 2) for _ in range(effort.turns)]
    before = m.counters()["fault"]
    turn = iter(hits)
    figures["hits"] = best_in_turn({"": lambda: run(next(turn))}, effort.turns)[""] / (count * SEGMENT) * 1e9
    figures["faults among hits"] = (m.counters()["fault"] - before) / (count * SEGMENT * effort.turns)
    figures["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return figures


def _compile() -> None:
    """All that is used, on a machine that is small."""
    m = Machine([Section(0, 4096), Section(1, 4096)], ledger=False)
    m.mkdir("/a")
    m.set_limit("/a", 4096 * 4096)
    m.enclave_create("e", "/a", 1024)
    m.add_pages("e", 0, 1024)
    m.init("e")
    m.ksgxd()
    m.touch("e", np.arange(8), retry=1)
    m.touch_segments(np.array([[m.task_row("e"), 8]], np.uint32), np.arange(8, dtype=np.uint32), retry=1)


def rows(effort: Effort) -> list[Row]:
    lines = []
    for limited in (True, False):
        command = [sys.executable, "-m", "bench.scale", str(int(limited)), str(effort.touches), str(effort.turns)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or ["killed"])[-1]
            lines.append(Row("1 TiB of EPC, 1.5 TiB of enclaves", f"failed: {why}", "", False))
            continue
        f: dict[str, Any] = json.loads(done.stdout)
        kind = "96 limited cgroups" if limited else "no limits, ksgxd"
        what = f"1 TiB of EPC, 1.5 TiB of enclaves, {kind}: boot"
        lines += [
            Row(what, f"{f['boot']:.1f} s", "<= 10 s", f["boot"] <= 10, f),
            Row("  memory", f"{f['rss']:.2f} GiB", "<= 4 GiB", f["rss"] <= 4),
            Row(
                f"  random touches, {f['reloads']:.0%} of them reloads",
                f"{f['mixed']:.1f} ns",
                "<= 25 ns",
                f["mixed"] <= 25,
            ),
            Row(
                f"  random touches of resident pages ({f['faults among hits']:.2%} faults)",
                f"{f['hits']:.1f} ns",
                "<= 25 ns",
                f["hits"] <= 25,
            ),
        ]
    return lines


if __name__ == "__main__":
    print(json.dumps(measure(bool(int(sys.argv[1])), Effort(int(sys.argv[2]), int(sys.argv[3])))))
