"""What deploy/ installs: manifests that fit together and ask for no more than is needed, a configuration that the agent
takes, rules and a dashboard over metrics that it exports. Rules are run by promtool, manifests built by kubectl."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from epcgroup.agent import config

pytest.importorskip("prometheus_client", reason="needs prometheus_client (pip install 'epcgroup[agent]')")
from epcgroup.agent.metrics import FAMILIES

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MONITORING = DEPLOY / "monitoring"
RULES = {"rules.yaml": MONITORING / "prometheusrule.yaml", "enforce.yaml": MONITORING / "enforce/prometheusrule.yaml"}
FOLDERS = [file.parent for file in sorted(DEPLOY.rglob("kustomization.yaml"))]
# Those of the agent, our recorded ones, and Prometheus' own.
_METRIC = re.compile(r"\b(?:container|pod|node|sgx|namespace|up)[a-z0-9_]*(?::[a-z0-9_]+)*\b(?=[{\[) ]|$)")


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def objects() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(DEPLOY.rglob("*.yaml")):
        for document in documents(file):
            if isinstance(document, dict) and "kind" in document:
                yield file, document


def only(kind: str) -> dict[str, Any]:
    """The object of that kind in deploy/agent or deploy/monitoring."""
    folders = (DEPLOY / "agent", MONITORING)
    (found,) = (document for file, document in objects() if document["kind"] == kind and file.parent in folders)
    return found


def containers_and_volumes(folder: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    (daemon_set,) = documents(DEPLOY / folder / "daemonset.yaml")
    pod = daemon_set["spec"]["template"]["spec"]
    return pod["containers"], pod["volumes"]


def host_paths(volumes: list[dict[str, Any]]) -> dict[str, str]:
    return {volume["name"]: volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}


def rules() -> list[dict[str, Any]]:
    groups = [group for file in RULES.values() for group in documents(file)[0]["spec"]["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def exported() -> set[str]:
    """Every name that a sample of the agent can have."""
    parts = [name for name, (kind, _) in FAMILIES.items() if kind == "histogram"]
    return {*FAMILIES, *(name + suffix for name in parts for suffix in ("_bucket", "_count", "_sum"))}


def metrics_of(expression: str) -> set[str]:
    """The metrics that a PromQL expression names; labels and words of its own are none."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    return set(_METRIC.findall(bare))


# ---- manifests


def test_every_object_has_version_kind_and_a_name_of_kubernetes() -> None:
    names = []
    for file, document in objects():
        assert document["apiVersion"], file
        if document["kind"] in ("Kustomization", "Component"):
            continue
        name = document["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name), file
        names.append((document["kind"], name, file.parent))
    assert len(names) == len(set(names))
    assert {kind for kind, _, _ in names} == {
        "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet", "Service", "ServiceMonitor",
        "PrometheusRule",
    }  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(DEPLOY)))
def test_a_kustomization_names_files_that_are_there_and_leaves_none_out(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    named = [*kustomization.get("resources", []), *(patch["path"] for patch in kustomization.get("patches", []))]
    named += [
        file.partition("=")[2] or file
        for generator in kustomization.get("configMapGenerator", [])
        for file in generator["files"]
    ]
    assert [name for name in named if not (folder / name).exists()] == []
    there = {file.name for file in folder.iterdir() if file.is_file()} - {"kustomization.yaml", "rules_test.yaml"}
    assert there <= set(named)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(DEPLOY)))
