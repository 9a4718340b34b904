"""The node agent on 500 pods with 1,000 containers: one look at all limits and one scrape, beside a plain read.

The tree is a plain folder in memory, each pod with its sandbox: 2,000 groups, 10,000 misc files. The agent runs in a
process of its own, which also says what memory it has at its end.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import Effort, Row

PODS, CONTAINERS = 500, 2
GOAL_SECONDS, GOAL_TIMES, GOAL_BYTES = 0.1, 4, 80 << 20
FILES = ("misc.max", "misc.current", "misc.peak", "misc.events", "misc.events.local")


def rows(effort: Effort) -> list[Row]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        make_node(Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "bench.agent", folder, str(effort.turns)], stdout=subprocess.PIPE, check=True
        )
    found = json.loads(done.stdout)
    plain = found["plain"]
    what = f"agent, {PODS} pods, {PODS * CONTAINERS} containers"
    lines = [Row(f"{what}: a plain read of all misc files", f"{plain * 1000:.0f} ms of CPU", details=found)]
    for name, text in (("reconcile", "one look at all limits"), ("scrape", "one scrape of all metrics")):
        seconds = found[name]
        lines.append(
            Row(
                f"  {text}",
                f"{seconds * 1000:.0f} ms of CPU, {seconds / plain:.1f} times the read",
                f"<= {GOAL_SECONDS * 1000:.0f} ms, <= {GOAL_TIMES} times",
                seconds <= GOAL_SECONDS and seconds <= GOAL_TIMES * plain,
            )
        )
    memory = found["memory"]
    goal = f"<= {GOAL_BYTES >> 20} MiB"
    return [*lines, Row("  its memory", f"{memory / 2**20:.0f} MiB", goal, memory <= GOAL_BYTES)]


def make_node(folder: Path) -> None:
    """The tree, and what kubelet would say about it."""
    from epcgroup.manifest import cgroup_path

    root = folder / "cgroup"
    items = []
    for number in range(PODS):
        uid = cgroup_path.pod_uid("default", f"web-{number}")
        names = [f"app-{i}" for i in range(CONTAINERS)]
        ids = {name: cgroup_path.container_id(uid, name) for name in (*names, "sandbox")}
        pod = cgroup_path.pod_path("burstable", uid, driver="systemd")
        for path in (pod, *(cgroup_path.container_path(pod, identity, driver="systemd") for identity in ids.values())):
            group = root / path.strip("/")
            group.mkdir(parents=True)
            used = path != cgroup_path.container_path(pod, ids["sandbox"], driver="systemd")
            for name in FILES:
                value = "sgx_epc.max 3" if "events" in name else "sgx_epc max" if "max" in name else "sgx_epc 409600"
                (group / name).write_text(f"{value}\n" if used or "max" in value else "sgx_epc 0\n")
        items.append(
            {
                "metadata": {"name": f"web-{number}", "namespace": "default", "uid": uid, "annotations": {}},
                "spec": {
                    "containers": [{"name": n, "resources": {"limits": {"sgx.intel.com/epc": "10Mi"}}} for n in names]
                },
                "status": {"containerStatuses": [{"name": n, "containerID": f"cri://{ids[n]}"} for n in names]},
            }
        )
    (root / "cgroup.controllers").write_text("misc\n")
    (root / "cgroup.subtree_control").write_text("misc\n")
    (root / "misc.capacity").write_text(f"sgx_epc {64 << 30}\n")
    (folder / "pods.json").write_text(json.dumps({"kind": "PodList", "items": items}))


def measure(folder: Path, turns: int) -> dict[str, float]:
    import os

    from bench.measure import best_in_turn
    from epcgroup.agent.metrics import EpcCollector
    from epcgroup.agent.policy import Rules
    from epcgroup.agent.reconcile import Reconciler
    from epcgroup.agent.source import KubeletFile
    from epcgroup.agent.tree import Tree

    files = [str(file) for file in folder.rglob("misc.*")]

    def plain() -> None:
        for file in files:
            fd = os.open(file, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)

    tree = Tree(folder / "cgroup", "sgx_epc")
    agent = Reconciler(tree, KubeletFile(folder / "pods.json"), Rules("enforce"), lambda line: None)
    agent.turn()
    collector = EpcCollector(agent, lambda line: None)
    found = best_in_turn({"plain": plain, "reconcile": agent.turn, "scrape": collector.text}, turns)
    # Not ru_maxrss, which begins with what the parent had.
    status = Path("/proc/self/status").read_text()
    memory = int(status.partition("VmHWM:")[2].split()[0]) << 10
    return {**found, "memory": memory, "files": len(files), "bytes": len(collector.text())}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
