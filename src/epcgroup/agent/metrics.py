"""What the agent shows to Prometheus: families of samples, read from the files when they are asked for.

Pods and limits are those of the last turn; a group that has gone since is left out. Unlimited is absent, never a
number, and so is what the kernel does not tell. Groups that claim, use and have used nothing and have no limit are left
out. Events are the kernel's own counters and know nothing of restarts of the agent; what the agent counts itself begins
at zero with its process, which rate() takes into account. Without misc.peak (before Linux 6.11) the peak is the highest
use that a scrape has seen.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from epcgroup import __version__
from epcgroup.agent.claims import account
from epcgroup.agent.discover import PodGroup
from epcgroup.agent.policy import Wanted
from epcgroup.agent.reconcile import BUCKETS, Once, Reconciler
from epcgroup.agent.tree import MISC
from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.manifest.pod import Container

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NUMA_NODES = Path("/sys/devices/system/node")

# Every family: type and help.
FAMILIES = {
    "container_sgx_epc_usage_bytes": ("gauge", "EPC that the container uses (misc.current)."),
    "container_sgx_epc_peak_bytes": ("gauge", "Most EPC that the container has used (misc.peak)."),
    "container_sgx_epc_limit_bytes": ("gauge", "The container's EPC limit (misc.max); absent without one."),
    "container_sgx_epc_request_bytes": ("gauge", "EPC that the pod's spec claims for the container."),
    "container_sgx_epc_limit_events_total": ("counter", "Charges refused by the limit (misc.events, .local)."),
    "pod_sgx_epc_usage_bytes": ("gauge", "EPC that the pod uses (misc.current)."),
    "pod_sgx_epc_peak_bytes": ("gauge", "Most EPC that the pod has used (misc.peak)."),
    "pod_sgx_epc_limit_bytes": ("gauge", "The pod's EPC limit (misc.max); absent without one."),
    "pod_sgx_epc_request_bytes": ("gauge", "EPC that the scheduler counts for the pod."),
    "pod_sgx_epc_limit_events_total": ("counter", "Charges refused by the limit (misc.events, .local)."),
    "node_sgx_epc_capacity_bytes": ("gauge", "EPC of the node, by who says so."),
    "node_sgx_epc_numa_capacity_bytes": ("gauge", "EPC of a NUMA node."),
    "node_sgx_epc_usage_bytes": ("gauge", "EPC in use on the node."),
    "node_sgx_epc_peak_bytes": ("gauge", "Most EPC that was in use on the node."),
    "node_sgx_epc_reserved_bytes": ("gauge", "EPC kept back from claims."),
    "node_sgx_epc_allocatable_bytes": ("gauge", "EPC that can be claimed: capacity less the reserve."),
    "node_sgx_epc_claimed_bytes": ("gauge", "EPC that the node's pods claim."),
    "node_sgx_epc_unclaimed_bytes": ("gauge", "Allocatable EPC that no pod claims."),
    "node_sgx_epc_overclaim_bytes": ("gauge", "EPC that pods use beyond their own claims."),
    "sgx_epc_agent_limit_writes_total": ("counter", "Writes of limits, by target and result."),
    "sgx_epc_agent_drift": ("gauge", "1 where the kernel's limit differs from what it should be."),
    "sgx_epc_agent_nri_connected": ("gauge", "1 while the container runtime has registered the NRI plugin."),
    "sgx_epc_agent_capability": ("gauge", "1 for what this node can do, 0 for what it lacks."),
    "sgx_epc_agent_last_reconcile_timestamp_seconds": ("gauge", "When limits were last looked at."),
    "sgx_epc_agent_reconcile_duration_seconds": ("histogram", "How long a look at all limits takes."),
    "sgx_epc_agent_build_info": ("gauge", "Always 1; the version of the agent."),
}


class Labels(dict[str, str]):
    """Labels of samples, and how they are written, worked out once."""

    @cached_property
    def text(self) -> str:
        """`{name="value",...}` in Prometheus' text format."""
        pairs = (f'{name}="{_escaped(value)}"' for name, value in sorted(self.items()))
        return "{" + ",".join(pairs) + "}" if self else ""


@dataclass(frozen=True)
class _Named:
    """All labels of one group; kept from scrape to scrape, as most of a scrape would be making them."""

    pod: Wanted | None  # that they were made for
    own: Labels
    request: Labels
    events: tuple[Labels, Labels]  # hierarchical, local


NONE = Labels()
Add = Callable[[str, Labels, float], None]


class NriState(Protocol):
    """What is shown of the NRI plugin."""

    connected: bool

    @property
    def available(self) -> bool: ...


