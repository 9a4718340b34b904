"""Plans carried out by real processes: what equals the simulation, what comes close, that nothing is left behind."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conservation import check_counts

from epcgroup.enact.fit import fitted
from epcgroup.live import cgroups, probe
from epcgroup.sim.plan import ContainerPlan, NodePlan, Plan, PodPlan, SectionPlan
from epcgroup.sim.run import simulate
from epcgroup.sim.workload import parse_workload
from epcgroup.trace import PodRun, Run
from epcgroup.units import PAGE_SIZE

LACKING = probe.missing() or (None if cgroups.mount_point() else "no cgroup2 is mounted")
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios"
MIB = 1 << 20


def pod(name: str, pages: int, workload: str, *, limit: int | None = None, **more: Any) -> PodPlan:
    """A pod of one container whose footprint is so many pages; `limit` in pages."""
    of_pod = {key: more.pop(key) for key in ("start", "stop") if key in more}
    container = ContainerPlan("main", pages * PAGE_SIZE, workload=parse_workload(workload), **more)
    return PodPlan(name, (container,), limit_bytes=None if limit is None else limit * PAGE_SIZE, **of_pod)


def plan_of(*pods: PodPlan, pool: int = 4096, duration: float = 30.0, **more: Any) -> Plan:
    """`pool` in pages. Runs whose pods all finish end before `duration`."""
    node = NodePlan((SectionPlan(0, pool * PAGE_SIZE),))
    return Plan("test", node, pods, **({"duration": duration, "compare": ("claims",)} | more))


def enacted(plan: Plan, **options: Any) -> list[Run]:
    from epcgroup.enact.run import enact

    runs = enact(fitted(plan), **options)
    for run in runs:
        check_counts(run)
        assert run.live
    assert_nothing_left()
    return runs


def one(plan: Plan, **options: Any) -> dict[str, PodRun]:
    (run,) = enacted(plan, **options)
    assert run.ended_early is None
    return {p.name: p for p in run.pods}


def assert_nothing_left() -> None:
    """No process, no cgroup, no directory of a run that this process, or a child of it, has made."""
    mount = cgroups.mount_point()
    assert mount is not None
    for folder in (mount, Path("/tmp")):
        for left in folder.glob("epcgroup-run-*"):
            assert not mine(left), left


def mine(left: Path) -> bool:
    """Tests of other workers run at the same time, on the same host."""
    owner = left.name.removeprefix("epcgroup-run-").partition("-")[0]
    return owner == str(os.getpid())


def short_trace(folder: Path, touches: int, pages: int, seed: int) -> str:
    """A workload of a fixed number of touches, each page at least once; it ends."""
    chance = np.random.default_rng(seed)
    order = np.concatenate([chance.permutation(pages), chance.integers(0, pages, touches - pages)])
    file = folder / f"{seed}.csv"
    file.write_text("page\n" + "\n".join(map(str, order)) + "\n")
    return f"trace:{file},wrap=no,touch_ns=1000"


# ---- the same as the simulation -----------------------------------------------------------------------


FORCED = ("touches", "page_ins", "page_outs", "page_outs_by_others", "grown")


def served(p: PodRun) -> int:
    """Faults that were served. How often a refused one is repeated is a matter of time."""
    return p.faults - p.max_events


@pytest.mark.parametrize("edmm", [True, False], ids=["pages at first touch", "pages at build"])
def test_where_the_schedule_is_forced_live_counts_are_the_simulated_ones(tmp_path: Path, edmm: bool) -> None:
    """One thread a pod, limits that bind each for itself, a pool that is never full, so many touches and no more."""
    plan = plan_of(
        pod("a", 240, short_trace(tmp_path, 3000, 200, seed=1), limit=64, edmm=edmm),
        pod("b", 340, short_trace(tmp_path, 2000, 300, seed=2), limit=100, edmm=edmm),
        pod("c", 140, short_trace(tmp_path, 2000, 100, seed=3), edmm=edmm),
    )
    (simulated,) = simulate(plan).runs
    live = one(plan, pageout=False)
    for p in simulated.pods:
        assert p.outcome.startswith("finished") and live[p.name].outcome.startswith("finished")
        assert {name: getattr(live[p.name], name) for name in FORCED} == {name: getattr(p, name) for name in FORCED}
        assert served(live[p.name]) == served(p)
    assert live["a"].page_ins > 1000
    assert live["c"].page_ins == 0
