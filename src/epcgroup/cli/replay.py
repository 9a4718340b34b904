"""Replay an op log on the simulated machine: one result line for each op.

The log is a file (plain, .xz or .gz, told by its content) or `-`, standard input. With --check, each LOG is a recorded
one, NAME.ops.jsonl[.xz], and what the machine answers is compared with what was recorded beside it,
NAME.out.jsonl[.xz]; the first difference is shown and the exit status is 1.
"""

import argparse
import gzip
import io
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from epcgroup.errors import InputError

if TYPE_CHECKING:
    from epcgroup.oplog import Replayer

SERIES = ("v17", "v2", "mainline")
FATAL = ("OOPS", "HANG", "DEADLOCK")

# One of the first lines of an op log is a JSON object.
PROBE = 5

_MAGIC = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gzip"}

# What only one series' state shows, as `--check` finds it in a recorded line.
_ONLY_IN = {"nunrec": "v2", "epoch": "v2", "events_local": "v17", "next": "v17"}


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", metavar="LOG", help="op log; - is standard input")
    parser.add_argument(
        "--series",
        choices=SERIES,
        help="series of the machine (default: the name of a folder the log is in, else v17)",
    )
    parser.add_argument("--check", action="store_true", help="compare with the recorded results beside each LOG")


def main(args: argparse.Namespace) -> int:
    if args.check:
        # Every log is looked at, so that one run shows all that differ.
        return max([_check(Path(log), _series(log, args.series)) for log in args.logs])
    if len(args.logs) > 1:
        raise InputError("one LOG at a time without --check: one log is one machine")
    _replay(args.logs[0], _series(args.logs[0], args.series))
    return 0


def _series(log: str, given: str | None) -> str:
    """The series asked for, or that of the nearest folder named after one."""
    if given is not None:
        return given
    if log != "-":
        for folder in Path(log).resolve().parents:
            if folder.name in SERIES:
                return _guessed(folder)
    return "v17"


@cache
def _guessed(folder: Path) -> str:
    """The series a folder is named after; says so once."""
    print(f"epcgroup: series {folder.name}, after the folder {folder}", file=sys.stderr)
    return folder.name


# ---- reading -------------------------------------------------------------------------------------


@contextmanager
def _opened(log: str) -> Iterator[BinaryIO]:
    """The bytes of a log, unpacked. Standard input is read as it comes."""
    if log == "-":
        yield _unpacked(sys.stdin.buffer)
        return
    try:
        with Path(log).open("rb") as file:
            yield _unpacked(file)
    except FileNotFoundError:
        raise InputError("no such file", where=log) from None
    except IsADirectoryError:
        raise InputError("a folder, not an op log", where=log) from None
    except PermissionError:
        raise InputError("permission denied", where=log) from None


def _unpacked(raw: Any) -> BinaryIO:
    head = raw.peek(6)[:6]
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return lzma.open(raw, "rb") if kind == "xz" else io.BufferedReader(gzip.GzipFile(fileobj=raw))  # type: ignore[return-value]
    return raw  # type: ignore[no-any-return]


def _lines(log: str) -> Iterator[str]:
    """Lines of a text file, one at a time, as they come."""
    where = _where(log)
    with _opened(log) as file:
        for number in itertools.count(1):
            try:
                line = file.readline()
            except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(f"packed data ends early or is damaged ({error})", where=where) from None
            if not line:
                return
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise InputError(f"line {number} is not UTF-8 text", where=where) from None


