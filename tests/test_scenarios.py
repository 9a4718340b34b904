"""Every file in scenarios/ shows what its first lines say, and prints byte for byte what NAME.expected.txt holds.

`EPCGROUP_RENEW_SCENARIOS=1 pytest -n0 tests/test_scenarios.py` writes what is printed now; look at the difference
before you commit it.
"""

import os
from pathlib import Path

import pytest
from conservation import check_conservation

from epcgroup.report import text
from epcgroup.sim import scenario
from epcgroup.sim.run import simulate
from epcgroup.trace import PodRun, RunSet
from epcgroup.units import PAGE_SIZE

FOLDER = Path(__file__).parent.parent / "scenarios"
FILES = sorted(FOLDER.glob("*.toml"))
RENEW = os.environ.get("EPCGROUP_RENEW_SCENARIOS") == "1"
MIB = 1 << 20


def shown(name: str) -> RunSet:
    """The scenario's runs, after their text has been compared with what is expected."""
    run_set = simulate(scenario.read(FOLDER / f"{name}.toml"))
    expected = FOLDER / f"{name}.expected.txt"
    printed = text.render(run_set)
    if RENEW:
        expected.write_text(printed, encoding="utf-8")
    assert printed == expected.read_text(encoding="utf-8")
    for run in run_set.runs:
        check_conservation(run)
    return run_set


def pods(run_set: RunSet, label: str) -> dict[str, PodRun]:
    return {pod.name: pod for run in run_set.runs if run.label == label for pod in run.pods}


def alone(run_set: RunSet, name: str) -> PodRun:
    return pods(run_set, f"alone:{name}")[name]


def rate(pod: PodRun) -> float:
    """Touches per second of thread time after the build."""
    return pod.touches / (pod.busy_seconds + pod.stall_seconds + pod.wait_seconds)


def slowdown(run_set: RunSet, label: str, name: str) -> float:
    return rate(alone(run_set, name)) / rate(pods(run_set, label)[name])


# ---- the files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_scenario_says_what_it_shows_and_what_to_take_from_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    assert any(line.startswith("# Take from it:") for line in head)


def test_every_scenario_has_a_test_here() -> None:
    own = Path(__file__).read_text(encoding="utf-8")
    assert FILES
    assert [path.stem for path in FILES if f'shown("{path.stem}")' not in own] == []


# ---- what they show ---------------------------------------------------------------------------------


def test_limits_give_the_neighbour_of_a_greedy_pod_its_speed_back() -> None:
    runs = shown("noisy-neighbour")
    assert slowdown(runs, "none", "web") > 4
    free, limited = pods(runs, "none"), pods(runs, "claims")
    assert free["web"].page_outs_by_others > 0.99 * free["web"].page_outs
    assert slowdown(runs, "claims", "web") < 1.01
    assert limited["web"].page_outs == 0
    assert limited["greedy"].page_outs_by_others == 0  # it pages against itself
    assert limited["greedy"].max_events > 0
    assert max(limited["greedy"].s_usage_bytes) <= 16 * MIB


def test_a_pod_at_a_limit_that_is_too_small_pages_while_epc_is_free() -> None:
    runs = shown("limit-too-small")
    assert pods(runs, "none")["db"].page_outs == 0
    db = pods(runs, "claims")["db"]
    assert db.page_ins > 10_000
    assert db.page_outs_by_others == 0
    limited = next(run for run in runs.runs if run.label == "claims")
    assert min(limited.s_free_bytes) >= 96 * MIB - 64 * PAGE_SIZE
    assert slowdown(runs, "claims", "db") > 2


def test_a_fault_refused_by_a_shared_parent_is_repeated_for_ever() -> None:
    runs = shown("shared-parent-limit")
    assert slowdown(runs, "none", "b") < 1.01
    for label in ("claims", "v2 claims"):
        a, b = pods(runs, label)["a"], pods(runs, label)["b"]
        stuck = next(i for i, touches in enumerate(b.s_touches) if touches == b.touches)
        assert len(b.s_touches) - stuck > 50  # more than a quarter of the run without a touch
        assert b.s_max_events[-1] > b.s_max_events[stuck] + 1000
        assert b.page_ins == 0
        assert b.s_usage_bytes[-1] == 10 * MIB
        assert (a.page_outs, a.stall_seconds) == (0, 0.0)


def test_limits_that_add_up_to_more_than_the_node_change_nothing() -> None:
    runs = shown("overcommitted-node")
    for name in ("store-0", "store-1", "store-2"):
        without, within = slowdown(runs, "none", name), slowdown(runs, "claims", name)
        assert without > 1.5
        assert within == pytest.approx(without, rel=0.05)
        assert pods(runs, "claims")[name].max_events == 0


def test_an_enclave_that_grows_pages_at_its_peak_when_held_to_its_mean() -> None:
    runs = shown("sgx2-growth")
    free, limited = pods(runs, "none"), pods(runs, "claims")
    assert free["elastic"].s_touches[1] > 0
    assert free["static"].s_touches[50] == 0  # of 200 samples: still building
    assert free["elastic"].grown > 40 * MIB // PAGE_SIZE  # given back, and grown again
    assert free["elastic"].page_outs == 0
    assert limited["elastic"].page_ins > 10_000
    assert limited["static"].page_outs == 0


def test_a_leak_ends_at_512_times_its_limit_or_in_a_fault_without_end() -> None:
    runs = shown("memory-leak")
    limited = pods(runs, "claims")
    leaky, tiny = limited["leaky"], limited["tiny"]
    assert leaky.outcome.startswith("SIGBUS")
    # 160 pages: one is the SECS, all others version array pages but one.
    assert 157 * 512 <= leaky.grown <= 159 * 512
    assert tiny.outcome == "ran"
    assert tiny.grown < 512
    assert tiny.s_touches[20] == tiny.touches
    assert tiny.max_events > 10_000
    assert slowdown(runs, "none", "web") > 2
    assert limited["web"].page_outs == 0


def test_a_guest_takes_what_it_touches_and_is_killed_at_its_limit() -> None:
    runs = shown("kvm-guests")
    free, limited = pods(runs, "none"), pods(runs, "claims")
    assert free["vm-b"].s_usage_bytes[-1] == 56 * MIB
    assert [free[name].page_outs for name in ("vm-a", "vm-b")] == [0, 0]
    assert free["web"].page_outs_by_others > 0
    assert limited["vm-b"].outcome.endswith("SIGBUS")
    assert limited["vm-b"].s_usage_bytes[-1] == 0
    assert limited["web"].page_outs == 0


def test_pages_beyond_a_numa_node_come_from_the_next_one() -> None:
    runs = shown("numa-fallback")
    for run in runs.runs:
        assert all(pod.page_outs == 0 for pod in run.pods)
    limited = next(run for run in runs.runs if run.label == "claims")
    assert [(e.pod, e.what[:40]) for e in limited.events] == [("big", "20% of its EPC pages are on another NUMA")]


def test_of_two_neighbours_the_one_within_its_claim_loads_nothing_once_the_other_is_limited() -> None:
    runs = shown("two-neighbours")
    free, limited = pods(runs, "none"), pods(runs, "claims")
    assert 1000 * free["b"].page_ins > 10 * free["b"].touches
    assert (limited["b"].page_ins, limited["b"].page_outs) == (0, 0)
    assert limited["a"].page_outs_by_others == 0
    assert max(limited["a"].s_usage_bytes) <= 4 * MIB
