"""What is to be simulated, as plain records: the node, the pods on it, their limits, and what happens when.

Made from manifests (`pods_from_manifests`) or from a scenario file (sim/scenario.py); run by sim/node.py. A
manifest says what a pod claims, not what it does: unless told otherwise a pod touches exactly what it claims,
uniformly, SECS and version-array pages included, with one thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from epcgroup.errors import InputError, nearest
from epcgroup.interface import UNLIMITED
from epcgroup.manifest import annotations, cgroup_path
from epcgroup.manifest.pod import Pod
from epcgroup.sim.cost import CostProfile, profile
from epcgroup.sim.workload import Workload, WorkloadSpec, parse_workload
from epcgroup.units import PAGE_SIZE, format_bytes, pages_down, parse_bytes, quoted

MAX_PODS = 2000
MAX_ENCLAVE_BYTES = 64 * 2**30  # largest enclave of today's processors (machine.MAX_ENCLAVE_PAGES)
MIN_ENCLAVE_BYTES = 3 * PAGE_SIZE  # SECS, a version array page, one page of its own
MAX_SECTIONS, MAX_NUMA_NODES = 8, 4  # of a simulated node
MAX_EPC_BYTES = 8 * 2**40
MAX_USE_BYTES = 8 * 2**40  # of all pods: what the tables of pages have room for
DEFAULT_WORKLOAD = "uniform"
COMPARE = ("alone", "none", "claims")
COMPARABLE = (*COMPARE, "v2", "v17")


@dataclass(frozen=True)
class SectionPlan:
    node: int  # NUMA node
    size_bytes: int


@dataclass(frozen=True)
class NodePlan:
    sections: tuple[SectionPlan, ...]
    cpus: int = 8  # logical CPUs
    costs: CostProfile = field(default_factory=lambda: profile("default"))
    sgx2: bool = True

    def __post_init__(self) -> None:
        """InputError for a node that cannot be booted."""
        nodes = {s.node for s in self.sections}
        if not 1 <= len(self.sections) <= MAX_SECTIONS or len(nodes) > MAX_NUMA_NODES:
            raise InputError(
                f"{len(self.sections)} EPC sections on {len(nodes)} NUMA nodes; "
                f"1 to {MAX_SECTIONS} sections on at most {MAX_NUMA_NODES} nodes are allowed"
            )
        if self.epc_bytes > MAX_EPC_BYTES:
            raise InputError(f"{format_bytes(self.epc_bytes)} of EPC; at most {format_bytes(MAX_EPC_BYTES)}")

    @property
    def epc_bytes(self) -> int:
        return sum(pages_down(s.size_bytes) * PAGE_SIZE for s in self.sections)


@dataclass(frozen=True)
class ContainerPlan:
    name: str
    use_bytes: int  # EPC its enclaves occupy when fully resident: heap, SECS and VA pages
    claim_bytes: int | None = None
    limit_bytes: int | None = None  # explicit limit; None: none was given
    workload: WorkloadSpec = field(default_factory=lambda: parse_workload(DEFAULT_WORKLOAD))
    threads: int = 1  # per enclave
    enclaves: int = 1
    edmm: bool = False  # pages are added when first touched (EAUG), not at build
    vepc: bool = False  # a KVM guest: virtual EPC, never reclaimed


@dataclass(frozen=True)
class PodPlan:
    name: str
    containers: tuple[ContainerPlan, ...]
    namespace: str = "default"
    qos: Literal["guaranteed", "burstable", "besteffort"] = "besteffort"
    replica: int = 0
    template: str = ""  # replicas of one template behave alike
    claim_bytes: int | None = None
    limit_bytes: int | None = None  # explicit pod limit
    numa: int | None = None  # NUMA node its threads run on; None: the first
    start: float = 0.0  # seconds
    stop: float | None = None  # seconds; None: runs to the end
    cgroup: str = ""  # path; empty: kubelet's layout

    @property
    def path(self) -> str:
        """The pod's cgroup."""
        return self.cgroup or cgroup_path.pod_path(self.qos, cgroup_path.pod_uid(self.namespace, self.name, 0))

    def container_path(self, container: ContainerPlan) -> str:
        uid = cgroup_path.pod_uid(self.namespace, self.name, 0)
        return f"{self.path}/{cgroup_path.container_id(uid, container.name)}"

    @property
    def use_bytes(self) -> int:
        return sum(c.use_bytes for c in self.containers)

    def describe(self) -> str:
        """One line: what it does."""
        parts = []
        for c in self.containers:
            if c.vepc:
                parts.append(f"guest with {format_bytes(c.use_bytes)} of virtual EPC")
                continue
            text = c.workload.describe(heap_pages(c.use_bytes // c.enclaves))
            if c.enclaves > 1:
                text = f"{c.enclaves} enclaves, each {text}"
            if c.threads > 1:
                text += f", {c.threads} threads"
            parts.append(text + (", pages added at first touch" if c.edmm else ""))
        return "; ".join(parts) or "uses no EPC"


@dataclass(frozen=True)
class LimitChange:
    """misc.max of a cgroup is written while the node runs (in runs with limits)."""

    at: float
    path: str
    limit_bytes: int | None
    what: str  # the line in the run's events; empty: none


@dataclass(frozen=True)
class Use:
    """What a pod from a manifest does, where the manifest does not say it. None: as if nothing was said."""

    size_bytes: int | None = None  # of all its containers together
    workload: WorkloadSpec | None = None
    threads: int = 1
    enclaves: int = 1  # per container
    edmm: bool = False
    vepc: bool = False
    numa: int | None = None
    start: float = 0.0
    stop: float | None = None


@dataclass(frozen=True)
class Plan:
    """Everything a simulation depends on, but for the kind of run."""

    title: str
    node: NodePlan
    pods: tuple[PodPlan, ...]
    duration: float
    seed: int = 1
    series: Literal["v2", "v17"] = "v17"
    limits: Mapping[str, int | None] = field(default_factory=dict)  # pod, pod/container or cgroup path -> bytes
    changes: tuple[LimitChange, ...] = ()
    compare: tuple[str, ...] = COMPARE  # runs in order: alone, none, claims (limits, in `series`), v2, v17 (limits)
    notes: tuple[str, ...] = ()


def heap_pages(footprint_bytes: int) -> int:
    """Heap pages of an enclave whose whole EPC footprint (heap, SECS, a VA page per 512) is so many bytes."""
    pages = footprint_bytes // PAGE_SIZE
    heap = max(pages - 2, 0)
    while heap > 0 and heap + 1 + -(-(heap + 1) // 512) > pages:
        heap -= 1
    return heap


def enclave_name(pod: str, container: ContainerPlan, index: int) -> str:
    return f"{pod}/{container.name}/{index}"


def start_threads(container: ContainerPlan, name: str, seed: int) -> list[Workload]:
    """The threads of the enclave `name` of a container: the same for the same seed, simulated or live."""
    heap = max(heap_pages(container.use_bytes // container.enclaves), 1)
    seeds = np.random.SeedSequence([seed, *name.encode()])
    layout = int(seeds.generate_state(1)[0])
    return [container.workload.start(heap, np.random.default_rng(s), layout) for s in seeds.spawn(container.threads)]


def parse_use(text: str, *, where: object = None, key: str | None = None, base: Path | None = None) -> Use:
    """`96Mi` or `96Mi:zipf:1.2`: bytes a pod occupies, and what it does with them."""
    size, colon, workload = text.partition(":")
    use = parse_bytes(size, where=where, key=key)
    spec = parse_workload(workload, where=where, key=key, base=base) if colon else None
    return Use(use, spec)


def pods_from_manifests(
    pods: Sequence[Pod], uses: Mapping[str, str | Use], *, where: object = "--use"
) -> tuple[list[PodPlan], list[str]]:
    """Plans for pods as they were read, replicas expanded, and notes on what was assumed.

    `uses` maps pod (or template) names to what they do, as text `SIZE[:WORKLOAD]`; it goes before the annotation
    epcgroup.io/use. InputError for a use of a pod that is not there, and for more than MAX_PODS pods.
    """
    plans: list[PodPlan] = []
    notes: list[str] = []
    for name in uses:
        if name not in {pod.name for pod in pods}:
            raise InputError(f'no pod "{name}"{nearest(name, [p.name for p in pods])}', where=where, key=name)
    if sum(pod.replicas for pod in pods) > MAX_PODS:
        raise InputError(f"{sum(p.replicas for p in pods)} pods with their replicas; at most {MAX_PODS}")
    for pod in pods:
        notes += [f"{pod.name}: {note}" for note in pod.notes]
        use = uses.get(pod.name, Use())
        if isinstance(use, str):
            use = parse_use(use, where=where, key=pod.name)
        if annotations.USE in pod.annotations and pod.name not in uses:
            use = parse_use(pod.annotations[annotations.USE], where=pod.origin, key=annotations.USE)
        base = PodPlan(
            name=pod.name,
            namespace=pod.namespace,
            qos=pod.qos,
            containers=tuple(_containers(pod, use, notes)),
            claim_bytes=pod.claim_bytes,
            limit_bytes=annotations.pod_limit(pod.annotations),
            numa=use.numa,
            start=use.start,
            stop=use.stop,
            cgroup=pod.annotations.get("epcgroup.io/cgroup-path", ""),
        )
        plans += replicas_of(base, pod.replicas)
    check_pods(plans)
    return plans, notes


def replicas_of(pod: PodPlan, count: int) -> list[PodPlan]:
    """The pods of one template, named NAME-0 and so on where there are several."""
    pod = replace(pod, template=pod.name)
    return [pod] if count == 1 else [replace(pod, name=f"{pod.name}-{i}", replica=i) for i in range(count)]


def check_pods(pods: Sequence[PodPlan], where: object = None) -> None:
    """InputError when the pods cannot be on one node together."""
    if len(pods) > MAX_PODS:
        raise InputError(f"{len(pods)} pods with their replicas; at most {MAX_PODS}", where=where)
    total = sum(pod.use_bytes for pod in pods)
    if total > MAX_USE_BYTES:
        most = format_bytes(MAX_USE_BYTES)
        raise InputError(f"pods that use {format_bytes(total)} of EPC; at most {most} together", where=where)
    for what, values in (("pod name", [p.name for p in pods]), ("cgroup", [p.path for p in pods])):
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            raise InputError(f"two pods have the {what} {quoted(twice)}; each needs its own", where=where)


def _containers(pod: Pod, use: Use, notes: list[str]) -> list[ContainerPlan]:
    """The containers that occupy EPC while the pod runs; init containers are over by then."""
    running = [c for c in pod.containers if c.kind != "init"]
    claiming = [c for c in running if c.claim_bytes] or running[:1]
    total = sum(c.claim_bytes or 0 for c in claiming)
    plans = []
    for i, c in enumerate(claiming):
        claim = c.claim_bytes or 0
        if use.size_bytes is None:
            size = claim or c.limit_bytes or 0
        else:
            size = int(use.size_bytes * (claim / total if total else float(i == 0)))
        if size == 0:
            said = f"--use {pod.name}=SIZE changes that"
            notes.append(f"{pod.name}: asks for SGX without an EPC size; taken to use nothing ({said})")
            continue
        enclaves = max(use.enclaves, -(-size // MAX_ENCLAVE_BYTES))
        if enclaves > use.enclaves:
            most = format_bytes(MAX_ENCLAVE_BYTES)
            notes.append(f"{pod.name}: more than an enclave can have ({most}); taken to be {enclaves} enclaves")
        plans.append(
            ContainerPlan(
                c.name,
                size,
                c.claim_bytes,
                c.limit_bytes,
                workload=use.workload or parse_workload(DEFAULT_WORKLOAD),
                threads=use.threads,
                enclaves=enclaves,
                edmm=use.edmm,
                vepc=use.vepc,
            )
        )
    return plans


def cgroups_of(pods: Sequence[PodPlan]) -> list[str]:
    """The cgroups of pods and containers and all above them (but the root, which has no limit), each once."""
    paths: dict[str, None] = {}
    for pod in pods:
        parts = pod.path.strip("/").split("/")
        paths |= dict.fromkeys("/" + "/".join(parts[: i + 1]) for i in range(len(parts)))
        paths |= dict.fromkeys(map(pod.container_path, pod.containers))
    return list(paths)


def limits_of(plan: Plan, where: object = "limits") -> dict[str, int]:
    """misc.max (bytes) by cgroup path in the limited run.

    A container gets its explicit limit, else its claim; a pod its explicit limit, else its claim. `plan.limits`
    goes before both: by pod name (the containers then have none of their own), by pod/container, or by cgroup
    path; None lifts a limit.
    """
    limits: dict[str, int | None] = {}
    known = {p.name for p in plan.pods} | {p.template for p in plan.pods if p.template}
    known |= {f"{p.name}/{c.name}" for p in plan.pods for c in p.containers}
    for key in plan.limits:
        if key.startswith("/"):
            if key not in cgroups_of(plan.pods):
                raise InputError(f"no pod is in this cgroup{nearest(key, cgroups_of(plan.pods))}", where=where, key=key)
        elif key not in known:
            raise InputError(f"no pod {quoted(key)}{nearest(key, known)}", where=where, key=key)
    for pod in plan.pods:
        own = next((plan.limits[name] for name in (pod.name, pod.template) if name in plan.limits), "claim")
        for c in pod.containers:
            name = f"{pod.name}/{c.name}"
            path = pod.container_path(c)
            if name in plan.limits:
                limits[path] = plan.limits[name]
            elif own == "claim":
                limits[path] = c.limit_bytes if c.limit_bytes is not None else c.claim_bytes
        limits[pod.path] = (pod.limit_bytes or pod.claim_bytes) if own == "claim" else own  # type: ignore[assignment]
    limits |= {key: value for key, value in plan.limits.items() if key.startswith("/")}
    return {path: limit for path, limit in limits.items() if limit is not None and limit < UNLIMITED}


