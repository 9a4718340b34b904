"""From runs to numbers: pure functions, each with its formula.

A share is 0..1, a rate is per second of the pod's life in that run, a time is seconds. None means "not
applicable" or "cannot be known from this record" and is never replaced by a guess; what the record lacks (a
list that is shorter than `Run.times`, a run without its alone run) gives None or counts as nothing, so
every record has its numbers.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from epcgroup.trace import LIVE, STALL_BUCKETS_PER_OCTAVE, PodRun, Run, RunSet

Kind = Literal["alone", "unlimited", "limited"]
State = Literal["ran", "idle", "stuck", "ended", "refused"]

# A pod is stuck when its charges are refused this often, for this share of the run, with no touch completed.
STUCK_REFUSALS = 100
STUCK_SHARE = 0.2


def ratio(amount: float, by: float) -> float | None:
    """amount / by; None when that is no finite number or `by` is not above zero."""
    try:
        value = amount / by if by > 0 else math.nan
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def life_seconds(run: Run, pod: PodRun) -> float:
    """How long the pod was there: until `ended_at`, at most the run's duration."""
    return run.duration if pod.ended_at is None else max(0.0, min(pod.ended_at, run.duration))


def mean_bytes(run: Run, pod: PodRun) -> float | None:
    """EPC used, mean over the pod's life: the trapezoids between its samples over the time from first to
    last."""
    points = [
        (t, u) for t, u in zip(run.times, pod.s_usage_bytes, strict=False) if pod.ended_at is None or t <= pod.ended_at
    ]
    if not points:
        return None
    area = sum((t1 - t0) * (u0 + u1) / 2 for (t0, u0), (t1, u1) in itertools.pairwise(points))
    mean = ratio(area, points[-1][0] - points[0][0])
    return float(points[-1][1]) if mean is None else mean


def peak_bytes(pod: PodRun) -> int | None:
    """EPC used, the highest sample; a peak between two samples is not in the record."""
    return max(pod.s_usage_bytes, default=None)


def lost_share(pod: PodRun) -> float | None:
    """Share of time lost to paging: stall / (busy + stall). None when the pod did neither."""
    return ratio(pod.stall_seconds, pod.busy_seconds + pod.stall_seconds)


def wait_share(pod: PodRun) -> float | None:
    """Share of time spent waiting for a CPU: wait / (busy + stall + wait)."""
    return ratio(pod.wait_seconds, pod.busy_seconds + pod.stall_seconds + pod.wait_seconds)


def touch_rate(pod: PodRun) -> float | None:
    """Touches per thread-second: touches / (busy + stall + wait).

    Building the enclave, sleeping between bursts and the time after the pod's end are left out, so that the
    rate of a run of 10 s can be compared with one of 3 s. None for a pod that touched nothing.
    """
    rate = ratio(pod.touches, pod.busy_seconds + pod.stall_seconds + pod.wait_seconds)
    return rate if rate is not None and rate > 0 else None


def slowdown(alone: PodRun | None, here: PodRun) -> float | None:
    """Touch rate alone / touch rate here: 1.0 is as fast as alone.

    None without an alone run of the same work (`use_bytes` and `workload`), or when either of the two
    touched nothing.
    """
    if alone is None or (alone.use_bytes, alone.workload) != (here.use_bytes, here.workload):
        return None
    fast, slow = touch_rate(alone), touch_rate(here)
    return None if fast is None or slow is None else ratio(fast, slow)


def stall_quantile(histogram: Sequence[int], share: float = 0.99) -> float | None:
    """Seconds that `share` of the stalls did not reach: the upper bound of the bucket that holds stall
    number ceil(share * N), counted from the shortest. Bucket i ends at 2**((i+1)/4) ns, so the true value
    is at most 16 % (one bucket) smaller. None without stalls."""
    total = sum(histogram)
    if total <= 0:
        return None
    wanted, seen = math.ceil(share * total), 0
    for i, count in enumerate(histogram):
        seen += count
        if seen >= wanted:
            return float(2 ** ((i + 1) / STALL_BUCKETS_PER_OCTAVE) * 1e-9)
    return None


