"""Small nodes for the tests of this room: pods of a few pages, one ring call from being worked out by hand."""

from typing import Any

from epcgroup.sim.plan import ContainerPlan, LimitChange, NodePlan, Plan, PodPlan, SectionPlan
from epcgroup.sim.workload import parse_workload

PAGE = 4096
MIB = 1 << 20


def pod(
    name: str,
    use: int,
    workload: str = "uniform",
    *,
    claim: int | None = None,
    start: float = 0.0,
    stop: float | None = None,
    cgroup: str = "",
    numa: int | None = None,
    **container: Any,
) -> PodPlan:
    """A pod of one container; sizes in bytes, no claim by default."""
    main = ContainerPlan("main", use, claim, workload=parse_workload(workload), **container)
    return PodPlan(name, (main,), claim_bytes=claim, start=start, stop=stop, cgroup=cgroup, numa=numa)


def plan(
    *pods: PodPlan,
    epc: int = 4 * MIB,
    duration: float = 0.05,
    cpus: int = 4,
    compare: tuple[str, ...] = ("claims",),
    limits: dict[str, int | None] | None = None,
    changes: tuple[LimitChange, ...] = (),
    **more: Any,
) -> Plan:
    node = NodePlan((SectionPlan(0, epc),), cpus=cpus)
    return Plan("test", node, pods, duration, compare=compare, limits=limits or {}, changes=changes, **more)
