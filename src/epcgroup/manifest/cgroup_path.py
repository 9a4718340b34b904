"""Where kubelet puts the cgroups of a pod and its containers, for both cgroup drivers.

Paths are relative to the cgroup2 mount and start with `/`: cgroupfs `/kubepods/burstable/pod<UID>/<CID>`,
systemd `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID_>.slice` and below it
`cri-containerd-<CID>.scope`; a guaranteed pod has no QoS level. UIDs and container ids of simulated pods are
derived from their names, so that the same manifests give the same paths. Where kubelet uses systemd and the
runtime does not know it, a container is `.../kubepods-burstable-pod<UID_>.slice:cri-containerd:<CID>`.
"""

import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Literal

Driver = Literal["cgroupfs", "systemd"]
Qos = Literal["guaranteed", "burstable", "besteffort"]
Runtime = Literal["containerd", "crio", "docker"]

_SCOPES: dict[Runtime, str] = {"containerd": "cri-containerd-", "crio": "crio-", "docker": "docker-"}

# Dashed UIDs (systemd: underscores), or the 32 digits of a static pod.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$")
_LEAF = re.compile(r"(?:(?:cri-containerd|crio|docker)-)?([0-9a-f]{64})(?:\.scope)?")
_MISMATCH = re.compile(r"(.+\.slice):(?:cri-containerd|crio|docker):([0-9a-f]{64})", re.DOTALL)
_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


@dataclass(frozen=True)
class Place:
    """What a kubelet cgroup path tells."""

    pod_uid: str  # with dashes, as the API server writes it
    container_id: str | None  # None: the pod's own cgroup, or a leaf that is no container
    qos: Qos


def pod_uid(namespace: str, name: str, replica: int = 0) -> str:
    """The UID of a simulated pod."""
    return str(uuid.UUID(bytes=_digest("pod", namespace, name, str(replica))[:16], version=4))


def container_id(pod_uid: str, container: str) -> str:
    """The id of a simulated container: 64 hexadecimal digits."""
    return _digest("container", pod_uid, container).hex()


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def pod_path(qos: Qos, uid: str, *, driver: Driver = "cgroupfs", root: str = "/") -> str:
    """The pod's cgroup; `root` is kubelet's --cgroup-root ("/kubelet" on kind)."""
    levels = [level for level in root.split("/") if level] + ["kubepods"]
    if qos != "guaranteed":
        levels.append(qos)
    levels.append(f"pod{uid}")
    if driver == "cgroupfs":
        return "/" + "/".join(levels)
    # A slice's name spells its whole path, with dashes between the levels and none within.
    return _slices([level.replace("-", "_") for level in levels])


def _slices(names: list[str]) -> str:
    return "".join(f"/{'-'.join(names[: depth + 1])}.slice" for depth in range(len(names)))


def parent_path(cgroup_parent: str) -> str | None:
    """The group that a CRI or NRI cgroup_parent names: a path, or a slice with or without the slices above it, also
    as `slice:prefix:name`. None for what names none."""
    name = cgroup_parent.rpartition("/")[2].partition(":")[0]
    if name.endswith(".slice"):
        # Systemd and the runtimes go by the slice's own name.
        names = name.removesuffix(".slice").split("-")
        return _slices(names) if all(names) and "\0" not in name else None
    parts = [part for part in cgroup_parent.split("/") if part]
    if not cgroup_parent.startswith("/") or ".." in parts or "\0" in cgroup_parent:
        return None
    return "/" + "/".join(parts)


def container_path(
    pod: str, container_id: str, *, driver: Driver = "cgroupfs", runtime: Runtime = "containerd"
) -> str:
    """The container's cgroup below its pod's."""
    prefix = _SCOPES[runtime]
    if driver == "systemd":
        return f"{pod}/{prefix}{container_id}.scope"
    return f"{pod}/{prefix if runtime == 'crio' else ''}{container_id}"


def parse(path: str) -> Place | None:
    """What the path of a pod's or container's cgroup tells; None when kubelet did not make it."""
    parts = [part for part in path.split("/") if part]
    for at, part in enumerate(parts):
        mismatch = _MISMATCH.fullmatch(part)
        name = mismatch[1] if mismatch else part
        match = _POD.search(name)
        if match is None or (match.start() and name[match.start() - 1] != "-"):
            continue
        above = "/".join([*parts[:at], name])
        if "kubepods" not in above:
            continue
        digits = match[1].replace("_", "").replace("-", "")
        uid = str(uuid.UUID(digits)) if len(match[1]) == 36 else digits
        container = mismatch[2] if mismatch else None
        if container is None and len(parts) > at + 1:
            container = container_of(parts[at + 1])
        qos: Qos = "guaranteed"
        if re.search(r"[-/]burstable[-./]", above):
            qos = "burstable"
        elif re.search(r"[-/]besteffort[-./]", above):
            qos = "besteffort"
        return Place(uid, container, qos)
    return None


def container_of(name: str) -> str | None:
    """The id in the name of a cgroup directly below a pod's; None for what is no container (crio-conmon)."""
    leaf = _LEAF.fullmatch(name)
    return leaf[1] if leaf else None


def is_uid(text: str) -> bool:
    """Whether this is a pod's UID as cgroups are named for it: dashed, or the 32 digits of a static pod."""
    return _UID.fullmatch(text) is not None
