"""From a plan to runs: each pod alone on the node, all without limits (mainline), all with limits.

The same plan and seed give the same record. Replicas of one template behave alike, so one of them is run alone for all.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from epcgroup import __version__
from epcgroup.sim.node import LONG_SLICE_SECONDS, SLICE_SECONDS, NodeSimulation
from epcgroup.sim.plan import Plan, PodPlan, limits_of
from epcgroup.trace import Run, RunSet
from epcgroup.units import format_bytes

RunProgress = Callable[[str, float], None]  # label of the run, share that is done

SLICES = (
    f"pods interleave in slices of {SLICE_SECONDS * 1e6:g} us ({LONG_SLICE_SECONDS * 1e3:g} ms while nothing pages); "
    "what is shorter is approximate"
)


def simulate(plan: Plan, progress: RunProgress | None = None, command: str = "") -> RunSet:
    """Run everything the plan compares. An interrupted run ends the set with what was simulated so far."""
    runs: list[Run] = []
    for label in _labels(plan):
        run = _run(plan, label, progress)
        runs += [run, *_twins(plan, label, run)]
        if run.ended_early and run.ended_early.startswith("interrupted"):
            break
    return RunSet(plan.title, runs, configuration(plan, command), [*plan.notes, SLICES])


def _labels(plan: Plan) -> list[str]:
    """One a run: "alone:POD", "none", "claims", or "SERIES claims" for limits in another series than the plan's."""
    labels: list[str] = []
    for what in plan.compare:
        if what == "alone":
            seen: set[str] = set()
            for pod in plan.pods:
                if pod.containers and (pod.template or pod.name) not in seen:
                    seen.add(pod.template or pod.name)
                    labels.append(f"alone:{pod.name}")
        elif what in ("v2", "v17"):
            labels.append("claims" if what == plan.series else f"{what} claims")
        else:
            labels.append(what)
    return list(dict.fromkeys(labels))


def _twins(plan: Plan, label: str, run: Run) -> list[Run]:
    """The alone run of one replica stands for the others of its template."""
    if not label.startswith("alone:") or run.ended_early:
        return []
    first = next(p for p in plan.pods if f"alone:{p.name}" == label)
    others = [p for p in plan.pods if first.template and p.template == first.template and p.name != first.name]
    record = run.pods[0]
    return [
        replace(run, label=f"alone:{p.name}", pods=[replace(record, name=p.name, cgroup=p.path)], events=[])
        for p in others
    ]


def _run(plan: Plan, label: str, progress: RunProgress | None) -> Run:
    limited = label != "none" and not label.startswith("alone:")
    series = plan.series if label == "claims" else label.partition(" ")[0]
    pods: tuple[PodPlan, ...] = plan.pods
    if label.startswith("alone:"):
        # Alone, a pod has the whole time to itself.
        pods = tuple(replace(p, start=0.0, stop=None) for p in plan.pods if f"alone:{p.name}" == label)
    record = Run(
        label=label,
        kind="limited" if limited else "alone" if label.startswith("alone:") else "unlimited",
        series=series if limited else "mainline",
        duration=plan.duration,
        seed=plan.seed,
        epc_bytes=plan.node.epc_bytes,
        cpus=plan.node.cpus,
        cpu_hz=plan.node.costs.cpu_hz,
        cost_profile=plan.node.costs.name,
    )
    started = time.perf_counter()
    simulation = NodeSimulation(
        plan.node, pods, record, limits_of(plan) if limited else {}, plan.changes if limited else ()
    )
    record.pods = [pod.record for pod in simulation.pods]
    simulation.run(None if progress is None else lambda share: progress(label, share))
    record.wall_seconds = round(time.perf_counter() - started, 3)
    return record


def configuration(plan: Plan, command: str) -> dict[str, Any]:
    """The exact configuration, as reports print it."""
    costs = plan.node.costs
    low, high = 25_000, 64_000  # range of the check value, spec/performance.md part 5
    return {
        "command": command,
        "epcgroup": __version__,
        "python": platform.python_version(),
        "node": {
            "epc": [{"node": s.node, "size": format_bytes(s.size_bytes)} for s in plan.node.sections],
            "cpus": plan.node.cpus,
            "sgx2": plan.node.sgx2,
        },
        "duration_seconds": plan.duration,
        "seed": plan.seed,
        "series": plan.series,
        "pods": [
            {
                "name": p.name,
                "cgroup": p.path,
                "claim": p.claim_bytes,
                "use": p.use_bytes,
                "does": p.describe(),
                "start_seconds": p.start,
                "stop_seconds": p.stop,
            }
            for p in plan.pods
        ],
        "limits": limits_of(plan),
        "changes": [asdict(c) for c in plan.changes],
        "costs": {
            "profile": costs.name,
            "source": costs.source,
            "check": {
                "what": "a reload fault with one eviction",
                "cycles": round(costs.reload_fault_cycles()),
                "range": [low, high],
            },
            "items": costs.as_table(),
        },
    }
