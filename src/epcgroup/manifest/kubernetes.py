"""Kubernetes manifests to pods and their EPC claims.

Any object with a pod template is read, whatever its kind: a mapping whose `spec` has a list of `containers`
is one, at any depth (Deployment, CronJob, FlinkDeployment ...). What Kubernetes would reject is Skipped with
the reason, and so is what asks for no SGX EPC. Sizes become bytes, replicas stay a number. Nothing is added
that the cluster would add (webhooks, LimitRanges).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from epcgroup.errors import InputError, nearest
from epcgroup.manifest import annotations as epc_annotations
from epcgroup.manifest import cgroup_path, documents, quantity
from epcgroup.manifest.documents import Document
from epcgroup.manifest.pod import Container, ContainerKind, Instance, Pod, Skipped
from epcgroup.units import PAGE_SIZE, format_bytes, quoted

EPC_RESOURCE = "sgx.intel.com/epc"

# Extended resources that are an EPC size, and the bytes of one unit.
SIZES = {
    EPC_RESOURCE: 1,
    "kubernetes.azure.com/sgx_epc_mem_in_MiB": 2**20,
    "alibabacloud.com/sgx_epc_MiB": 2**20,
}
# Extended resources that count devices: they let a container create enclaves and name no size.
DEVICES = (
    "sgx.intel.com/enclave",
    "sgx.intel.com/provision",
    "sgx.intel.com/qe",
    "sgx.intel.com/registration",
    "sgx.k8s.io/sgx",
    "intel.com/sgx",
)
# With sebva/sgx-device-plugin one device a page, a size in disguise; elsewhere the name is a plain count.
PAGE_DEVICE = "intel.com/sgx"

MAX_REPLICAS = 2**31 - 1
MAX_DEPTH = 250
MAX_ALIASED = 100  # times that YAML aliases may show the same value again

# Kinds whose number of pods `replicas`, `parallelism` or the node decides.
_COUNTED = {
    "Pod",
    "Deployment",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
}

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
SGX_RESOURCE = re.compile(r"(?=[-\w.]+/[-\w.]+$)(sgx\..*|.*/sgx.*)", re.IGNORECASE | re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Qos = Literal["guaranteed", "burstable", "besteffort"]


def read(paths: Sequence[Path]) -> tuple[list[Pod], list[Skipped]]:
    """The pods of Kubernetes manifests, names made unique; InputError only for what cannot be opened."""
    pods: list[Pod] = []
    skipped: list[Skipped] = []
    for document in documents.read(paths):
        if isinstance(document, Skipped):
            skipped.append(document)
            continue
        for result in read_document(document):
            if isinstance(result, Pod):
                pods.append(result)
            else:
                skipped.append(result)
    return unique_names(pods), skipped


def unique_names(pods: Sequence[Pod]) -> list[Pod]:
    """The same pods; a name that was there before gets the first free of -2, -3 ..."""
    taken = {pod.name for pod in pods}
    numbers: dict[str, int] = {}  # by name: the last suffix given, 1 for none
    unique = []
    for pod in pods:
        name, number = pod.name, numbers.get(pod.name, 0) + 1
        while number > 1 and (name := f"{pod.name}-{number}") in taken:
            number += 1
        numbers[pod.name] = number
        taken.add(name)
        unique.append(pod if name == pod.name else replace(pod, name=name))
    return unique


def read_document(document: Document, *, within_list: bool = False) -> list[Pod | Skipped]:
    """What one document holds: pods, and what yields none; never an empty list."""
    value, origin = document.value, document.origin
    if not isinstance(value, dict):
        return [Skipped(origin, f"holds {quoted(value, 30)}, not a Kubernetes object")]
    kind, items = value.get("kind"), value.get("items")
    if isinstance(items, list) and isinstance(kind, str) and kind.endswith("List"):
        if within_list or not items:
            return [Skipped(origin, "a List within a List" if within_list else "an empty List")]
        return [
            result
            for number, item in enumerate(items, 1)
            for result in read_document(Document(item, f"{origin}, item {number}", document.path), within_list=True)
        ]
    try:
        found = list(templates(value))
    except InputError as error:
        return [Skipped(origin, str(error))]
    if not found:
        return [Skipped(origin, _no_template(value))]
    return [_read_template(value, template, document, several=len(found) > 1) for template in found]


# --- finding templates


@dataclass(frozen=True)
class Template:
    value: dict[str, Any]  # the mapping with the template's metadata and spec
    path: str  # where it stands in the object, "spec.template"
    owner: dict[str, Any] | None  # the nearest mapping round it, with the replicas; None: it is the object


def templates(
    value: Any,
    owner: dict[str, Any] | None = None,
    path: tuple[str, ...] = (),
    seen: dict[int, int] | None = None,
) -> Iterator[Template]:
    seen = {} if seen is None else seen
    times = seen[id(value)] = seen.get(id(value), 0) + 1
    if len(path) > MAX_DEPTH or times > MAX_ALIASED:
        raise InputError(
            f"nested deeper than {MAX_DEPTH} levels, or one value repeated by more than {MAX_ALIASED} aliases"
        )
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and _are_containers(spec.get("containers")):
            yield Template(value, ".".join(map(shown, path)), owner)
            return
        owner = value
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(child, dict | list) and child:
            yield from templates(child, owner, (*path, str(key)), seen)


def _are_containers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(container, dict) for container in value)


def _no_template(value: dict[str, Any]) -> str:
    kind = value.get("kind")
    if kind is not None:
        name = mapping(value.get("metadata")).get("name")
        return f"{shown(kind)}{f' {shown(name)}' if name else ''} has no pod template"
    found = next(sizes_in(value, "", set()), None)
    if found is None:
        return "no kind and no pod template (Helm values?)"
    return f"no kind and no pod template (Helm values?), but {found}; render the chart first (helm template)"


def sizes_in(value: Any, path: str, seen: set[int]) -> Iterator[str]:
    """`PATH asks for RESOURCE QUANTITY` for every resources block outside of a pod template."""
    if not isinstance(value, dict) or id(value) in seen or path.count(".") > 20:
        return
    seen.add(id(value))
    for part in ("limits", "requests"):
        for resource, amount in mapping(value.get(part)).items():
            if resource in SIZES:
                yield f"{path or part} asks for {resource} {shown(amount)}"
    for key, child in value.items():
        yield from sizes_in(child, f"{path}.{shown(key)}" if path else shown(key), seen)


# --- one template


def _read_template(root: dict[str, Any], template: Template, document: Document, *, several: bool) -> Pod | Skipped:
    kind = root.get("kind") or "Pod"
    label = shown(kind)
    try:
        name = name_of(root, document.path)
        label = f"{label} {name}, {template.path}," if several else f"{label} {name}"
        pod = pod_of(root, template, name, document.origin)
    except InputError as error:
        reason = documents.HELM if "{{" in str(error) else str(error)
        return Skipped(document.origin, f"{label.rstrip(',')}: {reason}")
    if isinstance(pod, str):
        return Skipped(document.origin, f"{label} {pod}")
    return pod


def pod_of(root: dict[str, Any], template: Template, name: str, origin: str) -> Pod | str:
    """The pod, or why it is none that we are interested in."""
    spec = template.value["spec"]
    kind = _text(root.get("kind") or "Pod", "kind", _KIND)
    namespace = mapping(root.get("metadata")).get("namespace") or "default"
    namespace = _text(namespace, "metadata.namespace", _LABEL)
    metadata = checked_mapping(template.value.get("metadata"), "metadata of the pod template")
    annotations = _annotations(metadata.get("annotations"))

    containers, remarks = _containers(spec, annotations)
    notes = list(remarks)

    pod_limit = epc_annotations.pod_limit(annotations)
    named = any(map(epc_annotations.is_epc, annotations))
    if not named and all(c.claim_bytes is None and not c.devices for c in containers):
        return "asks for no SGX EPC"
    replicas = _replicas(root, template)
    if replicas == 0:
        return "has 0 replicas: no pod runs"

    notes += epc_annotations.below_one_page("the pod's limit", pod_limit)
    notes += epc_annotations.remarks(annotations, [container.name for container in containers])
    if template.value is not root:
        for key in sorted(mapping(mapping(root.get("metadata")).get("annotations"))):
            if epc_annotations.is_epc(key) and key not in annotations:
                notes.append(f"annotation {quoted(key)} has no effect on the {kind}, only on its pod template")
    if kind not in _COUNTED and _count_in(template.owner or spec) is None:
        notes.append(f"a {kind} decides itself how many pods it starts; counted as one")
    return Pod(
        name=name,
        containers=containers,
        namespace=namespace,
        kind=kind,
        replicas=replicas,
        annotations=annotations,
        origin=origin,
        qos=qos_class(spec),
        notes=tuple(notes),
    )


def name_of(root: dict[str, Any], path: Path) -> str:
    metadata = checked_mapping(root.get("metadata"), "metadata")
    for key in ("name", "generateName"):
        value = metadata.get(key)
        if value is not None:
            if key == "generateName" and isinstance(value, str):
                value = value.rstrip("-.")
            return _text(value, f"metadata.{key}", _SUBDOMAIN)
    return name_from_path(path)


def name_from_path(path: Path) -> str:
    """A pod name made of a file's."""
    stem = "stdin" if path == documents.STDIN else path.stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].rstrip("-") or "pod"


