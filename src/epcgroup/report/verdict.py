"""The one sentence that says what happened, made from the numbers of a comparison and nothing else.

It speaks of the first run without limits and the first with limits. Pods that failed come first, then who
uses more than it claims, what that did to the others without limits, and what limits changed. Pod names
stand in backquotes.
"""

from collections.abc import Sequence

from epcgroup.report.figures import clean, factor, percent, seconds, size
from epcgroup.report.metrics import Comparison, Group, PodMetrics

SLOWED = 1.1  # a slowdown from here on is worth a word
LOST = 0.1  # the same for the share of time lost, where no alone run gives a slowdown
BETTER = 0.9  # limits helped when what a pod suffers fell below this part of it


def verdict(comparison: Comparison) -> str:
    """One sentence with its full stop."""
    free, limited = comparison.first("unlimited"), comparison.first("limited")
    if not comparison.pods:
        return "Nothing ran: there was no pod to run."
    parts = _failures(comparison.first("alone"), free, limited)
    if len(comparison.pods) == 1:
        parts += _one_pod(comparison)
    elif free is None and limited is None:
        parts += _only_alone(comparison)
    else:
        parts += _many_pods(comparison, free, limited)
    return "; ".join(parts or ["no pod touched its EPC"]) + "."


# What a row says.


def _well(row: PodMetrics) -> bool:
    """The pod was there and worked, so that its numbers mean something."""
    return row.state == "ran"


def _suffers(row: PodMetrics) -> float:
    """How badly: the slowdown, or where it is unknown 1 / (1 - share of time lost)."""
    if row.slowdown is not None:
        return row.slowdown
    return 1 / max(1 - (row.lost or 0.0), 1e-3)


def _slowed(row: PodMetrics) -> bool:
    """Slowed by paging, so much that it is worth a word."""
    if not _well(row) or _waits(row):
        return False
    return row.slowdown >= SLOWED if row.slowdown is not None else (row.lost or 0.0) >= LOST


def _waits(row: PodMetrics) -> bool:
    """Slower than alone, but more for want of a CPU than of EPC."""
    waiting = row.waiting or 0.0
    return (row.slowdown or 0.0) >= SLOWED and waiting > (row.lost or 0.0)


def _pace(row: PodMetrics) -> str:
    if row.slowdown is not None:
        return factor(row.slowdown)
    return f"{percent(row.lost)} % of its time lost"


def _name(row: PodMetrics) -> str:
    return f"`{clean(row.pod)}`"


def _listed(words: Sequence[str], rest: int = 0) -> str:
    """a; a and b; a, b and c; a, b and 5 more."""
    words = [*words, f"{rest} more"] if rest > 0 else list(words)
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _names(rows: Sequence[PodMetrics], at_most: int = 2) -> str:
    return _listed([_name(row) for row in rows[:at_most]], len(rows) - at_most)


def _paced(rows: Sequence[PodMetrics], at_most: int = 2) -> str:
    """`web` (7.4x) and `db` (3.1x), the worst first."""
    rows = sorted(rows, key=_suffers, reverse=True)
    return _listed([f"{_name(row)} ({_pace(row)})" for row in rows[:at_most]], len(rows) - at_most)


def _verb(rows: Sequence[PodMetrics], one: str) -> str:
    """The verb for one pod or for several: pages, page."""
    return one if len(rows) == 1 else one.removesuffix("s")


def _claim(row: PodMetrics) -> str:
    if row.claim_bytes is None:
        return f"{_name(row)} claims no EPC and uses {size(row.use_bytes)}"
    return f"{_name(row)} claims {size(row.claim_bytes)} and uses {size(row.use_bytes)}"


# Parts of the sentence.


def _failures(*groups: Group | None) -> list[str]:
    """Pods that were refused, ended early or got stuck, each in the first run where it happened."""
    said: set[str] = set()
    parts: list[str] = []
    words = {"unlimited": "without limits", "limited": "with limits", "alone": "even alone on the node"}
    for group in groups:
        for row in group.rows if group else ():
            if group is None or row.state in ("ran", "idle") or row.pod in said:
                continue
            said.add(row.pod)
            if row.state == "stuck":
                parts.append(
                    f"{_name(row)} makes no progress {words[group.kind]} after {seconds(row.stuck_since)}: "
                    f"{row.refused_charges:,} charges were refused and it faults again and again (livelock)"
                )
            else:
                done = "never ran" if row.state == "refused" else "did not last"
                parts.append(f"{_name(row)} {done} {words[group.kind]} ({clean(row.outcome)})")
    return parts if len(parts) <= 3 else [*parts[:2], f"{len(parts) - 2} more pods failed, see the table"]