class EpcCollector(Collector):
    """For any registry of prometheus_client; `text` is the same in Prometheus' text format, faster."""

    def __init__(
        self,
        reconciler: Reconciler,
        say: Callable[[str], None],
        *,
        reserve_bytes: int = 0,
        numa: Path = NUMA_NODES,
        nri: NriState | None = None,
    ) -> None:
        self._reconciler, self._tree = reconciler, reconciler.tree
        self._once = Once(say)
        self._reserve_bytes, self._numa, self._nri = reserve_bytes, numa, nri
        self._marks: dict[str, int] = {}  # path -> highest use seen, where there is no misc.peak
        self._names: dict[str, _Named] = {}  # by path
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        metrics: dict[str, Metric] = {}

        def add(name: str, labels: Labels, value: float, suffix: str = "") -> None:
            metric = metrics.get(name)
            if metric is None:
                kind, text = FAMILIES[name]
                metric = metrics[name] = Metric(name.removesuffix("_total"), text, kind)
            metric.samples.append(Sample(name + suffix, labels, value))

        with self._lock:
            self._groups_and_node(add)
            self._agent(add)
            totals = self._reconciler.totals
            for suffix, labels, value in _histogram(list(totals.turns), totals.seconds):
                add("sgx_epc_agent_reconcile_duration_seconds", labels, value, suffix)
            self._once.next_turn()
        return [metrics[name] for name in FAMILIES if name in metrics]

    def text(self) -> bytes:
        """What GET /metrics answers: the text that prometheus_client's generate_latest makes of it, sooner."""
        lines = []
        for metric in self.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            lines.append(f"# HELP {name} {metric.documentation}\n# TYPE {name} {metric.type}\n")
            for sample in metric.samples:
                # add() takes no other labels.
                labels: Labels = sample.labels  # type: ignore[assignment]
                lines.append(f"{sample.name}{labels.text} {_number(sample.value)}\n")
        return "".join(lines).encode()

    # ---- pods, containers, the node

    def _groups_and_node(self, add: Add) -> None:
        snapshot = self._reconciler.snapshot
        pods = {pod.instance.uid: pod for pod in snapshot.pods}
        old_names, self._names = self._names, {}
        old_marks, self._marks = self._marks, {}
        used = {}
        for uid, group in snapshot.groups.items():
            used[uid] = self._pod(add, group, pods.get(uid), old_names, old_marks)
        for uid, pod in pods.items():
            if uid not in snapshot.groups and pod.claim_bytes:
                add("pod_sgx_epc_request_bytes", _pod_labels(uid, pod, pod.instance.pod.qos), pod.claim_bytes)
        self._node(add, snapshot.capacity_bytes, snapshot.claims_and_use(used))

    def _pod(
        self,
        add: Add,
        group: PodGroup,
        pod: Wanted | None,
        old_names: Mapping[str, _Named],
        old_marks: Mapping[str, int],
    ) -> int:
        """The samples of a pod and its containers; what it uses, in bytes."""
        claiming = {c.name: c for c in pod.instance.pod.containers} if pod else {}
        ids = pod.instance.container_ids if pod else {}
        used = 0
        for identity, path in group.containers.items():
            container = claiming.get(ids.get(identity, ""))
            named = old_names.get(path)
            if named is None or named.pod is not pod:
                named = _container_names(group.uid, pod, ids.get(identity, ""), path, container)
            self._names[path] = named
            claim = container.claim_bytes if container else None
            used += self._group(add, "container", path, named, claim, old_marks)
        if group.path is None:
            return used
        named = old_names.get(group.path)
        if named is None or named.pod is not pod:
            named = _pod_names(group, pod)
        self._names[group.path] = named
        return self._group(add, "pod", group.path, named, pod.claim_bytes if pod else None, old_marks)

    def _group(
        self, add: Add, kind: str, path: str, named: _Named, claim: int | None, old_marks: Mapping[str, int]
    ) -> int:
        """Claim, use, peak, limit and events of one group; what it uses, in bytes."""
        use, limit = self._value(path, "misc.current"), self._value(path, "misc.max")
        peak = self._value(path, "misc.peak")
        if peak is None and use is not None:
            peak = self._marks[path] = max(use, old_marks.get(path, 0))
        limited = limit is not None and limit < UNLIMITED
        if not (use or peak or limited or claim):
            return 0
        if claim:
            add(f"{kind}_sgx_epc_request_bytes", named.request, claim)
        if use is not None:
            add(f"{kind}_sgx_epc_usage_bytes", named.own, use)
        if peak is not None:
            add(f"{kind}_sgx_epc_peak_bytes", named.own, peak)
        if limit is not None and limited:
            add(f"{kind}_sgx_epc_limit_bytes", named.own, limit)
        for labels, name in zip(named.events, ("misc.events", "misc.events.local"), strict=True):
            events = self._value(path, name)
            if events is not None:
                add(f"{kind}_sgx_epc_limit_events_total", labels, events)
        return use or 0

    def _node(self, add: Add, capacity: int | None, pods: list[tuple[int, int]]) -> None:
        if capacity is not None:
            add("node_sgx_epc_capacity_bytes", Labels(source="misc"), capacity)
        numa = self._numa_capacities()
        if numa:
            add("node_sgx_epc_capacity_bytes", Labels(source="sysfs"), sum(numa.values()))
            for node, size in numa.items():
                add("node_sgx_epc_numa_capacity_bytes", Labels(numa_node=node), size)
            capacity = sum(numa.values()) if capacity is None else capacity
        balance = account(capacity, self._reserve_bytes, pods)
        for name, value in (
            ("usage", self._value("/", "misc.current")),
            ("peak", self._value("/", "misc.peak")),
            ("reserved", balance.reserved),
            ("allocatable", balance.allocatable),
            ("claimed", balance.claimed),
            ("unclaimed", balance.unclaimed),
            ("overclaim", balance.over_claimed),
        ):
            if value is not None:
                add(f"node_sgx_epc_{name}_bytes", NONE, value)

    def _numa_capacities(self) -> dict[str, int]:
        """EPC of each NUMA node by its number, as mainline's sysfs says it."""
        sizes = {}
        for file in sorted(self._numa.glob("node[0-9]*/x86/sgx_total_bytes")):
            try:
                sizes[file.parts[-3].removeprefix("node")] = int(file.read_text())
            except (OSError, ValueError) as error:
                self._once(f"{file}: cannot be read ({error})")
        return sizes

    def _value(self, path: str, name: str) -> int | None:
        try:
            if name.startswith("misc.events"):
                return self._tree.events(path, name)
            return self._tree.value(path, name)
        except InputError as error:
            self._once(str(error))
            return None

    # ---- the agent itself

    def _agent(self, add: Add) -> None:
        snapshot, totals = self._reconciler.snapshot, self._reconciler.totals
        for (target, result), count in sorted(totals.writes.items()):
            add("sgx_epc_agent_limit_writes_total", Labels(target=target, result=result), count)
        drift: dict[tuple[str, str, str], bool] = {}  # a pod that replaces another may have its name for a while
        for outcome in snapshot.outcomes:
            decision = outcome.decision
            if decision.now is not None and outcome.result != "gone":
                name = decision.namespace, decision.pod, decision.container
                drift[name] = outcome.drift or drift.get(name, False)
        for (namespace, pod, container), drifts in drift.items():
            add("sgx_epc_agent_drift", Labels(namespace=namespace, pod=pod, container=container), drifts)
        if self._nri is not None:
            add("sgx_epc_agent_nri_connected", NONE, self._nri.connected)
        for feature, there in self._capabilities().items():
            add("sgx_epc_agent_capability", Labels(feature=feature), there)
        if snapshot.at:
            add("sgx_epc_agent_last_reconcile_timestamp_seconds", NONE, snapshot.at)
        add("sgx_epc_agent_build_info", Labels(version=__version__), 1)

    def _capabilities(self) -> dict[str, bool]:
        snapshot = self._reconciler.snapshot
        try:
            controllers = self._tree.words("/", "cgroup.controllers") or []
        except InputError as error:
            self._once(str(error))
            controllers = []
        features = {
            "misc_controller": MISC in controllers,
            "sgx_epc_resource": bool(snapshot.capacity_bytes),
            "peak": self._tree.has("/", "misc.peak"),
        }
        pods = (group.path for group in snapshot.groups.values() if group.path is not None)
        limited = next((path for path in pods if self._tree.has(path, "misc.max")), None)
        if limited is not None:
            features["events_local"] = self._tree.has(limited, "misc.events.local")
        if self._nri is not None:
            features["nri"] = self._nri.available
        return features