def _annotations(value: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in checked_mapping(value, "annotations of the pod template").items():
        if isinstance(text, str):
            found[key] = text
        elif epc_annotations.is_epc(key):
            raise InputError(f'{shown(text)} must be text in Kubernetes; quote it: "..."', key=f"annotation {key}")
    return found


def _replicas(root: dict[str, Any], template: Template) -> int:
    kind = root.get("kind")
    if kind in ("Pod", "DaemonSet"):
        return 1  # of a DaemonSet one on the node
    owner = template.owner or mapping(root.get("spec"))
    count = _count_in(owner)
    if count is None:
        return 1
    key, value = count
    replicas = _whole(value, key)
    if key == "parallelism" and owner.get("completions") is not None:
        replicas = min(replicas, _whole(owner["completions"], "completions"))
    return replicas


def _count_in(owner: dict[str, Any]) -> tuple[str, Any] | None:
    for key in ("replicas", "parallelism"):
        if owner.get(key) is not None:
            return key, owner[key]
    return None


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPLICAS:
        raise InputError(f"{quoted(value)} is not a whole number from 0 to {MAX_REPLICAS}", key=key)
    return value


# --- a pod on a node

MAX_INSTANCES = 1000  # of one template: more pods than a node runs
_MIRROR = "kubernetes.io/config.mirror"  # of the API server's image of a static pod: the static pod's UID
_STATUSES = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_CONTAINER_ID = re.compile(r"[a-z0-9.+-]+://([0-9a-f]{64})")


def read_instances(document: Document) -> Iterator[Instance | Skipped]:
    """The pods of what the API server or kubelet answers (Pod, PodList, List), with or without EPC.

    Other objects give what their templates would run, under the UIDs and ids of simulated pods (cgroup_path), as
    do pods that were never in a cluster. Limits in annotations are not judged here.
    """
    value, origin = document.value, document.origin
    if isinstance(value, dict) and isinstance(value.get("kind"), str) and value["kind"].endswith("List"):
        items = value.get("items")
        if not isinstance(items, list | None):
            yield Skipped(origin, f"items: {quoted(items)} is not a list")
            return
        for number, item in enumerate(items or (), 1):
            here = Document(item, f"{origin}, item {number}", document.path)
            if isinstance(item, dict) and isinstance(item.get("kind"), str) and item["kind"].endswith("List"):
                yield Skipped(here.origin, "a List within a List")
            else:
                yield from read_instances(here)
    elif isinstance(value, dict) and value.get("kind") in (None, "Pod") and isinstance(value.get("spec"), dict):
        try:
            yield _instance(value, document)
        except InputError as error:
            name = mapping(value.get("metadata")).get("name")
            yield Skipped(origin, f"pod {shown(name)}: {error}" if name else str(error))
    else:
        for pod in read_document(document):
            yield from [pod] if isinstance(pod, Skipped) else _simulated(pod)


def _instance(value: dict[str, Any], document: Document) -> Instance:
    metadata = checked_mapping(value.get("metadata"), "metadata")
    spec = value["spec"]
    if not _are_containers(spec.get("containers")):
        raise InputError("not a list of containers", key="spec.containers")
    every = _annotations(metadata.get("annotations"))
    # Others may have 256 KiB a pod; whoever keeps pods keeps none of them.
    annotations = {key: text for key, text in every.items() if epc_annotations.is_epc(key)}
    containers, notes = _containers(spec, {})
    pod = Pod(
        name=name_of(value, document.path),
        containers=containers,
        namespace=_text(metadata.get("namespace") or "default", "metadata.namespace", _LABEL),
        annotations=annotations,
        origin=document.origin,
        qos=qos_class(spec),
        notes=notes,
    )
    uid = every.get(_MIRROR) or metadata.get("uid") or cgroup_path.pod_uid(pod.namespace, pod.name)
    if not isinstance(uid, str) or not cgroup_path.is_uid(uid):
        raise InputError(f"{quoted(uid)} is no UID of a pod", key="metadata.uid")
    node, phase = spec.get("nodeName"), mapping(value.get("status")).get("phase")
    return Instance(
        pod,
        uid,
        node=node if isinstance(node, str) and node else None,
        phase=phase if isinstance(phase, str) else "",
        container_ids=_container_ids(pod, uid, mapping(value.get("status"))),
    )


def _container_ids(pod: Pod, uid: str, status: dict[str, Any]) -> dict[str, str]:
    ids = {cgroup_path.container_id(uid, container.name): container.name for container in pod.containers}
    for key in _STATUSES:
        statuses = status.get(key)
        for entry in statuses if isinstance(statuses, list) else ():
            name, text = mapping(entry).get("name"), mapping(entry).get("containerID")
            match = _CONTAINER_ID.fullmatch(text) if isinstance(text, str) else None
            if match and isinstance(name, str) and _LABEL.fullmatch(name):
                ids[match[1]] = name
    return ids


def _simulated(pod: Pod) -> Iterator[Instance | Skipped]:
    if pod.replicas > MAX_INSTANCES:
        yield Skipped(pod.origin, f"{pod.kind} {pod.name}: {pod.replicas} replicas; at most {MAX_INSTANCES} on a node")
        return
    for number in range(pod.replicas):
        name = pod.name if pod.replicas == 1 else f"{pod.name}-{number}"
        uid = cgroup_path.pod_uid(pod.namespace, name)
        yield Instance(replace(pod, name=name, replicas=1), uid, container_ids=_container_ids(pod, uid, {}))


# --- one container


def _containers(
    spec: Mapping[str, Any], annotations: Mapping[str, str]
) -> tuple[tuple[Container, ...], tuple[str, ...]]:
    """All containers in the order of container_specs, and remarks. InputError for what Kubernetes would reject."""
    notes: list[str] = []
    containers: list[Container] = []
    for value, kind in container_specs(spec):
        container, remarks = _container(value, kind, annotations)
        containers.append(container)
        notes += remarks
    if not spec["containers"]:
        raise InputError("no containers")
    if len({container.name for container in containers}) < len(containers):
        raise InputError("two containers of the same name")
    return tuple(containers), tuple(notes)


def container_specs(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], ContainerKind]]:
    """Init containers first: that is their order in time, which Pod.claim_bytes relies on."""
    inits = spec.get("initContainers")
    if inits is not None:
        if not _are_containers(inits):
            raise InputError("not a list of containers", key="initContainers")
        for value in inits:
            yield value, "sidecar" if value.get("restartPolicy") == "Always" else "init"
    for value in spec.get("containers", []):
        yield value, "container"


