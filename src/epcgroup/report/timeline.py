"""One run over time, as a figure of the page: EPC stacked per pod, page-ins per second, share of time lost,
events.

All figures of a page share their colours and the ends of their axes (`Scale`), so that runs can be compared
by eye.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from epcgroup.report import chart
from epcgroup.report.chart import coordinate
from epcgroup.report.figures import compact, nice_above, number, percent, rate, shorten, size, size_unit
from epcgroup.report.markup import Child, Html, el
from epcgroup.report.metrics import (
    Comparison,
    at_samples,
    lost_over_time,
    lost_share,
    pick,
    rates,
)
from epcgroup.trace import PodRun, Run, RunSet

POINTS = 120  # samples drawn of a run of all pods
POINTS_ALONE = 40
MAX_PODS = 24  # drawn by name; the rest is one grey layer
MAX_EVENTS = 200  # drawn and listed of a run
HUES = 8
EPC_HEIGHT, INS_HEIGHT, STRIP_HEIGHT, EVENT_HEIGHT = 200, 96, 14, 12
PILL_HEIGHT = 19  # a layer at least that thick bears its pod's name
HELD = 0.95  # of its limit: a pod there is drawn as held by it


@dataclass(frozen=True)
class Scale:
    """What all charts of a page share."""

    pods: tuple[str, ...]  # drawn by name, in table order
    epc_top: float  # bytes at the upper edge
    ins_top: float  # page-ins per second at the upper edge
    unit: str  # of sizes
    unit_bytes: int
    events: bool  # some run has events, so that every run has their strip

    def key(self, pod: str) -> str:
        """CSS class of a pod: its own colour and texture, or the grey of the rest."""
        return f"k{self.pods.index(pod)}" if pod in self.pods else "kx"

    def amount(self, value: float) -> str:
        return number(value / self.unit_bytes)


def scale_of(run_set: RunSet, comparison: Comparison) -> Scale:
    epc = max(comparison.epc_bytes, 1)
    asked = max((sum(pod.limit_bytes or 0 for pod in run.pods) for run in run_set.runs), default=0)
    ins = [rate for run in run_set.runs if run.kind != "alone" for rate in _total_ins(run)]
    unit, unit_bytes = size_unit([epc])
    return Scale(
        pods=tuple(drawn_pods(comparison)),
        epc_top=max(epc, min(asked, 1.5 * epc)) * 1.04,
        ins_top=nice_above(max(ins, default=0.0)),
        unit=unit,
        unit_bytes=unit_bytes,
        events=any(run.events for run in run_set.runs if run.kind != "alone"),
    )


def drawn_pods(comparison: Comparison) -> list[str]:
    """All pods, or those that held most EPC at their peak when there are too many to tell apart."""
    pods = list(comparison.pods)
    if len(pods) <= MAX_PODS:
        return pods
    peaks: dict[str, float] = {}
    for group in comparison.groups:
        for row in group.rows:
            peaks[row.pod] = max(peaks.get(row.pod, 0), row.peak_bytes or 0)
    chosen = set(sorted(pods, key=lambda pod: -peaks.get(pod, 0))[: MAX_PODS - 1])
    return [pod for pod in pods if pod in chosen]


def patterns(pods: int) -> Html:
    """Colour and texture of each drawn pod: the hues repeat after eight with a hatch, after sixteen with
    dots."""
    rules, textures = [], []
    for i in range(pods):
        hue = f"var(--c{i % HUES})"
        rules.append(f".k{i}{{--k:{hue};fill:{hue if i < HUES else f'url(#p{i})'}}}")
        if i >= HUES:
            mark = el("path", d="M-4 4L4 12M0 0L16 16M12 4L20 12") if i < 2 * HUES else el("circle", cx=8, cy=4, r=3)
            textures.append(
                el(
                    "pattern",
                    el("rect", width=16, height=8, style=f"fill:{hue}"),
                    el("g", mark, class_="texture"),
                    id=f"p{i}",
                    width=16,
                    height=8,
                    patternUnits="userSpaceOnUse",
                )
            )
    defs = el("svg", el("defs", textures), class_="defs", width=0, height=0, aria_hidden="true")
    return Html(f"<style>{''.join(rules)}</style>{defs}")


def swatch(key: str) -> Html:
    square = el("rect", class_=key, width=16, height=16, rx=3)
    return el("svg", square, class_="swatch", viewBox="0 0 16 16", aria_hidden="true")


def legend(scale: Scale, all_pods: int) -> Html:
    """A button for each pod: with JavaScript it picks out the pod in every chart."""
    keys = [
        el(
            "button",
            swatch(scale.key(pod)),
            el("span", pod),
            type="button",
            class_="key",
            data_k=scale.key(pod),
        )
        for pod in scale.pods
    ]
    rest = all_pods - len(scale.pods)
    others = el("span", swatch("kx"), f"{rest} other pods", class_="key") if rest > 0 else None
    return el("div", keys, others, class_="legend")


def figure(run: Run, name: str, title: str, scale: Scale, points: int = POINTS) -> Html:
    """The run's charts, its list of events and the values that page.js shows under the pointer."""
    lines = _lines(run, scale, points)
    return el(
        "figure",
        el("figcaption", el("h3", title)),
        None if lines.xs else el("p", "No samples: the run ended before the first.", class_="hint"),
        el(
            "div",
            _epc_panel(run, lines, scale),
            _ins_panel(run, lines, scale),
            _lost_panel(run, lines, scale),
            class_="charts",
            data_end=f"{run.duration:.6g}",
            tabindex=0,
            role="group",
            aria_label=f"{title}, over time",
        ),
        _events(run),
        Html(f'<script type="application/json">{_json(_values(lines, scale))}</script>'),
        class_="run",
        id=name,
        data_name=title,
    )


