"""What the limit of every pod and container should be, and what is to be done about it. Pure: no files, no clock.

A container's limit is its annotation (ours before upstream's), else its claim. A pod's is its annotation, else the sum
of its containers' by Kubernetes' own rule for init containers; a container without a limit adds nothing and shares the
pod's, one whose annotation says `max` (upstream: 0) leaves the pod without. Where nobody says anything nothing is set.
An annotation that cannot be read is a fault and does not count: the claim then holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from epcgroup.agent.discover import PodGroup
from epcgroup.agent.tree import printable
from epcgroup.errors import InputError
from epcgroup.interface import EPC, UNLIMITED
from epcgroup.manifest import annotations
from epcgroup.manifest.pod import Container, Instance
from epcgroup.units import format_bytes

Mode = Literal["observe", "warn", "enforce"]
MODES: tuple[Mode, ...] = ("observe", "warn", "enforce")
Act = Literal["right", "observe", "warn", "write", "cannot"]


@dataclass(frozen=True)
class Rules:
    """What the operator decided."""

    mode: Mode = "observe"
    namespaces: Mapping[str, Mode] = field(default_factory=dict)  # name or pattern -> mode; the first that fits
    annotations: bool = True  # whether pods may set limits by annotations
    unclaimed_limit: int | None = None  # of pods that claim nothing and say nothing; None: they are left alone

    def mode_of(self, namespace: str) -> Mode:
        return next((mode for name, mode in self.namespaces.items() if fnmatchcase(namespace, name)), self.mode)


@dataclass(frozen=True)
class Limit:
    bytes: int  # UNLIMITED: there shall be none
    reason: str


@dataclass(frozen=True)
class Wanted:
    """The limits that one pod should have."""

    instance: Instance
    pod: Limit | None  # None: nobody says anything, it is left alone
    containers: Mapping[str, Limit]  # by name
    claim_bytes: int | None = None  # of the pod
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What is to be done about the limit of one group."""

    path: str
    namespace: str
    pod: str
    container: str  # empty: the pod's own group
    now: int | None  # bytes in misc.max; None: it cannot be had
    wanted: int
    act: Act
    reason: str
    obstacle: str = ""  # why nothing can be done, of `cannot`

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.pod}" + (f"/{self.container}" if self.container else "")

    def line(self, verb: str = "is") -> str:
        """Whose limit, what it should be and why, what it is (or was)."""
        now = f"{verb} {shown(self.now)}" if self.now is not None else self.obstacle
        return f"{self.name}: limit {shown(self.wanted)}, {self.reason}; {now}"


def shown(limit_bytes: int | None) -> str:
    if limit_bytes is None:
        return "-"
    return "max" if limit_bytes >= UNLIMITED else f"{limit_bytes} ({format_bytes(limit_bytes)})"


# --- what should be


def wanted(instance: Instance, rules: Rules) -> Wanted:
    """The limits of one pod and its containers."""
    said = instance.pod.annotations if rules.annotations else {}
    faults: list[str] = []
    containers = {}
    for container in instance.pod.containers:
        limit = _of_container(container, said, faults)
        if limit is not None:
            containers[container.name] = limit
    if rules.annotations:
        faults += annotations.remarks(said, [container.name for container in instance.pod.containers])
    pod = _of_pod(instance, containers, said, faults)
    if pod is None and not containers and rules.unclaimed_limit is not None:
        pod = Limit(rules.unclaimed_limit, "claims nothing: unclaimed_limit")
    for name, limit in (("the pod", pod), *containers.items()):
        if limit is not None:
            faults += annotations.below_one_page(f"{name}: a limit", limit.bytes)
    where = f"{instance.pod.namespace}/{instance.pod.name}"
    lines = tuple(f"{where}: {fault}" for fault in (*instance.pod.notes, *faults))
    return Wanted(instance, pod, containers, instance.pod.claim_bytes, lines)


def said_limit(
    container: str, annotations: Mapping[str, str], rules: Rules, fault: Callable[[str], None]
) -> Limit | None:
    """What a pod's annotations alone say about one container; `fault` takes a line for one that cannot be read."""
    faults: list[str] = []
    limit = _of_container(Container(container), annotations if rules.annotations else {}, faults)
    for line in faults:
        fault(line)
    return limit


def _of_container(container: Container, said: Mapping[str, str], faults: list[str]) -> Limit | None:
    key = annotations.container_key(said, container.name)
    limit = _said(said, key, faults) if key else None
    if limit is None and container.claim_bytes is not None:
        return Limit(container.claim_bytes, f"claim {container.resource}")
    return limit


def _of_pod(
    instance: Instance, containers: Mapping[str, Limit], said: Mapping[str, str], faults: list[str]
) -> Limit | None:
    if annotations.POD_LIMIT in said:
        limit = _said(said, annotations.POD_LIMIT, faults)
        if limit is not None:
            return limit
    if not containers:
        return None
    # Limits add up as claims do, also to more than there are numbers.
    limited = (
        replace(container, claim_bytes=containers[container.name].bytes if container.name in containers else None)
        for container in instance.pod.containers
    )
    total = replace(instance.pod, containers=tuple(limited)).claim_bytes or 0
    return Limit(min(total, UNLIMITED), "sum of its containers")


def _said(said: Mapping[str, str], key: str, faults: list[str]) -> Limit | None:
    try:
        limit = annotations.limit(said, key)
    except InputError as error:
        faults.append(f"{error}; it does not count")
        return None
    return Limit(UNLIMITED if limit is None else limit, f"annotation {key}")


# --- what is to be done


def decide(
    pods: Iterable[Wanted],
    groups: Mapping[str, PodGroup],
    seen: Mapping[str, int | None],
    rules: Rules,
    capacity_bytes: int | None,
    resource: str = EPC,
) -> list[Decision]:
    """A decision for every group for which somebody wants a limit.

    `seen` is misc.max of each group (None: not to be had); a group that is not in it has ended meanwhile.
    """
    decisions = []
    for pod in pods:
        mode = rules.mode_of(pod.instance.pod.namespace)
        for path, container, limit in limited_groups(pod, groups):
            if capacity_bytes and path not in seen:
                continue
            now = seen.get(path)
            obstacle = ""
            act: Act = "write" if mode == "enforce" else mode
            if not capacity_bytes:
                act, obstacle = "cannot", f"this node has no {resource}"
            elif now is None:
                above = printable(path.rpartition("/")[0])
                act, obstacle = "cannot", f"no {resource} in misc.max (is misc in {above}/cgroup.subtree_control?)"
            elif now == limit.bytes:
                act = "right"
            where = pod.instance.pod
            decisions.append(
                Decision(path, where.namespace, where.name, container, now, limit.bytes, act, limit.reason, obstacle)
            )
    return decisions


def limited_groups(pod: Wanted, groups: Mapping[str, PodGroup]) -> Iterator[tuple[str, str, Limit]]:
    """(path, container or "", limit) of the pod's groups that are there and should have a limit."""
    group = groups.get(pod.instance.uid)
    if group is None:
        return
    if pod.pod is not None and group.path is not None:
        yield group.path, "", pod.pod
    for identity, path in group.containers.items():
        name = pod.instance.container_ids.get(identity)
        limit = pod.containers.get(name) if name is not None else None
        if name is not None and limit is not None:
            yield path, name, limit