def _container(
    value: dict[str, Any], kind: ContainerKind, annotations: Mapping[str, str]
) -> tuple[Container, list[str]]:
    name = _text(value.get("name"), "container name", _LABEL)
    label = f"container {name}"
    limits, requests = _resources(value, label)
    notes: list[str] = []
    devices: list[str] = []
    claim: tuple[str, int] | None = None
    for resource in sorted({*limits, *requests}):
        if resource not in SIZES and not SGX_RESOURCE.fullmatch(resource):
            continue
        amount = _amount(limits, requests, resource, label)
        if resource not in limits:
            notes.append(f"{label}: {resource} stands in requests only; Kubernetes wants it in limits")
        if amount == 0:
            notes.append(f"{label}: {resource} is 0, which asks for nothing")
        elif resource in SIZES:
            if claim is not None and claim[1] != amount:
                raise InputError(
                    f"{claim[0]} is {format_bytes(claim[1])} and {resource} is {format_bytes(amount)}; "
                    "one size for a container",
                    key=label,
                )
            claim = claim or (resource, amount)
        else:
            devices.append(resource)
            notes += _device_remarks(resource, amount, label)
    if devices and claim is None:
        notes.append(f"{label}: {', '.join(devices)} counts devices and names no EPC size")
    limit = epc_annotations.container_limit(annotations, name)
    notes += epc_annotations.below_one_page(f"{label}: a limit", limit)
    return (
        Container(
            name=name,
            kind=kind,
            claim_bytes=claim[1] if claim else None,
            resource=claim[0] if claim else None,
            limit_bytes=limit,
            devices=tuple(devices),
        ),
        notes,
    )


