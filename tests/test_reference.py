"""The reference model against the recorded op logs: every field of every result line must be the recorded one.

The small logs in tests/samples/ are always replayed; all logs of ../shared/data/oplogs when that directory is
there. OOPS, HANG and DEADLOCK lines are compared by `errno` alone (op-log rule 8). Below the logs stand the edge
cases that no log shows.
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference import PAGE, Replayer, kstrtou64
from reference import Errno as KernelErrno

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
SHARED = HERE.parent.parent / "shared" / "data" / "oplogs"
SLOW = ("random-094", "random-096", "surprise-s14")  # 20,000 operations; 525,000 pages


def logs(directory: Path) -> list[Any]:
    """(series, log) of every log that has operations and results."""
    params = []
    for series in ("v17", "v2"):
        for ops in sorted((directory / series).glob("*.ops.jsonl.xz")):
            if not out_of(ops).exists():
                continue
            name = ops.name.removesuffix(".ops.jsonl.xz")
            marks = [pytest.mark.soak] if name.startswith(SLOW) else []
            params.append(pytest.param(series, ops, id=f"{series}-{name}", marks=marks))
    return params


def out_of(ops: Path) -> Path:
    return ops.with_name(ops.name.replace(".ops.", ".out."))


def lines(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        yield from file


def assert_replays(series: str, ops: Path) -> None:
    replayer = Replayer(series)
    got = (result for result in map(replayer.line, lines(ops)) if result is not None)
    for result, text in zip(got, lines(out_of(ops)), strict=True):
        want = json.loads(text)
        if want.get("errno") in ("OOPS", "HANG", "DEADLOCK"):
            result, want = {"errno": result.get("errno")}, {"errno": want["errno"]}
        assert result == want, f"{ops.name} line {replayer.n}"
        assert list(result) == list(want), f"{ops.name} line {replayer.n}: order of keys"


@pytest.mark.parametrize(("series", "ops"), logs(SAMPLES))
def test_a_sample_log_replays_to_its_recorded_results(series: str, ops: Path) -> None:
    assert_replays(series, ops)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recorded op logs at {SHARED}")
@pytest.mark.parametrize(("series", "ops"), logs(SHARED))
def test_a_recorded_log_replays_to_its_recorded_results(series: str, ops: Path) -> None:
    assert_replays(series, ops)


@pytest.mark.parametrize(("series", "ops"), logs(SAMPLES))
def test_every_page_is_accounted_for_at_the_end_of_a_log(series: str, ops: Path) -> None:
    replayer = Replayer(series)
    for line in lines(ops):
        replayer.line(line)
    m = replayer.m
    assert m is not None
    if replayer.dead:
        return  # stopped in mid-operation
    state = m.state()
    enclaves = state["enclaves"].values()
    used = sum(e["nres"] + e["secs"] + len(e["va"]) for e in enclaves)
    used += sum(len(vepc.page_array) for vepc in m.vepcs.values()) + state["zombies"]
    assert state["nr_free"] + used == m.capacity // PAGE
    swapped = sum(e["pages"] - e["nres"] for e in enclaves)
    swapped_secs = sum(bool(e["va"]) and not e["secs"] for e in enclaves)
    assert sum(sum(e["va"]) for e in enclaves) == swapped + swapped_secs
    assert sum(cg["nlru"] for cg in state["cgroups"]) == sum(e["nres"] for e in enclaves)
    assert state["cgroups"][0]["usage"] == used * PAGE


# --- edge cases no recorded log shows


def play(series: str, *ops: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the operations."""
    replayer = Replayer(series)
    results = []
    for op in ops:
        result = replayer.line(json.dumps(op))
        assert result is not None
        results.append(result)
    return results


def node(*pages: int, **fields: Any) -> dict[str, Any]:
    return {"op": "node", "sections": [{"node": i, "pages": n} for i, n in enumerate(pages)], **fields}


def create(id_: str, **fields: Any) -> dict[str, Any]:
    return {"op": "enclave_create", "id": id_, "pages": 1024, **fields}


def add(id_: str, page: int, count: int = 1) -> dict[str, Any]:
    return {"op": "add_page", "id": id_, "page": page, "count": count}


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("4096", 4096), ("+4096", 4096), ("0x1F", 31), ("010", 8), ("18446744073709551615", 2**64 - 1)],
)
def test_a_number_is_read_as_the_kernel_reads_it(text: str, value: int) -> None:
    assert kstrtou64(text) == value


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((text, "EINVAL") for text in ("", "+", "-1", "0x", "08", "1k", "4096.0", " 1", "++1")),
        *((text, "ERANGE") for text in ("18446744073709551616", "99999999999999999999z")),
    ],
)
def test_a_bad_number_is_refused_and_overflow_beats_trailing_rubbish(text: str, name: str) -> None:
    with pytest.raises(KernelErrno, match=name):
        kstrtou64(text)


