"""The agent on the real files: our mounted tree of the misc controller, with charges that its limits refuse."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, container

sys.path.append(str(Path(__file__).parent.parent / "cgroupfs"))
from mounted import lacking, mounted, write

pytest.importorskip("prometheus_client", reason="needs prometheus_client (pip install 'epcgroup[agent]')")
pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

SRC = Path(__file__).parent.parent.parent / "src"
PATIENCE = 60.0  # seconds; only a failing test waits so long


class MountedNode(Node):
    """A node whose files are the controller's: groups are made by mkdir, use by charges."""

    def __post_init__(self) -> None:
        """The mounted tree is there already."""

    def group(self, path: str) -> None:
        (self.root / path.strip("/")).mkdir(parents=True, exist_ok=True)

    def control(self, command: str) -> None:
        write(self.root / "epcgroup.control", command)

    def remove(self, path: str) -> None:
        """rmdir of a group and all below it."""
        for folder, below, _ in os.walk(self.root / path.strip("/"), topdown=False):
            for name in below:
                (Path(folder) / name).rmdir()
        (self.root / path.strip("/")).rmdir()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MountedNode]:
    with mounted(tmp_path / "cgroup", "--epc", "128Mi") as folder:
        yield MountedNode(folder)


ENFORCE = {"mode": "enforce", "options": {"enable_misc": True}}


def test_misc_is_enabled_down_to_the_containers_and_limits_hold_in_one_look(node, agent):
    pod = node.pod("web", container("app", "2Mi"), container("side", "1Mi"))
    agent(**ENFORCE).look()
    assert (pod.limit("app"), pod.limit("side"), pod.limit()) == (str(2 * MIB), str(MIB), str(3 * MIB))
    node.control(f"charge a {pod.containers['app']} 2Mi")
    with pytest.raises(OSError) as refused:
        node.control(f"charge b {pod.containers['app']} 4Ki")
    assert refused.value.errno == errno.EBUSY


def test_without_leave_to_enable_misc_nothing_is_written(node, agent):
    node.pod("web", container("app", "2Mi"))
    before = node.read("/", "cgroup.subtree_control")
    looker = agent(mode="enforce")
    looker.look()
    assert node.read("/", "cgroup.subtree_control") == before
    assert all("cgroup.subtree_control?" in line for line in looker.lines) and looker.lines


def test_what_is_charged_and_refused_is_in_the_metrics(node, agent):
    from epcgroup.agent.metrics import EpcCollector

    pod = node.pod("web", container("app", "2Mi"), container("free"))
    looker = agent(**ENFORCE)
    looker.look()
    # A container without a limit shares the pod's, which refuses: the event is the pod's, not the container's.
    node.control(f"charge a {pod.containers['free']} 1Mi")
    with pytest.raises(OSError):
        node.control(f"charge b {pod.containers['free']} 2Mi")
    text = EpcCollector(looker.reconciler, looker.lines.append, reserve_bytes=28 * MIB).text().decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    pods = f'namespace="default",pod="web",qos="besteffort",uid="{pod.uid}"'
    scoped = f'namespace="default",pod="web",scope="%s",uid="{pod.uid}"'
    free = f'container="free",id="{pod.containers["free"]}",namespace="default",pod="web"'
    assert float(found[f"pod_sgx_epc_usage_bytes{{{pods}}}"]) == MIB
    assert float(found[f"pod_sgx_epc_limit_bytes{{{pods}}}"]) == 2 * MIB
    assert float(found[f"pod_sgx_epc_limit_events_total{{{scoped % 'local'}}}"]) == 1
    assert float(found[f'container_sgx_epc_usage_bytes{{{free},uid="{pod.uid}"}}']) == MIB
    assert float(found[f'container_sgx_epc_limit_events_total{{{free},scope="local",uid="{pod.uid}"}}']) == 0
    assert f"container_sgx_epc_limit_bytes{{{free}" not in text
    assert float(found["node_sgx_epc_usage_bytes"]) == MIB
    assert float(found["node_sgx_epc_unclaimed_bytes"]) == 98 * MIB


