"""The NRI plugin with a real containerd: its framing, its order of calls, its specs. Optional.

EPCGROUP_CONTAINERD names a folder with a Debian that has containerd; `make containerd` makes one (trixie: 1.7.24).
It runs there in namespaces of its own, which take everything along when they end. Its OCI runtime is a script here that
keeps specs and updates for us, and lets a process sleep for each container: few kernels have the misc controller.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup_nodes import MIB, Node, container, uid_of

pytest.importorskip("google.protobuf", reason="needs protobuf (pip install 'epcgroup[agent]')")
pytest.importorskip("grpc", reason="needs grpcio (pip install 'epcgroup[agent]')")

import grpc
from nri_runtime import Gate, inner, pb

from epcgroup.agent.config import Nri
from epcgroup.agent.nri import Plugin

DEBIAN = Path(os.environ.get("EPCGROUP_CONTAINERD", "/nowhere"))
PATIENCE = 120
IMAGE = "epcgroup.test/pause:1"
LIMIT = {"misc.max": f"sgx_epc {10 * MIB}"}

pytestmark = [
    pytest.mark.skipif(
        not (DEBIAN / "usr/bin/containerd").exists(), reason="EPCGROUP_CONTAINERD names no folder with containerd"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and chroot"),
]

CONFIG = """
version = 2
root = "/mnt/root"
state = "/mnt/state"
[grpc]
address = "/mnt/containerd.sock"
[ttrpc]
address = "/mnt/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "epcgroup.test/pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "/mnt/runc"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "/mnt/nri.sock"
plugin_request_timeout = "2s"
"""

START = """
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc && touch /etc/hosts /etc/resolv.conf && echo root:x:0:0::/: > /etc/passwd
containerd --config /mnt/config.toml >> /mnt/containerd.log 2>&1 &
until ctr -a /mnt/containerd.sock version > /dev/null 2>&1; do sleep 0.1; done
ctr -a /mnt/containerd.sock -n k8s.io images import --snapshotter native /mnt/image.tar > /mnt/import.log 2>&1
touch /mnt/ready
wait
"""

RUNTIME = """#!/bin/sh
# What containerd's shim asks of an OCI runtime.
mkdir -p /mnt/pids /mnt/specs
while [ $# -gt 0 ]; do
  case $1 in --root|--log|--log-format) shift 2 ;; --*) shift ;; *) break ;; esac
done
command=$1; shift
while [ $# -gt 0 ]; do
  case $1 in
    --bundle) bundle=$2; shift 2 ;;
    --pid-file) file=$2; shift 2 ;;
    --*) shift ;;
    *) [ -n "$id" ] || id=$1; shift ;;
  esac
done
case $command in
  create)
    cp "$bundle/config.json" /mnt/specs/$id.json
    sleep 100000 < /dev/null > /dev/null 2>&1 &
    echo $! > /mnt/pids/$id
    printf %s $! > "$file" ;;
  update) cat > /mnt/specs/$id.new; mv /mnt/specs/$id.new /mnt/specs/$id.update.json ;;
  state) printf '{"ociVersion":"1.0.2","id":"%s","status":"running","pid":%s,"bundle":"/"}' $id $(cat /mnt/pids/$id) ;;
  kill|delete) kill -9 $(cat /mnt/pids/$id) 2> /dev/null ;;