@pytest.mark.parametrize("series", ["mainline", "v2", "v17"])
def test_an_enclave_size_that_is_no_power_of_two_gives_both_pages_back(series: str) -> None:
    _, made, state = play(series, node(64), create("e", pages=24), {"op": "state"})
    assert made["errno"] == "EIO"
    assert made["d"] == {"ECREATE": 1, "EREMOVE": 2, "EPA": 1}
    assert state["state"]["nr_free"] == 64
    assert state["state"]["enclaves"] == {}


@pytest.mark.parametrize(("series", "answer"), [("v17", "EBUSY"), ("v2", "SIGBUS")])
def test_a_dynamic_page_whose_va_page_is_refused_is_retried_by_v17_and_killed_by_v2(series: str, answer: str) -> None:
    results = play(
        series,
        node(1024),
        {"op": "mkdir", "path": "/a"},
        create("e", cgroup="/a"),
        add("e", 0, 511),
        {"op": "init", "id": "e"},
        {"op": "write", "path": "/a", "file": "misc.max", "text": f"sgx_epc {514 * PAGE}"},
        {"op": "touch", "id": "e", "page": 600},
        {"op": "state", "summary": True},
    )
    touched, state = results[-2], results[-1]["state"]
    assert (touched["errno"], touched["done"]) == (answer, 0)
    assert state["cgroups"][1]["usage"] == 513 * PAGE, "the data page went back"
    assert state["enclaves"]["e"]["page_cnt"] == 512


@pytest.mark.parametrize("series", ["v2", "v17"])
def test_a_task_on_a_node_without_epc_hangs_once_no_page_is_free(series: str) -> None:
    boot = {"op": "node", "sections": [{"node": 1, "pages": 40}]}
    poison = {"op": "poison", "section": 0, "page": 39}
    results = play(series, boot, poison, create("e", node=0), add("e", 0, 40), {"op": "state"})
    assert results[-2]["errno"] == "HANG"
    assert results[-1]["errno"] == "DEAD"


def test_mainline_no_longer_hangs_on_a_node_without_epc() -> None:
    boot = {"op": "node", "sections": [{"node": 1, "pages": 40}]}
    results = play("mainline", boot, create("e", node=0), add("e", 0, 40))
    assert results[-1]["done"] == 40
    assert results[-1]["ewb"] == [["e", 0, 16]]


def test_the_root_of_v2_falls_below_zero_when_a_refused_charge_is_given_back() -> None:
    results = play(
        "v2", node(64), create("e"), add("e", 0, 63), {"op": "close", "id": "e"}, {"op": "state", "summary": True}
    )
    assert results[2]["done"] == 63
    assert results[3]["warn"] == ["misc_cg_cancel_charge"]
    root = results[4]["state"]["cgroups"][0]
    assert (root["usage"], root["events"]) == (-PAGE, 1)


def test_sgx2_calls_want_the_cpu_first_and_an_initialized_enclave_second() -> None:
    trim = {"op": "trim", "id": "e", "page": 0}
    old = play("v17", node(64, sgx2=False), create("e"), trim)
    new = play("v17", node(64), create("e"), trim)
    assert [old[-1]["errno"], new[-1]["errno"]] == ["ENODEV", "EINVAL"]


def test_a_signal_noticed_between_two_pages_ends_add_pages_without_an_error() -> None:
    replayer = Replayer("v17")
    for op in (node(64), create("e")):
        replayer.line(json.dumps(op))
    assert replayer.m is not None
    task = replayer.m.tasks["e"]
    progress = replayer.m.progress

    def signal_arrives() -> None:
        task.signal_pending = True
        progress()

    replayer.m.progress = signal_arrives  # type: ignore[method-assign]
    result = replayer.line(json.dumps(add("e", 0, 5)))
    assert result is not None
    assert (result["done"], result["ok"]) == (1, True)


def test_mainline_has_one_list_and_no_limit() -> None:
    results = play(
        "mainline",
        node(64),
        {"op": "mkdir", "path": "/a"},
        {"op": "write", "path": "/a", "file": "misc.max", "text": "sgx_epc 0"},
        create("e", cgroup="/a"),
        add("e", 0, 80),
        {"op": "state", "summary": True},
    )
    assert results[2]["errno"] == "EINVAL", "the misc controller knows no sgx_epc"
    assert results[4]["done"] == 80
    assert [cg["nlru"] for cg in results[5]["state"]["cgroups"]] == [results[5]["state"]["enclaves"]["e"]["nres"], 0]


def test_lines_that_are_no_operation_are_answered_or_skipped() -> None:
    replayer = Replayer("v17")
    assert replayer.line("") is None
    assert replayer.line("# a comment") is None
    answers = [replayer.line(text) for text in ('{"op":"work"}', "{", "[]", json.dumps(node(4)), '{"op":"mkdir"}')]
    assert [answer and answer.get("errno") for answer in answers] == ["ENODEV", "EBADMSG", "EBADMSG", None, "EINVAL"]
    assert [answer and answer["n"] for answer in answers] == [3, 4, 5, 6, 7]