def _one_pod(comparison: Comparison) -> list[str]:
    rows = [group.rows[0] for group in comparison.groups if group.rows and _well(group.rows[0])]
    if not rows:
        return []
    said = [f"{_claim(rows[0])} on a node with {size(comparison.epc_bytes)} of EPC"]
    alone, limited = comparison.first("alone"), comparison.first("limited")
    base = alone.rows[0] if alone and alone.rows and _well(alone.rows[0]) else None
    if base is not None and (base.lost or 0.0) >= LOST:
        said.append(f"it pages even without limits and loses {percent(base.lost)} % of its time to it")
    elif base is not None:
        said.append("it fits and does not page" if not base.page_ins_per_s else "it hardly pages")
    held = limited.rows[0] if limited and limited.rows and _well(limited.rows[0]) else None
    if held is not None and _slowed(held) and held.limit_bytes is not None:
        said.append(f"its limit of {size(held.limit_bytes)} is too small for it ({_pace(held)})")
    elif held is not None:
        said.append(
            f"with its limit it runs at {factor(held.slowdown)}" if held.slowdown else "its limit costs nothing"
        )
    return said


def _only_alone(comparison: Comparison) -> list[str]:
    rows = [row for group in comparison.groups for row in group.rows if _well(row)]
    paging = [row for row in rows if (row.lost or 0.0) >= LOST]
    if not rows:
        return []
    if not paging:
        return ["each pod fits in EPC when it is alone; they were not run together"]
    lost = max(row.lost or 0.0 for row in paging)
    return [f"{_names(paging)} {_verb(paging, 'pages')} even alone (up to {percent(lost)} % of the time)"]


def _many_pods(comparison: Comparison, free: Group | None, limited: Group | None) -> list[str]:
    shared = free or limited
    assert shared is not None
    over = [row for row in shared.rows if row.over_claim and row.state != "refused"]
    slowed = [row for row in free.rows if _slowed(row)] if free else []
    victims = [row for row in slowed if not row.over_claim]
    parts = [_asked(comparison, shared, over)]
    if free is not None and any(_well(row) for row in free.rows):
        parts.append(_without_limits(free, over, slowed, victims))
    if limited is not None and any(_well(row) for row in limited.rows):
        parts += _with_limits(free, limited, slowed, victims)
    waiting = [row for row in shared.rows if _well(row) and _waits(row)]
    if waiting:
        parts.append(f"{_paced(waiting)} {_verb(waiting, 'waits')} for a CPU, not for EPC")
    return parts


def _asked(comparison: Comparison, shared: Group, over: Sequence[PodMetrics]) -> str:
    if len(over) > 2:
        worst = max(over, key=lambda row: row.use_bytes - (row.claim_bytes or 0))
        return f"{len(over)} of {len(shared.rows)} pods use more than they claim (most: {_claim(worst)})"
    if over:
        return _listed([_claim(row) for row in over])
    claims = sum(row.claim_bytes or 0 for row in shared.rows)
    if claims > comparison.epc_bytes:
        return (
            f"nobody uses more than it claims, but the claims add up to {size(claims)} "
            f"on a node with {size(comparison.epc_bytes)} of EPC"
        )
    return "nobody uses more than it claims"


def _without_limits(
    free: Group, over: Sequence[PodMetrics], slowed: Sequence[PodMetrics], victims: Sequence[PodMetrics]
) -> str:
    if not slowed:
        use = sum(row.use_bytes for row in free.rows)
        if use <= free.epc_bytes:
            fits = f"everything fits ({size(use)} of {size(free.epc_bytes)})"
            return f"{fits} and nobody is slowed even without limits"
        return "without limits nobody is slowed"
    if not over:
        return f"without limits {_paced(slowed)} {'slow each other' if len(slowed) > 1 else 'is slowed'}"
    if not victims:
        return f"without limits {_paced(slowed)} {_verb(slowed, 'slows')} only {_self(slowed)}"
    worst = sorted(victims, key=_suffers, reverse=True)
    subject = "it" if len(over) == 1 else "they"
    if all(row.slowdown is not None for row in worst[:2]):
        hit = _listed([f"{_name(row)} {_pace(row)}" for row in worst[:2]], len(worst) - 2)
        return f"without limits {subject} slowed {hit}"
    hit = _listed([f"{_name(row)} {percent(row.lost)} % of its time" for row in worst[:2]], len(worst) - 2)
    return f"without limits {subject} cost {hit}"


