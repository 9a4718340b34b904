"""Pods from the API server (list and watch) and from kubelet (`GET /pods`), as sources of the agent."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epcgroup.agent.endpoint import Endpoint
from epcgroup.agent.source import Known, known_of, pods_of
from epcgroup.agent.watch import Watch
from epcgroup.manifest import kubernetes
from epcgroup.manifest.documents import Document
from epcgroup.manifest.pod import Instance, Skipped

PODS = "/api/v1/pods"
Read = list[Instance | Skipped]  # one of them


@dataclass
class ApiPods:
    """The pods that the API server has for this node. Nothing is asked before the first look."""

    endpoint: Endpoint
    node: str
    watching: Callable[..., Watch[Read]] = field(default=Watch, repr=False, compare=False)  # tests have no patience
    _watch: Watch[Read] | None = field(default=None, repr=False, compare=False)
    _version: int = field(default=0, compare=False)
    _known: Known = field(default=Known(), repr=False, compare=False)

    def look(self) -> Known:
        if self._watch is None:
            self._watch = self.watching(self.endpoint, PODS, f"spec.nodeName={self.node}", self._read)
        seen = self._watch.look(self._version)
        if seen.version != self._version:
            found = known_of([result for read in seen.objects for result in read])
            self._known = Known(found.pods, (*found.problems, *seen.problems))
            self._version = seen.version
        return self._known

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _read(self, item: dict[str, Any]) -> Read:
        namespace = kubernetes.shown(item["metadata"].get("namespace", "default"))
        document = Document({**item, "kind": "Pod"}, f"{self.endpoint.url}, namespace {namespace}", Path("pod"))
        return list(kubernetes.read_instances(document))


@dataclass
class Kubelet:
    """The pods that kubelet runs, static pods before the API server knows them included."""

    endpoint: Endpoint
    _digest: bytes = field(default=b"", repr=False, compare=False)
    _known: Known = field(default=Known(), repr=False, compare=False)

    def look(self) -> Known:
        answer = self.endpoint.request("GET", "/pods")
        digest = hashlib.blake2b(answer).digest()
        if digest != self._digest:
            known = pods_of(answer, f"{self.endpoint.url}/pods")
            self._digest = digest
            if known != self._known:
                self._known = known
        return self._known

    def close(self) -> None:
        """Nothing is kept open."""
