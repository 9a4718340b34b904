"""Charts as inline SVG: geometry only, no colours (those are classes of page.css) and no words in the
drawing.

A drawing is W units wide and as many high as it has CSS pixels, and is stretched to its box: lines keep
their width by `non-scaling-stroke`, words stand beside it as HTML, so that a phone shows them as large as a
desktop.
"""

import math
from collections.abc import Sequence

from epcgroup.report.markup import Child, Html, el

W = 1000
LEVELS = 10  # of a heat strip


def coordinate(value: float) -> str:
    """Shortest text with one decimal."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def across(times: Sequence[float], duration: float) -> list[float]:
    """Times to x."""
    return [W * min(1.0, max(0.0, t / duration)) if duration > 0 else 0.0 for t in times]


def up(value: float, top: float, height: int) -> float:
    """A value to y: 0 stands at the bottom, `top` at the upper edge."""
    share = value / top if top > 0 else 0.0
    return height * (1 - min(1.0, max(0.0, share))) if math.isfinite(share) else float(height)


def polyline(xs: Sequence[float], values: Sequence[float], top: float, height: int) -> str:
    """Path data of a line; empty for no points."""
    points = (f"{coordinate(x)} {coordinate(up(v, top, height))}" for x, v in zip(xs, values, strict=True))
    return "M" + "L".join(points) if xs else ""


def area(xs: Sequence[float], values: Sequence[float], top: float, height: int) -> str:
    """Path data of the area under a line, down to the bottom of the drawing."""
    return f"{polyline(xs, values, top, height)}V{height}H{coordinate(xs[0])}Z" if xs else ""


def broken_line(xs: Sequence[float], values: Sequence[float], shown: Sequence[bool], top: float, height: int) -> str:
    """Path data of the stretches of a line where `shown` holds at two neighbours at least."""
    out, start = "", 0
    for i in range(len(xs) + 1):
        if i == len(xs) or not shown[i]:
            if i - start > 1:
                out += polyline(xs[start:i], values[start:i], top, height)
            start = i + 1
    return out


def stacked(layers: Sequence[Sequence[float]]) -> list[list[float]]:
    """Running sums: element k is the upper edge of layer k."""
    edges: list[list[float]] = []
    for layer in layers:
        below = edges[-1] if edges else [0.0] * len(layer)
        edges.append([b + v for b, v in zip(below, layer, strict=True)])
    return edges


def stack(
    xs: Sequence[float],
    layers: Sequence[tuple[str, str, Sequence[float]]],
    top: float,
    height: int,
) -> list[Html]:
    """Layers (name, class, values) from the bottom up, painted from the highest edge down: so each needs
    only its own edge. A layer that is 0 all the time is left out."""
    edges = stacked([values for _, _, values in layers])
    return [
        el("g", el("title", name), el("path", class_=f"a {key}", d=area(xs, edge, top, height)))
        for (name, key, values), edge in reversed(list(zip(layers, edges, strict=True)))
        if any(values)
    ]


def label_place(below: Sequence[float], edge: Sequence[float]) -> tuple[int, float, float] | None:
    """Where a layer is thickest between 15 and 85 % of the width: (sample, middle, thickness); of places
    within a tenth of the thickest the most central one. None without samples."""
    n = len(edge)
    if n == 0:
        return None
    inner = range(math.ceil(n * 0.15), math.floor(n * 0.85)) or range(n)
    thickest = max(edge[i] - below[i] for i in inner)
    best = min((i for i in inner if edge[i] - below[i] >= 0.9 * thickest), key=lambda i: abs(i - n / 2))
    return best, (edge[best] + below[best]) / 2, edge[best] - below[best]


def drawing(height: int, label: str, classes: str, *body: Child) -> Html:
    """The svg element; `label` is what a screen reader says."""
    return el(
        "svg",
        *body,
        class_=f"chart {classes}",
        viewBox=f"0 0 {W} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def grid(ys: Sequence[float]) -> Html:
    """Hairlines at those heights."""
    return el("path", class_="grid", d="".join(f"M0 {coordinate(y)}H{W}" for y in ys))


def time_ticks(duration: float, at_most: int = 6) -> list[float]:
    """Round times from 0 on, the end not included unless it is round."""
    if not (1e-9 < duration < 1e15):
        return [0.0]
    raw = duration / at_most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)), 10 * power)
    return [i * step for i in range(at_most + 1) if i * step <= duration * (1 + 1e-9)]


def heat_strip(xs: Sequence[float], shares: Sequence[float | None], height: int) -> list[Html]:
    """One rectangle for each stretch of equal level, class h1 to h10. xs[i] is the end of interval i;
    nothing is drawn where the share is None or below half a level."""
    out: list[Html] = []
    start, level = 0.0, 0
    ends = [0.0, *xs]
    levels = [0 if s is None else round(LEVELS * min(1.0, max(0.0, s))) for s in shares]
    for i, now in enumerate([*levels, -1]):
        if now == level:
            continue
        width = ends[i] - start
        if level > 0 and width > 0:
            out.append(el("rect", class_=f"h{level}", x=coordinate(start), width=coordinate(width), height=height))
        start, level = ends[i], now
    return out
