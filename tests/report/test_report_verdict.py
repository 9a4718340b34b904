"""The sentence, for each thing that can happen on a node."""

from typing import Any

import pytest
from made_runs import crowd, noisy_neighbour, pod, run

from epcgroup.report.metrics import compare
from epcgroup.report.verdict import verdict
from epcgroup.trace import PodRun, RunSet


def slowed(times: float) -> dict[str, Any]:
    """Busy and stall seconds of a pod that 8 s of thread time serve `times` worse than alone."""
    return {"busy": 8 / times, "stall": 8 - 8 / times, "page_ins": int(50_000 * (times - 1))}


def said(
    free: list[PodRun] | None = None, limited: list[PodRun] | None = None, alone: list[PodRun] | None = None
) -> str:
    runs = [run(f"alone:{p.name}", "alone", "mainline", [p]) for p in alone or []]
    runs += [run("none", "unlimited", "mainline", free)] if free else []
    runs += [run("claims", "limited", "v17", limited)] if limited else []
    return verdict(compare(RunSet("t", runs, {})))


WEB, DB = pod("web", claim=64, use=64), pod("db", claim=32, use=32)
GREEDY = pod("greedy", claim=16, use=96)


def test_noisy_neighbour() -> None:
    assert verdict(compare(noisy_neighbour())) == (
        "`greedy` claims 16 MiB and uses 112 MiB; without limits it slowed `web` 7.4x; "
        "with limits `web` runs at 1.0x and `greedy` pays for itself (12x)."
    )


def test_many_over_their_claim() -> None:
    text = verdict(compare(crowd()))
    assert text.startswith("8 of 10 pods use more than they claim (most: `job-04` claims 10 MiB and uses 32 MiB)")
    assert text.endswith("6 more pay for themselves (up to 3.2x).")


def test_everybody_fits() -> None:
    assert said([WEB, DB], [WEB, DB], [WEB, DB]) == (
        "nobody uses more than it claims; everything fits (96 MiB of 128 MiB) and nobody is slowed even "
        "without limits; limits change nothing."
    )


def test_limit_too_small_while_epc_has_room() -> None:
    small = pod("greedy", claim=16, use=48, limit=16, **slowed(5))
    fits = pod("greedy", claim=16, use=48)
    assert said([WEB, fits], [WEB, small], [WEB, fits]) == (
        "`greedy` claims 16 MiB and uses 48 MiB; everything fits (112 MiB of 128 MiB) and nobody is slowed "
        "even without limits; with limits `greedy` (5.0x) pages against itself while EPC has room: its limit is too "
        "small."
    )


def test_overcommitted_node_where_limits_do_not_help() -> None:
    names = ("a", "b")
    alone = [pod(n, claim=96, use=96) for n in names]
    free = [pod(n, claim=96, use=96, **slowed(3)) for n in names]
    limited = [pod(n, claim=96, use=96, limit=96, **slowed(2.9)) for n in names]
    assert said(free, limited, alone) == (
        "nobody uses more than it claims, but the claims add up to 192 MiB on a node with 128 MiB of EPC; "
        "without limits `a` (3.0x) and `b` (3.0x) slow each other; limits made nothing better: `a` (2.9x) "
        "and `b` (2.9x), as the limits add up to 192 MiB of 128 MiB EPC."
    )


def test_limits_that_help_but_not_enough() -> None:
    free = [pod("web", claim=64, use=64, **slowed(7)), GREEDY]
    limited = [pod("web", claim=64, use=64, limit=64, **slowed(2)), GREEDY]
    assert said(free, limited, [WEB, GREEDY]).endswith(
        "it slowed `web` 7.0x; limits help but not enough: `web` (2.0x) still."
    )


def test_without_alone_runs_it_speaks_of_time_lost() -> None:
    free = [pod("web", claim=64, use=64, **slowed(4)), GREEDY]
    assert said(free, [WEB, GREEDY]) == (
        "`greedy` claims 16 MiB and uses 96 MiB; without limits it cost `web` 75 % of its time; "
        "with limits `web` loses 0 % of the time."
    )


def test_refused_pod_comes_first() -> None:
    refused = pod("db", claim=32, use=32, samples=0, outcome="creation refused: ENOMEM", touches_per_busy=0)
    assert said([WEB, DB], [WEB, refused], [WEB, DB]).startswith(
        "`db` never ran with limits (creation refused: ENOMEM); nobody uses more"
    )


def test_killed_pod_comes_first() -> None:
    killed = pod("db", claim=32, use=32, outcome="SIGBUS after 3.2 s", ended_at=3.2)
    assert said([WEB, killed], None, [WEB, DB]).startswith("`db` did not last without limits (SIGBUS after 3.2 s); ")


def test_livelock() -> None:
    stuck = pod("b", claim=40, use=40, touches_per_busy=0, max_events=48_201)
    stuck.s_max_events = [48_201 * i // 200 for i in range(1, 201)]
    assert said([WEB, pod("b", claim=40, use=40)], [WEB, stuck], [WEB]).startswith(
        "`b` makes no progress with limits after 0 s: 48,201 charges were refused and it faults again and "
        "again (livelock); "
    )


def test_slow_for_want_of_a_cpu_is_not_blamed_on_epc() -> None:
    waits = pod("web", claim=64, use=64, busy=4.0, wait_seconds=4.0, touches_per_busy=1e6)
    assert said([waits, DB], None, [WEB, DB]).endswith(
        "nobody is slowed even without limits; `web` (2.0x) waits for a CPU, not for EPC."
    )


@pytest.mark.parametrize(
    ("limited", "end"),
    [
        (pod("web", claim=64, use=64, limit=64), "with its limit it runs at 1.0x."),
        (
            pod("web", claim=64, use=64, limit=8, **slowed(9)),
            "its limit of 8 MiB is too small for it (9.0x).",
        ),
    ],
)
def test_single_pod(limited: PodRun, end: str) -> None:
    assert said([WEB], [limited], [WEB]) == (
        "`web` claims 64 MiB and uses 64 MiB on a node with 128 MiB of EPC; it fits and does not page; " + end
    )


def test_pods_that_claim_nothing() -> None:
    assert said([WEB, pod("x", claim=None, use=4)], None, []).startswith("`x` claims no EPC and uses 4 MiB; ")


def test_only_alone_runs() -> None:
    assert said(alone=[WEB, DB]) == "each pod fits in EPC when it is alone; they were not run together."


def test_nothing_at_all() -> None:
    assert said() == "Nothing ran: there was no pod to run."


def test_idle_pod_alone() -> None:
    assert said(alone=[pod("web", claim=1, use=0, busy=0.0)]) == "no pod touched its EPC."