def _ops(log: str) -> Iterator[str]:
    """Lines of an op log, comments included. A file that is none is refused before its first line is handed out."""
    lines = _lines(log)
    if log == "-":
        # Whoever writes to a pipe may wait for each answer: nothing is read ahead.
        yield from lines
        return
    first: list[str] = []
    for line in lines:
        first.append(line)
        if _is_op(line) or sum(map(_says_something, first)) == PROBE:
            break
    said = list(filter(_says_something, first))
    if not said:
        raise InputError("no op in it", where=log)
    if not any(map(_is_op, said)):
        raise InputError(f"not an op log: none of its first {len(said)} lines is a JSON object", where=log)
    yield from first
    yield from lines


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _is_op(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _where(log: str) -> str:
    return "standard input" if log == "-" else log


# ---- replaying -----------------------------------------------------------------------------------


def _replayer(series: str) -> "Replayer":
    from epcgroup.oplog import Replayer

    return Replayer(series)


def as_line(result: dict[str, Any]) -> str:
    """A result as the recorded files have it."""
    return json.dumps(result, separators=(",", ":"))


def _replay(log: str, series: str) -> None:
    lines = _ops(log)
    first = next(lines, None)
    if first is None:
        raise InputError("no op in it", where=_where(log))
    replayer = _replayer(series)
    for line in itertools.chain([first], lines):
        result = replayer.line(line)
        if result is not None:
            print(as_line(result), flush=True)


# ---- checking ------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The first place where two results differ. `_ABSENT` stands for a field that is not there."""

    path: str
    expected: Any
    got: Any


_ABSENT = object()


def _check(log: Path, series: str) -> int:
    """Replay one log against its recorded results; 0 when all lines match."""
    name, recorded_path = _recorded(log)
    ops = _ops(str(log))
    recorded = (line for line in _lines(str(recorded_path)) if line.strip())
    replayer = None
    n = 0
    for number, op in enumerate(ops, 1):
        replayer = replayer or _replayer(series)
        result = replayer.line(op)
        if result is None:
            continue
        expected_text = next(recorded, None)
        if expected_text is None:
            raise InputError(f"ends after {n} results, {log} goes on at line {number}", where=recorded_path)
        n += 1
        if expected_text.strip() == as_line(result):
            continue
        expected = _result(expected_text, recorded_path, n)
        difference = first_difference(expected, result)
        if difference is not None:
            print(_told(name, number, op, difference, expected, series))
            return 1
    if next(recorded, None) is not None:
        raise InputError(f"ends after {n} ops, {recorded_path} has more results", where=log)
    print(f"{name}: all {n} lines match")
    return 0


def _recorded(log: Path) -> tuple[str, Path]:
    """The log's name and the file of its recorded results."""
    name, marker, _ = log.name.rpartition(".ops.jsonl")
    if not marker:
        raise InputError("--check takes NAME.ops.jsonl or NAME.ops.jsonl.xz", where=log)
    for suffix in ("", ".xz", ".gz"):
        path = log.with_name(f"{name}.out.jsonl{suffix}")
        if path.exists():
            return name, path
    raise InputError(f"no recorded results {name}.out.jsonl[.xz] beside it", where=log)


def _result(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        result = json.loads(text)
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise InputError(f"line {number} is no result", where=path)
    return result


def first_difference(expected: dict[str, Any], got: dict[str, Any]) -> Difference | None:
    """The first field, in the recorded order, that is not the same; where the kernel died only errno counts."""
    if expected.get("errno") in FATAL:
        return _difference(expected["errno"], got.get("errno", _ABSENT), "errno")
    difference = _difference(expected, got, "")
    if difference is None and json.dumps(expected) != json.dumps(got):
        return Difference("order of the fields", expected, got)
    return difference


def _difference(expected: Any, got: Any, path: str) -> Difference | None:
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = [*expected, *(key for key in got if key not in expected)]
        pairs = [(f"{path}.{key}" if path else key, expected.get(key, _ABSENT), got.get(key, _ABSENT)) for key in keys]
    elif isinstance(expected, list) and isinstance(got, list):
        width = max(len(expected), len(got))
        pairs = [(f"{path}[{_index(expected, got, i)}]", _at(expected, i), _at(got, i)) for i in range(width)]
    else:
        same = type(expected) is type(got) and expected == got
        return None if same else Difference(path, expected, got)
    for field, left, right in pairs:
        difference = _difference(left, right, field)
        if difference is not None:
            return difference
    return None


def _at(items: list[Any], i: int) -> Any:
    return items[i] if i < len(items) else _ABSENT


def _index(expected: list[Any], got: list[Any], i: int) -> str:
    """Cgroups and processes are better known by name than by number."""
    for item in (_at(expected, i), _at(got, i)):
        if isinstance(item, dict):
            name = item.get("path", item.get("id"))
            if isinstance(name, str):
                return name
    return str(i)


def _told(name: str, number: int, op: str, difference: Difference, expected: dict[str, Any], series: str) -> str:
    lines = [
        f"{name}: line {number} differs: {_cut(op.strip())}",
        f"  field    {difference.path}",
        f"  expected {_shown(difference.expected)}",
        f"  got      {_shown(difference.got)}",
    ]
    other = _recorded_with(expected)
    if other is not None and other != series:
        lines.append(f"  this log was recorded with {other}: --series {other}")
    return "\n".join(lines)


def _recorded_with(expected: dict[str, Any]) -> str | None:
    """The series that only can have given this result; None when each could."""
    if "oom" in expected:
        return "v2"
    state = expected.get("state")
    cgroups = state.get("cgroups") if isinstance(state, dict) else None
    if isinstance(cgroups, list) and cgroups and isinstance(cgroups[0], dict):
        return next((series for field, series in _ONLY_IN.items() if field in cgroups[0]), None)
    return None


def _shown(value: Any) -> str:
    return "(not there)" if value is _ABSENT else _cut(json.dumps(value))


def _cut(text: str, width: int = 300) -> str:
    return text if len(text) <= width else f"{text[:width]}... ({len(text)} characters)"