def stuck_since(run: Run, pod: PodRun) -> float | None:
    """Second after which no touch completed while charges went on being refused; None for a pod that moves
    on.

    Wants STUCK_REFUSALS refusals after the last touch and STUCK_SHARE of the run; without samples, no touch
    at all.
    """
    if not pod.s_touches or not pod.s_max_events:
        return 0.0 if pod.touches == 0 and pod.max_events >= STUCK_REFUSALS else None
    samples = list(zip(run.times, pod.s_touches, pod.s_max_events, strict=False))
    since, refused_before, touches = 0.0, 0, 0
    for time, count, refused in samples:
        if count > touches:
            since, refused_before, touches = time, refused, count
    if pod.touches > touches or not samples:
        return None
    long_enough = life_seconds(run, pod) - since >= STUCK_SHARE * run.duration
    return since if long_enough and pod.max_events - refused_before >= STUCK_REFUSALS else None


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """One row of the comparison: one pod in one run."""

    pod: str
    run: str  # the run's label
    claim_bytes: int | None
    limit_bytes: int | None
    use_bytes: int
    workload: str
    outcome: str
    state: State
    seconds: float  # of the pod's life
    mean_bytes: float | None
    peak_bytes: int | None
    page_ins_per_s: float | None
    page_outs_per_s: float | None
    page_ins_per_1000: float | None  # touches
    page_outs_per_1000: float | None
    outs_by_others: float | None  # share of the page-outs that other pods or ksgxd did
    lost: float | None  # share of time lost to paging
    waiting: float | None  # share of time waiting for a CPU
    touch_rate: float | None  # per thread-second
    slowdown: float | None
    p99_stall_s: float | None
    refused_charges: int
    stuck_since: float | None

    @property
    def over_claim(self) -> bool:
        """Uses more than it claims (a pod that claims no size is over as soon as it uses any)."""
        return self.use_bytes > (self.claim_bytes or 0)


@dataclass(frozen=True, slots=True)
class Group:
    """One block of the comparison: one run of all pods, or all the alone runs of one series together."""

    kind: Kind
    label: str
    series: str
    epc_bytes: int
    duration: float
    ended_early: str | None
    rows: tuple[PodMetrics, ...]
    live: bool = False

    def row(self, pod: str) -> PodMetrics | None:
        return next((row for row in self.rows if row.pod == pod), None)

    @property
    def limits_are_claims(self) -> bool:
        return bool(self.rows) and all(row.limit_bytes == row.claim_bytes for row in self.rows)

    @property
    def title(self) -> str:
        """What ran, in words: "all pods, limits = claims (v17)"."""
        words = {
            "alone": "each pod alone on the node",
            "unlimited": "all pods, no limits",
            "limited": f"all pods, {'limits = claims' if self.limits_are_claims else 'with limits'}",
        }
        early = f" - {self.ended_early}" if self.ended_early else ""
        how = f"{self.series}, live" if self.live else self.series
        return f"{words.get(self.kind, self.label)} ({how}){early}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows per pod and run: the simulated ones, then the live ones, of each the alone runs first."""

    title: str
    groups: tuple[Group, ...]

    @property
    def pods(self) -> tuple[str, ...]:
        """Names in order of first appearance in a run of all pods, then of the alone runs."""
        shared = [row.pod for group in self.groups if group.kind != "alone" for row in group.rows]
        return tuple(dict.fromkeys(shared + [row.pod for group in self.groups for row in group.rows]))

    @property
    def epc_bytes(self) -> int:
        return max((group.epc_bytes for group in self.groups), default=0)

    def first(self, kind: Kind) -> Group | None:
        """The first group of that kind, of the live ones if there are any: what the one-sentence verdict speaks of."""
        live = any(group.live for group in self.groups)
        return next((group for group in self.groups if group.kind == kind and group.live == live), None)

    @property
    def pairs(self) -> list[tuple[Group, Group]]:
        """Each live group behind the simulated one of the same run."""
        simulated = {group.label: group for group in self.groups if not group.live}
        found = [(simulated.get(group.label.removeprefix(LIVE)), group) for group in self.groups if group.live]
        return [(predicted, measured) for predicted, measured in found if predicted is not None]


def agreement(predicted: float | None, measured: float | None) -> float | None:
    """measured / predicted; 1.0 when both are the same, zero too."""
    if predicted is None or measured is None:
        return None
    return 1.0 if predicted == measured else ratio(measured, predicted)


def pod_state(run: Run, pod: PodRun) -> State:
    """In a word: refused (ended before its first touch), ended (later), stuck, idle (touched nothing), ran.

    An outcome that begins with "finished" is a pod whose work was done, which is as good as "ran".
    """
    if pod.outcome != "ran" and not pod.outcome.startswith("finished"):
        return "ended" if pod.touches > 0 else "refused"
    if stuck_since(run, pod) is not None:
        return "stuck"
    return "ran" if pod.touches > 0 else "idle"


