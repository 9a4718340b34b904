import pytest
from made_runs import EPC, MIB, crowd, noisy_neighbour, pod, run, side_by_side

from epcgroup.report import metrics
from epcgroup.report.metrics import agreement, compare
from epcgroup.trace import STALL_BUCKETS, PodRun, Run, RunSet


def plain(**changes: object) -> PodRun:
    values: dict[str, object] = {
        "name": "web",
        "cgroup": "/web",
        "claim_bytes": MIB,
        "limit_bytes": None,
        "use_bytes": MIB,
        "workload": "w",
    }
    return PodRun(**{**values, **changes})  # type: ignore[arg-type]


def plain_run(*pods: PodRun, **changes: object) -> Run:
    values: dict[str, object] = {
        "label": "none",
        "kind": "unlimited",
        "series": "mainline",
        "duration": 10.0,
        "seed": 1,
        "epc_bytes": EPC,
        "cpus": 4,
        "cpu_hz": 3e9,
        "cost_profile": "default",
        "pods": list(pods),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def row(run_set: RunSet, kind: str, name: str) -> metrics.PodMetrics:
    group = compare(run_set).first(kind)  # type: ignore[arg-type]
    assert group is not None
    found = group.row(name)
    assert found is not None
    return found


def test_noisy_neighbour_has_its_exact_numbers() -> None:
    web = row(noisy_neighbour(), "unlimited", "web")
    assert web.page_ins_per_s == web.page_outs_per_s == 50_200.0
    assert web.outs_by_others == 0.75
    assert web.lost == 6.9188 / 8
    assert web.slowdown == pytest.approx(8 / 1.0812, rel=1e-6)
    assert (web.claim_bytes, web.limit_bytes, web.use_bytes) == (64 * MIB, None, 64 * MIB)
    greedy = row(noisy_neighbour(), "limited", "greedy")
    assert greedy.slowdown == pytest.approx(8 / 0.6667, rel=1e-5)
    assert greedy.peak_bytes is not None and 15 * MIB < greedy.peak_bytes <= 16 * MIB
    assert greedy.over_claim


def test_mean_is_of_the_trapezoids_and_peak_of_the_samples() -> None:
    p = plain(s_usage_bytes=[0, 10, 20])
    r = plain_run(p, times=[0.0, 1.0, 5.0])
    assert metrics.mean_bytes(r, p) == (5 * 1 + 15 * 4) / 5
    assert metrics.peak_bytes(p) == 20


def test_mean_ends_with_the_pod() -> None:
    p = plain(s_usage_bytes=[10, 10, 0, 0], ended_at=2.5)
    assert metrics.mean_bytes(plain_run(p, times=[1.0, 2.0, 3.0, 4.0]), p) == 10


def test_rates_are_per_second_of_the_pods_life() -> None:
    p = plain(page_ins=100, page_outs=50, ended_at=4.0, outcome="SIGBUS after 4 s", touches=1)
    found = metrics.pod_metrics(plain_run(p), p, None)
    assert (found.page_ins_per_s, found.page_outs_per_s, found.state) == (25, 12.5, "ended")


def test_p99_stall_is_the_upper_bound_of_its_bucket() -> None:
    histogram = [0] * STALL_BUCKETS
    histogram[40], histogram[80] = 99, 1
    assert metrics.stall_quantile(histogram) == pytest.approx(2 ** (41 / 4) * 1e-9)
    histogram[80] = 2  # 101 stalls: the 100th is among the long ones
    assert metrics.stall_quantile(histogram) == pytest.approx(2 ** (81 / 4) * 1e-9)
    assert metrics.stall_quantile([]) is metrics.stall_quantile([0, 0]) is None


def test_slowdown_needs_an_alone_run_of_the_same_work() -> None:
    fast = plain(touches=100, busy_seconds=1.0)
    slow = plain(touches=100, busy_seconds=1.0, stall_seconds=2.0, wait_seconds=1.0)
    assert metrics.slowdown(fast, slow) == 4
    assert metrics.slowdown(None, slow) is None
    assert metrics.slowdown(plain(touches=100, busy_seconds=1.0, use_bytes=5), slow) is None
    assert metrics.slowdown(fast, plain(stall_seconds=3.0)) is None


def test_alone_run_of_the_same_series_is_the_yardstick() -> None:
    pods = {s: plain(touches=t, busy_seconds=1.0) for s, t in (("mainline", 100), ("v17", 300))}
    alone = [plain_run(p, kind="alone", series=s) for s, p in pods.items()]
    here = plain_run(plain(touches=100, busy_seconds=1.0), kind="limited", series="v17")
    found = compare(RunSet("t", [*alone, here], {}))
    assert [group.kind for group in found.groups] == ["alone", "alone", "limited"]
    assert found.groups[2].rows[0].slowdown == 3


def test_pod_that_never_started_has_no_numbers_but_its_outcome() -> None:
    p = plain(outcome="creation refused: ENOMEM", ended_at=0.0)
    found = metrics.pod_metrics(plain_run(p), p, plain(touches=1, busy_seconds=1.0))
    assert (found.state, found.outcome) == ("refused", "creation refused: ENOMEM")
    numbers = (found.mean_bytes, found.peak_bytes, found.page_ins_per_s, found.lost, found.slowdown)
    assert numbers == (None,) * 5


def test_run_of_no_time_has_no_rates() -> None:
    p = plain(page_ins=3, touches=2)
    found = metrics.pod_metrics(plain_run(p, duration=0.0), p, None)
    assert (found.page_ins_per_s, found.touch_rate, found.lost, found.state) == (None, None, None, "ran")


def test_pod_is_stuck_when_refusals_go_on_without_a_touch() -> None:
    times = [float(i) for i in range(1, 11)]
    stuck = plain(
        touches=30,
        max_events=800,
        s_touches=[10, 20, 30, *[30] * 7],
        s_max_events=[0, 0, 0, 100, 200, 300, 400, 500, 600, 800],
    )
    assert metrics.stuck_since(plain_run(stuck, times=times), stuck) == 3.0
    moves_on = plain(touches=40, max_events=800, s_touches=[*[30] * 9, 40], s_max_events=stuck.s_max_events)
    assert metrics.stuck_since(plain_run(moves_on, times=times), moves_on) is None
    sleeps = plain(touches=30, s_touches=stuck.s_touches, s_max_events=[0] * 10)
    assert metrics.stuck_since(plain_run(sleeps, times=times), sleeps) is None
    without_samples = plain(max_events=100)
    assert metrics.stuck_since(plain_run(without_samples), without_samples) == 0.0


def test_finished_pod_counts_as_one_that_ran() -> None:
    p = plain(touches=5, busy_seconds=1.0, outcome="finished at 5 s", ended_at=5.0)
    assert metrics.pod_state(plain_run(p), p) == "ran"


def test_alone_runs_stand_together_and_first() -> None:
    found = compare(crowd())
    assert [(group.kind, len(group.rows)) for group in found.groups] == [
        ("alone", 10),
        ("unlimited", 10),
        ("limited", 10),
    ]
    assert found.groups[2].title == "all pods, limits = claims (v17)"
    assert len(found.pods) == 10


def test_interrupted_run_says_so_in_its_title() -> None:
    early = run(
        "none",
        "unlimited",
        "mainline",
        [pod("web", claim=1, use=1)],
        ended_early="interrupted at 3 s of 10 s",
    )
    assert compare(RunSet("t", [early], {})).groups[0].title == (
        "all pods, no limits (mainline) - interrupted at 3 s of 10 s"
    )


def test_picked_samples_keep_the_ends_and_counters_stay_exact() -> None:
    picked = metrics.pick(200, 7)
    assert (picked[0], picked[-1], len(picked)) == (0, 199, 7)
    counter = [i * i for i in range(200)]
    assert sum(metrics.increases(counter, picked)) == counter[-1]
    assert metrics.pick(3, 7) == [0, 1, 2]
    times = [i + 1.0 for i in range(200)]
    assert metrics.rates(times, [2.0 * t for t in times], picked) == pytest.approx([2.0] * 7)


def test_lost_share_over_time_takes_busy_time_from_touches() -> None:
    p = plain(touches=20, busy_seconds=2.0, s_touches=[10, 10, 20, 20], s_stall_seconds=[1.0, 4.0, 4.0, 4.0])
    assert metrics.lost_over_time(p, [0, 1, 2, 3]) == [0.5, 1.0, 0.0, None]


def test_live_runs_are_compared_with_live_alone_runs_and_the_verdict_speaks_of_them() -> None:
    comparison = compare(side_by_side())
    assert [group.live for group in comparison.groups] == [False] * 3 + [True] * 3
    free = comparison.first("unlimited")
    assert free is not None and free.live and free.label == "live none"
    assert [(a.label, b.label) for a, b in comparison.pairs] == [
        ("alone", "alone"),
        ("none", "live none"),
        ("claims", "live claims"),
    ]
    web = free.row("web")
    assert web is not None and web.slowdown == pytest.approx(7.4, rel=0.01)  # not 14.8, against the simulated one


def test_agreement_is_measured_over_predicted_and_one_when_both_are_nothing() -> None:
    assert agreement(4.0, 3.0) == 0.75
    assert agreement(0, 0) == 1.0
    assert agreement(0, 3) is None
    assert agreement(None, 3) is None
