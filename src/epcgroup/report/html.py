"""One self-contained page of a run set: no external resource, opens offline, light and dark, phone and
desktop.

`page` puts together the parts below it; the charts come from timeline.py, style and behaviour from page.css
and page.js beside this file. The page is complete without JavaScript, which adds the values under the
pointer and hides runs. The same run set gives the same bytes.
"""

import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from epcgroup.report import chart, timeline
from epcgroup.report.figures import clean, factor, seconds, shorten, size
from epcgroup.report.markup import Html, el, join
from epcgroup.report.metrics import Comparison, Group, PodMetrics, compare
from epcgroup.report.text import BESIDE, Column, Quantity, columns, footnotes, quantities, remarks
from epcgroup.report.timeline import Scale, swatch
from epcgroup.report.verdict import SLOWED, verdict
from epcgroup.trace import LIVE, RunSet

MAX_BARS = 12  # pods of the first picture
MAX_CONFIG = 60_000  # characters of the configuration; the rest stands in the saved run
BAD = 2.0  # a slowdown from here on is red

# Nothing may be fetched, whatever a name or a file in the configuration holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(run_set: RunSet) -> str:
    """The whole document."""
    comparison = compare(run_set)
    scale = timeline.scale_of(run_set, comparison)
    title = clean(run_set.title) or "epcgroup run"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", f"{title} - EPC"),
        Html(f"\n<style>\n{_file('page.css')}</style>\n"),
    )
    sections = [
        _header(run_set, comparison, title),
        _slowdowns(comparison, scale),
        _table(comparison),
        _beside(comparison),
        _together(run_set, comparison, scale),
        _alone(run_set, scale),
        _details(run_set),
    ]
    main = el("main", Html("\n".join(section for section in sections if section)))
    script = Html(f"\n<script>\n{_file('page.js')}</script>\n")
    body = el("body", timeline.patterns(len(scale.pods)), main, script)
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _header(run_set: RunSet, comparison: Comparison, title: str) -> Html:
    facts = [text for head, text in footnotes(run_set) if head in ("node", "time")]
    sentence = Html(re.sub(r"`([^`]*)`", r"<b>\1</b>", escape(verdict(comparison))))
    early = [el("p", group.title, class_="early") for group in comparison.groups if group.ended_early]
    return el(
        "header",
        el("p", ", ".join(facts), class_="facts"),
        el("h1", title),
        el("p", sentence, class_="verdict"),
        early,
    )


def _slowdowns(comparison: Comparison, scale: Scale) -> Html | None:
    """The slowdowns as bars, the runs of one pod beside each other; the slowest pods when there are many."""
    groups = [group for group in comparison.groups if group.kind != "alone"]
    worst: dict[str, float] = {}
    for group in groups:
        for row in group.rows:
            if row.slowdown is not None:
                worst[row.pod] = max(worst.get(row.pod, 0.0), row.slowdown)
    if not worst:
        return None
    shown = set(sorted(worst, key=lambda pod: -worst[pod])[:MAX_BARS])
    top = max(*worst.values(), 1.0)
    names = _short_titles(groups)
    pairs = [
        [
            el("div", swatch(scale.key(pod)), el("span", shorten(pod, 26)), class_="who", title=pod),
            el("div", [_bar(g, name, g.row(pod), top) for g, name in zip(groups, names, strict=True)]),
        ]
        for pod in comparison.pods
        if pod in shown
    ]
    more = f" The {len(shown)} slowest of {len(worst)} pods." if len(worst) > len(shown) else ""
    hint = f"Time for a touch, against the same pod alone on the node (1.0x, the dashed line).{more}"
    bars = el("div", pairs, class_="slow", style=f"--one:{chart.coordinate(100 / top)}%")
    return el("section", el("h2", "How much slower than alone"), el("p", hint, class_="hint"), bars)


def _short_titles(groups: Sequence[Group]) -> list[str]:
    """ "no limits", "limits" and "limits, live", with what tells them apart where several runs are of one kind."""
    words = {"unlimited": "no limits", "limited": "limits"}
    kinds = [(group.kind, group.live) for group in groups]
    return [
        words.get(group.kind, group.label)
        + (", live" if group.live else "")
        + (f", {group.label.removeprefix(LIVE)}" if kinds.count((group.kind, group.live)) > 1 else "")
        for group in groups
    ]