# The samples that are drawn.


@dataclass(frozen=True)
class _Lines:
    """A run's drawn samples: one list a pod, in the order of `named`; all lists are as long as `times`."""

    times: list[float]
    xs: list[float]
    named: list[PodRun]
    use: list[list[float]]  # bytes
    ins: list[list[float]]  # page-ins per second
    lost: list[list[float | None]]  # share
    other_use: list[float]  # of all pods that are not named
    other_ins: list[float]
    unattributed: list[float]


def _lines(run: Run, scale: Scale, points: int) -> _Lines:
    picked = pick(len(run.times), points)
    named = [pod for pod in run.pods if pod.name in scale.pods]
    rest = [pod for pod in run.pods if pod.name not in scale.pods]
    times = at_samples(run.times, picked)
    nothing = [0.0] * len(picked)
    return _Lines(
        times=times,
        xs=chart.across(times, run.duration),
        named=named,
        use=[at_samples(pod.s_usage_bytes, picked) for pod in named],
        ins=[rates(run.times, pod.s_page_ins, picked) for pod in named],
        lost=[lost_over_time(pod, picked) for pod in named],
        other_use=_sum([nothing, *(at_samples(pod.s_usage_bytes, picked) for pod in rest)]),
        other_ins=_sum([nothing, *(rates(run.times, pod.s_page_ins, picked) for pod in rest)]),
        unattributed=at_samples(run.s_unattributed_bytes, picked),
    )


def _sum(layers: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) for values in zip(*layers, strict=True)]


def _total_ins(run: Run) -> list[float]:
    picked = pick(len(run.times), POINTS)
    return _sum([[0.0] * len(picked), *(rates(run.times, pod.s_page_ins, picked) for pod in run.pods)])


def _values(lines: _Lines, scale: Scale) -> dict[str, Any]:
    return {
        "t": [round(t, 3) for t in lines.times],
        "unit": scale.unit,
        "pods": [
            {
                "n": shorten(pod.name, 16),
                "k": scale.key(pod.name),
                "u": [_brief(v / scale.unit_bytes) for v in lines.use[i]],
                "i": [_brief(v) for v in lines.ins[i]],
                "s": [None if v is None else round(100 * v) for v in lines.lost[i]],
            }
            for i, pod in enumerate(lines.named)
        ],
    }


def _brief(value: float) -> float:
    return round(value) if abs(value) >= 100 or value == int(value) else round(value, 1)


def _json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


