"""Where the agent learns which pods its node has: the protocol, a folder of manifests, and kubelet's answer in a file.
The API server and kubelet themselves are in kube.py.

A source is asked at every turn and must be cheap when nothing has changed: it then returns the very same object.
What one pod or file has wrong is a line in `problems`; a source that cannot be asked at all raises InputError, and the
agent goes on with what it knew.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from epcgroup.errors import InputError
from epcgroup.manifest import documents, kubernetes
from epcgroup.manifest.documents import Document
from epcgroup.manifest.pod import Instance, Skipped
from epcgroup.units import quoted


@dataclass(frozen=True)
class Known:
    """What a source knows now."""

    pods: tuple[Instance, ...] = ()
    problems: tuple[str, ...] = ()


class Source(Protocol):
    def look(self) -> Known: ...


_Signature = tuple[int, int, int]  # time, size and number
NEVER: _Signature = (0, 0, 0)  # of no file


@dataclass
class Manifests:
    """A folder of manifests: pods as `kubectl get pods -o yaml` prints them, or what never was in a cluster.

    Files are read again when they have changed. UIDs and container ids that a manifest does not have are those of
    simulated pods (manifest/cgroup_path.py).
    """

    folder: Path
    _files: dict[str, tuple[_Signature, Known]] = field(default_factory=dict)
    _known: Known | None = None

    def look(self) -> Known:
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(documents.SUFFIXES))
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=self.folder) from None
        files: dict[str, tuple[_Signature, Known]] = {}
        for name in names:
            try:
                signature = _signature(self.folder / name)
            except FileNotFoundError:
                continue  # removed since it was listed
            except OSError:
                signature = NEVER  # reading it says why
            old = self._files.get(name)
            files[name] = old if old and old[0] == signature else (signature, _read(self.folder / name))
        if self._known is None or files != self._files:
            every = [known for _, known in files.values()]
            self._known = _unique(
                [pod for known in every for pod in known.pods], [line for known in every for line in known.problems]
            )
        self._files = files
        return self._known


@dataclass
class KubeletFile:
    """What kubelet answers to GET /pods (a PodList as JSON), kept in a file that somebody renews."""

    file: Path
    _signature: _Signature | None = None
    _known: Known = Known()

    def look(self) -> Known:
        try:
            signature = _signature(self.file)
            if signature != self._signature:
                if signature[1] > documents.MAX_BYTES:
                    raise InputError(f"larger than {documents.MAX_BYTES >> 20} MiB", where=self.file)
                self._known = pods_of(self.file.read_bytes(), str(self.file))
                self._signature = signature
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=self.file) from None
        return self._known


def pods_of(answer: bytes, origin: str) -> Known:
    """The pods of a PodList as JSON, from kubelet or from the API server; InputError for anything else."""
    try:
        value = json.loads(answer, object_hook=lighter)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {quoted(str(error))}", where=origin) from None
    if not isinstance(value, dict) or "items" not in value:
        raise InputError(f"{quoted(value)} is no PodList", where=origin)
    results = list(kubernetes.read_instances(Document({"kind": "PodList", **value}, origin, Path(origin))))
    return known_of(results)


# What objects of the API hold that nobody here reads, which is most of a pod.
UNREAD = {
    *("managedFields", "labels", "ownerReferences", "affinity", "tolerations", "volumes", "volumeMounts", "conditions"),
    *("command", "args", "env", "envFrom", "livenessProbe", "readinessProbe", "startupProbe", "images"),
}


def lighter(value: dict[str, Any]) -> dict[str, Any]:
    """json.loads(object_hook=): drops what is not read before the answer is whole, so that it never is in memory."""
    for key in UNREAD & value.keys():
        del value[key]
    return value


def _signature(file: Path) -> _Signature:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(file: Path) -> Known:
    results: list[Instance | Skipped] = []
    try:
        for document in documents.read([file]):
            results += [document] if isinstance(document, Skipped) else kubernetes.read_instances(document)
    except InputError as error:
        return Known(problems=(str(error),))
    return known_of(results)


def known_of(results: list[Instance | Skipped]) -> Known:
    """Pods and lines."""
    return _unique(
        [result for result in results if isinstance(result, Instance)],
        [f"{result.origin}: {result.reason}" for result in results if isinstance(result, Skipped)],
    )


def _unique(pods: list[Instance], problems: list[str]) -> Known:
    """Of pods with the same UID the first counts."""
    by_uid: dict[str, Instance] = {}
    for instance in pods:
        first = by_uid.setdefault(instance.uid, instance)
        if first is not instance:
            origin, counts = instance.pod.origin, first.pod.origin
            problems.append(f"{origin}: a second pod with the UID {instance.uid}; that of {counts} counts")
    return Known(tuple(by_uid.values()), tuple(" ".join(line.split()) for line in problems))
