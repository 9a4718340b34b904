"""A node in a folder, and an agent that looks at it once when it is told to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cgroup_nodes import Node
from kube_fakes import TOKEN, FakeApiServer, certificate

from epcgroup.agent.endpoint import Endpoint
from epcgroup.agent.policy import Rules
from epcgroup.agent.reconcile import Reconciler, Snapshot
from epcgroup.agent.source import KubeletFile
from epcgroup.agent.tree import Tree


@dataclass
class Agent:
    """`look` is one turn with what kubelet says now; `lines` is what it said."""

    node: Node
    file: Path
    rules: Rules
    options: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.tell()
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is remembered."""
        tree = Tree(self.node.root, self.node.resource)
        self.reconciler = Reconciler(tree, KubeletFile(self.file), self.rules, self.lines.append, **self.options)

    def tell(self) -> None:
        """Kubelet's answer is written anew, with a time that differs."""
        self.version += 1
        new = self.file.with_suffix(".new")
        new.write_text(self.node.pod_list())
        new.rename(self.file)

    def look(self) -> Snapshot:
        self.lines.clear()
        return self.reconciler.turn()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "cgroup")


@pytest.fixture
def agent(tmp_path: Path, node: Node) -> Callable[..., Agent]:
    """`agent(mode="enforce")`: rules by name; `options` go to the reconciler."""

    def make(on: Node = node, *, options: dict[str, Any] | None = None, **rules: Any) -> Agent:
        return Agent(on, tmp_path / "pods.json", Rules(**rules), options or {})

    return make


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1."""
    pytest.importorskip("cryptography")
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def api(pem: Path) -> Iterator[FakeApiServer]:
    server = FakeApiServer(pem)
    yield server
    server.close()


@pytest.fixture
def endpoint(api: FakeApiServer, pem: Path, tmp_path: Path) -> Endpoint:
    """As a pod in the cluster has it."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    return Endpoint(api.url, tmp_path / "token", pem)
