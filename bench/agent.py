"""The node agent on 500 pods with 1,000 containers: one look at all limits and one scrape, beside a plain read.

The tree is a plain folder in memory, and a tree mounted by `epcgroup mount` where that can be: each pod with its
sandbox, 2,000 groups, 10,000 misc files. The agent runs in a process of its own, which also says what memory it has.
A read of a mounted file costs the reader ten times that of a plain one, so there only the ratio has a goal.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Effort, Row

PODS, CONTAINERS = 500, 2
GOAL_SECONDS, GOAL_TIMES, GOAL_BYTES = 0.1, 4, 80 << 20
FILES = {
    "misc.max": "sgx_epc max\n",
    "misc.current": "sgx_epc 409600\n",
    "misc.peak": "sgx_epc 409600\n",
    "misc.events": "sgx_epc.max 3\n",
    "misc.events.local": "sgx_epc.max 3\n",
}


def rows(effort: Effort) -> list[Row]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        folder = Path(name)
        (folder / "cgroup").mkdir()
        (folder / "cgroup" / "cgroup.controllers").write_text("misc\n")
        (folder / "cgroup" / "cgroup.subtree_control").write_text("misc\n")
        (folder / "cgroup" / "misc.capacity").write_text(f"sgx_epc {64 << 30}\n")
        make_node(folder, FILES)
        lines = _rows(folder, f"agent, {PODS} pods, {PODS * CONTAINERS} containers", GOAL_SECONDS, effort)
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return [*lines, Row("  on a mounted tree", "skipped: needs root and /dev/fuse")]
    with tempfile.TemporaryDirectory() as name, mounted(Path(name) / "cgroup"):
        make_node(Path(name), {})
        return lines + _rows(Path(name), "agent on a mounted tree", None, effort)


def _rows(folder: Path, what: str, goal_seconds: float | None, effort: Effort) -> list[Row]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.agent", str(folder), str(effort.turns)], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    plain, memory = found["plain"], found["memory"]
    lines = [Row(f"{what}: a plain read of all misc files", f"{plain * 1000:.0f} ms of CPU", details=found)]
    for name, text in (("reconcile", "one look at all limits"), ("scrape", "one scrape of all metrics")):
        seconds = found[name]
        goal = f"<= {GOAL_TIMES} times" + (f", <= {goal_seconds * 1000:.0f} ms" if goal_seconds else "")
        ok = seconds <= GOAL_TIMES * plain and (goal_seconds is None or seconds <= goal_seconds)
        measured = f"{seconds * 1000:.0f} ms of CPU, {seconds / plain:.1f} times the read"
        lines.append(Row(f"  {text}", measured, goal, ok))
    goal = f"<= {GOAL_BYTES >> 20} MiB"
    return [*lines, Row("  its memory", f"{memory / 2**20:.0f} MiB", goal, memory <= GOAL_BYTES)]


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    folder.mkdir()
    command = [sys.executable, "-m", "epcgroup"]
    subprocess.run([*command, "mount", str(folder), "--epc", "64Gi"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([*command, "umount", str(folder)], check=True, stdout=subprocess.DEVNULL)


def make_node(folder: Path, files: dict[str, str]) -> None:
    """The tree, and what kubelet would say about it."""
    from epcgroup.manifest import cgroup_path

    items = []
    for number in range(PODS):
        uid = cgroup_path.pod_uid("default", f"web-{number}")
        names = [f"app-{i}" for i in range(CONTAINERS)]
        ids = {name: cgroup_path.container_id(uid, name) for name in (*names, "sandbox")}
        pod = cgroup_path.pod_path("burstable", uid, driver="systemd")
        paths = {name: cgroup_path.container_path(pod, ids[name], driver="systemd") for name in ids}
        for path in (pod, *paths.values()):
            group = folder / "cgroup" / path.strip("/")
            group.mkdir(parents=True)
            for name, text in files.items():
                (group / name).write_text(text.replace("409600", "0") if path == paths["sandbox"] else text)
        items.append(
            {
                "metadata": {"name": f"web-{number}", "namespace": "default", "uid": uid, "annotations": {}},
                "spec": {
                    "containers": [{"name": n, "resources": {"limits": {"sgx.intel.com/epc": "10Mi"}}} for n in names]
                },
                "status": {"containerStatuses": [{"name": n, "containerID": f"cri://{ids[n]}"} for n in names]},
            }
        )
    (folder / "pods.json").write_text(json.dumps({"kind": "PodList", "items": items}))


def measure(folder: Path, turns: int) -> dict[str, float]:
    from bench.measure import best_in_turn
    from epcgroup.agent.metrics import EpcCollector
    from epcgroup.agent.policy import Rules
    from epcgroup.agent.reconcile import Reconciler
    from epcgroup.agent.source import KubeletFile
    from epcgroup.agent.tree import Tree

    def plain() -> None:
        for file in files:
            fd = os.open(file, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)

    tree = Tree(folder / "cgroup", "sgx_epc")
    agent = Reconciler(tree, KubeletFile(folder / "pods.json"), Rules("enforce"), lambda line: None, enable_misc=True)
    agent.turn()
    files = [str(file) for file in folder.rglob("misc.*")]
    collector = EpcCollector(agent, lambda line: None)
    found = best_in_turn({"plain": plain, "reconcile": agent.turn, "scrape": collector.text}, turns)
    # Not ru_maxrss, which begins with what the parent had.
    status = Path("/proc/self/status").read_text()
    memory = int(status.partition("VmHWM:")[2].split()[0]) << 10
    return {**found, "memory": memory, "files": len(files), "bytes": len(collector.text())}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
