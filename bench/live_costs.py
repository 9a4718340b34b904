"""What a page costs a live client, as `epcgroup run --live` sees it: the source of the cost profile "live".

One pod with one thread, the least of the turns: the first touch of a new page (EAUG), a page added at build with its
first touch, and a reload with the eviction that made room for it. Time from the client's clock without what it waited
for a CPU.
"""

from bench.measure import Effort, Row
from epcgroup.enact.fit import fitted
from epcgroup.enact.run import enact
from epcgroup.live import probe
from epcgroup.sim.plan import ContainerPlan, NodePlan, Plan, PodPlan, SectionPlan
from epcgroup.sim.workload import parse_workload
from epcgroup.trace import PodRun

MIB = 1 << 20


def rows(effort: Effort) -> list[Row]:
    lacking = probe.missing()
    if lacking is not None:
        return [Row("live costs", f"cannot be measured here: {lacking}")]
    turns = range(max(effort.turns, 3))
    built = [_pod("loop:touch_ns=2000", edmm=False) for _ in turns]
    grown = [_pod("loop:touch_ns=2000", edmm=True) for _ in turns]
    paged = [_pod("uniform:touch_ns=2000", edmm=False, limit=4 * MIB) for _ in turns]
    add = min(p.build_seconds / p.faults for p in built)
    eaug = min(p.stall_seconds / p.grown for p in grown)
    reload = min(p.stall_seconds / p.page_ins for p in paged)
    return [
        Row("live: first touch of a new page (EAUG)", f"{1e6 * eaug:.1f} us"),
        Row("live: a page added at build, and its first touch", f"{1e6 * add:.1f} us"),
        Row("live: reload and the eviction it needed", f"{1e6 * reload:.1f} us"),
    ]


def _pod(workload: str, *, edmm: bool, limit: int | None = None) -> PodRun:
    container = ContainerPlan("main", 16 * MIB, workload=parse_workload(workload), edmm=edmm)
    plan = Plan(
        title="costs",
        node=NodePlan((SectionPlan(0, 64 * MIB),)),
        pods=(PodPlan("pod", (container,), limit_bytes=limit),),
        duration=2.0,
        compare=("claims" if limit else "none",),
    )
    (run,) = enact(fitted(plan))
    assert run.ended_early is None
    return run.pods[0]
