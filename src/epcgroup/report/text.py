"""The comparison as a table for a terminal, and as JSON for a program.

Plain ASCII, 100 columns or less; a narrower terminal loses the least important columns first. Colour only
when asked.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from epcgroup.report.figures import (
    clean,
    factor,
    number,
    percent,
    rate,
    seconds,
    shorten,
    size,
    size_unit,
    time_unit,
)
from epcgroup.report.metrics import Comparison, Group, PodMetrics, agreement, compare
from epcgroup.report.verdict import verdict
from epcgroup.trace import Run, RunSet

JSON_FORMAT = "epcgroup-comparison-1"
MAX_NAME, MIN_NAME = 24, 14
MAX_ROWS = 24  # of one run; the rest is counted

MODELLED = (
    "Exact: which page is charged, aged, written out and loaded, and by whom, as the kernel code decides.",
    "By price: time. Each operation costs what the cost profile says; there are no caches, no NUMA distance, "
    "no hyper-threads and no frequency changes.",
)

CARRIED_OUT = (
    "Real processes under real cgroups on a pool of real memory; the same machine decides. Counts are the machine's, "
    "time is this host's: all faults are served by one daemon process, and a CPU that others use is waited for.",
)

_BOLD, _DIM, _RED, _YELLOW, _GREEN = "1", "2", "31", "33", "32"


@dataclass(frozen=True)
class Column:
    head: tuple[str, str, str]  # three lines, the last is the unit
    cell: Callable[[PodMetrics], str]
    long: str  # the name where there is room
    drop: int = 0  # columns with the highest number go first when the terminal is narrow; 0 stays

    @property
    def unit(self) -> str:
        return self.head[2]


def columns(comparison: Comparison) -> list[Column]:
    """The table's columns; sizes and stall times have one unit each for the whole table."""
    rows = [row for group in comparison.groups for row in group.rows]
    sizes = [v for row in rows for v in (row.claim_bytes, row.limit_bytes, row.peak_bytes, row.use_bytes)]
    size_name, size_by = size_unit(sizes)
    time_name, time_by = time_unit(row.p99_stall_s for row in rows)

    def scaled(value: float | None, by: float) -> str:
        return number(None if value is None else value / by)

    found = [
        Column(("", "claim", size_name), lambda r: scaled(r.claim_bytes, size_by), "claim"),
        Column(("", "limit", size_name), lambda r: scaled(r.limit_bytes, size_by), "limit"),
        Column(("EPC", "mean", size_name), lambda r: scaled(r.mean_bytes, size_by), "EPC mean", drop=1),
        Column(("used", "peak", size_name), lambda r: scaled(r.peak_bytes, size_by), "EPC peak"),
        Column(("", "page-ins", "/s"), lambda r: rate(r.page_ins_per_s), "page-ins"),
        Column(("", "page-outs", "/s"), lambda r: rate(r.page_outs_per_s), "page-outs"),
        Column(("outs by", "others", "%"), lambda r: percent(r.outs_by_others), "outs by others", drop=4),
        Column(("time", "lost", "%"), lambda r: percent(r.lost), "time lost"),
        Column(("p99", "stall", time_name), lambda r: scaled(r.p99_stall_s, time_by), "p99 stall", drop=2),
        Column(("", "slowdown", "vs alone"), lambda r: factor(r.slowdown), "slowdown"),
    ]
    if any(row.refused_charges for row in rows):
        found.insert(
            -1,
            Column(("charges", "refused", ""), lambda r: rate(r.refused_charges), "charges refused", drop=3),
        )
    return found


