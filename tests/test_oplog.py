"""Op logs through the compiled machine: what was recorded is answered byte for byte, and no line raises.

The logs in tests/samples are always replayed, those of ../shared/data/oplogs when that folder is there. Where the
recording kernel died (OOPS, HANG, DEADLOCK) only errno is compared, by the rules of the format.
"""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import random_ops
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epcgroup.cli.replay import as_line
from epcgroup.kernel.validate import validate_everything
from epcgroup.oplog import MAX_EPC_PAGES, MAX_PAGES, MAX_RETRY, Replayer

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data" / "oplogs"
FATAL = ("OOPS", "HANG", "DEADLOCK")


def logs(folder: Path) -> list[Any]:
    """(series, log) of every recorded log below a folder."""
    return [
        pytest.param(series, ops, id=f"{series}-{ops.name.partition('.')[0]}")
        for series in ("v17", "v2")
        for ops in sorted((folder / series).glob("*.ops.jsonl.xz"))
    ]


def lines_of(path: Path) -> list[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def replay_matches(series: str, ops: Path) -> None:
    replayer = Replayer(series)
    results = [result for line in lines_of(ops) if (result := replayer.line(line)) is not None]
    recorded = lines_of(ops.with_name(ops.name.replace(".ops.", ".out.")))
    assert len(results) == len(recorded)
    for result, line in zip(results, recorded, strict=True):
        if result.get("errno") in FATAL:
            assert json.loads(line)["errno"] == result["errno"], line
        else:
            assert as_line(result) == line
    assert replayer.machine is not None
    validate_everything(replayer.machine)


def test_there_are_samples_of_both_series() -> None:
    assert {param.values[0] for param in logs(HERE / "samples")} == {"v17", "v2"}


@pytest.mark.parametrize(("series", "ops"), logs(HERE / "samples"))
def test_sample_log_replays_byte_for_byte(series: str, ops: Path) -> None:
    replay_matches(series, ops)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recorded logs are not at hand ({SHARED})")
@pytest.mark.parametrize(("series", "ops"), logs(SHARED))
def test_recorded_log_replays_byte_for_byte(series: str, ops: Path) -> None:
    replay_matches(series, ops)


# ---- lines that are no op, or a strange one ------------------------------------------------------


def answers(*ops: Any, series: str = "v17") -> list[dict[str, Any]]:
    """Results of a log given as objects or as text; the invariants hold after it."""
    replayer = Replayer(series)
    lines = [op if isinstance(op, str) else json.dumps(op) for op in ops]
    results = [result for line in lines if (result := replayer.line(line)) is not None]
    if replayer.machine is not None:
        validate_everything(replayer.machine)
    return results


BOOT = {"op": "node", "sections": [{"node": 0, "pages": 64}]}
ENCLAVE = {"op": "enclave_create", "id": "e", "pages": 16}


def test_comments_and_empty_lines_are_counted_and_not_answered() -> None:
    assert [result["n"] for result in answers("# a log", "", "   ", BOOT, "", {"op": "work"})] == [4, 6]


@pytest.mark.parametrize(
    "text",
    ["nonsense", "[]", "5", "null", '"node"', '{"op":"node"', '{"op":NaN}', "[" * 100_000, "1" * 10_000, "\ufeff{}"],
    ids=lambda text: text[:12],
)
def test_a_line_that_is_no_object_is_a_bad_message(text: str) -> None:
    assert answers(text)[0]["errno"] == "EBADMSG"


@pytest.mark.parametrize("op", [{}, {"op": "bogus"}, {"op": 5}, {"op": None}, {"op": ["node"]}], ids=str)
def test_an_op_nobody_knows_is_not_supported(op: dict[str, Any]) -> None:
    assert answers(BOOT, op)[1]["errno"] == "EOPNOTSUPP"


def test_an_unknown_op_tells_nothing_of_the_op_before_it() -> None:
    """v2: a dynamic page wedges its list (defect D1), so that lowering misc.max ends only by a signal."""
    wedged = (
        {"op": "node", "sections": [{"node": 0, "pages": 30}]},
        {"op": "mkdir", "path": "/c"},
        {"op": "enclave_create", "id": "e", "cgroup": "/c"},
        {"op": "init", "id": "e"},
        {"op": "touch", "id": "e", "count": 7},
        {"op": "write", "path": "/c", "file": "misc.max", "text": "sgx_epc 8192"},
    )
    *_, write, unknown = answers(*wedged, {"op": "bogus"}, series="v2")
    assert write["signal_injected"]
    assert unknown == {"n": 7, "op": "bogus", "ok": False, "errno": "EOPNOTSUPP"}


def test_nothing_works_before_the_boot() -> None:
    assert answers({"op": "mkdir", "path": "/a"})[0]["errno"] == "ENODEV"


def test_a_machine_boots_once() -> None:
    assert answers(BOOT, BOOT)[1]["errno"] == "EINVAL"


@pytest.mark.parametrize(
    "sections",
    [
        None,
        [],
        {},
        "64",
        [64],
        [{}],
        [{"node": 0}],
        [{"pages": 0}],
        [{"pages": "64"}],
        [{"pages": 64.0}],
        [{"pages": True}],
        [{"node": 64, "pages": 64}],
        [{"node": -1, "pages": 64}],
        [{"node": "0", "pages": 64}],
        [{"pages": 10**9}],
        [{"pages": 10**40}],
        [{"pages": MAX_EPC_PAGES}, {"pages": 1}],
        [{"pages": 8}] * 9,
    ],
    ids=str,
)
def test_a_machine_without_proper_sections_does_not_boot(sections: Any) -> None:
    results = answers({"op": "node", "sections": sections}, {"op": "work"})
    assert [result["errno"] for result in results] == ["EINVAL", "ENODEV"]


@pytest.mark.parametrize(
    ("op", "errno"),
    [
        ({"op": "mkdir"}, "EINVAL"),
        ({"op": "mkdir", "path": 5}, "EINVAL"),
        ({"op": "mkdir", "path": "a"}, "EINVAL"),
        ({"op": "mkdir", "path": "/"}, "EEXIST"),
        ({"op": "mkdir", "path": "/a/b"}, "ENOENT"),
        ({"op": "rmdir", "path": "/a"}, "ENOENT"),
        ({"op": "rmdir", "path": "/"}, "EBUSY"),
        ({"op": "write", "path": "/", "file": "misc.max", "text": "sgx_epc 0"}, "ENOENT"),
        ({"op": "write", "path": "/c", "file": "misc.max", "text": ["sgx_epc 0"]}, "EINVAL"),
        ({"op": "write", "path": "/c", "file": "misc.max", "text": "sgx_epc 0\ud800"}, "EINVAL"),
        ({"op": "write", "path": "/c", "file": "misc.current", "text": "sgx_epc 0"}, "EACCES"),
        ({"op": "read", "path": "/c", "file": None}, "EINVAL"),
        ({"op": "enclave_create", "id": "e"}, "EEXIST"),
        ({"op": "enclave_create", "id": "e", "cgroup": "/a"}, "ENOENT"),
        ({"op": "enclave_create", "id": ["x"]}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "cgroup": 1}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": 0}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": "x"}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": MAX_PAGES * 2}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": 10**30}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": 48}, "EIO"),
        ({"op": "enclave_create", "id": "x", "pages": 16, "node": 64}, "EINVAL"),
        ({"op": "enclave_create", "id": "x", "pages": 16, "node": "a"}, "EINVAL"),
        ({"op": "add_page", "id": "x", "type": "secs"}, "ENOENT"),
        ({"op": "add_page", "id": "e", "type": "secs"}, "EINVAL"),
        ({"op": "add_page", "id": "e", "type": {}}, "EINVAL"),
        ({"op": "add_page", "id": "e", "page": -1}, "EINVAL"),
        ({"op": "add_page", "id": "e", "page": 10**30}, "EINVAL"),
        ({"op": "add_page", "id": "e", "count": 10**30}, "EINVAL"),
        ({"op": "add_page", "id": "e", "count": 1e9}, "EINVAL"),
        ({"op": "touch", "id": "e", "count": 1e9}, "EINVAL"),
        ({"op": "touch", "id": "e", "pages": "x"}, "EINVAL"),
        ({"op": "touch", "id": "e", "pages": {"0": 1}}, "EINVAL"),
        ({"op": "touch", "id": "e", "pages": [0, None]}, "EINVAL"),
        ({"op": "touch", "id": "e", "pages": [0.5]}, "EINVAL"),
        ({"op": "touch", "id": "e", "pages": [10**30]}, "SEGV"),
        ({"op": "touch", "id": "e", "pages": [-1]}, "SEGV"),
        ({"op": "touch", "id": "e", "page": 2**32}, "SEGV"),
        ({"op": "touch", "id": "e", "page": 16, "count": 10**18}, "SEGV"),
        ({"op": "touch", "id": "e", "retry": MAX_RETRY + 1}, "EINVAL"),
        ({"op": "fork", "id": "e"}, "EINVAL"),
        ({"op": "fork", "id": "e", "child": "e"}, "EEXIST"),
        ({"op": "migrate", "id": "e", "cgroup": "/a"}, "ENOENT"),
        ({"op": "init", "id": {}}, "EINVAL"),
        ({"op": "close", "id": "x"}, "ENOENT"),
        ({"op": "vepc_open", "id": "v", "pages": -4}, "EINVAL"),
        ({"op": "vepc_fault", "id": "e"}, "ENOENT"),
        ({"op": "vepc_guest", "id": "w", "page": 0, "role": "root"}, "EINVAL"),
        ({"op": "vepc_guest", "id": "w", "page": 0, "role": "child", "secs_id": [], "secs_page": 0}, "EINVAL"),
        ({"op": "vepc_guest", "id": "w", "page": 10**30, "role": "secs"}, "ENOENT"),
        ({"op": "poison", "section": 1, "page": 0}, "EINVAL"),
        ({"op": "poison", "section": 0, "page": 64}, "EINVAL"),
        ({"op": "poison", "section": 0}, "EINVAL"),
    ],
    ids=str,
)
def test_an_op_with_a_wrong_field_is_refused(op: dict[str, Any], errno: str) -> None:
    setup = (BOOT, {"op": "mkdir", "path": "/c"}, ENCLAVE, {"op": "vepc_open", "id": "w", "pages": 4})
    results = answers(*setup, {"op": "vepc_fault", "id": "w"}, op)
    assert all(result["ok"] for result in results[:5])
    assert (results[-1]["ok"], results[-1]["errno"]) == (False, errno)


