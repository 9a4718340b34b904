"""What deploy/ grants is enough: uid 0 without any capability enables misc and writes limits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, container

sys.path.append(str(Path(__file__).parent.parent / "cgroupfs"))
from mounted import lacking, mounted

pytestmark = [
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv (util-linux)"),
]

SRC = Path(__file__).parent.parent.parent / "src"


class MountedNode(Node):
    """Groups are the controller's own; nothing is written to them but what a test says."""

    def __post_init__(self) -> None:
        """The mounted tree is there already."""

    def group(self, path: str) -> None:
        (self.root / path.strip("/")).mkdir(parents=True, exist_ok=True)


def test_root_without_a_capability_can_enforce(tmp_path):
    with mounted(tmp_path / "cgroup", "--epc", "128Mi") as folder:
        node = MountedNode(folder)
        pod = node.pod("web", container("app", "2Mi"), container("side", "1Mi"))
        (tmp_path / "pods.json").write_text(node.pod_list())
        (tmp_path / "agent.toml").write_text(
            f'mode = "enforce"\nenable_misc = true\nsource.kubelet_file = "pods.json"\ncgroup_root = "{folder}"\n'
        )
        bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        had = subprocess.run([*bare, "grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True)
        assert had.stdout.split() == ["CapEff:", "0000000000000000"]
        done = subprocess.run(
            [*bare, sys.executable, "-m", "epcgroup", "agent", "--config", str(tmp_path / "agent.toml"), "--once"],
            env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (pod.limit(), pod.limit("app"), pod.limit("side")) == (str(3 * MIB), str(2 * MIB), str(MIB))
