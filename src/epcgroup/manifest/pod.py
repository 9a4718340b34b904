"""Pods and their EPC claims, as plain records: what every reader in this room returns.

A claim says what a pod asks for, not what it does. Sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ContainerKind = Literal["container", "init", "sidecar"]  # sidecar: an init container with restartPolicy Always


@dataclass(frozen=True)
class Container:
    name: str
    kind: ContainerKind = "container"
    claim_bytes: int | None = None  # EPC resource quantity in bytes; None: the container names no EPC size
    resource: str | None = None  # the extended resource the claim was read from, e.g. "sgx.intel.com/epc"
    limit_bytes: int | None = None  # an explicit limit (annotation, OCI misc.max); None: none was given
    devices: tuple[str, ...] = ()  # SGX resources that are counts without a size (enclave, provision, ...)


@dataclass(frozen=True)
class Pod:
    name: str
    containers: tuple[Container, ...]
    namespace: str = "default"
    kind: str = "Pod"  # kind of the object the template was found in
    replicas: int = 1
    annotations: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""  # "file.yaml" or "file.yaml, document 2", as messages show it
    qos: Literal["guaranteed", "burstable", "besteffort"] = "besteffort"
    notes: tuple[str, ...] = ()  # one-line remarks a person should see (e.g. a count without a size)

    @property
    def claim_bytes(self) -> int | None:
        """EPC the scheduler counts for one replica: max(containers + sidecars, each init container and the
        sidecars before it), Kubernetes' own rule; None when no container names a size."""
        if all(c.claim_bytes is None for c in self.containers):
            return None
        steady = sum(c.claim_bytes or 0 for c in self.containers if c.kind != "init")
        peak, sidecars = 0, 0
        for c in self.containers:
            if c.kind == "sidecar":
                sidecars += c.claim_bytes or 0
            elif c.kind == "init":
                peak = max(peak, sidecars + (c.claim_bytes or 0))
        return max(steady, peak)


@dataclass(frozen=True)
class Instance:
    """A pod on a node, as the API server and kubelet know it; replicas of a manifest are instances of their own."""

    pod: Pod  # one replica; its annotations are judged by who sets limits, not by its containers' limit_bytes
    uid: str  # as its cgroup is named: of a mirror pod that of the static pod
    node: str | None = None
    phase: str = ""  # "Pending", "Running", "Succeeded" ...; empty: nobody said
    container_ids: Mapping[str, str] = field(default_factory=dict)  # 64 hexadecimal digits -> container name

    @property
    def over(self) -> bool:
        """Whether it has ended: it claims and runs nothing any more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class Skipped:
    """Something in a file that yields no pod, with the one-line reason."""

    origin: str
    reason: str