# Panels.


def _row(left: Child, middle: Child, right: Child = None, classes: str = "row") -> Html:
    return el("div", left, middle, el("div", right, class_="right"), class_=classes)


def _panel(caption: Child, ticks: Sequence[tuple[float, str]], plot: Child, right: Child = None) -> Html:
    """A plot with its y labels, (share from the top, text), at the left and something at the right."""
    labels = [el("span", text, style=f"top:{coordinate(100 * at)}%") for at, text in ticks]
    row = _row(el("div", labels, class_="ys"), el("div", plot, class_="plot"), right)
    return el("div", el("div", caption, class_="cap"), row, class_="panel")


def _time_axis(run: Run) -> Html:
    ticks = chart.time_ticks(run.duration)
    spans = [
        el(
            "span",
            number(t) + (" s" if i == len(ticks) - 1 else ""),
            style=f"left:{coordinate(chart.across([t], run.duration)[0] / chart.W * 100)}%",
        )
        for i, t in enumerate(ticks)
    ]
    return _row(el("div", class_="ys"), el("div", spans, class_="xs"))


def _epc_panel(run: Run, lines: _Lines, scale: Scale) -> list[Html]:
    h, top = EPC_HEIGHT, scale.epc_top
    layers = [
        ("no pod", "k-none", lines.unattributed),
        *((pod.name, scale.key(pod.name), use) for pod, use in zip(lines.named, lines.use, strict=True)),
        ("other pods", "kx", lines.other_use),
    ]
    edges = chart.stacked([values for _, _, values in layers])
    ticks = [(1 - s * run.epc_bytes / top, scale.amount(s * run.epc_bytes)) for s in (0, 0.25, 0.5, 0.75, 1)]
    held = "".join(
        chart.broken_line(lines.xs, edges[i + 1], [u >= HELD * pod.limit_bytes for u in lines.use[i]], top, h)
        for i, pod in enumerate(lines.named)
        if pod.limit_bytes
    )
    capacity = f"M0 {coordinate(chart.up(run.epc_bytes, top, h))}H{chart.W}"
    plot = chart.drawing(
        h,
        f"EPC in use over time, {len(run.pods)} pods, capacity {size(run.epc_bytes)}",
        "epc",
        chart.grid([h * at for at, _ in ticks]),
        chart.stack(lines.xs, layers, top, h),
        el("path", class_="held", d=held) if held else None,
        el("path", class_="capacity", d=capacity),
    )
    pills = [_pill(pod.name, edges[i], edges[i + 1], lines, top) for i, pod in enumerate(lines.named)]
    dashes = el("span", "- - held at its limit", class_="scale") if held else None
    return [
        _panel([f"EPC in use, {scale.unit}", dashes], ticks, [plot, pills], _limit_bar(run, lines, scale)),
        *([_event_strip(run, scale)] if scale.events and run.kind != "alone" else []),
        _time_axis(run),
    ]


def _pill(name: str, below: Sequence[float], edge: Sequence[float], lines: _Lines, top: float) -> Html | None:
    """A pod's name upon its layer, where that is thick enough."""
    place = chart.label_place(below, edge)
    if place is None or not place[2] / top * EPC_HEIGHT >= PILL_HEIGHT:
        return None
    x, y = lines.xs[place[0]] / chart.W, 1 - place[1] / top
    where = f"left:{coordinate(100 * x)}%;top:{coordinate(100 * y)}%"
    return el("span", shorten(name, 20), class_="pill", style=where)


def _limit_bar(run: Run, lines: _Lines, scale: Scale) -> Html | None:
    """The limits (or, where there are none, the claims) stacked beside the chart in its own scale."""
    limited = any(pod.limit_bytes is not None for pod in run.pods)

    def asked(pod: PodRun) -> int:
        return (pod.limit_bytes if limited else pod.claim_bytes) or 0

    total = sum(asked(pod) for pod in run.pods)
    if total <= 0:
        return None
    rects, below = [], 0
    for pod in lines.named:
        y0 = chart.up(below + asked(pod), scale.epc_top, EPC_HEIGHT)
        y1 = chart.up(below, scale.epc_top, EPC_HEIGHT)
        rect = el(
            "rect",
            class_=f"a {scale.key(pod.name)}",
            y=coordinate(y0),
            width=chart.W,
            height=coordinate(y1 - y0),
        )
        rects.append(el("g", el("title", f"{pod.name}: {size(asked(pod))}"), rect))
        below += asked(pod)
    word = "limits" if limited else "claims"
    text = el("small", word, Html("<br>"), scale.amount(total), class_="over" if total > run.epc_bytes else None)
    bar = chart.drawing(EPC_HEIGHT, f"{word} add up to {size(total)}", "limits", rects)
    return el("div", bar, text, class_="sum")


