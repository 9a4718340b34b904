"""Plans carried out by real processes: what equals the simulation, what comes close, that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conservation import check_counts

from epcgroup.enact.fit import fitted
from epcgroup.errors import InputError
from epcgroup.live import cgroups, probe
from epcgroup.sim import scenario
from epcgroup.sim.plan import ContainerPlan, LimitChange, NodePlan, Plan, PodPlan, SectionPlan
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
    for folder in (mount, Path(tempfile.gettempdir())):
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


def test_seeing_touches_by_pageout_comes_to_the_simulated_counts_within_a_tenth(tmp_path: Path) -> None:
    """Unmapping by PAGEOUT is best effort; where every page is unmapped the counts are equal here too."""
    plan = plan_of(pod("a", 240, short_trace(tmp_path, 3000, 200, seed=1), limit=64))
    (simulated,) = simulate(plan).runs
    live = one(plan)["a"]
    assert live.touches == simulated.pods[0].touches
    assert live.page_ins == pytest.approx(simulated.pods[0].page_ins, rel=0.1)
    assert live.page_outs == pytest.approx(simulated.pods[0].page_outs, rel=0.1)


# ---- close to the simulation ----------------------------------------------------------------------------


def test_two_neighbours_b_loads_nothing_once_a_is_limited_and_a_pages_as_predicted() -> None:
    """Counts for 1000 touches; how many touches there were is the machine's load."""
    plan = replace(scenario.read(SCENARIOS / "two-neighbours.toml"), compare=("none", "claims"))
    free, limited = enacted(plan)
    by_name = {p.name: p for p in free.pods}
    assert 1000 * by_name["b"].page_ins > 10 * by_name["b"].touches > 0
    held = {p.name: p for p in limited.pods}
    assert held["b"].touches > 0
    assert (held["b"].page_ins, held["b"].page_outs) == (0, 0)
    assert max(held["a"].s_usage_bytes) <= 4 * MIB
    assert held["a"].page_outs_by_others == 0
    simulated = {p.name: p for p in simulate(plan).runs[-1].pods}["a"]
    predicted, measured = simulated.page_ins / simulated.touches, held["a"].page_ins / held["a"].touches
    assert measured == pytest.approx(predicted, rel=0.25)


# ---- what a plan can hold -------------------------------------------------------------------------------


def test_runs_are_those_of_the_plan_and_replicas_run_alone_once(tmp_path: Path) -> None:
    work = short_trace(tmp_path, 100, 30, seed=5)
    twins = [replace(pod(f"web-{i}", 40, work), template="web", replica=i) for i in range(2)]
    plan = plan_of(*twins, compare=("alone", "none", "claims", "v2"), limits={"web": 64 * PAGE_SIZE})
    runs = enacted(plan)
    assert [(run.label, run.series) for run in runs] == [
        ("live alone:web-0", "mainline"),
        ("live alone:web-1", "mainline"),
        ("live none", "mainline"),
        ("live claims", "v17"),
        ("live v2 claims", "v2"),
    ]
    assert all(p.outcome.startswith("finished") and p.touches >= 90 for run in runs for p in run.pods)
    assert all(p.limit_bytes == 64 * PAGE_SIZE for run in runs[3:] for p in run.pods)


def test_containers_enclaves_and_threads_of_a_pod_count_together(tmp_path: Path) -> None:
    """Two containers, one with two enclaves of two threads: each thread replays the trace once."""
    work = parse_workload(short_trace(tmp_path, 400, 50, seed=7))
    containers = (
        ContainerPlan("one", 60 * PAGE_SIZE, workload=work),
        ContainerPlan("two", 120 * PAGE_SIZE, workload=work, enclaves=2, threads=2),
    )
    plan = plan_of(PodPlan("p", containers))
    (simulated,) = simulate(plan).runs
    p = one(plan)["p"]
    assert p.touches == simulated.pods[0].touches
    assert p.faults >= 150
    assert (p.page_ins, p.page_outs) == (0, 0)
    assert p.outcome.startswith("finished at ")
    assert p.build_seconds > 0 and p.busy_seconds == pytest.approx(p.touches * 1e-6)


def test_a_pod_starts_and_stops_when_the_plan_says(tmp_path: Path) -> None:
    late = pod("late", 40, short_trace(tmp_path, 100, 30, seed=6), start=0.4)
    (run,) = enacted(plan_of(late, pod("short", 40, "loop", stop=0.3)))
    before = [used for used, at in zip(run.pods[0].s_usage_bytes, run.times, strict=True) if at < 0.39]
    assert before and not any(before)
    assert run.pods[0].touches >= 90
    ended = [p.ended_at for p in run.pods]
    assert ended[0] is not None and ended[0] > 0.4
    assert ended[1] is not None and ended[1] >= 0.3
    assert all(p.outcome.startswith("finished at ") and p.s_usage_bytes[-1] == 0 for p in run.pods)
    assert run.duration < 30


