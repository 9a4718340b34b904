"""Rows to lines of text: the same for a terminal, for --once, and for the tests. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from epcgroup.interface import UNLIMITED
from epcgroup.top.rows import Row
from epcgroup.top.sources import Look
from epcgroup.units import format_bytes

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-:=+*#"
NEAR_LIMIT = 0.9
MOST_PROBLEMS = 3  # on the screen
HELP = "q quit  / filter  s sort  r reverse  c containers  space pause  arrows scroll"

Style = Literal["plain", "head", "warn", "bad", "selected"]


@dataclass(frozen=True)
class View:
    """What the user has chosen."""

    sort: str = "use"
    reverse: bool = False
    match: str = ""
    containers: bool = True
    selected: int | None = None  # number of a row; None: no cursor
    paused: bool = False
    typing: bool = False  # the filter is being typed
    ended: bool = False  # of a recorded run: nothing comes any more


@dataclass(frozen=True)
class Line:
    text: str
    style: Style = "plain"


def render(
    look: Look, rows: Sequence[Row], view: View, width: int, height: int | None = None, blocks: str = BLOCKS
) -> list[Line]:
    """The screen: title, EPC, table; with a height as many rows as fit round the selected one, and the keys."""
    head = [Line(f"epcgroup top{_state(view)} | {look.title}", "head"), Line(_summary(look, rows, view))]
    head += [Line(f"! {problem}", "bad") for problem in look.problems[:MOST_PROBLEMS]]
    if len(look.problems) > MOST_PROBLEMS:
        head.append(Line(f"! and {len(look.problems) - MOST_PROBLEMS} more", "bad"))
    heading, *table = _table(rows, width, blocks)
    body = [Line(text, _style(rows[number], number, view)) for number, text in enumerate(table)]
    if height is not None:
        room = max(1, height - len(head) - 3)
        first = 0 if view.selected is None else max(0, min(view.selected - room // 2, len(body) - room))
        body = body[first : first + room]
    lines = [*head, Line(""), Line(heading, "head"), *body]
    if not rows:
        lines.append(Line("nothing matches" if view.match else "no group uses or may use EPC"))
    if height is not None:
        lines = lines[: height - 1]
        lines += [Line("")] * (height - 1 - len(lines))
        lines.append(Line(f"filter: {view.match}_" if view.typing else HELP, "head"))
    return [Line(line.text[:width], line.style) for line in lines]


def _state(view: View) -> str:
    words = [f"by {view.sort}{', reversed' if view.reverse else ''}"]
    words += [f'filter "{view.match}"'] if view.match and not view.typing else []
    words += ["paused"] if view.paused else []
    words += ["ended"] if view.ended else []
    return "".join(f" | {word}" for word in words)


def _summary(look: Look, rows: Sequence[Row], view: View) -> str:
    """Of all groups, whatever the filter."""
    parts = []
    if look.capacity:
        used = look.use or 0
        share = min(1.0, used / look.capacity)
        bar = "#" * round(share * 20)
        parts.append(f"EPC [{bar:<20}] {_size(look.use)} of {_size(look.capacity)} ({share:.0%})")
    else:
        parts.append(f"EPC used {_size(look.use)}")
    claims = [group.claim for group in look.groups if group.kind != "container" and group.claim is not None]
    if claims:
        parts.append(f"claimed {_size(sum(claims))}")
    rates = [row.events_rate for row in rows if row.group.kind != "container" and row.events_rate is not None]
    if rates and not view.match:
        parts.append(f"{_number(sum(rates))} events/s")
    return "  ".join(parts)


def _table(rows: Sequence[Row], width: int, blocks: str) -> list[str]:
    """The heading and a text for each row. A column that nobody has anything in is left out."""
    columns: list[tuple[str, list[str]]] = [
        ("USE", [_size(row.group.use) for row in rows]),
        ("LIMIT", [_limit(row.group.limit) for row in rows]),
        ("USE%", ["-" if row.share is None else f"{row.share:.0%}" for row in rows]),
        ("CLAIM", [_size(row.group.claim) for row in rows]),
        ("PEAK", [_size(row.group.peak) for row in rows]),
        ("EVENTS", ["-" if row.group.events is None else str(row.group.events) for row in rows]),
        ("EV/S", [_number(row.events_rate) for row in rows]),
        ("PAGED/S", [_number(row.paged_rate) for row in rows]),
    ]
    shown = [(name, cells) for name, cells in columns if name == "USE" or any(cell != "-" for cell in cells)]
    trends = [_spark(row, blocks) for row in rows]
    right = [max([len(name), *map(len, cells)]) for name, cells in shown]
    trend = max([len("TREND"), *map(len, trends)])
    names = [("  " if row.group.kind == "container" else "") + row.group.name for row in rows]
    room = width - sum(right) - 2 * len(right) - 2 - trend
    first = max(12, min(room, max([len("GROUP"), *map(len, names)])))
    lines = []
    for name, *cells, drawn in zip(
        ["GROUP", *names], *([head, *texts] for head, texts in shown), ["TREND", *trends], strict=True
    ):
        amounts = (cell.rjust(size) for cell, size in zip(cells, right, strict=True))
        lines.append("  ".join([_shortened(name, first).ljust(first), *amounts, drawn]).rstrip())
    return lines


def _spark(row: Row, blocks: str) -> str:
    """Use over the last looks; the top block is the limit, or the most there was."""
    limit = row.group.limit
    top = max([*row.trend, limit if limit is not None and limit < UNLIMITED else 0, 1])
    return "".join(blocks[min(len(blocks) - 1, use * len(blocks) // top)] for use in row.trend)


def _style(row: Row, number: int, view: View) -> Style:
    if number == view.selected:
        return "selected"
    if row.share is not None and row.share > NEAR_LIMIT:
        return "bad" if row.events_rate else "warn"
    return "plain"


def _size(value: int | None) -> str:
    return "-" if value is None else format_bytes(value)


def _limit(value: int | None) -> str:
    return "max" if value is not None and value >= UNLIMITED else _size(value)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 100 else f"{value:.0f}"


def _shortened(text: str, width: int) -> str:
    """Long names lose their middle: both ends tell pods apart."""
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"
