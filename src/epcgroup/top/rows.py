"""Looks to rows: rates between two looks, the use of the last ones, order and filter. Pure: no clock, no screen."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from epcgroup.interface import UNLIMITED
from epcgroup.top.sources import Group, Look

TREND = 16  # looks that the sparkline shows


@dataclass(frozen=True)
class Row:
    group: Group
    events_rate: float | None = None  # a second; None: there was one look
    paged_rate: float | None = None  # pages a second
    trend: tuple[int, ...] = ()  # use in bytes, oldest first

    @property
    def share(self) -> float | None:
        """Use as a part of the limit."""
        use, limit = self.group.use, self.group.limit
        return None if use is None or limit is None or limit >= UNLIMITED or not limit else use / limit


@dataclass
class _Past:
    at: float
    group: Group
    uses: deque[int]


class History:
    """What the last looks saw."""

    def __init__(self) -> None:
        self._past: dict[str, _Past] = {}

    def add(self, look: Look) -> list[Row]:
        """The rows of this look; groups that have gone are forgotten."""
        rows, past = [], {}
        for group in look.groups:
            before = self._past.get(group.key)
            uses: deque[int] = before.uses if before else deque(maxlen=TREND)
            if group.use is not None:
                uses.append(group.use)
            past[group.key] = _Past(look.at, group, uses)
            rows.append(
                Row(
                    group,
                    _rate(before, look.at, group, lambda g: g.events),
                    _rate(before, look.at, group, lambda g: g.paged),
                    tuple(uses),
                )
            )
        self._past = past
        return rows


def _rate(before: _Past | None, at: float, group: Group, count: Callable[[Group], int | None]) -> float | None:
    now, then = count(group), count(before.group) if before else None
    # A counter that went back is another group's under the same name.
    if before is None or now is None or then is None or at <= before.at or now < then:
        return None
    return (now - then) / (at - before.at)


# How rows are ordered: name -> (what is compared, whether the largest comes first). None is the smallest.
SORTS: dict[str, tuple[Callable[[Row], object], bool]] = {
    "use": (lambda row: row.group.use, True),
    "share": (lambda row: row.share, True),
    "limit": (lambda row: row.group.limit, True),
    "claim": (lambda row: row.group.claim, True),
    "peak": (lambda row: row.group.peak, True),
    "events": (lambda row: row.group.events, True),
    "rate": (lambda row: row.events_rate, True),
    "paged": (lambda row: row.paged_rate, True),
    "name": (lambda row: row.group.name, False),
}


def arrange(rows: Iterable[Row], sort: str, *, reverse: bool, match: str, containers: bool) -> list[Row]:
    """Pods and groups in order, each followed by its containers in the same order; of a filter what it matches.

    A pod that matches comes with its containers, a container that matches with its pod.
    """
    every = list(rows)
    below: dict[str, list[Row]] = {}
    for row in every:
        if row.group.kind == "container":
            below.setdefault(row.group.pod, []).append(row)
    word = match.lower()
    found: list[Row] = []
    for row in _ordered([r for r in every if r.group.kind != "container"], sort, reverse):
        own = below.get(row.group.key, [])
        if word not in row.group.name.lower():
            own = [container for container in own if word in container.group.name.lower()]
            if not own:
                continue
        found.append(row)
        if containers:
            found += _ordered(own, sort, reverse)
    return found


def _ordered(rows: Sequence[Row], sort: str, reverse: bool) -> list[Row]:
    value, largest_first = SORTS[sort]
    named = sorted(rows, key=lambda row: row.group.name)
    empty = [row for row in named if value(row) is None]
    others = [row for row in named if value(row) is not None]
    others.sort(key=value, reverse=largest_first != reverse)  # type: ignore[arg-type]
    return others + empty