def test_a_limit_written_while_it_runs_is_obeyed_from_then_on() -> None:
    """v17 frees nothing when the limit is written, but the pod pages, and its next charge does."""
    p = pod("a", 100, "uniform:touch_ns=5000", limit=80)
    change = LimitChange(1.0, p.path, 40 * PAGE_SIZE, "misc.max of a set to 160Ki")
    (run,) = enacted(plan_of(p, duration=2.0, changes=(change,)))
    (a,) = run.pods
    assert max(used for used, at in zip(a.s_usage_bytes, run.times, strict=True) if at < 1) > 60 * PAGE_SIZE
    assert a.s_usage_bytes[-1] <= 40 * PAGE_SIZE
    assert "misc.max of a set to 160Ki" in [event.what for event in run.events]


def test_an_enclave_that_its_limit_has_no_room_for_is_a_refused_creation() -> None:
    live = one(plan_of(pod("a", 40, "loop", limit=2), pod("b", 40, "loop"), duration=2.0))
    assert live["a"].outcome == "creation refused: ENOMEM"
    assert live["a"].ended_at is not None
    assert (live["a"].touches, live["b"].outcome) == (0, "ran")


def test_a_cgroup_that_cannot_be_made_is_refused_and_leaves_nothing() -> None:
    from epcgroup.enact.run import enact

    plan = plan_of(pod("b", 40, "loop"), replace(pod("a", 40, "loop"), cgroup="/cgroup.procs"), duration=0.3)
    with pytest.raises(InputError, match=r"^--live, a: cannot make its cgroup: "):
        enact(fitted(plan))
    assert_nothing_left()


def test_a_pod_that_v2_kills_for_want_of_reclaimable_pages_ends_so_as_in_the_simulation() -> None:
    """A limit of 0: v2 reclaims, then zaps the enclave, before the write returns."""
    p = pod("a", 40, "loop")
    change = LimitChange(1.0, p.path, 0, "misc.max of a set to 0")
    plan = plan_of(p, pod("b", 40, "loop"), duration=2.0, series="v2", changes=(change,))
    (simulated,) = simulate(plan).runs
    live = one(plan)
    assert simulated.pods[0].outcome.startswith("killed by the OOM path at ")
    assert live["a"].outcome.startswith("killed by the OOM path at ")
    assert live["b"].outcome == "ran"


# ---- ends -----------------------------------------------------------------------------------------------


RUN = """
[node]
epc = "4Mi"
[run]
duration = "60s"
compare = ["claims"]
[[pods]]
name = "a"
use = "1Mi"
limit = "256Ki"
workload = "uniform:touch_ns=1000000"
"""


def running(tmp_path: Path) -> "tuple[subprocess.Popen[str], Path]":
    """`epcgroup run --live` with its client at work, and the cgroup of the run."""
    (tmp_path / "s.toml").write_text(RUN)
    command = [sys.executable, "-m", "epcgroup", "run", "--live", "--quiet", "--json", str(tmp_path / "s.toml")]
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    mount = cgroups.mount_point()
    assert mount is not None
    group = mount / f"epcgroup-run-{popen.pid}"
    while not group.is_dir() or not [f for f in group.rglob("cgroup.procs") if f.read_text().strip()]:
        assert popen.poll() is None, popen.communicate()
        time.sleep(0.05)
    return popen, group


def directories_of(popen: "subprocess.Popen[str]") -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"epcgroup-run-{popen.pid}-*"))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    popen, group = running(tmp_path)
    children = children_of(popen.pid)
    assert len(children) == 2
    assert directories_of(popen)
    os.kill(popen.pid, number)
    out, err = popen.communicate()
    assert popen.returncode == 130, err
    assert json.loads(out)["runs"][-1]["ended_early"].startswith("interrupted ")
    assert not group.exists()
    assert not directories_of(popen)
    assert not [child for child in children if "epcgroup" in command_of(child)]


def test_a_run_whose_daemon_is_killed_ends_early_and_leaves_nothing(tmp_path: Path) -> None:
    popen, group = running(tmp_path)
    (daemon,) = [c for c in children_of(popen.pid) if "--foreground" in command_of(c)]
    os.kill(daemon, signal.SIGKILL)
    out, err = popen.communicate()
    assert popen.returncode == 0, err
    assert "the daemon ended at " in json.loads(out)["runs"][-1]["ended_early"]
    assert not group.exists()
    assert not directories_of(popen)


def test_a_client_that_is_killed_ends_its_pod_alone() -> None:
    from epcgroup.enact import run as enact_run

    plan = plan_of(pod("a", 40, "loop"), pod("b", 40, "loop"), duration=2.0)

    def kill_a(label: str, share: float) -> None:
        if share > 0.4:
            mount = cgroups.mount_point()
            assert mount is not None
            path = plan.pods[0].container_path(plan.pods[0].containers[0])
            for pid in (mount / f"epcgroup-run-{os.getpid()}{path}/cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    (run,) = enact_run.enact(fitted(plan), kill_a)
    assert_nothing_left()
    a, b = run.pods
    assert a.outcome.startswith("its client was killed by SIGKILL")
    assert b.outcome == "ran"