def _bar(group: Group, name: str, row: PodMetrics | None, top: float) -> Html | None:
    if row is None:
        return None
    if row.slowdown is None:
        why = {"refused": "never ran", "stuck": "no progress", "ended": "ended early"}.get(row.state, "-")
        return el("div", el("i", name), el("s"), el("b", why), class_="bar")
    length = el("u", style=f"width:{chart.coordinate(100 * row.slowdown / top)}%")
    return el("div", el("i", name), el("s", length), el("b", factor(row.slowdown)), class_=f"bar {group.kind}")


def _table(comparison: Comparison) -> Html | None:
    """The columns of the text table; on a phone each row becomes a card (page.css)."""
    if not comparison.pods:
        return None
    shown = columns(comparison)
    heads = [el("th", c.long, el("small", c.unit) if c.unit else None, scope="col") for c in shown]
    bodies = [
        el(
            "tbody",
            el("tr", el("th", group.title, colspan=len(shown) + 1, scope="rowgroup"), class_="group"),
            [_table_row(row, shown) for row in group.rows],
        )
        for group in comparison.groups
    ]
    table = el("table", el("thead", el("tr", el("th", "pod", scope="col"), heads)), bodies, class_="compare")
    return el("section", el("h2", "Comparison"), el("div", table, class_="wide"))


def _table_row(row: PodMetrics, shown: Sequence[Column]) -> Html:
    said = [el("small", remark, class_="remark") for remark in remarks(row)]
    mood = None
    if row.slowdown is not None and row.slowdown >= SLOWED:
        mood = "bad" if row.slowdown >= BAD else "warn"
    cells = [
        el(
            "td",
            c.cell(row),
            data_l=c.long if c.long == "slowdown" else f"{c.long} {c.unit}".strip(),
            class_=mood if c.long == "slowdown" else None,
        )
        for c in shown
    ]
    return el("tr", el("th", row.pod, said, scope="row", title=row.workload), cells)


def _beside(comparison: Comparison) -> Html | None:
    """Predicted beside measured, where runs were simulated and live."""
    pairs, shown = comparison.pairs, quantities(comparison)
    if not pairs:
        return None
    over = [el("th", q.name, el("small", q.unit), colspan=len(BESIDE), scope="colgroup") for q in shown]
    under = [el("th", word, scope="col") for _ in shown for word in BESIDE]
    bodies = [
        el(
            "tbody",
            el("tr", el("th", measured.title, colspan=len(under) + 1, scope="rowgroup"), class_="group"),
            [_beside_row(shown, predicted.row(row.pod), row) for row in measured.rows],
        )
        for predicted, measured in pairs
    ]
    head = el("thead", el("tr", el("th", "pod", rowspan=2, scope="col"), over), el("tr", under))
    hint = "The simulation is the prediction; live is what real processes of this host did; ratio is live / simulated."
    table = el("div", el("table", head, bodies, class_="compare"), class_="wide")
    return el("section", el("h2", "Predicted beside measured"), el("p", hint, class_="hint"), table)


def _beside_row(shown: Sequence[Quantity], predicted: PodMetrics | None, row: PodMetrics) -> Html:
    cells = [
        el("td", cell, data_l=f"{q.name}, {word}")
        for q in shown
        for cell, word in zip(q.cells(predicted, row), BESIDE, strict=True)
    ]
    return el("tr", el("th", row.pod, scope="row", title=row.workload), cells)


def _together(run_set: RunSet, comparison: Comparison, scale: Scale) -> Html | None:
    runs = sorted((run for run in run_set.runs if run.kind != "alone"), key=lambda run: run.live)
    titles = [group.title for group in comparison.groups if group.kind != "alone"]
    if not runs:
        return None
    figures = [
        timeline.figure(run, f"run-{i}", title, scale) for i, (run, title) in enumerate(zip(runs, titles, strict=True))
    ]
    return el(
        "section",
        el("h2", "Over time"),
        timeline.legend(scale, len(comparison.pods)),
        el("nav", class_="runs", hidden=True, aria_label="runs shown"),
        el("div", figures, class_="figures"),
    )


