"""A node in a plain folder: a tree like cgroup2's with misc.* files, and what kubelet would say about its pods.

The folder is no kernel: a write stays as it was written. `settle` does what the kernel would do next, give groups misc
files where `+misc` was written above them.
"""

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epcgroup.manifest import cgroup_path

MIB = 1 << 20
NUMBER_FILES = ("misc.current", "misc.peak", "misc.events", "misc.events.local")


def uid_of(number: int) -> str:
    return str(uuid.UUID(int=number))


def cid_of(number: int) -> str:
    return f"{number:064x}"


def container(name: str, epc: str | int | None = None, **more: Any) -> dict[str, Any]:
    resources = {} if epc is None else {"resources": {"limits": {"sgx.intel.com/epc": epc}}}
    return {"name": name, **resources, **more}


@dataclass
class Node:
    """`pod` adds a pod to the tree and to what kubelet says."""

    root: Path
    driver: cgroup_path.Driver = "systemd"
    runtime: cgroup_path.Runtime = "containerd"
    resource: str = "sgx_epc"
    capacity: int | None = 128 * MIB
    misc: bool = True  # enabled down to the containers
    peak: bool = True
    items: list[dict[str, Any]] = field(default_factory=list)
    nr_containers: int = 0

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.write("/", "cgroup.controllers", "cpuset cpu io memory pids misc")
        self.write("/", "cgroup.subtree_control", "cpu memory pids" + (" misc" if self.misc else ""))
        self.write("/", "misc.capacity", "" if self.capacity is None else f"{self.resource} {self.capacity}")
        if self.capacity is not None:
            self.write("/", "misc.current", f"{self.resource} 0")
            if self.peak:
                self.write("/", "misc.peak", f"{self.resource} 0")

    def write(self, path: str, name: str, text: str) -> None:
        (self.root / path.strip("/") / name).write_text(f"{text}\n" if text else "")

    def read(self, path: str, name: str = "misc.max") -> str:
        return (self.root / path.strip("/") / name).read_text()

    def group(self, path: str) -> None:
        """mkdir, with all above it, and the files the kernel would give them."""
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts)):
            folder = self.root / "/".join(parts[: depth + 1])
            if not folder.exists():
                folder.mkdir()
                here = "/" + "/".join(parts[: depth + 1])
                self.write(here, "cgroup.procs", "")
                self.write(here, "cgroup.controllers", "cpu memory pids" + (" misc" if self.misc else ""))
                self.write(here, "cgroup.subtree_control", "cpu memory pids" + (" misc" if self.misc else ""))
                if self.misc:
                    self.misc_files(here)

    def misc_files(self, path: str) -> None:
        if self.capacity is None:
            return
        self.write(path, "misc.max", f"{self.resource} max")
        self.use(path, 0)
        self.write(path, "misc.events", f"{self.resource}.max 0")
        self.write(path, "misc.events.local", f"{self.resource}.max 0")

    def use(self, path: str, nr_bytes: int, peak: int | None = None) -> None:
        self.write(path, "misc.current", f"{self.resource} {nr_bytes}")
        if self.peak:
            self.write(path, "misc.peak", f"{self.resource} {nr_bytes if peak is None else peak}")

    def pod(
        self,
        name: str,
        *containers: dict[str, Any],
        namespace: str = "default",
        annotations: dict[str, str] | None = None,
        uid: str | None = None,
        root: str = "/",
        groups: bool = True,
        init: tuple[dict[str, Any], ...] = (),
        node: str = "node-1",
        phase: str = "Running",
        qos: cgroup_path.Qos = "besteffort",
    ) -> "Pod":
        """A pod with its sandbox; without `groups` it is only known, as while it is pending."""
        uid = uid or uid_of(len(self.items) + 1)
        path = cgroup_path.pod_path(qos, uid, driver=self.driver, root=root)
        pod = Pod(self, name, namespace, uid, path)
        ids = {spec["name"]: self._next() for spec in (*init, *containers)}
        if groups:
            self.group(cgroup_path.container_path(path, self._next(), driver=self.driver, runtime=self.runtime))
            for spec in containers:
                pod.start(spec["name"], ids[spec["name"]])
        self.items.append(
            {
                "metadata": {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations or {}},
                "spec": {"nodeName": node, "initContainers": list(init), "containers": list(containers)},
                "status": {
                    "phase": phase,
                    "containerStatuses": [
                        {"name": c["name"], "containerID": f"containerd://{ids[c['name']]}"} for c in containers
                    ],
                },
            }
        )
        return pod

    def _next(self) -> str:
        self.nr_containers += 1
        return cid_of(self.nr_containers)

    def pod_list(self) -> str:
        """What kubelet answers to GET /pods."""
        return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.items})

    def settle(self) -> None:
        """What the kernel does with `+misc` in cgroup.subtree_control, from the root down."""
        for file in sorted(self.root.rglob("cgroup.subtree_control"), key=lambda file: len(file.parts)):
            here = "/" + str(file.parent.relative_to(self.root)).strip(".")
            if "+misc" in file.read_text():
                self.write(here, "cgroup.subtree_control", "cpu memory pids misc")
            if "misc" not in file.read_text().split():
                continue
            for child in filter(Path.is_dir, file.parent.iterdir()):
                below = f"{here.rstrip('/')}/{child.name}"
                self.write(below, "cgroup.controllers", "cpu memory pids misc")
                if not (child / "misc.max").exists():
                    self.misc_files(below)


@dataclass
class Pod:
    node: Node
    name: str
    namespace: str
    uid: str
    path: str
    containers: dict[str, str] = field(default_factory=dict)  # name -> path

    def start(self, name: str, identity: str) -> None:
        driver, runtime = self.node.driver, self.node.runtime
        self.containers[name] = cgroup_path.container_path(self.path, identity, driver=driver, runtime=runtime)
        self.node.group(self.containers[name])

    def limit(self, name: str = "") -> str:
        """misc.max of a container, or of the pod, less the resource's name."""
        text = self.node.read(self.containers[name] if name else self.path)
        return text.removeprefix(f"{self.node.resource} ").strip()