def table(comparison: Comparison, *, width: int = 100, color: bool = False) -> str:
    """Pods as rows, grouped by run; a pod that did not simply run has its outcome in a line below."""
    paint = _painter(color)
    shown = columns(comparison)
    cells = [[[column.cell(row) for column in shown] for row in group.rows] for group in comparison.groups]
    widths = [
        max([*(len(h) for h in column.head), *(len(line[i]) for lines in cells for line in lines)])
        for i, column in enumerate(shown)
    ]
    longest = max(len(clean(pod)) for pod in [*comparison.pods, "pod"])
    kept = _fitting(shown, widths, width - min(longest, MIN_NAME) - 2)
    kept_widths = [widths[i] for i in kept]
    name = max(min(longest, MAX_NAME, width - sum(w + 2 for w in kept_widths) - 2), MIN_NAME)
    name_width = 2 + min(longest, name)
    lines = []
    for n in range(3):
        head = "pod" if n == 2 else ""
        lines.append(paint(_BOLD, _line(head, [shown[i].head[n] for i in kept], kept_widths, name_width)))
    lines.append(paint(_DIM, "-" * (name_width + sum(w + 2 for w in kept_widths))))
    for group, texts in zip(comparison.groups, cells, strict=True):
        lines.append(paint(_BOLD, clean(group.title)))
        for row, text in list(zip(group.rows, texts, strict=True))[:MAX_ROWS]:
            line = _line("  " + shorten(row.pod, name), [text[i] for i in kept], kept_widths, name_width)
            lines.append(paint(_mood(group, row), line))
            lines += [paint(_RED, f"    ^ {remark}") for remark in remarks(row)]
        if len(group.rows) > MAX_ROWS:
            lines.append(f"  ... {len(group.rows) - MAX_ROWS} more pods: in the JSON and on the page")
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Quantity:
    """What is predicted and measured."""

    name: str
    unit: str
    value: Callable[[PodMetrics], float | None]
    shown: Callable[[float | None], str]

    def cells(self, predicted: PodMetrics | None, measured: PodMetrics) -> list[str]:
        """Predicted, measured, and measured / predicted."""
        values = None if predicted is None else self.value(predicted), self.value(measured)
        return [self.shown(values[0]), self.shown(values[1]), number(agreement(*values))]


BESIDE = ("simulated", "live", "ratio")


def quantities(comparison: Comparison) -> list[Quantity]:
    """What stands beside each other for simulated and live runs."""
    name, by = size_unit(row.peak_bytes for group in comparison.groups for row in group.rows)
    return [
        Quantity("page-ins", "/1000 touches", lambda r: r.page_ins_per_1000, number),
        Quantity("EPC peak", name, lambda r: r.peak_bytes, lambda v: number(None if v is None else v / by)),
        Quantity("slowdown", "vs alone", lambda r: r.slowdown, factor),
    ]


def beside(comparison: Comparison, *, width: int = 100, color: bool = False) -> str:
    """Predicted beside measured, for runs that were simulated and live; empty when there are none. A narrower terminal
    loses the peak, then the slowdown."""
    pairs = comparison.pairs
    if not pairs or not comparison.pods:
        return ""
    paint, shown = _painter(color), quantities(comparison)
    rows = [[(row, predicted.row(row.pod)) for row in measured.rows] for predicted, measured in pairs]
    longest = min(max(len(clean(pod)) for pod in comparison.pods), MAX_NAME)
    while True:
        cells = [[[cell for q in shown for cell in q.cells(there, row)] for row, there in group] for group in rows]
        words = BESIDE * len(shown)
        texts = [list(words), *(line for group in cells for line in group)]
        widths = [max(len(text[i]) for text in texts) for i in range(len(words))]
        name = 2 + max(min(longest, width - sum(w + 2 for w in widths) - 2), min(longest, MIN_NAME))
        if name + sum(w + 2 for w in widths) <= width or len(shown) == 1:
            break
        del shown[1]
    over = ""
    for i, q in enumerate(shown):
        over += "  " + f"{q.name} {q.unit}".rjust(sum(widths[3 * i : 3 * i + 3]) + 4)
    heads = _line("pod", words, widths, name)
    lines = [paint(_BOLD, " " * name + over), paint(_BOLD, heads), paint(_DIM, "-" * len(heads))]
    for (_, measured), group, filled in zip(pairs, rows, cells, strict=True):
        lines.append(paint(_BOLD, clean(measured.title)))
        for (row, _), text in list(zip(group, filled, strict=True))[:MAX_ROWS]:
            lines.append(_line("  " + shorten(row.pod, name - 2), text, widths, name))
        if len(group) > MAX_ROWS:
            lines.append(f"  ... {len(group) - MAX_ROWS} more pods: in the JSON and on the page")
    return "\n".join(line.rstrip() for line in lines)


