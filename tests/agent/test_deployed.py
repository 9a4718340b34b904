"""The configuration that deploy/agent-alone installs, against an API server: the role has every permission it uses."""

import re
from pathlib import Path

import pytest
import yaml
from cgroup_nodes import MIB, Node, container
from kube_fakes import FakeApiServer

from epcgroup.cli.main import main

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
VERBS = {"POST": "create", "PATCH": "patch", "GET": "list"}  # a watch is asked of the same path as a list


@pytest.fixture
def installed(tmp_path: Path, node: Node, api: FakeApiServer, endpoint, monkeypatch) -> Path:
    """agent.toml, its paths led to the folder and its API server to the imitated one."""
    monkeypatch.setenv("NODE_NAME", "node-1")
    text = (DEPLOY / "agent-alone/agent.toml").read_text().replace("/host/sys/fs/cgroup", str(node.root))
    file = tmp_path / "agent.toml"
    server = f'url = "{api.url}"\ntoken_file = "{endpoint.token_file}"\nca_file = "{endpoint.ca_file}"'
    file.write_text(f"{text}\n[api_server]\n{server}\n")
    api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {"cpu": "4"}}})
    pod = node.pod("web", container("app", "10Mi"), annotations={"epcgroup.io/limit.app": "plenty"})
    node.use(pod.containers["app"], 14 * MIB)
    api.pods.put(node.items[0])
    return file


def granted() -> set[tuple[str, str]]:
    (role,) = (d for d in yaml.safe_load_all((DEPLOY / "agent/rbac.yaml").read_text()) if d["kind"] == "ClusterRole")
    more = [patch["value"] for patch in yaml.safe_load((DEPLOY / "agent-alone/rbac.yaml").read_text())]
    rules = [*role["rules"], *more]
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def used(api: FakeApiServer) -> set[tuple[str, str]]:
    """(verb, resource) of every request."""
    found = set()
    for method, path in api.requests:
        path = re.sub(r"^/api/v1/(namespaces/[^/]+/)?", "", path.partition("?")[0])
        resource, _, rest = path.partition("/")
        found.add((VERBS[method], f"{resource}/{rest.partition('/')[2]}".rstrip("/")))
    return found


def test_the_role_grants_what_the_agent_asks_of_the_api_server(installed, api, capsys):
    assert main(["agent", "--config", str(installed), "--once"]) == 0
    assert "differs           default/web/app: limit 10485760 (10 MiB), claim sgx.intel.com/epc; is max" in (
        capsys.readouterr().out
    )
    assert api.nodes.get(("", "node-1"))["status"]["capacity"]["sgx.intel.com/epc"] == str(120 * MIB)
    assert [event["reason"] for event in api.events.objects.values()] == ["EpcAnnotationInvalid"]
    assert {("list", "pods"), ("create", "events"), ("patch", "nodes/status")} <= used(api) <= granted()


def test_recommendations_come_from_pods_of_the_api_server_and_change_nothing_there(installed, api, capsys):
    assert main(["agent", "--config", str(installed), "--recommend"]) == 0
    assert "    epcgroup.io/limit.app: 17920Ki  # peak 14 MiB + 25%; claims 10 MiB\n" in capsys.readouterr().out
    assert used(api) == {("list", "pods")}
