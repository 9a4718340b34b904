"""From a plan to runs: each pod alone on the node, all without limits (mainline), all with limits.

The same plan and seed give the same record. Replicas of one template behave alike, so one of them is run alone for all.
"""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from epcgroup import __version__
from epcgroup.sim.node import LONG_SLICE_SECONDS, SLICE_SECONDS, NodeSimulation
from epcgroup.sim.plan import LimitChange, Plan, PodPlan, limits_of
from epcgroup.trace import Kind, Run, RunSet
from epcgroup.units import format_bytes

RunProgress = Callable[[str, float], None]  # label of the run, share that is done

SLICES = (
    f"pods interleave in slices of {SLICE_SECONDS * 1e6:g} us ({LONG_SLICE_SECONDS * 1e3:g} ms while nothing pages); "
    "what is shorter is approximate"
)


@dataclass(frozen=True)
class RunPlan:
    """One run of a plan, simulated or live."""

    label: str  # "alone:POD", "none", "claims", or "SERIES claims" for limits in another series than the plan's
    kind: Kind
    series: str
    pods: tuple[PodPlan, ...]
    limits: Mapping[str, int] = field(default_factory=dict)  # misc.max by cgroup path
    changes: tuple[LimitChange, ...] = ()


def simulate(plan: Plan, progress: RunProgress | None = None, command: str = "") -> RunSet:
    """Run everything the plan compares. An interrupted run ends the set with what was simulated so far."""
    runs: list[Run] = []
    for what in runs_of(plan):
        run = _run(plan, what, progress)
        runs += [run, *twins(plan, run)]
        if run.ended_early and run.ended_early.startswith("interrupted"):
            break
    return RunSet(plan.title, runs, configuration(plan, command), [*plan.notes, SLICES])


def _labels(plan: Plan) -> list[str]:
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


def runs_of(plan: Plan) -> list[RunPlan]:
    """Everything the plan compares, in order. Runs without limits are those of a mainline kernel."""
    runs = []
    for label in _labels(plan):
        if label.startswith("alone:"):
            # Alone, a pod has the whole time to itself.
            pods = tuple(replace(p, start=0.0, stop=None) for p in plan.pods if f"alone:{p.name}" == label)
            runs.append(RunPlan(label, "alone", "mainline", pods))
        elif label == "none":
            runs.append(RunPlan(label, "unlimited", "mainline", plan.pods))
        else:
            series = plan.series if label == "claims" else label.partition(" ")[0]
            runs.append(RunPlan(label, "limited", series, plan.pods, limits_of(plan), plan.changes))
    return runs


def record_of(plan: Plan, what: RunPlan) -> Run:
    """A run's record before it has run."""
    return Run(
        label=what.label,
        kind=what.kind,
        series=what.series,
        duration=plan.duration,
        seed=plan.seed,
        epc_bytes=plan.node.epc_bytes,
        cpus=plan.node.cpus,
        cpu_hz=plan.node.costs.cpu_hz,
        cost_profile=plan.node.costs.name,
    )


def twins(plan: Plan, run: Run) -> list[Run]:
    """The alone run of one replica stands for the others of its template."""
    if run.kind != "alone" or run.ended_early:
        return []
    record = run.pods[0]
    first = next(p for p in plan.pods if p.name == record.name)
    others = [p for p in plan.pods if first.template and p.template == first.template and p.name != first.name]
    prefix, _, _ = run.label.partition(":")
    return [
        replace(run, label=f"{prefix}:{p.name}", pods=[replace(record, name=p.name, cgroup=p.path)], events=[])
        for p in others
    ]


def _run(plan: Plan, what: RunPlan, progress: RunProgress | None) -> Run:
    record = record_of(plan, what)
    started = time.perf_counter()
    simulation = NodeSimulation(plan.node, what.pods, record, dict(what.limits), what.changes)
    record.pods = [pod.record for pod in simulation.pods]
    simulation.run(None if progress is None else lambda share: progress(what.label, share))
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
                **({} if costs.name.startswith("live") else {"range": [low, high]}),
            },
            "items": costs.as_table(),
        },
    }
