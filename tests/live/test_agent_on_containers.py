"""The agent as a command beside a real daemon: containers of crun are held to the limits of their pods' manifests.

The clients in them want more than they may have, somebody changes limits, containers come and go, the agent is killed.
"""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from test_containers import SIZE, bundle, need

from epcgroup.manifest import cgroup_path

KIB, MIB = 1 << 10, 1 << 20
LIMITS = {"app": MIB, "side": 512 * KIB}
UID = "0f1e2d3c-0000-4000-8000-00000000c0de"

# It fills all of its memory when it is told to, and looks at every line if what it wrote is still there.
CLIENT = f"""
import sys
from epcgroup.live.client import Enclave

with Enclave({SIZE}) as enclave:
    pages = range({SIZE} // 4096)
    for page in pages[:8]:
        enclave.memory[4096 * page] = page % 251
    print("started", flush=True)
    for line in sys.stdin:
        if line == "fill\\n":
            for page in pages:
                enclave.memory[4096 * page] = page % 251
        kept = all(enclave.memory[4096 * page] == page % 251 for page in pages)
        print("kept" if kept else "lost", flush=True)
"""


class Pod:
    """The pod `web` as kubelet, crun and its manifest have it: its groups, its running containers, its file.

    Paths are those of cgroup2.
    """

    def __init__(self, host: Any, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.groups: dict[str, str] = {}  # by name of a container
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.nr_started = 0
        # The agent wants misc.capacity, which the root of cgroup2 has: it is given our view of all of it.
        self.tree = folder / "cgroup"
        self.tree.mkdir()
        host.run("epcgroup", "mount", "--live", "--mirror", "/", str(self.tree))
        self.group = host.path + cgroup_path.pod_path("burstable", UID)

    def start(self, name: str) -> None:
        """A container without any limit of its own; the manifest tells its id once it runs."""
        self.nr_started += 1
        identity = f"{self.nr_started:064x}"
        place = self.folder / f"bundle-{self.nr_started}"
        place.mkdir()
        self.groups[name] = cgroup_path.container_path(self.group, identity)
        group = self.groups[name].removeprefix(f"{self.host.path}/")
        made = bundle(self.host, place, None, group=group, script=CLIENT, limit=None)
        command = ["crun", "--root", str(self.folder / "state"), "--cgroup-manager=cgroupfs", "run", "--bundle", made]
        self.running[name] = self.host.popen(*command, identity, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.host.line(self.running[name]) == "started\n"
        self.tell()

    def tell(self) -> None:
        """The manifest as `kubectl get pod -o json` prints it, replaced in one piece."""
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "uid": UID},
            "spec": {
                "containers": [
                    {"name": name, "resources": {"limits": {"sgx.intel.com/epc": str(limit)}}}
                    for name, limit in LIMITS.items()
                ]
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {"name": name, "containerID": f"containerd://{group.rsplit('/', 1)[1]}"}
                    for name, group in self.groups.items()
                ],
            },
        }
        (self.folder / "new").write_text(json.dumps(manifest))
        (self.folder / "new").rename(self.manifests / "web.json")

    def say(self, name: str, line: str) -> str:
        process = self.running[name]
        assert process.stdin is not None
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        return str(self.host.line(process))

    def end(self, name: str) -> None:
        process = self.running.pop(name)
        process.communicate()
        assert process.returncode == 0

    def max(self, group: str) -> str:
        """Nothing where misc is not enabled yet."""
        return str(self.host.run("sh", "-c", f"cat {self.tree}{group}/misc.max 2>/dev/null || :"))

    def change(self, group: str, limit: int | str) -> None:
        self.host.run("sh", "-c", f"echo sgx_epc {limit} > {self.tree}{group}/misc.max")

    def limited(self) -> bool:
        """Pod and running containers have what the manifest says; a pod has the sum of its containers."""
        wanted = {self.group: sum(LIMITS.values())} | {self.groups[name]: LIMITS[name] for name in self.running}
        return all(self.max(group) == f"sgx_epc {limit}\n" for group, limit in wanted.items())

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.host.status()["groups"][self.groups[name]]
        return found


def agent(host: Any, pod: Pod, log: Path) -> "subprocess.Popen[bytes]":
    file = pod.folder / "agent.toml"
    file.write_text(
        f'mode = "enforce"\nsource.manifests = "manifests"\ncgroup_root = "{pod.tree}"\ninterval = "100ms"\n'
        "enable_misc = true\n"
    )
    with log.open("wb") as stderr:
        process: subprocess.Popen[bytes] = host.popen("epcgroup", "agent", "--config", str(file), stderr=stderr)
    return process


def faults(log: Path) -> list[str]:
    """What an agent said besides what it is and what it wrote."""
    good = ("epcgroup: agent: ", "epcgroup: wrote ")
    return [line for line in log.read_text().splitlines() if not line.startswith(good)]


def test_the_agent_holds_live_containers_to_their_manifests(bare_host: Any, tmp_path: Path) -> None:
    need("crun")
    host = bare_host
    pod = Pod(host, tmp_path)
    first = agent(host, pod, tmp_path / "first.log")

    # A container that starts while the agent runs gets its limit, and its pod the pod's.
    pod.start("app")
    host.until(pod.limited)
    assert pod.say("app", "fill") == "kept\n"
    assert (pod.status("app")["max"], pod.status("app")["peak"]) == (MIB, MIB)

    # Somebody changes both behind its back: it sets them again, and the client gets no more than before.
    pod.change(pod.group, "max")
    pod.change(pod.groups["app"], "max")
    host.until(pod.limited)
    assert pod.say("app", "look") == "kept\n"
    assert pod.status("app")["peak"] == MIB

    # A second container is noticed.
    pod.start("side")
    host.until(pod.limited)
    assert pod.say("side", "fill") == "kept\n"
    assert pod.status("side")["peak"] == 512 * KIB
    assert pod.say("app", "look") == "kept\n"

    # One that ends goes with its group; the agent looks on after it.
    gone = pod.groups["side"]
    pod.end("side")
    host.run("test", "!", "-e", f"{pod.tree}{gone}")
    pod.change(pod.groups["app"], 4096)
    host.until(pod.limited)
    assert gone not in host.status()["groups"]

    # Killed, it leaves every limit in the files, and they hold.
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert pod.limited()
    assert pod.say("app", "look") == "kept\n"
    assert pod.status("app")["peak"] == MIB
    assert faults(tmp_path / "first.log") == []

    # What happened meanwhile is made good by the next: a change, and a container that nobody limited.
    pod.change(pod.group, "max")
    pod.start("side")
    assert pod.max(pod.groups["side"]) == "sgx_epc max\n"
    second = agent(host, pod, tmp_path / "second.log")
    host.until(pod.limited)
    assert pod.say("side", "fill") == "kept\n"
    assert pod.status("side")["peak"] == 512 * KIB
    assert pod.say("app", "look") == "kept\n"
    assert pod.status("app")["peak"] == MIB

    # The whole pod goes, and the agent is told to stop.
    pod.end("app")
    pod.end("side")
    host.run("rmdir", f"{pod.tree}{pod.group}")
    (pod.manifests / "web.json").unlink()
    second.send_signal(signal.SIGTERM)
    assert second.wait() == 0
    assert faults(tmp_path / "second.log") == []