def _self(rows: Sequence[PodMetrics]) -> str:
    return "itself" if len(rows) == 1 else "themselves"


def _with_limits(
    free: Group | None, limited: Group, slowed: Sequence[PodMetrics], victims: Sequence[PodMetrics]
) -> list[str]:
    """What limits changed for those who suffered without them, who pays now, and who suffers only because
    of them."""
    now = {row.pod: row for row in limited.rows if _well(row)}
    before = {row.pod: row for row in (victims or slowed)}
    after = [now[pod] for pod in before if pod in now]
    payers = [row for row in now.values() if row.over_claim and _slowed(row)]
    newly = [row for row in now.values() if _slowed(row) and not row.over_claim and row.pod not in before]
    parts: list[str] = []
    if free is None:
        suffering = [row for row in now.values() if _slowed(row)]
        if not suffering:
            return ["with limits nobody is slowed"]
        return [f"with limits {_paced(suffering)} {'is' if len(suffering) == 1 else 'are'} slowed"]
    if after and not any(_slowed(row) for row in after):
        but = " and" if len(after) == 1 and len(payers) == 1 else ", while"
        pays = f"{but} {_names(payers)} {_pays(payers)}" if payers and victims else ""
        parts.append(f"with limits {_runs_at(after)}{pays}")
    elif after:
        helped = [row for row in after if _suffers(row) < BETTER * _suffers(before[row.pod])]
        if not helped and not victims and len(payers) == len(after):
            parts.append(f"with limits {_names(payers)} {_pays(payers)}")
        elif not helped:
            why = _why_no_help(limited)
            parts.append(f"limits made nothing better: {_paced(after)}{why}")
        else:
            still = [row for row in after if _slowed(row)]
            parts.append(f"limits help but not enough: {_paced(still)} still")
        if payers and victims:
            parts.append(f"{_names(payers)} {_pays(payers)}")
    elif payers or newly:
        squeezed = [*payers, *newly]
        fits = sum(row.use_bytes for row in limited.rows) <= limited.epc_bytes
        room = " while EPC has room" if fits else ""
        what = "its limit is" if len(squeezed) == 1 else "their limits are"
        pages = f"{_paced(squeezed)} {_verb(squeezed, 'pages')} against {_self(squeezed)}"
        return [f"with limits {pages}{room}: {what} too small"]
    elif not before:
        parts.append("limits change nothing")
    if newly:
        parts.append(f"{_paced(newly)} {'is' if len(newly) == 1 else 'are'} slowed by {_own(newly)}")
    return parts


def _runs_at(rows: Sequence[PodMetrics]) -> str:
    worst = sorted(rows, key=_suffers, reverse=True)
    s = "s" if len(rows) == 1 else ""
    if any(row.slowdown is None for row in rows):
        return f"{_names(worst)} lose{s} {percent(max(row.lost or 0.0 for row in rows))} % of the time"
    if len(rows) > 2 or len({_pace(row) for row in rows}) == 1:
        who = _names(worst) if len(rows) <= 2 else f"all {len(rows)} of them"
        return f"{who} run{s} at {_pace(worst[0])}{' or better' if len(rows) > 2 else ''}"
    return _listed([f"{_name(row)} runs at {_pace(row)}" for row in worst])


def _pays(rows: Sequence[PodMetrics]) -> str:
    worst = max(rows, key=_suffers)
    return f"pays for itself ({_pace(worst)})" if len(rows) == 1 else f"pay for themselves (up to {_pace(worst)})"


def _own(rows: Sequence[PodMetrics]) -> str:
    return "its own limit" if len(rows) == 1 else "their own limits"


def _why_no_help(limited: Group) -> str:
    if any(row.limit_bytes is None for row in limited.rows):
        return ", as not every pod has a limit"
    limits = sum(row.limit_bytes or 0 for row in limited.rows)
    if limits > limited.epc_bytes:
        return f", as the limits add up to {size(limits)} of {size(limited.epc_bytes)} EPC"
    return ""
