"""`epcgroup run`: how long until the first table, and how many touches a CPU-second the simulated node does."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Effort, Row
from epcgroup.sim.plan import ContainerPlan, NodePlan, Plan, PodPlan, SectionPlan
from epcgroup.sim.run import simulate
from epcgroup.sim.workload import parse_workload

ROOT = Path(__file__).parent.parent
SCENARIO = ROOT / "scenarios" / "noisy-neighbour.toml"
MIB = 1 << 20


def rows(effort: Effort) -> list[Row]:
    return [*_node(effort), *_command(effort)]


# ---- the simulated node -----------------------------------------------------------------------------


def plan(what: str, duration: float) -> Plan:
    """Ten pods on 128 MiB: nine that use the 10 MiB they claim, one that claims 16 and uses 96."""
    pods = [(f"quiet-{i}", 10, 10, "zipf:1.0") for i in range(9)] + [("greedy", 16, 96, "zipf:0.8")]
    return Plan(
        title="ten pods",
        node=NodePlan((SectionPlan(0, 128 * MIB),)),
        pods=tuple(
            PodPlan(
                name,
                (ContainerPlan("main", use * MIB, claim_bytes=claim * MIB, workload=parse_workload(workload)),),
                claim_bytes=claim * MIB,
            )
            for name, claim, use, workload in pods
        ),
        duration=duration,
        compare=(what,),
    )


def _node(effort: Effort) -> list[Row]:
    simulate(plan("none", 0.1))
    simulate(plan("claims", 0.1))
    lines = []
    for what, name in (("claims", "limits (v17)"), ("none", "no limits (mainline)")):
        best, details = 0.0, {}
        for _ in range(effort.turns):
            started = time.thread_time()
            run = simulate(plan(what, effort.touches / 1e6)).runs[0]
            seconds = time.thread_time() - started
            touches, faults = sum(p.touches for p in run.pods), sum(p.faults for p in run.pods)
            if touches / seconds > best:
                best = touches / seconds
                details = {"touches": touches, "faults": faults, "seconds": seconds}
        share = details["faults"] / details["touches"]
        text = f"{best / 1e6:.1f} M touches a CPU-second ({share:.1%} faults)"
        lines.append(Row(f"simulated node, 10 pods, {name}", text, ">= 20 M", best >= 20e6, details))
    return lines


# ---- the command ------------------------------------------------------------------------------------


def _command(effort: Effort) -> list[Row]:
    if not SCENARIO.exists():
        return [Row("epcgroup run", f"skipped: no {SCENARIO.relative_to(ROOT)}")]
    with tempfile.TemporaryDirectory() as cache:
        cold = _seconds(cache)
        warm = min((_seconds(cache) for _ in range(effort.turns)), key=lambda t: t[1])
    details = {"cold": cold, "warm": warm}
    return [
        _row("epcgroup run of the noisy neighbour, nothing compiled yet", cold, 20, details),
        _row("  compiled", warm, 3, details),
    ]


def _row(what: str, times: tuple[float, float], goal: float, details: dict[str, tuple[float, float]]) -> Row:
    wall, cpu = times
    return Row(what, f"{cpu:.1f} s of CPU, {wall:.1f} s on the clock", f"<= {goal:g} s", cpu <= goal, details)


def _seconds(cache: str) -> tuple[float, float]:
    """The whole process until it has printed its table: seconds on the clock, and of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "epcgroup", "run", str(SCENARIO)],
        env={**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
