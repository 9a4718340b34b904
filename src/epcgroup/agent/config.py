"""The agent's configuration: a TOML file in, a Config out. docs/guides/agent.md has every key.

A fault is one InputError line: file, key, what stood there, what is allowed. File names are relative to the file. What
talks to a network is imported when the file asks for it.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcgroup.agent.policy import MODES, Mode, Rules
from epcgroup.agent.source import KubeletFile, Manifests, Source
from epcgroup.errors import InputError, nearest
from epcgroup.interface import EPC
from epcgroup.manifest.documents import bytes_of
from epcgroup.manifest.kubernetes import EPC_RESOURCE, SIZES
from epcgroup.units import parse_bytes, parse_duration, quoted

if TYPE_CHECKING:
    from epcgroup.agent.advertise import Advertise
    from epcgroup.agent.endpoint import Endpoint

KEYS = (
    "mode",
    "namespaces",
    "annotations",
    "unclaimed_limit",
    "interval",
    "node",
    "source",
    "api_server",
    "kubelet",
    "advertise",
    "events",
    "cgroup_root",
    "enable_misc",
    "resource",
    "reserve",
    "listen",
    "nri",
    "device_plugin",
)
NRI_KEYS = ("socket", "index", "name")
DEVICES = ("enclave", "provision")
DEVICE_PLUGIN_KEYS = (*DEVICES, "folder", "devices")
MOST_DEVICES = 10_000  # all stand in each message to kubelet
SOURCES = ("api_server", "kubelet", "manifests", "kubelet_file")
API_SERVER = ("url", "token_file", "ca_file")
ADVERTISE = ("resource", "mode")
KUBELET = ("token_file", "ca_file", "insecure")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where a pod has its token and the cluster's CA
MAX_FILE_BYTES = 1 << 20
LEAST_INTERVAL, MOST_INTERVAL = 0.1, 3600.0  # seconds

NRI_SOCKET = Path("/var/run/nri/nri.sock")

_RESOURCE = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True)
class Nri:
    """How the agent registers with the container runtime."""

    socket: Path = NRI_SOCKET
    index: str = "90"  # two digits: plugins are asked in their order
    name: str = "epcgroup"


@dataclass(frozen=True)
class DevicePlugins:
    """What the agent offers to kubelet besides EPC."""

    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DEVICES, 110))  # 0: not offered
    folder: Path = Path("/var/lib/kubelet/device-plugins")  # where kubelet's socket is and ours go
    devices: Path = Path("/dev")  # where the agent sees the host's devices


@dataclass(frozen=True)
class Config:
    source: Source
    rules: Rules = field(default_factory=Rules)
    interval: float = 10.0  # seconds between two looks
    node: str | None = None  # pods bound to another node are not looked at; None: all are this node's
    cgroup_root: Path | None = None  # None: where cgroup2 is mounted
    enable_misc: bool = False
    resource: str = EPC
    reserve_bytes: int = 0
    listen: tuple[str, int] | None = None  # None: no metrics
    nri: Nri | None = None  # None: no NRI plugin
    device_plugin: DevicePlugins | None = None  # None: no device plugin
    api_server: "Endpoint | None" = None  # None: nothing asks for it
    advertise: "Advertise | None" = None  # None: the node's status is left alone
    events: bool = False  # Kubernetes Events of pods


def load(file: Path) -> Config:
    """The configuration in a file; InputError."""
    data = bytes_of(file, MAX_FILE_BYTES)
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"not TOML: {error}", where=file) from None
    return _Reader(file, values).config()


class _Reader:
    """Key by key; every fault names file and key."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self._file, self._values = file, values
        self._check(values, KEYS, "")

    def config(self) -> Config:
        reserve = self._values.get("reserve", 0)
        advertise, events = self._advertise(), self._switch("events", False)
        for key in ["advertise"] * (advertise is not None) + ["events"] * events:
            self._needed_node(key)
        unclaimed = self._values.get("unclaimed_limit")
        return Config(
            source=self._source(),
            rules=Rules(
                mode=self._mode(self._values.get("mode", "observe"), "mode"),
                namespaces={
                    name: self._mode(mode, f"namespaces.{name}") for name, mode in self._table("namespaces").items()
                },
                annotations=self._switch("annotations", True),
                unclaimed_limit=None if unclaimed is None else self._bytes(unclaimed, "unclaimed_limit"),
            ),
            interval=self._interval(),
            node=self._node(),
            cgroup_root=self._path(self._text("cgroup_root")),
            enable_misc=self._switch("enable_misc", False),
            resource=resource(self._text("resource") or EPC, where=self._file, key="resource"),
            reserve_bytes=self._bytes(reserve, "reserve"),
            listen=self._listen(),
            api_server=self._api_server() if advertise is not None or events else None,
            advertise=advertise,
            events=events,
            nri=self._nri() if "nri" in self._values else None,
            device_plugin=self._device_plugins() if "device_plugin" in self._values else None,
        )

    def _source(self) -> Source:
        table = self._table("source")
        self._check(table, SOURCES, "source.")
        if len(table) != 1:
            raise self._fault("source", f"one of {', '.join(SOURCES)} says where pods come from")
        ((key, value),) = table.items()
        if key == "api_server":
            if value is not True:
                raise self._fault("source.api_server", f"{quoted(value)} is not true")
            from epcgroup.agent.kube import ApiPods

            return ApiPods(self._api_server(), self._needed_node("source.api_server"))
        text = self._checked_text(value, f"source.{key}")
        if key == "kubelet":
            from epcgroup.agent.kube import Kubelet

            return Kubelet(self._kubelet(text))
        path = self._file.parent / text
        return Manifests(path) if key == "manifests" else KubeletFile(path)

    def _api_server(self) -> "Endpoint":
        """What a pod in the cluster finds in its environment, unless the table says otherwise."""
        table = self._table("api_server")
        self._check(table, API_SERVER, "api_server.")
        inside = "url" not in table
        if inside:
            host = os.environ.get("KUBERNETES_SERVICE_HOST")
            if not host:
                raise self._fault("api_server.url", "is needed outside of a cluster (no KUBERNETES_SERVICE_HOST)")
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        else:
            url = self._checked_text(table["url"], "api_server.url")
        account = ACCOUNT if inside else None
        return self._endpoint("api_server", "api_server.url", url, table, account)

    def _advertise(self) -> "Advertise | None":
        if "advertise" not in self._values:
            return None
        from epcgroup.agent.advertise import Advertise

        table = self._table("advertise")
        self._check(table, ADVERTISE, "advertise.")
        name = self._checked_text(table.get("resource", EPC_RESOURCE), "advertise.resource")
        if name not in SIZES:
            raise self._fault("advertise.resource", f"{quoted(name)} is no EPC resource{nearest(name[:60], SIZES)}")
        if SIZES[name] != 1:
            raise self._fault("advertise.resource", f"{name} counts devices of 1 MiB, which a device plugin offers")
        return Advertise(name, self._mode(table.get("mode", self._values.get("mode", "observe")), "advertise.mode"))

    def _kubelet(self, url: str) -> "Endpoint":
        table = self._table("kubelet")
        self._check(table, KUBELET, "kubelet.")
        secure = url.startswith("https:") and "token_file" not in table
        account = ACCOUNT if secure and os.environ.get("KUBERNETES_SERVICE_HOST") else None
        return self._endpoint("kubelet", "source.kubelet", url, table, account)

    def _endpoint(
        self, name: str, url_key: str, url: str, table: Mapping[str, Any], account: Path | None
    ) -> "Endpoint":
        from epcgroup.agent.endpoint import Endpoint, checked_url

        try:
            url = checked_url(url)
        except InputError as error:
            raise self._fault(url_key, str(error)) from None
        files = {"token_file": account and account / "token", "ca_file": account and account / "ca.crt"}
        for key in files.keys() & table.keys():
            files[key] = self._path(self._checked_text(table[key], f"{name}.{key}"))
        insecure = table.get("insecure", False)
        if not isinstance(insecure, bool):
            raise self._fault(f"{name}.insecure", f"{quoted(insecure)} is neither true nor false")
        if url.startswith("http:") and (table.keys() - {"url"}):
            key = min(table.keys() - {"url"})
            raise self._fault(f"{name}.{key}", f"is for https; {url} is read without token and certificate")
        if insecure:
            files["ca_file"] = None
        return Endpoint(url, files["token_file"], files["ca_file"], insecure)

    def _node(self) -> str | None:
        """`$NAME` is what the environment says: one configuration serves all nodes."""
        name = self._text("node")
        if name is None or not name.startswith("$"):
            return name
        value = os.environ.get(name[1:], "")
        if not value or not value.isprintable():
            raise self._fault("node", f"the environment has no {quoted(name[1:])}")
        return value

    def _needed_node(self, key: str) -> str:
        node = self._node()
        if node is None:
            raise self._fault(key, 'needs node, as in node = "$NODE_NAME"')
        return node

    def _interval(self) -> float:
        seconds = parse_duration(self._values.get("interval", 10), where=self._file, key="interval")
        if not LEAST_INTERVAL <= seconds <= MOST_INTERVAL:
            raise self._fault("interval", f"{seconds:g} s is not between {LEAST_INTERVAL:g} s and {MOST_INTERVAL:g} s")
        return seconds

    def _listen(self) -> tuple[str, int] | None:
        text = self._text("listen")
        if text is None:
            return None
        host, _, port = text.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
            raise self._fault("listen", f'{quoted(text)} is not ADDRESS:PORT, as in "127.0.0.1:9445"')
        return host.strip("[]"), int(port)

    def _nri(self) -> Nri:
        table = self._table("nri")
        self._check(table, NRI_KEYS, "nri.")
        given = {key: self._checked_text(value, f"nri.{key}") for key, value in table.items()}
        index, name = given.get("index", Nri.index), given.get("name", Nri.name)
        if not re.fullmatch("[0-9]{2}", index):
            raise self._fault("nri.index", f'{quoted(index)} is not two digits, as in "90"')
        if not re.fullmatch(r"[A-Za-z0-9][-\w.]{0,62}", name, re.ASCII):
            raise self._fault("nri.name", f"{quoted(name)} is no name: letters, digits, -, _ and ., at most 63")
        return Nri(self._path(given.get("socket")) or NRI_SOCKET, index, name)

    def _device_plugins(self) -> DevicePlugins:
        table = self._table("device_plugin")
        self._check(table, DEVICE_PLUGIN_KEYS, "device_plugin.")
        usual = DevicePlugins()
        counts = {}
        for kind in DEVICES:
            count = table.get(kind, usual.counts[kind])
            if type(count) is not int or not 0 <= count <= MOST_DEVICES:
                raise self._fault(f"device_plugin.{kind}", f"{quoted(count)} is no count from 0 to {MOST_DEVICES}")
            counts[kind] = count
        folders = {
            key: self._path(self._checked_text(table[key], f"device_plugin.{key}"))
            for key in ("folder", "devices")
            if key in table
        }
        return DevicePlugins(counts, folders.get("folder") or usual.folder, folders.get("devices") or usual.devices)

    def _mode(self, value: Any, key: str) -> Mode:
        for mode in MODES:
            if value == mode:
                return mode
        raise self._fault(key, f"{quoted(value)} is no mode{nearest(str(value)[:60], MODES)}")

    def _table(self, key: str) -> Mapping[str, Any]:
        value = self._values.get(key, {})
        if not isinstance(value, Mapping):
            raise self._fault(key, f"{quoted(value)} is not a table")
        return value

    def _switch(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self._fault(key, f"{quoted(value)} is neither true nor false")
        return value

    def _text(self, key: str) -> str | None:
        return self._checked_text(self._values[key], key) if key in self._values else None

    def _checked_text(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise self._fault(key, f"{quoted(value)} is not a text")
        return value

    def _path(self, text: str | None) -> Path | None:
        return None if text is None else self._file.parent / text

    def _bytes(self, value: Any, key: str) -> int:
        return parse_bytes(value, where=self._file, key=key)

    def _check(self, table: Mapping[str, Any], keys: tuple[str, ...], above: str) -> None:
        for name in table:
            if name not in keys:
                raise self._fault(f"{above}{name}", f"no such key{nearest(name, keys)}")

    def _fault(self, key: str, message: str) -> InputError:
        return InputError(message, where=self._file, key=key if key.isprintable() else ascii(key)[1:-1])


def resource(name: str, *, where: object = None, key: str | None = None) -> str:
    """A name of the misc controller's, checked."""
    if not _RESOURCE.fullmatch(name):
        raise InputError(f"{quoted(name)} is no resource of the misc controller, as in sgx_epc", where=where, key=key)
    return name
