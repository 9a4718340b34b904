"""What of a plan live runs refuse, in one line that names the pod; these need no host that could run it."""

from typing import Any

import pytest

from epcgroup.enact import fit
from epcgroup.errors import InputError
from epcgroup.sim.plan import ContainerPlan, NodePlan, Plan, PodPlan, SectionPlan
from epcgroup.sim.workload import parse_workload

MIB = 1 << 20


def plan(
    workload: str = "uniform", epc: int = 64 * MIB, pods: int = 1, cgroup: str = "", **container: Any
) -> Plan:
    c = ContainerPlan("main", 4 * MIB, workload=parse_workload(workload), **container)
    made = tuple(PodPlan(f"p{i}", (c,), cgroup=cgroup) for i in range(pods))
    return Plan("t", NodePlan((SectionPlan(0, epc),)), made, 1.0)


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (plan(vepc=True), "--live, p0: a guest's virtual EPC cannot be had live; epcgroup run without --live"),
        (plan("grow:1Mi,begin=0.1,shrink_at=0.9"), "--live, p0: gives pages back (shrink_at)"),
        (plan("bursts:(grow:1Mi,begin=0.1,shrink_at=0.9),on=1s"), "--live, p0: gives pages back (shrink_at)"),
        (plan("phases:1s=uniform,1s=(grow:1Mi,begin=0.1,shrink_at=0.9)"), "--live, p0: gives pages back (shrink_at)"),
        (plan(cgroup="/../elsewhere"), '--live, p0: its cgroup "/../elsewhere" leads elsewhere'),
        (plan(epc=4096), "--live: a live pool of 4 KiB; 256 KiB to 1 TiB are possible"),
        (plan(epc=2 << 40), "--live: a live pool of 2 TiB; 256 KiB to 1 TiB are possible"),
        (plan(pods=65), "--live: 65 client processes with 65 threads; at most 64 with 256"),
        (plan(threads=257), "--live: 1 client processes with 257 threads; at most 64 with 256"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_in_one_line(refused: Plan, why: str) -> None:
    with pytest.raises(InputError) as error:
        fit.fitted(refused)
    assert str(error.value).startswith(why)
    assert "\n" not in str(error.value)


def test_more_memory_than_is_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_check_host", lambda: None)
    monkeypatch.setattr(fit, "_available_bytes", lambda: 67 * MIB)
    with pytest.raises(InputError, match="--live: 68 MiB of memory are needed, 67 MiB are free"):
        fit.fitted(plan())


def test_a_host_that_lacks_something_is_refused_with_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit.probe, "missing", lambda: "root: uid 1000; run as root: sudo epcgroup ...")
    with pytest.raises(InputError, match=r"^--live: root: uid 1000; run as root: sudo epcgroup \.\.\.$"):
        fit.fitted(plan())


def test_the_plan_gets_the_hosts_cpus_and_one_section_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_check_host", lambda: None)
    monkeypatch.setattr(fit.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    wide = plan()
    wide = Plan("t", NodePlan((SectionPlan(0, MIB), SectionPlan(1, MIB)), cpus=8), wide.pods, 1.0, notes=("n",))
    fitted = fit.fitted(wide)
    assert fitted.node.cpus == 3
    assert fitted.node.sections == (SectionPlan(0, 2 * MIB),)
    assert fitted.notes == (
        "n",
        "simulated with this host's CPUs (3 instead of 8)",
        "simulated and live without NUMA: one EPC section",
    )
