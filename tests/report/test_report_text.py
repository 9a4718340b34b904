import json

import pytest
from hypothesis import HealthCheck, given, settings
from made_runs import crowd, noisy_neighbour, pod, run, side_by_side
from random_runs import run_sets

from epcgroup.report.text import as_json, render
from epcgroup.trace import RunSet

GOLDEN = """\
noisy neighbour

`greedy` claims 16 MiB and uses 112 MiB; without limits it slowed `web` 7.4x; with limits `web` runs
at 1.0x and `greedy` pays for itself (12x).

                         EPC  used                       outs by  time    p99
          claim  limit  mean  peak  page-ins  page-outs   others  lost  stall  slowdown
pod         MiB    MiB   MiB   MiB        /s         /s        %     %     us  vs alone
---------------------------------------------------------------------------------------
each pod alone on the node (mainline)
  web        64      -  61.1    64         0          0        -     0      -      1.0x
  greedy     16      -   107   112         0          0        -     0      -      1.0x
all pods, no limits (mainline)
  web        64      -  40.1    42    50,200     50,200       75    86   92.7      7.4x
  greedy     16      -  80.2    84    21,000     21,000       25    36   92.7      1.6x
all pods, limits = claims (v17)
  web        64     64  61.1    64         0          0        -     0      -      1.0x
  greedy     16     16  15.3    16    53,200     53,200        0    92   92.7       12x

node      128 MiB EPC, 8 CPUs at 3 GHz
time      10 s simulated, seed 1
costs     profile "default"; check value: reload fault with one eviction = 41,300 cycles (13.8 us),
          published 25,000 to 64,000
lost      time lost to paging: stall / (busy + stall). p99 stall: 99 % of the stalls were shorter
slowdown  touch rate alone / touch rate here, per second of thread time after the build
model     Exact: which page is charged, aged, written out and loaded, and by whom, as the kernel
          code decides.
          By price: time. Each operation costs what the cost profile says; there are no caches, no
          NUMA distance, no hyper-threads and no frequency changes.
note      greedy: use of 112 MiB set by --use
"""


def test_table_of_the_noisy_neighbour() -> None:
    assert render(noisy_neighbour()) == GOLDEN


def test_narrow_terminal_keeps_the_columns_that_matter() -> None:
    lines = render(noisy_neighbour(), width=72).splitlines()
    assert max(len(line) for line in lines) <= 72
    assert any("page-ins  page-outs  lost  slowdown" in line for line in lines)


def test_no_line_is_longer_than_the_terminal() -> None:
    for width in (80, 100):
        assert max(len(line) for line in render(crowd(), width=width).splitlines()) <= width


def test_colour_only_when_asked() -> None:
    plain, coloured = render(noisy_neighbour()), render(noisy_neighbour(), color=True)
    assert "\x1b" not in plain
    assert "\x1b[31m  greedy" in coloured
    assert len(plain.splitlines()) == len(coloured.splitlines())


def test_outcome_stands_below_the_row() -> None:
    refused = pod("db", claim=4, use=4, samples=0, touches_per_busy=0, outcome="creation refused: ENOMEM")
    text = render(RunSet("t", [run("none", "unlimited", "mainline", [refused])], {}))
    assert "\n    ^ creation refused: ENOMEM\n" in text


def test_refused_charges_have_a_column_when_there_are_any() -> None:
    assert "refused" not in render(noisy_neighbour())
    text = render(RunSet("t", [run("c", "limited", "v17", [pod("a", claim=1, use=2, max_events=7)])], {}))
    assert "charges" in text and "refused" in text


def test_long_name_keeps_its_end() -> None:
    assert "\n  a-deploy...c6-00003  " in render(crowd())


def test_many_pods_are_counted_beyond_a_screen() -> None:
    assert "  ... 16 more pods: in the JSON and on the page" in render(crowd(pods=40, samples=3))


def test_name_cannot_steer_the_terminal() -> None:
    text = render(RunSet("\x1b]0;x\x07", [run("n", "unlimited", "mainline", [pod("\x1b[2Jweb", claim=1, use=1)])], {}))
    assert "\x1b" not in text and "?[2Jweb" in text