def render(run_set: RunSet, *, width: int = 100, color: bool = False) -> str:
    """The whole answer: title, sentence, table, footnotes. Ends with a newline."""
    comparison = compare(run_set)
    width = max(width, 40)
    parts = [
        _painter(color)(_BOLD, clean(run_set.title)) if run_set.title else "",
        textwrap.fill(verdict(comparison), width, break_on_hyphens=False),
        table(comparison, width=width, color=color) if comparison.pods else "",
        beside(comparison, width=width, color=color),
        "\n".join(
            textwrap.fill(f"{head:<9} {text}", width, subsequent_indent=" " * 10, break_on_hyphens=False)
            for head, text in footnotes(run_set)
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def footnotes(run_set: RunSet) -> list[tuple[str, str]]:
    """What a reader needs to trust the numbers: (heading, text); the heading stands on the first of its
    kind."""
    notes: list[tuple[str, str]] = [
        ("node", _distinct(f"{size(run.epc_bytes)} EPC, {_cpus(run)}" for run in run_set.runs)),
        ("time", _distinct(f"{seconds(run.duration)} {_clock(run)}, seed {run.seed}" for run in run_set.runs)),
        ("costs", costs_line(run_set)),
        ("lost", "time lost to paging: stall / (busy + stall). p99 stall: 99 % of the stalls were shorter"),
        ("slowdown", "touch rate alone / touch rate here, per second of thread time after the build"),
    ]
    notes += [("early", clean(run.ended_early)) for run in run_set.runs if run.ended_early]
    notes += [("model", line) for line in MODELLED]
    if any(run.live for run in run_set.runs):
        notes += [("live", line) for line in CARRIED_OUT]
    notes += [("note", clean(note)) for note in run_set.notes]
    notes = [(head, text) for head, text in notes if text]
    heads = ["", *(head for head, _ in notes)]
    return [(head if head != before else "", text) for before, (head, text) in zip(heads, notes, strict=False)]


def _cpus(run: Run) -> str:
    return f"{run.cpus} CPUs of the host" if run.live else f"{run.cpus} CPUs at {number(run.cpu_hz / 1e9)} GHz"


def _clock(run: Run) -> str:
    return "live" if run.live else "simulated"


def costs_line(run_set: RunSet) -> str:
    """Cost profile and its check value: `config["costs"]["check"]` is {what, cycles, range: [low, high]}."""
    profiles = _distinct(run.cost_profile for run in run_set.runs if run.cost_profile)
    if not profiles:
        return ""
    costs = run_set.config.get("costs")
    check = costs.get("check") if isinstance(costs, dict) else None
    line = f'profile "{profiles}"'
    if isinstance(check, dict) and isinstance(check.get("cycles"), int | float):
        what = clean(str(check.get("what", "reload fault with one eviction")))
        line += f"; check value: {what} = {check['cycles']:,.0f} cycles"
        hz = next((run.cpu_hz for run in run_set.runs if run.cpu_hz > 0), None)
        if hz:
            line += f" ({seconds(check['cycles'] / hz)})"
        low_high = check.get("range")
        if isinstance(low_high, list) and len(low_high) == 2 and all(isinstance(v, int | float) for v in low_high):
            line += f", published {low_high[0]:,.0f} to {low_high[1]:,.0f}"
    return line


def as_json(run_set: RunSet) -> dict[str, Any]:
    """The comparison's numbers, for programs; keys are stable within JSON_FORMAT, null is "not applicable".

    format, title, verdict, cost_profile, notes[], config (as saved), and runs[]: kind (alone, unlimited, limited),
    label, series, live, epc_bytes, duration_seconds, ended_early, and pods[]: pod, run, workload, outcome,
    state (ran, idle, stuck, ended, refused), claim_bytes, limit_bytes, use_bytes,
    life_seconds, epc_mean_bytes, epc_peak_bytes,
    page_ins_per_second, page_outs_per_second, page_ins_per_1000_touches, page_outs_per_1000_touches,
    page_outs_by_others_share, lost_share, cpu_wait_share,
    touches_per_thread_second, slowdown, p99_stall_seconds, refused_charges, stuck_since_seconds. Alone runs of
    one series stand in one entry. predicted_and_measured[]: run and pods[], pairs of the simulated and the live value.
    """
    comparison = compare(run_set)
    return {
        "format": JSON_FORMAT,
        "title": run_set.title,
        "verdict": verdict(comparison),
        "cost_profile": _distinct(run.cost_profile for run in run_set.runs if run.cost_profile),
        "runs": [
            {
                "kind": group.kind,
                "label": group.label,
                "live": group.live,
                "series": group.series,
                "epc_bytes": group.epc_bytes,
                "duration_seconds": group.duration,
                "ended_early": group.ended_early,
                "pods": [_row_json(row) for row in group.rows],
            }
            for group in comparison.groups
        ],
        "predicted_and_measured": [
            {
                "run": predicted.label,
                "pods": [_beside_json(predicted.row(row.pod), row) for row in measured.rows],
            }
            for predicted, measured in comparison.pairs
        ],
        "notes": list(run_set.notes),
        "config": run_set.config,
    }


def _beside_json(predicted: PodMetrics | None, measured: PodMetrics) -> dict[str, Any]:
    def both(value: Callable[[PodMetrics], float | None]) -> list[float | None]:
        return [None if predicted is None else value(predicted), value(measured)]

    return {
        "pod": measured.pod,
        "page_ins_per_1000_touches": both(lambda row: row.page_ins_per_1000),
        "epc_peak_bytes": both(lambda row: row.peak_bytes),
        "slowdown": both(lambda row: row.slowdown),
    }


def _row_json(row: PodMetrics) -> dict[str, Any]:
    return {
        "pod": row.pod,
        "run": row.run,
        "workload": row.workload,
        "outcome": row.outcome,
        "state": row.state,
        "claim_bytes": row.claim_bytes,
        "limit_bytes": row.limit_bytes,
        "use_bytes": row.use_bytes,
        "life_seconds": row.seconds,
        "epc_mean_bytes": row.mean_bytes,
        "epc_peak_bytes": row.peak_bytes,
        "page_ins_per_second": row.page_ins_per_s,
        "page_outs_per_second": row.page_outs_per_s,
        "page_ins_per_1000_touches": row.page_ins_per_1000,
        "page_outs_per_1000_touches": row.page_outs_per_1000,
        "page_outs_by_others_share": row.outs_by_others,
        "lost_share": row.lost,
        "cpu_wait_share": row.waiting,
        "touches_per_thread_second": row.touch_rate,
        "slowdown": row.slowdown,
        "p99_stall_seconds": row.p99_stall_s,
        "refused_charges": row.refused_charges,
        "stuck_since_seconds": row.stuck_since,
    }


def remarks(row: PodMetrics) -> list[str]:
    """What the numbers of a row do not say."""
    said = []
    if row.outcome != "ran":
        said.append(clean(row.outcome))
    if row.stuck_since is not None:
        said.append(f"no progress after {seconds(row.stuck_since)}, charges refused again and again")
    if row.state == "idle":
        said.append("touched nothing in this time (still being built? a longer --duration shows it)")
    return said


def _mood(group: Group, row: PodMetrics) -> str:
    """Colour of a row: red for a pod in trouble, yellow for a slower one, green for one that runs as if
    alone."""
    if row.state in ("refused", "ended", "stuck") or (row.slowdown or 0) >= 2:
        return _RED
    if (row.slowdown or 0) >= 1.1:
        return _YELLOW
    return _GREEN if group.kind != "alone" and row.slowdown is not None else ""


def _painter(color: bool) -> Callable[[str, str], str]:
    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color and code else text

    return paint


def _fitting(shown: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Places of the columns that fit, the least important ones dropped first."""
    kept = list(range(len(shown)))
    for i in sorted((i for i in kept if shown[i].drop), key=lambda i: -shown[i].drop):
        if sum(widths[k] + 2 for k in kept) > room:
            kept.remove(i)
    return kept


def _line(name: str, cells: Sequence[str], widths: Sequence[int], name_width: int) -> str:
    return name.ljust(name_width) + "".join("  " + cell.rjust(w) for cell, w in zip(cells, widths, strict=True))


def _distinct(texts: Any) -> str:
    """Each different text once, in order."""
    return "; ".join(dict.fromkeys(clean(str(text)) for text in texts)) or ""
