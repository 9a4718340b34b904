"""Rows of the table, and how times are taken: CPU time of this thread, in turn, best of several."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """A line of the table. `ok` is None for what has no goal, or could not be measured (`measured` says why)."""

    what: str
    measured: str
    goal: str = ""
    ok: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)  # for --json


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    touches: int = 2_500_000  # of a synthetic trace; it runs once before it is timed
    turns: int = 5


def best_in_turn(functions: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Least CPU seconds of each function, run in turn."""
    best = dict.fromkeys(functions, math.inf)
    for _ in range(turns):
        for name, function in functions.items():
            started = time.thread_time()
            function()
            best[name] = min(best[name], time.thread_time() - started)
    return best


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def table(rows: Sequence[Row]) -> str:
    """The rows as text, in columns."""
    verdicts = {True: "ok", False: "MISSED", None: ""}
    cells = [("what", "measured", "goal", "")]
    cells += [(row.what, row.measured, row.goal, verdicts[row.ok]) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths[:3]), *lines[1:]])