def test_interrupted_run_is_marked() -> None:
    early = run("n", "unlimited", "mainline", [pod("web", claim=1, use=1)], ended_early="interrupted at 3 s of 10 s")
    assert "(mainline) - interrupted at 3 s of 10 s\n" in render(RunSet("t", [early], {}))


def test_json_has_the_numbers_of_the_table() -> None:
    data = as_json(noisy_neighbour())
    assert data["format"] == "epcgroup-comparison-1"
    assert [r["kind"] for r in data["runs"]] == ["alone", "unlimited", "limited"]
    web = data["runs"][1]["pods"][0]
    assert (web["pod"], web["page_ins_per_second"], web["page_outs_by_others_share"]) == (
        "web",
        50_200.0,
        0.75,
    )
    assert data["runs"][0]["pods"][0]["p99_stall_seconds"] is None
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_json_documents_every_key() -> None:
    data = as_json(noisy_neighbour())
    keys = {*data, *data["runs"][0], *data["runs"][0]["pods"][0]}
    assert [key for key in keys if key not in (as_json.__doc__ or "")] == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(run_sets)
def test_any_run_set_has_a_text_and_json(run_set: RunSet) -> None:
    text = render(run_set, width=80, color=False)
    assert text.endswith("\n") and all(c.isprintable() or c == "\n" for c in text)
    json.dumps(as_json(run_set), allow_nan=False)


# ---- simulated and live -------------------------------------------------------------------------------

BESIDE = """\
          page-ins /1000 touches            EPC peak MiB       slowdown vs alone
pod       simulated  live  ratio  simulated  live  ratio  simulated  live  ratio
--------------------------------------------------------------------------------
each pod alone on the node (mainline, live)
  web             0     0      1         64    64      1       1.0x  1.0x      1
  greedy          0     0      1        112   112      1       1.0x  1.0x      1
all pods, no limits (mainline, live)
  web           464   348   0.75         42    42      1       7.4x  7.4x      1
  greedy       41.2  41.2      1         84    84      1       1.6x  1.6x      1
all pods, limits = claims (v17, live)
  web             0     0      1         64    64      1       1.0x  1.0x      1
  greedy        798   798      1         16    16      1        12x   12x      1
"""


def test_what_was_predicted_stands_beside_what_was_measured() -> None:
    printed = render(side_by_side())
    assert BESIDE in printed
    assert "all pods, no limits (mainline)\n" in printed and "all pods, no limits (mainline, live)\n" in printed
    assert "node      128 MiB EPC, 8 CPUs at 3 GHz; 128 MiB EPC, 2 CPUs of the host\n" in printed
    assert "time      10 s simulated, seed 1; 10 s live, seed 1\n" in printed
    assert "live      Real processes under real cgroups" in printed
    assert 'profile "default"; check' in printed


def test_a_narrow_terminal_loses_the_peak_first() -> None:
    printed = render(side_by_side(), width=72)
    assert max(len(line) for line in printed.splitlines()) <= 72
    assert "simulated  live  ratio  simulated  live  ratio\n" in printed
    assert "page-ins /1000 touches       slowdown vs alone\n" in printed


def test_simulated_runs_alone_have_nothing_beside_them() -> None:
    assert "live" not in render(noisy_neighbour())
    assert as_json(noisy_neighbour())["predicted_and_measured"] == []


def test_json_has_both_values_of_each_pod() -> None:
    data = as_json(side_by_side())
    assert [(r["label"], r["live"]) for r in data["runs"] if r["kind"] == "unlimited"] == [
        ("none", False),
        ("live none", True),
    ]
    alone, free, limited = data["predicted_and_measured"]
    assert (alone["run"], free["run"], limited["run"]) == ("alone", "none", "claims")
    web = free["pods"][0]
    assert web["pod"] == "web"
    assert web["page_ins_per_1000_touches"][1] == pytest.approx(0.75 * web["page_ins_per_1000_touches"][0], rel=1e-3)
    assert web["epc_peak_bytes"][0] == web["epc_peak_bytes"][1]