def _amount(limits: Mapping[str, Any], requests: Mapping[str, Any], resource: str, label: str) -> int:
    """Bytes of a size, number of a device; an extended resource cannot be overcommitted."""
    amounts = [
        quantity.parse_whole(part[resource], key=f"{label}, {resource}", unit_bytes=SIZES.get(resource, 1))
        for part in (limits, requests)
        if resource in part
    ]
    if amounts[0] != amounts[-1]:
        raise InputError(
            f"limit {shown(limits[resource])} and request {shown(requests[resource])} differ; "
            "Kubernetes rejects that for extended resources",
            key=f"{label}, {resource}",
        )
    return amounts[0]


def _device_remarks(resource: str, count: int, label: str) -> list[str]:
    if resource == PAGE_DEVICE:
        size = format_bytes(count * PAGE_SIZE)
        return [f"{label}: {resource} {count} would be {size} where a device is a page; not counted as a size"]
    if resource not in DEVICES:
        return [f"{label}: {resource} is no SGX resource we know{nearest(resource, (*SIZES, *DEVICES))}"]
    return []


def _resources(value: Mapping[str, Any], label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    resources = checked_mapping(value.get("resources"), f"{label}, resources")
    return (
        checked_mapping(resources.get("limits"), f"{label}, resources.limits"),
        checked_mapping(resources.get("requests"), f"{label}, resources.requests"),
    )


# --- QoS


def qos_class(spec: Mapping[str, Any]) -> Qos:
    """Kubernetes' rule over cpu and memory of all containers; of the pod's own resources when it has them.

    Guaranteed: every one has limits for both, equal to its requests. BestEffort: none has any.
    """
    _, pod_amounts = _cpu_and_memory(spec, "pod")
    if pod_amounts:
        levels = [_cpu_and_memory(spec, "pod")]
    else:
        levels = [_cpu_and_memory(value, "container") for value, _ in container_specs(spec)]
    if not any(requests for _, requests in levels):
        return "besteffort"
    if all(len(limits) == 2 and limits == requests for limits, requests in levels):
        return "guaranteed"
    return "burstable"


def _cpu_and_memory(value: Mapping[str, Any], label: str) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """(limits, requests) above zero; a request that is not given is the limit."""
    limits, requests = (
        {
            resource: quantity.parse(part[resource], key=f"{label}, {resource}")
            for resource in ("cpu", "memory")
            if part.get(resource) is not None
        }
        for part in _resources(value, label)
    )
    requests = {**limits, **requests}
    return {k: v for k, v in limits.items() if v > 0}, {k: v for k, v in requests.items() if v > 0}


# --- shapes


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def checked_mapping(value: Any, key: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{quoted(value)} is not a mapping", key=key)
    return value or {}


def _text(value: Any, key: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InputError(f"{quoted(value)} is nothing that Kubernetes takes", key=key)
    return value


def shown(value: Any) -> str:
    """Like quoted, but bare where a word or number is plain."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w./@-]{1,60}", value, re.ASCII) else quoted(value)