def test_kubectl_builds_every_folder(folder: Path) -> None:
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    spaces = {document["metadata"].get("namespace") for document in built}
    assert spaces - {None} == {"epcgroup"}
    for document in built:
        if document["kind"] == "DaemonSet":
            maps = [v["configMap"]["name"] for v in document["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
            made = [d["metadata"]["name"] for d in built if d["kind"] == "ConfigMap"]
            assert maps == made and maps[0].startswith("epcgroup-agent-")


def test_objects_of_kubernetes_itself_are_as_its_schemas_want_them() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate (pip install '.[dev]')")
    checked = set()
    for file, document in objects():
        if document["apiVersion"].partition("/")[0] in ("v1", "apps", "rbac.authorization.k8s.io"):
            if file.parent.name == "agent-alone":
                continue  # a patch, not the whole
            schemas.validate(document, "1.37", strict=True)
            checked.add(document["kind"])
    assert checked == {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet", "Service"}


def test_service_and_monitor_select_the_pods_by_label_and_port() -> None:
    template = only("DaemonSet")["spec"]["template"]
    labels = template["metadata"]["labels"]
    service, monitor = only("Service"), only("ServiceMonitor")
    assert only("DaemonSet")["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    (own,) = template["spec"]["containers"][0]["ports"]
    assert (port["targetPort"], port["port"]) == (own["name"], own["containerPort"])
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [port["name"]]
    # By default the operator makes the service's name the job, which the rules go by.
    assert service["metadata"]["name"] == "epcgroup-agent"


def test_the_scrape_keeps_the_labels_of_the_pods_that_are_measured() -> None:
    (endpoint,) = only("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True
    (dropped,) = (rule["regex"] for rule in endpoint["relabelings"] if rule.get("action") == "labeldrop")
    assert {"namespace", "pod", "container"} <= set(dropped.split("|"))


def test_the_agent_is_root_without_a_capability_and_sees_of_the_host_only_what_it_needs() -> None:
    pod = only("DaemonSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert not {"hostPID", "hostNetwork", "hostIPC"} & set(pod)
    assert host_paths(pod["volumes"]) == {"cgroup": "/sys/fs/cgroup", "nri": "/var/run/nri"}
    assert only("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"  # hostPath


def test_the_devices_take_two_more_mounts_of_which_dev_is_read_only() -> None:
    (container,), volumes = containers_and_volumes("agent-alone")
    assert "securityContext" not in container
    assert host_paths(volumes) == {"device-plugins": "/var/lib/kubelet/device-plugins", "devices": "/dev"}
    assert [mount["name"] for mount in container["volumeMounts"] if mount.get("readOnly")] == ["devices"]


@pytest.mark.parametrize("folder", ["agent", "agent-alone"])
def test_every_volume_is_mounted_and_every_host_path_is_explained(folder: str) -> None:
    (container,), volumes = containers_and_volumes(folder)
    mounts = [mount["name"] for mount in container["volumeMounts"]]
    assert mounts == [volume["name"] for volume in volumes]
    guide = (ROOT / "docs/guides/operate-a-node.md").read_text()
    assert [path for path in host_paths(volumes).values() if f"`{path}`" not in guide] == []


def test_the_role_is_bound_to_the_account_of_the_pods_and_asks_for_what_the_guide_says() -> None:
    account, role, binding = only("ServiceAccount"), only("ClusterRole"), only("ClusterRoleBinding")
    assert only("DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    namespace = only("Namespace")["metadata"]["name"]
    name = account["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    assert [(rule["resources"], rule["verbs"]) for rule in role["rules"]] == [
        (["pods"], ["list", "watch"]),
        (["events"], ["create", "get", "patch"]),
    ]
    more = [patch["value"] for patch in documents(DEPLOY / "agent-alone/rbac.yaml")[0]]
    assert [(rule["resources"], rule["verbs"]) for rule in more] == [
        (["nodes"], ["list", "watch"]),
        (["nodes/status"], ["patch"]),
    ]
    guide = (ROOT / "docs/guides/operate-a-node.md").read_text()
    for rule in (*role["rules"], *more):
        assert rule["apiGroups"] == [""]
        assert f"{', '.join(f'`{verb}`' for verb in rule['verbs'])} on `{rule['resources'][0]}`" in guide


# ---- the configuration


@pytest.fixture
def in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container of the DaemonSet has in its environment."""
    monkeypatch.setenv("NODE_NAME", "node-1")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


@pytest.mark.usefixtures("in_the_cluster")
def test_the_agent_takes_the_configuration_of_the_config_map() -> None:
    loaded = config.load(DEPLOY / "agent/agent.toml")
    (container,), _ = containers_and_volumes("agent")
    assert (loaded.node, loaded.rules.mode, loaded.device_plugin) == ("node-1", "observe", None)
    assert (loaded.advertise, loaded.events) == (None, True)
    assert [variable["name"] for variable in container["env"]] == ["NODE_NAME"]
    assert loaded.listen == ("0.0.0.0", container["ports"][0]["containerPort"])
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert loaded.nri is not None
    assert {str(loaded.cgroup_root), str(loaded.nri.socket.parent), "/etc/epcgroup"} == mounted
    assert 'CMD ["agent", "--config", "/etc/epcgroup/agent.toml"]' in (DEPLOY / "Containerfile").read_text()


@pytest.mark.usefixtures("in_the_cluster")
def test_that_of_the_agent_alone_also_offers_devices_and_epc() -> None:
    loaded = config.load(DEPLOY / "agent-alone/agent.toml")
    plugin = loaded.device_plugin
    assert plugin is not None
    (container,), _ = containers_and_volumes("agent-alone")
    assert {str(plugin.folder), str(plugin.devices)} == {mount["mountPath"] for mount in container["volumeMounts"]}
    plain = tomllib.loads((DEPLOY / "agent/agent.toml").read_text())
    more = tomllib.loads((DEPLOY / "agent-alone/agent.toml").read_text())
    assert more == {**plain, "advertise": {"mode": "enforce"}, "device_plugin": {"devices": "/host/dev"}}


@pytest.mark.parametrize("file", sorted((DEPLOY / "runtime").iterdir()), ids=lambda file: file.name)
def test_the_runtimes_configurations_are_toml_and_name_the_socket(file: Path) -> None:
    tomllib.loads(file.read_text())
    assert '"/var/run/nri/nri.sock"' in file.read_text()


def test_the_image_is_built_from_files_that_are_there_and_has_the_tag_of_the_manifests() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied and [name for name in copied if not (ROOT / name).exists()] == []
    (kustomization,) = documents(DEPLOY / "agent/kustomization.yaml")
    (image,) = kustomization["images"]
    (container,) = only("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['name']}:{image['newTag']}"
    assert f"-t {image['name'].rpartition('/')[2]}:{image['newTag']} " in text


# ---- rules


@pytest.fixture
def rule_files(tmp_path: Path) -> Path:
    """What the Prometheus operator makes of the PrometheusRules, and their tests beside it."""
    for name, file in RULES.items():
        (tmp_path / name).write_text(yaml.safe_dump(documents(file)[0]["spec"]))
    shutil.copy(MONITORING / "rules_test.yaml", tmp_path)
    return tmp_path


def promtool(*arguments: str, cwd: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules(rule_files: Path) -> None:
    promtool("check", "rules", *RULES, cwd=rule_files)


def test_the_rules_do_what_their_tests_say(rule_files: Path) -> None:
    promtool("test", "rules", "rules_test.yaml", cwd=rule_files)


def test_every_rule_has_a_test_and_every_alert_one_that_it_fires() -> None:
    tests = documents(MONITORING / "rules_test.yaml")[0]["tests"]
    fired = {alert["alertname"] for test in tests for alert in test["alert_rule_test"] if alert["exp_alerts"]}
    asked = " ".join(one["expr"] for test in tests for one in test.get("promql_expr_test", []))
    assert {rule["alert"] for rule in rules() if "alert" in rule} == fired
    assert [rule["record"] for rule in rules() if "record" in rule and rule["record"] not in asked] == []


def test_every_alert_has_a_severity_a_summary_and_a_line_in_the_guide() -> None:
    guide = (ROOT / "docs/guides/operate-a-node.md").read_text()
    for rule in rules():
        if "alert" in rule:
            assert re.search(rf"\b{rule['alert']}\b", guide), rule["alert"]
            assert rule["labels"]["severity"] in ("info", "warning"), rule["alert"]
            assert rule["annotations"]["summary"], rule["alert"]


def test_rules_name_only_what_the_agent_exports_or_another_rule_records() -> None:
    known = exported() | {rule["record"] for rule in rules() if "record" in rule} | {"up"}
    used = {name for rule in rules() for name in metrics_of(rule["expr"])}
    assert used - known == set()
    tests = documents(MONITORING / "rules_test.yaml")[0]["tests"]
    series = {one["series"].partition("{")[0] for test in tests for one in test["input_series"]}
    assert series - known == set()


def test_the_metrics_of_an_expression_are_found() -> None:
    expression = 'topk(3, sum by (node, pod) (rate(pod_x_total{node="pod_y", up=~"x"}[5m]))) > on (node) node:b:c == up'
    assert metrics_of(expression) == {"pod_x_total", "node:b:c", "up"}


# ---- the dashboard


def dashboard() -> dict[str, Any]:
    value = json.loads((MONITORING / "dashboard.json").read_text())
    assert isinstance(value, dict)
    return value


def targets() -> list[tuple[str, str]]:
    """(panel, expression) of every query."""
    return [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel["targets"]]


def test_the_dashboards_panels_have_numbers_places_and_the_chosen_source() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_dashboard_shows_only_what_is_exported_or_recorded() -> None:
    known = exported() | {rule["record"] for rule in rules() if "record" in rule}
    for panel, expression in targets():
        assert metrics_of(expression) and metrics_of(expression) <= known, panel
    variables = {variable["name"]: variable["query"] for variable in dashboard()["templating"]["list"]}
    used = {name for _, expression in targets() for name in re.findall(r"\$(\w+)", expression)}
    assert used | {"datasource"} == set(variables)
    asked = {query["query"].split("(")[1].split(",")[0] for query in variables.values() if query != "prometheus"}
    assert asked <= known


def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    asked = [{"record": f"query:{n}", "expr": re.sub(r"\$\w+", "x", e)} for n, (_, e) in enumerate(targets())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": asked}]}))
    promtool("check", "rules", "queries.yaml", cwd=tmp_path)
