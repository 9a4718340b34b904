"""OCI bundles: `linux.resources.unified["misc.max"]` of a config.json to a pod with one limited container.

Runtimes write the value to the container's misc.max, older ones (runc 1.1, crun 1.8) in one write, newer ones
line by line, and fail the container's start on what the kernel rejects. Here each line is judged by the
kernel's rules; what it says of other resources than sgx_epc is left alone. The cgroup path is kept as
annotation CGROUP_PATH.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epcgroup import interface
from epcgroup.errors import InputError, MachineError, errno_name
from epcgroup.manifest import cgroup_path, documents
from epcgroup.manifest.annotations import below_one_page
from epcgroup.manifest.documents import Document
from epcgroup.manifest.kubernetes import name_from_path
from epcgroup.manifest.pod import Container, Pod, Skipped
from epcgroup.units import quoted

CGROUP_PATH = (
    "epcgroup.io/cgroup-path"  # not an annotation of the bundle: linux.cgroupsPath as it stands there
)

# What a kernel may have compiled in; which of them has a capacity only the machine knows.
RESOURCES = ("sev", "sev_es", "tdx", interface.EPC)

# containerd's names first, then CRI-O's.
_POD_NAME = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name", "io.kubernetes.cri-o.KubeName")
_NAMESPACE = (
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.cri-o.Namespace",
)
_CONTAINER_NAME = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
_CONTAINER_TYPE = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")


def is_config(value: Any) -> bool:
    """Whether a JSON value is an OCI runtime configuration."""
    return isinstance(value, dict) and "ociVersion" in value


def read_config(path: Path) -> Pod:
    """The container of a bundle's config.json, or of the bundle directory; InputError when it is none."""
    if documents.is_directory(path):
        path = path / "config.json"
    for document in documents.read([path]):
        if isinstance(document, Skipped):
            raise InputError(f"not an OCI config.json ({document.reason})", where=path)
        return read_document(document)
    raise InputError("not an OCI config.json (no content)", where=path)


def read_document(document: Document) -> Pod:
    """The container that an OCI runtime configuration describes; InputError for what a runtime refuses."""
    config, where = document.value, document.origin
    if not is_config(config):
        raise InputError("not an OCI config.json (no ociVersion)", where=where)
    linux = _mapping(config, "linux", where)
    unified = _mapping(_mapping(linux, "resources", where), "unified", where)
    annotations = {
        key: text for key, text in _mapping(config, "annotations", where).items() if isinstance(text, str)
    }

    notes = []
    limit = None
    value = unified.get("misc.max")
    if value is None:
        notes.append('no linux.resources.unified["misc.max"]: the container has no EPC limit of its own')
    elif not isinstance(value, str):
        raise InputError(
            f"{quoted(value)} is not text", where=where, key='linux.resources.unified."misc.max"'
        )
    else:
        limit, remarks = parse_misc_max(value, where=where)
        notes += remarks
    notes += below_one_page("a limit", limit)
    if _first(annotations, _CONTAINER_TYPE) == "sandbox":
        notes.append("this is the pod's sandbox (pause) container")

    path = linux.get("cgroupsPath")
    place = None
    if isinstance(path, str) and path:
        annotations[CGROUP_PATH] = path
        place = cgroup_path.parse(_slices(path))
    return Pod(
        name=_name(config, annotations, document.path),
        containers=(Container(name=_first(annotations, _CONTAINER_NAME) or "container", limit_bytes=limit),),
        namespace=_first(annotations, _NAMESPACE) or "default",
        kind="OCI",
        annotations=annotations,
        origin=where,
        qos=place.qos if place else "besteffort",
        notes=tuple(notes),
    )


def parse_misc_max(value: str, *, where: object = None) -> tuple[int | None, list[str]]:
    """The sgx_epc limit in bytes (None: none, or `max`) that a value of "misc.max" sets, and remarks."""
    key = 'linux.resources.unified."misc.max"'
    lines = [line for line in value.split("\n") if line.strip()]
    limit = None
    for line in lines:
        try:
            resource, number = interface.parse_max(line, RESOURCES, dict.fromkeys(RESOURCES, 1))
        except MachineError as error:
            raise InputError(
                f"the kernel rejects the line {quoted(line)} ({errno_name(error.errno or 0)}); "
                "RESOURCE NUMBER or RESOURCE max is allowed, as in 'sgx_epc 1048576'",
                where=where,
                key=key,
            ) from None
        if resource == interface.EPC:
            limit = None if number == interface.UNLIMITED else number
    if not lines:
        return None, ['"misc.max" is empty: nothing is written']
    remarks = []
    if len(lines) > 1:
        remarks.append('"misc.max" has several lines: runc 1.1 and crun 1.8 fail to start the container')
    if limit is None:
        remarks.append('"misc.max" sets no limit for sgx_epc')
    return limit, remarks


def _slices(path: str) -> str:
    """A systemd `SLICE:PREFIX:NAME` path as the directory it leads to; any other path as it is."""
    parts = path.split(":")
    if len(parts) != 3:
        return path
    names = parts[0].removesuffix(".slice").split("-")
    above = "".join(f"/{'-'.join(names[: depth + 1])}.slice" for depth in range(len(names)))
    return f"{above}/{parts[1]}-{parts[2]}.scope"


def _name(config: dict[str, Any], annotations: Mapping[str, str], path: Path) -> str:
    hostname = config.get("hostname")
    name = _first(annotations, _POD_NAME) or (hostname if isinstance(hostname, str) else None)
    if name and name.isprintable() and not name.isspace() and len(name) <= 253:
        return name
    # bundle/config.json is named for its directory; any other file for itself.
    return name_from_path(path.absolute().parent if path.name == "config.json" else path)


def _first(annotations: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((annotations[key] for key in keys if annotations.get(key)), None)


def _mapping(value: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = value.get(key)
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{quoted(found)} is not a mapping", where=where, key=key)
    return found or {}
