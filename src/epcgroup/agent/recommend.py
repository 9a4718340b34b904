"""Which limit a container's own past recommends: the peak of its EPC use and some headroom. Pure: no files, no clock.

A peak is evidence only of what nothing held down. A container that met its limit, or its pod's, would have used more:
nothing is recommended. Where the node itself was full the peak is a lower bound, and says so. A group's peak begins
with the group: it knows nothing of the container's earlier starts, nor of busier days to come.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from epcgroup.agent.discover import PodGroup
from epcgroup.agent.policy import Wanted, shown
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import annotations
from epcgroup.units import PAGE_SIZE, format_bytes

HEADROOM_PERCENT = 25
# With fewer free pages than this the kernel is writing pages of all groups out, or is about to.
NEARLY_FULL = 64 * PAGE_SIZE


@dataclass(frozen=True)
class Use:
    """What the files say of one group, in bytes; None: not to be had."""

    peak: int | None
    limit: int | None  # UNLIMITED: none

    @property
    def held_down(self) -> bool:
        """Whether its limit kept it from using more. Charges are whole pages, a limit need not be."""
        if self.peak is None or self.limit is None or self.limit >= UNLIMITED:
            return False
        return self.peak // PAGE_SIZE >= self.limit // PAGE_SIZE


@dataclass(frozen=True)
class Advice:
    """For one container: a limit, or (None) the reason why there is none."""

    namespace: str
    pod: str
    container: str
    claim_bytes: int | None
    limit_bytes: int | None
    reason: str


def advise(
    pods: Iterable[Wanted],
    groups: Mapping[str, PodGroup],
    uses: Mapping[str, Use],
    *,
    headroom_percent: int = HEADROOM_PERCENT,
    node_was_full: bool = False,
) -> Iterator[Advice]:
    """Advice for every container that claims EPC or has used some, in the order of the pods; `uses` by path."""
    for pod in pods:
        where = pod.instance.pod
        group = groups.get(pod.instance.uid, PodGroup(pod.instance.uid, where.qos))
        whole = uses.get(group.path) if group.path is not None else None
        paths = {pod.instance.container_ids.get(identity): path for identity, path in group.containers.items()}
        for container in where.containers:
            own = uses.get(paths[container.name]) if container.name in paths else None
            if not container.claim_bytes and not (own and own.peak):
                continue
            limit, reason = _of(own, whole, headroom_percent, node_was_full)
            yield Advice(where.namespace, where.name, container.name, container.claim_bytes, limit, reason)


def _of(own: Use | None, pod: Use | None, headroom_percent: int, node_was_full: bool) -> tuple[int | None, str]:
    if own is None:
        return None, "it is not running"
    if own.peak is None:
        return None, "its group has no misc.peak (Linux 6.11 or newer, misc enabled down to it)"
    if own.peak == 0:
        return None, "it has used none yet"
    peak = f"peak {format_bytes(own.peak)}"
    for use, whose in ((own, "its"), (pod, "its pod's")):
        if use is not None and use.held_down:
            return None, f"{peak} is no evidence: {whose} limit {shown(use.limit)} held it down; raise it, look again"
    with_headroom = -(-own.peak * (100 + headroom_percent) // 100)
    pages = -(-with_headroom // PAGE_SIZE)
    weak = ", at least: the node's EPC was full" if node_was_full else ""
    return pages * PAGE_SIZE, f"{peak} + {headroom_percent}%{weak}"


def lines(advice: Iterable[Advice], allocatable_bytes: int | None) -> Iterator[str]:
    """YAML to paste from: annotations by pod, the reasons as comments; then what all limits come to."""
    pod = None
    opened = False  # whether the pod has its `metadata:` yet
    total = nothing = 0
    for one in advice:
        if (one.namespace, one.pod) != pod:
            pod, opened = (one.namespace, one.pod), False
            yield f"# {one.namespace}/{one.pod}"
        claim = f"claims {format_bytes(one.claim_bytes)}" if one.claim_bytes else "claims nothing"
        if one.limit_bytes is None:
            yield f"# {one.container}: no limit: {one.reason}; {claim}"
            nothing += 1
            continue
        if not opened:
            yield from ("metadata:", "  annotations:")
            opened = True
        total += one.limit_bytes
        yield f"    {annotations.LIMIT}{one.container}: {one.limit_bytes >> 10}Ki  # {one.reason}; {claim}"
    if pod is None:
        yield "# no container claims or has used EPC"
        return
    of = "" if allocatable_bytes is None else f" of {format_bytes(allocatable_bytes)} allocatable"
    without = f"; {nothing} without" if nothing else ""
    yield f"# together {format_bytes(total)}{of}{without}"