def pod_metrics(run: Run, pod: PodRun, alone: PodRun | None) -> PodMetrics:
    """All numbers of one pod in one run; `alone` is the same pod alone on the node, if there is such a
    run."""
    seconds = life_seconds(run, pod)
    return PodMetrics(
        pod=pod.name,
        run=run.label,
        claim_bytes=pod.claim_bytes,
        limit_bytes=pod.limit_bytes,
        use_bytes=pod.use_bytes,
        workload=pod.workload,
        outcome=pod.outcome,
        state=pod_state(run, pod),
        seconds=seconds,
        mean_bytes=mean_bytes(run, pod),
        peak_bytes=peak_bytes(pod),
        page_ins_per_s=ratio(pod.page_ins, seconds),
        page_outs_per_s=ratio(pod.page_outs, seconds),
        page_ins_per_1000=ratio(1000 * pod.page_ins, pod.touches),
        page_outs_per_1000=ratio(1000 * pod.page_outs, pod.touches),
        outs_by_others=ratio(pod.page_outs_by_others, pod.page_outs),
        lost=lost_share(pod),
        waiting=wait_share(pod),
        touch_rate=touch_rate(pod),
        slowdown=slowdown(alone, pod),
        p99_stall_s=stall_quantile(pod.stalls),
        refused_charges=pod.max_events,
        stuck_since=stuck_since(run, pod),
    )


def compare(run_set: RunSet) -> Comparison:
    """One group for the alone runs of each series, one for each run of all pods."""
    alone_runs = [run for run in run_set.runs if run.kind == "alone"]

    def alone_of(run: Run, pod: PodRun) -> PodRun | None:
        """The pod's alone run, simulated or live as this one is, in the same series if there is one."""
        runs = sorted((r for r in alone_runs if r.live == run.live), key=lambda other: other.series != run.series)
        return next((p for other in runs for p in other.pods if p.name == pod.name), None)

    def group(kind: Kind, runs: Sequence[Run]) -> Group:
        early = next((run.ended_early for run in runs if run.ended_early), None)
        rows = tuple(pod_metrics(run, p, alone_of(run, p)) for run in runs for p in run.pods)
        label = runs[0].label if len(runs) == 1 else kind
        epc = max(run.epc_bytes for run in runs)
        duration = max(run.duration for run in runs)
        return Group(kind, label, runs[0].series, epc, duration, early, rows, runs[0].live)

    groups: list[Group] = []
    for live in (False, True):
        by_series: dict[str, list[Run]] = {}
        for run in alone_runs:
            if run.live == live:
                by_series.setdefault(run.series, []).append(run)
        groups += [group("alone", runs) for runs in by_series.values()]
        groups += [group(run.kind, [run]) for run in run_set.runs if run.kind != "alone" and run.live == live]
    return Comparison(run_set.title, tuple(groups))


# Over time: what the page draws.


def pick(count: int, at_most: int) -> list[int]:
    """Which of `count` samples to draw: all, or `at_most` evenly spaced ones with the first and the last.

    Gauges of picked samples are states the node was in, and the difference of a counter between two of them
    is exact: nothing is averaged away but what lies between.
    """
    if count <= at_most:
        return list(range(count))
    return [round(i * (count - 1) / (at_most - 1)) for i in range(at_most)]


def at_samples(values: Sequence[float], picked: Sequence[int]) -> list[float]:
    """The samples at those places; a list that is too short counts as 0 there."""
    return [float(values[i]) if i < len(values) else 0.0 for i in picked]


def increases(values: Sequence[float], picked: Sequence[int]) -> list[float]:
    """A counter's growth up to each picked sample since the one before; the first is its growth since 0."""
    there = at_samples(values, picked)
    return [max(0.0, b - a) for a, b in zip([0.0, *there], there, strict=False)]


def rates(times: Sequence[float], values: Sequence[float], picked: Sequence[int]) -> list[float]:
    """A counter's growth per second in the interval that ends at each picked sample."""
    there = at_samples(times, picked)
    return [
        ratio(grown, t1 - t0) or 0.0
        for grown, t0, t1 in zip(increases(values, picked), [0.0, *there], there, strict=False)
    ]


def lost_over_time(pod: PodRun, picked: Sequence[int]) -> list[float | None]:
    """Share of time lost to paging in the interval that ends at each picked sample.

    Stall is sampled, busy time is not: it is the interval's touches times the run's mean busy time of a
    touch. None where the pod neither touched nor stalled.
    """
    busy_of_a_touch = ratio(pod.busy_seconds, pod.touches) or 0.0
    stalls, touches = increases(pod.s_stall_seconds, picked), increases(pod.s_touches, picked)
    return [ratio(s, s + t * busy_of_a_touch) for s, t in zip(stalls, touches, strict=False)]
