"""Which groups of a cgroup2 tree are pods and containers, by the names kubelet and the runtimes give them.

Both cgroup drivers, every QoS class, any --cgroup-root (kind: /kubelet/...), and containers that a runtime with the
other driver put outside of their pod's group. The sandbox of a pod is a container to us: only its id tells it apart.
What is below a container is the container's own affair and is not looked at.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from epcgroup.agent.tree import Tree
from epcgroup.errors import InputError
from epcgroup.manifest import cgroup_path

MAX_DEPTH = 8  # of groups above pods


@dataclass
class PodGroup:
    """A pod's groups. Paths as of Tree."""

    uid: str
    qos: str
    path: str | None = None  # its own group; None: only containers were found, elsewhere
    containers: dict[str, str] = field(default_factory=dict)  # container id -> path


def pod_groups(tree: Tree, fault: Callable[[str], None]) -> dict[str, PodGroup]:
    """The pods that have groups now, by UID, in the order of their paths; `fault` takes a line for each folder that
    cannot be listed."""
    pods: dict[str, PodGroup] = {}

    def entries(path: str) -> list[os.DirEntry[str]]:
        try:
            return tree.entries(path)
        except InputError as error:
            fault(str(error))
            return []

    for path, place in _walk(entries, "/", 0):
        pod = pods.setdefault(place.pod_uid, PodGroup(place.pod_uid, place.qos))
        if place.container_id is not None:
            pod.containers[place.container_id] = path
            continue
        containers = {
            identity: f"{path}/{entry.name}"
            for entry in entries(path)
            if (identity := cgroup_path.container_of(entry.name)) is not None
        }
        # A change of drivers leaves empty groups behind.
        if pod.path is None or (containers and not pod.containers):
            pod.path = path
        pod.containers |= containers
    return pods


def _walk(
    entries: Callable[[str], list[os.DirEntry[str]]], path: str, depth: int
) -> Iterator[tuple[str, cgroup_path.Place]]:
    """Pods, and containers outside of their pods, below `path`."""
    for entry in entries(path):
        below = f"{path.rstrip('/')}/{entry.name}"
        place = cgroup_path.parse(below) if "pod" in entry.name else None
        if place is not None:
            yield below, place
        elif depth < MAX_DEPTH and Tree.is_group(entry):
            yield from _walk(entries, below, depth + 1)