def test_touching_one_page_very_often_is_done_at_once() -> None:
    setup = (BOOT, ENCLAVE, {"op": "add_page", "id": "e"}, {"op": "init", "id": "e"})
    result = answers(*setup, {"op": "touch", "id": "e", "count": 10**15, "step": 0})[-1]
    assert (result["ok"], result["done"], result["d"]) == (True, 10**15, {"fault": 1})


def test_a_batch_stops_at_the_end_of_the_enclave() -> None:
    setup = (BOOT, ENCLAVE, {"op": "add_page", "id": "e", "count": 16}, {"op": "init", "id": "e"})
    result = answers(*setup, {"op": "touch", "id": "e", "count": 10**15})[-1]
    assert (result["errno"], result["done"]) == ("SEGV", 16)


def test_a_refused_batch_says_that_nothing_was_done() -> None:
    assert answers(BOOT, ENCLAVE, {"op": "add_page", "id": "e", "type": "secs"})[-1]["done"] == 0


def test_after_an_oops_every_op_is_dead() -> None:
    """v2: a dynamic page for an enclave whose SECS was swapped out (defect D6)."""
    log = HERE / "samples" / "v2" / "surprise-s10_eaug_with_swapped_secs.ops.jsonl.xz"
    results = answers(*lines_of(log), {"op": "state"}, "nonsense", series="v2")
    errnos = [result.get("errno") for result in results]
    assert errnos[errnos.index("OOPS") + 1 :] == ["DEAD"] * (len(errnos) - errnos.index("OOPS") - 2) + ["EBADMSG"]