def test_files_of_series_v2_have_no_peak_no_local_events_and_no_use_of_the_node(tmp_path, agent):
    from epcgroup.agent.metrics import EpcCollector

    with mounted(tmp_path / "v2", "--epc", "128Mi", "--series", "v2") as folder:
        node = MountedNode(folder)
        pod = node.pod("web", container("app", "2Mi"))
        looker = agent(node, **ENFORCE)
        looker.look()
        node.control(f"charge a {pod.containers['app']} 1Mi")
        text = EpcCollector(looker.reconciler, looker.lines.append).text().decode()
        assert (pod.limit(), pod.limit("app")) == (str(2 * MIB), str(2 * MIB))
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    pods = f'namespace="default",pod="web",qos="besteffort",uid="{pod.uid}"'
    assert float(found[f"pod_sgx_epc_peak_bytes{{{pods}}}"]) == MIB
    assert 'scope="hierarchical"' in text and 'scope="local"' not in text
    assert "node_sgx_epc_usage_bytes" not in text
    capabilities = {"misc_controller": 1, "sgx_epc_resource": 1, "peak": 0, "events_local": 0}
    for feature, there in capabilities.items():
        assert float(found[f'sgx_epc_agent_capability{{feature="{feature}"}}']) == there


def test_an_enclave_of_a_limited_container_stays_within_it(node, agent):
    pod = node.pod("web", container("app", "2Mi"))
    agent(**ENFORCE).look()
    node.control(f"enclave e {pod.containers['app']} 8Mi")
    assert int(node.read(pod.containers["app"], "misc.current").split()[1]) <= 2 * MIB


def test_groups_that_are_removed_while_it_looks_are_no_error(node, agent, monkeypatch):
    from epcgroup.agent.tree import Tree

    doomed = node.pod("doomed", container("app", "1Mi"))
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(**ENFORCE)
    read = Tree.text

    def late(tree: Tree, path: str, name: str) -> str | None:
        text = read(tree, path, name)
        if (path, name) == (doomed.path, "misc.max"):
            node.remove(doomed.path)
            monkeypatch.setattr(Tree, "text", read)
        return text

    monkeypatch.setattr(Tree, "text", late)
    looker.look()
    assert (pod.limit(), pod.limit("app")) == (str(MIB), str(MIB))
    looker.look()
    assert looker.lines == []


def test_the_agent_as_a_process_repairs_is_killed_and_followed(node, tmp_path):
    pod = node.pod("web", container("app", "1Mi"))
    (tmp_path / "pods.json").write_text(node.pod_list())
    file = tmp_path / "agent.toml"
    file.write_text(
        f'mode = "enforce"\nsource.kubelet_file = "pods.json"\ncgroup_root = "{node.root}"\ninterval = "100ms"\n'
        "enable_misc = true\n"
    )
    command = [sys.executable, "-m", "epcgroup", "agent", "--config", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_for(lambda: limits(node, pod) == [str(MIB)] * 2)
                node.write(pod.path, "misc.max", "sgx_epc max")
                node.write(pod.containers["app"], "misc.max", "sgx_epc 4096")
                wait_for(lambda: limits(node, pod) == [str(MIB)] * 2)
                process.send_signal(end)
                process.wait(PATIENCE)
            finally:
                process.kill()
        assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 0)
        node.write(pod.path, "misc.max", "sgx_epc max")


def limits(node: Node, pod) -> list[str]:
    """What is in misc.max of pod and container; nothing where misc is not enabled yet."""
    paths = {"": pod.path, "app": pod.containers["app"]}
    return [pod.limit(name) for name in paths if (node.root / paths[name].strip("/") / "misc.max").exists()]


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