def _event_strip(run: Run, scale: Scale) -> Html:
    events = run.events[:MAX_EVENTS]
    marks = [
        el(
            "g",
            el("title", f"{number(event.time)} s {event.pod or 'node'}: {event.what}"),
            el("path", class_=f"ev {scale.key(event.pod)}", d=f"M{coordinate(x)} 0V{EVENT_HEIGHT}"),
        )
        for event, x in zip(events, chart.across([event.time for event in events], run.duration), strict=True)
    ]
    strip = chart.drawing(EVENT_HEIGHT, f"{len(run.events)} events", "events", marks)
    return _row(el("div", "events", class_="ys evs"), el("div", strip, class_="plot"), classes="row")


def _ins_panel(run: Run, lines: _Lines, scale: Scale) -> Html:
    h = INS_HEIGHT
    top = scale.ins_top
    if run.kind == "alone":
        top = max(top, nice_above(max(_total_ins(run), default=0.0)))
    layers = [
        *((pod.name, scale.key(pod.name), ins) for pod, ins in zip(lines.named, lines.ins, strict=True)),
        ("other pods", "kx", lines.other_ins),
    ]
    total = sum(pod.page_ins for pod in run.pods)
    mean = total / run.duration if run.duration > 0 else None
    plot = chart.drawing(
        h,
        f"Page-ins per second over time, mean {rate(mean)}",
        "ins",
        chart.grid([0, h / 2, h]),
        chart.stack(lines.xs, layers, top, h),
    )
    ticks = [(0.0, compact(top)), (0.5, compact(top / 2)), (1.0, "0")]
    return _panel(["Page-ins per second", el("span", f"mean {rate(mean)}", class_="scale")], ticks, plot)


def _lost_panel(run: Run, lines: _Lines, scale: Scale) -> Html:
    rows = []
    for pod, lost in zip(lines.named, lines.lost, strict=True):
        overall = percent(lost_share(pod))
        overall += " %" if overall != "-" else ""
        strip = chart.drawing(
            STRIP_HEIGHT,
            f"{pod.name}: {overall} of its time lost to paging",
            "strip",
            chart.heat_strip(lines.xs, lost, STRIP_HEIGHT),
        )
        name = el("div", swatch(scale.key(pod.name)), el("span", shorten(pod.name, 12)), class_="ys", title=pod.name)
        rows.append(_row(name, el("div", strip, class_="plot"), overall, "row strips"))
    ramp = [el("rect", class_=f"h{i}", x=10 * i, width=10, height=10) for i in range(1, chart.LEVELS + 1)]
    key = el("svg", ramp, class_="ramp", viewBox="0 0 110 10", aria_hidden="true")
    caption = el("div", "Share of time lost to paging", el("span", "0", key, "100 %", class_="scale"), class_="cap")
    return el("div", caption, rows, _time_axis(run), class_="panel")


def _events(run: Run) -> Html | None:
    if not run.events:
        return None
    rows = [
        el(
            "tr",
            el("td", f"{number(event.time)} s"),
            el("th", event.pod or "node", scope="row"),
            el("td", event.what),
        )
        for event in run.events[:MAX_EVENTS]
    ]
    rest = len(run.events) - MAX_EVENTS
    more = el("p", f"{rest:,} more are in the saved run.", class_="hint") if rest > 0 else None
    summary = el("summary", f"{len(run.events):,} event{'s' if len(run.events) != 1 else ''}")
    return el("details", summary, el("table", rows), more, class_="list")