# ---- anything at all -----------------------------------------------------------------------------

OPS = [*sorted(random_ops.WEIGHTS), "node"]
FIELDS = [
    "path",
    "file",
    "text",
    "id",
    "cgroup",
    "pages",
    "node",
    "page",
    "count",
    "step",
    "retry",
    "access",
    "measure",
]
FIELDS += ["type", "on", "child", "role", "secs_id", "secs_page", "section", "if_woken", "summary", "full", "signal"]
FIELDS += ["sections", "sgx2"]
WORDS = ["/", "/c", "/c/d", "e", "f", "v", "misc.max", "sgx_epc 4096", "reg", "tcs", "secs", "child", "free", "\ud800"]

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.integers(),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, -(2**63), 1e9, float("nan"), float("inf"), 0.5]),
    st.sampled_from(WORDS),
    st.text(max_size=5),
)
values = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=5,
)
any_op = st.fixed_dictionaries({"op": st.sampled_from(OPS)}).flatmap(
    lambda op: st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(lambda fields: fields | op)
)
op_line = any_op.map(json.dumps)
any_line = st.one_of(op_line, op_line, op_line, st.text(), values.map(json.dumps))
SETUP = (
    BOOT,
    {"op": "mkdir", "path": "/c"},
    {"op": "mkdir", "path": "/c/d"},
    ENCLAVE | {"cgroup": "/c"},
    {"op": "add_page", "id": "e", "count": 8},
    {"op": "init", "id": "e"},
    {"op": "fork", "id": "e", "child": "f"},
    {"op": "vepc_open", "id": "v", "pages": 8},
    {"op": "vepc_fault", "id": "v", "count": 4},
)


@pytest.mark.parametrize("series", ["v17", "v2", "mainline"])
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(any_line, min_size=1, max_size=12))
def test_no_line_raises(series: str, lines: list[str]) -> None:
    results = answers(*SETUP, *lines, series=series)
    for result in results:
        assert result["ok"] is ("errno" not in result)
        assert json.loads(as_line(result)) == result