esac
exit 0
"""


def image(file: Path) -> None:
    """An OCI image with one empty file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    tar_layer = blob(layer.getvalue(), "layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [tar_layer["digest"]]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [tar_layer],
    }
    named = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    named["annotations"] = {"io.containerd.image.name": IMAGE}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    with tarfile.open(file, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def wait_for(what: Callable[[], object], why: Callable[[], str] = str) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, f"it did not happen; {why()}"
        time.sleep(0.02)


class Containerd:
    """As kubelet uses it: pods and containers through CRI, messages packed by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config.toml").write_text(CONFIG)
        (folder / "start").write_text(START)
        (folder / "runc").write_text(RUNTIME)
        (folder / "runc").chmod(0o755)
        image(folder / "image.tar")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        (self.folder / "ready").unlink(missing_ok=True)
        (self.folder / "containerd.sock").unlink(missing_ok=True)
        inside = f'mount --bind "$0" {DEBIAN}/mnt && exec chroot {DEBIAN} /bin/sh /mnt/start'
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        command = ["unshare", *namespaces, f"--mount-proc={DEBIAN}/proc", "sh", "-c", inside, str(self.folder)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        log = self.folder / "containerd.log"
        wait_for((self.folder / "ready").exists, lambda: log.read_text()[-2000:] if log.exists() else "no log")
        self.channel = grpc.insecure_channel(f"unix:{self.folder}/containerd.sock")

    def stop(self) -> None:
        if self.process is not None:
            self.channel.close()
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def call(self, method: str, request: bytes) -> bytes:
        return self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")(request, timeout=PATIENCE)

    def pod(self, uid: str, name: str, annotations: dict[str, str] | None = None) -> tuple[str, bytes]:
        """(sandbox, its configuration), on the host's network."""
        security = pb((1, pb((1, 2))))
        linux = pb((1, f"/kubepods/pod{uid}"), (2, security))
        metadata = pb((1, name), (2, uid), (3, "default"))
        config = pb((1, metadata), (7, annotations or {}), (8, linux))
        return inner(self.call("RunPodSandbox", pb((1, config))), 1)[0].decode(), config

    def container(self, pod: tuple[str, bytes], name: str) -> str:
        labels = {"io.kubernetes.container.name": name}
        config = pb((1, pb((1, name))), (2, pb((1, IMAGE))), (3, "/x"), (9, labels))
        answer = self.call("CreateContainer", pb((1, pod[0]), (2, config), (3, pod[1])))
        identity = inner(answer, 1)[0].decode()
        self.call("StartContainer", pb((1, identity)))
        return identity

    def spec(self, identity: str) -> dict[str, str]:
        """What the runtime was told when the container was created."""
        return self._unified(f"{identity}.json", "linux", "resources")

    def updated(self, identity: str) -> dict[str, str]:
        """The same of its last update."""
        return self._unified(f"{identity}.update.json")

    def _unified(self, name: str, *keys: str) -> dict[str, str]:
        file = self.folder / "specs" / name
        value = json.loads(file.read_text()) if file.exists() else {}
        for key in keys:
            value = value[key]
        return value.get("unified", {})


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    runtime = Containerd(tmp_path_factory.mktemp("containerd"))
    yield runtime
    runtime.stop()


@pytest.fixture
def plugin(containerd: Containerd, agent) -> Iterator[Callable[[], tuple[Plugin, list[str]]]]:
    started: list[Plugin] = []

    def start() -> tuple[Any, list[str]]:
        looker = agent(mode="enforce")
        looker.look()
        lines: list[str] = []
        started.append(Plugin(looker.reconciler, lines.append, Nri(containerd.folder / "nri.sock"), retry=0.1))
        started[-1].start()
        looker.plugin = started[-1]
        wait_for(lambda: any("in step" in line for line in lines), lambda: str(lines))
        return looker, lines

    yield start
    for one in started:
        one.close()


def test_a_container_starts_with_its_limit_and_keeps_it_through_an_update(containerd, plugin, node: Node):
    uid = uid_of(101)
    node.pod("web", container("app", "10Mi"), container("plain"), uid=uid, groups=False)
    plugin()
    pod = containerd.pod(uid, "web", {"note": "x" * 20_000})
    app, plain = containerd.container(pod, "app"), containerd.container(pod, "plain")
    assert (containerd.spec(app), containerd.spec(plain)) == (LIMIT, {})
    for identity in (app, plain):
        containerd.call("UpdateContainerResources", pb((1, identity), (2, pb((3, 512)))))
    assert (containerd.updated(app), containerd.updated(plain)) == (LIMIT, {})


def test_below_a_group_without_misc_the_spec_is_left_alone(containerd, plugin, node: Node):
    uid = uid_of(106)
    node.pod("web", container("app", "10Mi"), uid=uid, groups=False)
    node.group(f"/kubepods/pod{uid}")  # as containerd.pod names it
    _, lines = plugin()
    pod = containerd.pod(uid, "web")
    limited = containerd.container(pod, "app")
    node.write(f"/kubepods/pod{uid}", "cgroup.subtree_control", "cpu memory pids")
    plain = containerd.container(containerd.pod(uid, "again"), "app")
    assert (containerd.spec(limited), containerd.spec(plain)) == (LIMIT, {})
    assert [line.rpartition(": ")[2] for line in lines if "does not get" in line] == [
        f"no misc in {node.root}/kubepods/pod{uid}/cgroup.subtree_control"
    ]


def test_containers_of_before_are_brought_into_step_also_in_more_than_one_frame(containerd, plugin, node: Node):
    uid = uid_of(102)
    pod = containerd.pod(uid, "many")
    running = [containerd.container(pod, f"c{number}") for number in range(40)]
    node.pod("many", *(container(f"c{number}", "10Mi") for number in range(40)), uid=uid, groups=False)
    _, lines = plugin()
    wait_for(lambda: all(containerd.updated(identity) == LIMIT for identity in running), lambda: str(lines))
    assert all(containerd.spec(identity) == {} for identity in running)


def test_a_limit_that_changes_is_changed_in_the_spec(containerd, plugin, node: Node):
    uid = uid_of(103)
    pod = node.pod("web", container("app", "10Mi"), uid=uid, groups=False)
    looker, lines = plugin()
    identity = containerd.container(containerd.pod(uid, "web"), "app")
    node.items[0]["status"]["containerStatuses"][0]["containerID"] = f"containerd://{identity}"
    node.items[0]["metadata"]["annotations"]["epcgroup.io/limit.app"] = "3Mi"
    pod.start("app", identity)
    looker.tell()
    looker.plugin.offer(looker.look())
    wait_for(lambda: containerd.updated(identity) == {"misc.max": f"sgx_epc {3 * MIB}"}, lambda: str(lines))
    assert containerd.spec(identity) == LIMIT


def test_a_late_plugin_is_dropped_comes_back_and_corrects(containerd, plugin, node: Node):
    uid = uid_of(104)
    node.pod("late", container("app", "10Mi"), uid=uid, groups=False)
    looker, lines = plugin()
    gate, limit_of = Gate(), looker.reconciler.limit_of

    def late(*args: Any) -> Any:
        gate()
        return limit_of(*args)

    pod = containerd.pod(uid, "late")
    looker.reconciler.limit_of = late
    identity = containerd.container(pod, "app")  # goes on without us after 2 s
    assert containerd.spec(identity) == {}
    gate.open.set()
    wait_for(lambda: containerd.updated(identity) == LIMIT, lambda: str(lines))


def test_a_containerd_that_restarts_has_the_plugin_again(containerd, plugin, node: Node):
    uid = uid_of(105)
    node.pod("after", container("app", "10Mi"), uid=uid, groups=False)
    _, lines = plugin()
    containerd.stop()
    containerd.start()
    wait_for(lambda: sum("in step" in line for line in lines) == 2, lambda: str(lines))
    identity = containerd.container(containerd.pod(uid, "after"), "app")
    assert containerd.spec(identity) == LIMIT
