"""The compiled machine against the model in plain objects (reference.py): the same random log, the same results.

Every field of every result is compared, so are full dumps of the state along the way; for an op that a kernel would
not survive only its errno is (spec/oplog.md). `make soak` runs the long one.
"""

import json
import random
from typing import Any

import pytest
import random_ops
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epcgroup.kernel.validate import validate_everything
from epcgroup.oplog import Replayer

FATAL = ("OOPS", "HANG", "DEADLOCK")
SERIES = ("v17", "v2", "mainline")


def play(series: str, rng: random.Random, n: int) -> None:
    """Run one random log on both, and on a machine without the ledger; fails at the first op answered differently."""
    compiled, model = Replayer(series), reference.Replayer(series)
    bare: Replayer | None = Replayer(series, ledger=False)
    log: list[dict[str, Any]] = []
    ops = random_ops.ops(rng, n)
    op = next(ops)
    try:
        while True:
            log.append(op)
            text = json.dumps(op)
            got, expected = compiled.line(text), model.line(text)
            assert got is not None and expected is not None
            if op["op"] == "poison":
                bare = None
            without = bare.line(text) if bare is not None else None
            if expected.get("errno") in FATAL:
                assert got.get("errno") == expected["errno"], report(log, got, expected)
                return
            assert got == expected, report(log, got, expected)
            if without is not None:
                known = without_ledger(expected)
                assert without_ledger(without) == known, report(log, without_ledger(without), known)
            op = ops.send(got)
    except StopIteration:
        pass
    for replayer in (compiled, bare):
        if replayer is not None:
            assert replayer.machine is not None
            validate_everything(replayer.machine)


def without_ledger(result: dict[str, Any]) -> dict[str, Any]:
    """A result less what a machine without the ledger does not know."""
    unknown = ("va", "backing", "place", "free_list", "backing_alloc", "backing_free")

    def less(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: less(each) for key, each in value.items() if key not in unknown}
        return [less(each) for each in value] if isinstance(value, list) else value

    shown = less(result)
    if not shown.get("d", True):
        del shown["d"]
    return shown  # type: ignore[no-any-return]


def report(log: list[dict[str, Any]], got: dict[str, Any], expected: dict[str, Any]) -> str:
    """The log that shows the difference, ready for `epcgroup replay`, and both answers to its last line."""
    lines = [json.dumps(op) for op in log]
    return "\n".join(["", *lines, f"machine: {json.dumps(got)}", f"model:   {json.dumps(expected)}"])


@pytest.mark.parametrize("series", SERIES)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_compiled_machine_answers_like_the_model(series: str, rng: random.Random) -> None:
    play(series, rng, 60)


@pytest.mark.soak
@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("start", range(0, 2000, 100))
def test_compiled_machine_answers_like_the_model_for_long(series: str, start: int) -> None:
    for number in range(start, start + 100):
        play(series, random.Random(number), 60 if number % 10 else 400)