def _name(pod: Wanted | None) -> dict[str, str]:
    """Empty for a pod that no source knows."""
    if pod is None:
        return {"namespace": "", "pod": ""}
    return {"namespace": pod.instance.pod.namespace, "pod": pod.instance.pod.name}


def _pod_labels(uid: str, pod: Wanted | None, qos: str) -> Labels:
    return Labels(_name(pod), uid=uid, qos=qos)


def _pod_names(group: PodGroup, pod: Wanted | None) -> _Named:
    own = _pod_labels(group.uid, pod, group.qos)
    return _Named(pod, own, own, _scopes(Labels(_name(pod), uid=group.uid)))


def _container_names(
    uid: str, pod: Wanted | None, name: str, path: str, container: Container | None
) -> _Named:
    own = Labels(_name(pod), container=name, id=_clean(path), uid=uid)
    resource = container.resource if container else None
    return _Named(pod, own, Labels(own, resource=resource or ""), _scopes(own))


def _scopes(labels: Labels) -> tuple[Labels, Labels]:
    return Labels(labels, scope="hierarchical"), Labels(labels, scope="local")


def _histogram(turns: list[int], seconds: float) -> Iterator[tuple[str, Labels, float]]:
    """(suffix, labels, value) of its samples."""
    ends = (*map(_number, BUCKETS), "+Inf")
    for end, count in zip(ends, accumulate(turns), strict=True):
        yield "_bucket", Labels(le=end), count
    yield "_count", NONE, sum(turns)
    yield "_sum", NONE, seconds


def _number(value: float) -> str:
    return floatToGoString(value)  # type: ignore[no-untyped-call,no-any-return]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _clean(path: str) -> str:
    """A path as UTF-8 text: names of groups may hold any bytes."""
    return path if path.isascii() else path.encode("utf-8", "backslashreplace").decode()