def _alone(run_set: RunSet, scale: Scale) -> Html | None:
    """Folded, as these runs are only the yardstick of the others."""
    runs = [run for run in run_set.runs if run.kind == "alone" and any(p.name in scale.pods for p in run.pods)]
    if not runs:
        return None
    figures = [
        timeline.figure(
            run,
            f"alone-{i}",
            f"{', '.join(pod.name for pod in run.pods)} alone ({run.series}{', live' if run.live else ''})",
            scale,
            timeline.POINTS_ALONE,
        )
        for i, run in enumerate(runs)
    ]
    summary = el("summary", f"Each pod alone on the node, over time ({len(runs)})")
    return el("section", el("details", summary, el("div", figures, class_="figures")))


# The end of the page: what was run, and what the numbers mean.


def _details(run_set: RunSet) -> Html:
    notes = [[el("dt", head) if head else None, el("dd", text)] for head, text in footnotes(run_set)]
    config = dict(run_set.config)
    command = config.pop("command", None)
    if isinstance(command, list):
        command = shlex.join(str(word) for word in command)
    parts: list[Html] = [_pre("Command", str(command))] if command else []
    if run_set.runs:
        parts += [_pods_table(run_set), _runs_table(run_set)]
    costs = config.get("costs")
    if isinstance(costs, dict) and isinstance(costs.get("items"), list):
        parts.append(_cost_table(costs["items"], str(costs.get("source", ""))))
        config["costs"] = {key: value for key, value in costs.items() if key != "items"}
    if config:
        text = json.dumps(config, indent=2, sort_keys=True, default=str, ensure_ascii=False)
        rest = len(text) - MAX_CONFIG
        parts.append(
            _pre("Everything else", text[:MAX_CONFIG] + (f"\n... {rest:,} more characters" if rest > 0 else ""))
        )
    return el(
        "section",
        el("h2", "How to read this"),
        el("dl", notes, class_="notes"),
        el("details", el("summary", "Exact configuration"), parts, class_="config"),
    )


def _pre(title: str, text: str) -> Html:
    return join([el("h3", title), el("pre", Html("\n".join(join([line]) for line in text.splitlines())))])


def _plain_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    head = el("thead", el("tr", [el("th", text, scope="col") for text in heads]))
    body = el("tbody", [el("tr", [el("td", cell) for cell in row]) for row in rows])
    return join([el("h3", title), el("div", el("table", head, body, class_="plain"), class_="wide")])


def _pods_table(run_set: RunSet) -> Html:
    pods = {pod.name: pod for run in run_set.runs for pod in run.pods}
    rows = [[p.name, p.workload, size(p.use_bytes), size(p.claim_bytes), p.cgroup] for p in pods.values()]
    return _plain_table("Pods", ["pod", "workload", "uses", "claims", "cgroup"], rows)


def _runs_table(run_set: RunSet) -> Html:
    heads = ["run", "series", "lasted", "seed", "samples", "ksgxd CPU", "kworker CPU", "costs"]
    rows = [
        [
            run.label,
            run.series,
            seconds(run.duration),
            str(run.seed),
            str(len(run.times)),
            seconds(None if run.live else run.ksgxd_seconds),
            seconds(None if run.live else run.kworker_seconds),
            run.cost_profile,
        ]
        for run in run_set.runs
    ]
    return _plain_table("Runs", heads, rows)


def _cost_table(items: Sequence[Any], source: str) -> Html:
    """Rows as `CostProfile.as_table` gives them; what an item lacks is left blank."""
    rows = [
        [
            str(item.get("item", "")),
            _count(item.get("cycles")),
            " to ".join(_count(item[end]) for end in ("low", "high") if end in item),
            str(item.get("per", "")),
            str(item.get("source", "")),
            str(item.get("provenance", "")),
        ]
        for item in items
        if isinstance(item, dict)
    ]
    title = f"Costs: {source}" if source else "Costs"
    return _plain_table(title, ["item", "cycles", "range", "one of", "source", "how we know"], rows)


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else ""
