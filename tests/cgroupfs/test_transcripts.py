"""The misc controller of Linux 7.3, line by line: what it answered is what our files answer."""

from collections.abc import Callable, Iterator

import pytest
import transcripts
from mounted import lacking
from transcripts import AloneTarget, Difference, Exception_, SubTarget, Target, TreeTarget

SAMPLE = transcripts.read_transcript(transcripts.SAMPLE)
WHOLE = transcripts.read_transcript(transcripts.WHOLE) if transcripts.WHOLE.exists() else {}
TARGETS: dict[str, Callable[[], Target]] = {"tree": TreeTarget, "alone": AloneTarget, "real": SubTarget}


def differences(lines: list[transcripts.Line], target: Target, used: set[Exception_]) -> Iterator[Difference]:
    try:
        yield from transcripts.replay(lines, target, used)
    finally:
        target.close_all()


@pytest.mark.parametrize("scenario", SAMPLE)
def test_the_tree_without_a_mount_answers_the_sample_as_linux_did(scenario: str) -> None:
    assert [*differences(SAMPLE[scenario], TreeTarget(), set())] == []


@pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
@pytest.mark.parametrize("target", [AloneTarget, SubTarget])
@pytest.mark.parametrize("scenario", SAMPLE)
def test_the_mounted_tree_answers_the_sample_as_linux_did(scenario: str, target: Callable[[], Target]) -> None:
    assert [*differences(SAMPLE[scenario], target(), set())] == []


@pytest.mark.skipif(not WHOLE, reason="the whole transcript is not here (../shared/data)")
@pytest.mark.parametrize("name", TARGETS)
def test_every_misc_line_is_answered_as_linux_did_and_no_exception_is_idle(name: str) -> None:
    if name != "tree" and lacking() is not None:
        pytest.skip(str(lacking()))
    used: set[Exception_] = set()
    found = []
    for lines in WHOLE.values():
        if lines[0]["group"] == "misc":
            found += differences(lines, TARGETS[name](), used)
    assert found == []
    needed = {row for row in transcripts.read_exceptions() if name in row.targets}
    assert needed - used == set()


def test_the_core_files_answer_as_linux_did_where_the_tree_has_them() -> None:
    """Delegation, depth limits and the rule of no internal processes hang together with misc."""
    for scenario in ("delegation", "max-depth"):
        if scenario in WHOLE:
            assert [d for d in differences(WHOLE[scenario], TreeTarget(), set()) if d.what != "after"] == []
