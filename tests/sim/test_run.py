"""From a plan to runs: which runs, in what order, what is recorded, and what Ctrl-C leaves."""

from dataclasses import replace

import pytest
from nodes import MIB, plan, pod

from epcgroup.errors import InputError
from epcgroup.report import text
from epcgroup.sim.plan import COMPARABLE, limits_of, replicas_of
from epcgroup.sim.run import simulate
from epcgroup.trace import RunSet


def labels(run_set: RunSet) -> list[tuple[str, str, str]]:
    return [(run.label, run.kind, run.series) for run in run_set.runs]


def test_by_default_every_pod_alone_then_all_without_then_with_limits() -> None:
    p = plan(pod("a", MIB), pod("b", MIB), duration=0.01, compare=("alone", "none", "claims"))
    assert labels(simulate(p)) == [
        ("alone:a", "alone", "mainline"),
        ("alone:b", "alone", "mainline"),
        ("none", "unlimited", "mainline"),
        ("claims", "limited", "v17"),
    ]


def test_another_series_runs_beside_the_plans_own() -> None:
    p = plan(pod("a", MIB), duration=0.01, compare=("v17", "v2"))
    assert labels(simulate(p)) == [("claims", "limited", "v17"), ("v2 claims", "limited", "v2")]
    assert labels(simulate(replace(p, series="v2"))) == [("v17 claims", "limited", "v17"), ("claims", "limited", "v2")]


@pytest.mark.parametrize("what", COMPARABLE)
def test_whatever_can_be_compared_can_be_reported(what: str) -> None:
    run_set = simulate(plan(pod("a", MIB), duration=0.01, compare=(what,)))
    assert "a" in text.render(run_set)


def test_one_replica_is_run_alone_for_all() -> None:
    calls = []
    p = plan(*replicas_of(pod("a", MIB), 3), duration=0.01, compare=("alone",))
    run_set = simulate(p, lambda label, share: calls.append(label))
    assert set(calls) == {"alone:a-0"}
    assert [run.pods[0].name for run in run_set.runs] == ["a-0", "a-1", "a-2"]
    assert len({run.pods[0].touches for run in run_set.runs}) == 1
    assert [run.pods[0].cgroup for run in run_set.runs] == [each.path for each in p.pods]


def test_alone_a_pod_has_all_the_time() -> None:
    p = plan(pod("a", MIB, start=0.02, stop=0.03), duration=0.04, compare=("alone",))
    (record,) = simulate(p).runs[0].pods
    assert record.ended_at is None
    assert record.build_seconds + record.busy_seconds == pytest.approx(0.04, rel=0.02)


def test_ctrl_c_leaves_what_was_simulated_so_far() -> None:
    def progress(label: str, share: float) -> None:
        if label == "claims" and share >= 0.5:
            raise KeyboardInterrupt

    p = plan(pod("a", MIB), duration=0.1, compare=("none", "claims", "v2"))
    run_set = simulate(p, progress)
    whole, cut = run_set.runs
    assert whole.ended_early is None
    assert cut.ended_early == "interrupted at 0.05 s of 0.1 s"
    assert cut.duration == pytest.approx(0.05)
    assert cut.times[-1] == pytest.approx(0.05)
    (record,) = cut.pods
    assert 0 < record.touches < whole.pods[0].touches
    assert len(record.s_usage_bytes) == len(cut.times)
    assert "interrupted" in text.render(run_set)


def test_ctrl_c_at_the_very_start_leaves_a_record_too() -> None:
    def progress(label: str, share: float) -> None:
        raise KeyboardInterrupt

    run_set = simulate(plan(pod("a", MIB), compare=("alone", "none")), progress)
    assert [run.ended_early for run in run_set.runs] == ["interrupted at 0 s of 0.05 s"]
    assert text.render(run_set)


def test_progress_rises_from_run_to_run() -> None:
    seen: list[tuple[str, float]] = []
    simulate(plan(pod("a", MIB), duration=0.01, compare=("none", "claims")), lambda *step: seen.append(step))
    for label in ("none", "claims"):
        shares = [share for name, share in seen if name == label]
        assert shares == sorted(shares)
        assert shares[-1] > 0.9


def test_limits_are_claims_unless_said_otherwise() -> None:
    a, b = pod("a", MIB, claim=MIB), pod("b", MIB, claim=MIB, limit_bytes=2 * MIB)
    assert limits_of(plan(a, b)) == {
        a.path: MIB,
        a.container_path(a.containers[0]): MIB,
        b.path: MIB,
        b.container_path(b.containers[0]): 2 * MIB,
    }
    assert limits_of(plan(a, limits={"a": 3 * MIB})) == {a.path: 3 * MIB}
    assert limits_of(plan(a, limits={"a": None})) == {}
    assert limits_of(plan(a, limits={"a/main": 2 * MIB}))[a.container_path(a.containers[0])] == 2 * MIB


@pytest.mark.parametrize(
    ("key", "message"),
    [("we", "no pod 'we'; did you mean \"web\"?"), ("/kubepods/x", "no pod is in this cgroup")],
)
def test_a_limit_for_nobody_is_a_fault(key: str, message: str) -> None:
    with pytest.raises(InputError) as fault:
        limits_of(plan(pod("web", MIB), limits={key: MIB}))
    assert message in str(fault.value)


def test_the_configuration_says_what_was_run() -> None:
    p = plan(pod("a", MIB, "zipf:1.2", claim=MIB), duration=0.01)
    config = simulate(p, command="epcgroup run x").config
    assert config["command"] == "epcgroup run x"
    assert config["pods"][0]["does"] == "zipf 1.2 over 1016 KiB"
    assert config["limits"] == limits_of(p)
    low, high = config["costs"]["check"]["range"]
    assert low <= config["costs"]["check"]["cycles"] <= high
