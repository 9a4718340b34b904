"""The reconciler on a node in a folder: what it writes, what it repairs, what it never touches, what it says."""

import json
import os
import shutil
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, container
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.policy import Rules
from epcgroup.agent.reconcile import Once, Reconciler
from epcgroup.agent.source import KubeletFile, Manifests
from epcgroup.agent.tree import Tree
from epcgroup.manifest import cgroup_path

MISC = {"misc.max", "misc.current", "misc.peak", "misc.events", "misc.events.local", "cgroup.subtree_control"}


def contents(node: Node) -> dict[str, str]:
    return {str(file): file.read_text() for file in sorted(node.root.rglob("*")) if file.is_file()}


def test_limits_are_written_to_the_pod_and_its_containers_and_nothing_else(node, agent):
    pod = node.pod("web", container("app", "10Mi"), container("side", "1Mi"))
    other = node.pod("plain", container("app"))
    before = contents(node)
    agent(mode="enforce").look()
    assert (pod.limit("app"), pod.limit("side"), pod.limit()) == (str(10 * MIB), str(MIB), str(11 * MIB))
    after = contents(node)
    written = {file for file in after if after[file] != before[file]}
    assert written == {node.root.as_posix() + path + "/misc.max" for path in (pod.path, *pod.containers.values())}
    assert (other.limit(), other.limit("app")) == ("max", "max")


def test_every_write_is_a_line_with_its_reason_and_is_said_once(node, agent):
    pod = node.pod("web", container("app", "10Mi"))
    looker = agent(mode="enforce")
    looker.look()
    assert looker.lines == [
        f"wrote sgx_epc 10485760 to {node.root}{pod.path}/misc.max: default/web: sum of its containers; was max",
        f"wrote sgx_epc 10485760 to {node.root}{pod.containers['app']}/misc.max: default/web/app: "
        "claim sgx.intel.com/epc; was max",
    ]
    looker.look()
    assert looker.lines == []
    assert looker.reconciler.totals.writes == {("pod", "written"): 1, ("container", "written"): 1}


def test_a_limit_changed_behind_its_back_is_repaired_at_the_next_look(node, agent):
    pod = node.pod("web", container("app", "10Mi"))
    looker = agent(mode="enforce")
    looker.look()
    node.write(pod.containers["app"], "misc.max", "sgx_epc max")
    node.write(pod.path, "misc.max", "sgx_epc 4096")
    looker.look()
    assert (pod.limit("app"), pod.limit()) == (str(10 * MIB), str(10 * MIB))
    assert [line.rpartition("; ")[2] for line in looker.lines] == ["was 4096 (4 KiB)", "was max"]


def test_a_lower_limit_replaces_a_longer_number(node, agent):
    pod = node.pod("web", container("app", "4096"))
    node.write(pod.path, "misc.max", "sgx_epc 123456789012")
    agent(mode="enforce").look()
    assert node.read(pod.path) == "sgx_epc 4096\n"


@pytest.mark.parametrize("mode", ["observe", "warn"])
def test_observing_and_warning_write_nothing(node, agent, mode):
    node.pod("web", container("app", "10Mi"))
    before = contents(node)
    looker = agent(mode=mode)
    snapshot = looker.look()
    assert contents(node) == before
    assert [outcome.drift for outcome in snapshot.outcomes] == [True, True]
    said = [
        "default/web: limit 10485760 (10 MiB), sum of its containers; is max",
        "default/web/app: limit 10485760 (10 MiB), claim sgx.intel.com/epc; is max",
    ]
    assert looker.lines == (said if mode == "warn" else [])
    looker.look()
    assert looker.lines == []


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(node, agent):
    pod = node.pod("web", container("app", "10Mi"))
    before = contents(node)
    looker = agent(mode="enforce", options={"dry_run": True})
    snapshot = looker.look()
    assert contents(node) == before
    assert looker.lines[0] == (
        f"would write sgx_epc 10485760 to {node.root}{pod.path}/misc.max: default/web: sum of its containers; is max"
    )
    assert [outcome.result for outcome in snapshot.outcomes] == ["would be written"] * 2
    looker.look()
    assert looker.lines == []


def test_only_selected_namespaces_are_written_to(node, agent):
    ours = node.pod("web", container("app", "1Mi"), namespace="team-a")
    theirs = node.pod("web", container("app", "1Mi"), namespace="other")
    agent(namespaces={"team-*": "enforce"}).look()
    assert (ours.limit(), theirs.limit()) == (str(MIB), "max")


def test_new_containers_get_their_limit_and_removed_ones_are_forgotten(node, agent):
    looker = agent(mode="enforce")
    assert looker.look().outcomes == ()
    pod = node.pod("web", container("app", "1Mi"))
    looker.tell()
    assert [outcome.result for outcome in looker.look().outcomes] == ["written", "written"]
    assert pod.limit("app") == str(MIB)
    for path in (*pod.containers.values(), pod.path):
        for folder, _, files in os.walk(node.root / path.strip("/"), topdown=False):
            for file in files:
                (Path(folder) / file).unlink()
            Path(folder).rmdir()
    assert looker.look().outcomes == ()
    assert looker.lines == []


def test_a_restarted_container_is_a_new_group_with_the_same_limit(node, agent):
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(mode="enforce")
    looker.look()
    pod.start("app", "f" * 64)
    node.items[0]["status"]["containerStatuses"][0]["containerID"] = "containerd://" + "f" * 64
    looker.look()
    assert pod.limit("app") == "max"  # kubelet has not said yet whose group it is; the pod's limit holds
    looker.tell()
    looker.look()
    assert pod.limit("app") == str(MIB)


def test_an_agent_that_was_killed_and_comes_back_loses_nothing_and_repeats_nothing(node, agent):
    pod = node.pod("web", container("app", "1Mi"))
    gone = node.pod("other", container("app", "2Mi"))
    looker = agent(mode="enforce")
    looker.look()
    node.write(gone.path, "misc.max", "sgx_epc max")
    looker.restart()
    looker.look()
    assert (pod.limit("app"), gone.limit(), gone.limit("app")) == (str(MIB), str(2 * MIB), str(2 * MIB))
    assert len(looker.lines) == 1


def test_a_limit_that_nobody_asked_for_stays(node, agent):
    pod = node.pod("web", container("app"))
    node.write(pod.path, "misc.max", "sgx_epc 4096")
    agent(mode="enforce").look()
    assert pod.limit() == "4096"


def test_the_limits_of_another_resource_stay(tmp_path, agent):
    """`--resource`: on a kernel with another misc resource the same agent limits that one."""
    node = Node(tmp_path / "sev", resource="sev")
    pod = node.pod("web", container("app", "1Mi"))
    agent(node, mode="enforce").look()
    assert node.read(pod.path) == f"sev {MIB}\n"


@pytest.mark.parametrize("node_misc", [{"capacity": None}, {"capacity": None, "misc": False}])
def test_on_a_node_without_the_resource_one_line_says_so_and_nothing_is_written(tmp_path, agent, node_misc):
    node = Node(tmp_path / "bare", **node_misc)
    node.pod("web", container("app", "1Mi"))
    node.pod("db", container("app", "1Mi"))
    before = contents(node)
    looker = agent(node, mode="enforce", options={"enable_misc": True})
    snapshot = looker.look()
    assert contents(node) == before
    assert looker.lines == [
        f"{node.root}/misc.capacity has no sgx_epc: this node cannot limit it, and nothing is written"
    ]
    assert {outcome.decision.act for outcome in snapshot.outcomes} == {"cannot"}


def test_where_misc_is_not_enabled_nothing_is_written_unless_it_was_configured(tmp_path, agent):
    node = Node(tmp_path / "off", misc=False)
    pod = node.pod("web", container("app", "1Mi"))
    before = contents(node)
    looker = agent(node, mode="enforce")
    looker.look()
    assert contents(node) == before
    assert looker.lines[0] == (
        "default/web: limit 1048576 (1 MiB), sum of its containers; no sgx_epc in misc.max "
        "(is misc in /kubepods.slice/kubepods-besteffort.slice/cgroup.subtree_control?)"
    )
    assert not (node.root / pod.path.strip("/") / "misc.max").exists()


def test_misc_is_enabled_from_the_root_down_to_the_containers_where_that_is_configured(tmp_path, agent):
    node = Node(tmp_path / "off", misc=False)
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(node, mode="enforce", options={"enable_misc": True})
    # A level's misc has to be there before the next level can have it: the kernel of a folder answers between looks.
    for _ in range(5):
        looker.look()
        node.settle()
    looker.look()
    assert (pod.limit(), pod.limit("app")) == (str(MIB), str(MIB))
    assert looker.reconciler.totals.writes["subtree", "written"] == 4  # root, kubepods, besteffort, the pod


@pytest.mark.parametrize("mode", ["observe", "warn"])
def test_misc_is_not_enabled_by_an_agent_that_does_not_enforce(tmp_path, agent, mode):
    node = Node(tmp_path / "off", misc=False)
    node.pod("web", container("app", "1Mi"))
    before = contents(node)
    agent(node, mode=mode, options={"enable_misc": True}).look()
    assert contents(node) == before


def test_a_dry_run_says_where_misc_would_be_enabled(tmp_path, agent):
    node = Node(tmp_path / "off", misc=False)
    node.pod("web", container("app", "1Mi"))
    before = contents(node)
    looker = agent(node, mode="enforce", options={"enable_misc": True, "dry_run": True})
    looker.look()
    assert contents(node) == before
    assert f"would write +misc to {node.root}/cgroup.subtree_control: limits are wanted below it" in looker.lines


def test_a_kernel_without_the_misc_controller_cannot_be_given_it(tmp_path, agent):
    node = Node(tmp_path / "off", misc=False)
    node.pod("web", container("app", "1Mi"))
    node.write("/", "cgroup.controllers", "cpu memory pids")
    looker = agent(node, mode="enforce", options={"enable_misc": True})
    before = contents(node)
    looker.look()
    assert contents(node) == before
    assert f"{node.root}/cgroup.controllers has no misc: it cannot be enabled below" in looker.lines


def test_a_group_that_goes_before_its_limit_is_read_is_no_decision(node, agent, monkeypatch):
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(mode="enforce", options={"enable_misc": True})
    read = Tree.text

    def late(tree: Tree, path: str, name: str) -> str | None:
        if path == pod.containers["app"]:
            shutil.rmtree(node.root / path.strip("/"), ignore_errors=True)
        return read(tree, path, name)

    monkeypatch.setattr(Tree, "text", late)
    snapshot = looker.look()
    assert [outcome.decision.name for outcome in snapshot.outcomes] == ["default/web"]
    assert len(looker.lines) == 1


def test_a_group_that_goes_between_the_look_and_the_write_is_no_error(node, agent, monkeypatch):
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(mode="enforce")
    write = Tree.write

    def late(tree: Tree, path: str, name: str, text: str) -> None:
        if path == pod.containers["app"]:
            (node.root / path.strip("/") / "misc.max").unlink()
        write(tree, path, name, text)

    monkeypatch.setattr(Tree, "write", late)
    snapshot = looker.look()
    assert [(outcome.result, outcome.drift) for outcome in snapshot.outcomes] == [("written", False), ("gone", False)]
    assert len(looker.lines) == 1
    assert looker.reconciler.totals.writes["container", "gone"] == 1


def test_a_write_that_the_kernel_refuses_is_a_line_and_the_others_go_on(node, agent, monkeypatch):
    pod = node.pod("web", container("app", "1Mi"))
    write = Tree.write

    def refuse(tree: Tree, path: str, name: str, text: str) -> None:
        if path == pod.path:
            raise OSError(22, "Invalid argument")
        write(tree, path, name, text)

    monkeypatch.setattr(Tree, "write", refuse)
    looker = agent(mode="enforce")
    snapshot = looker.look()
    assert looker.lines[0] == (
        f"cannot write sgx_epc 1048576 to {node.root}{pod.path}/misc.max (Invalid argument): default/web: "
        "sum of its containers; was max"
    )
    assert [(outcome.result, outcome.drift) for outcome in snapshot.outcomes] == [("failed", True), ("written", False)]
    looker.look()
    assert looker.lines == []
    assert looker.reconciler.totals.writes["pod", "failed"] == 2


@pytest.mark.parametrize("text", ["garbage", "sgx_epc", "sgx_epc -1", "sgx_epc 1 2", "sgx_epc 1" + "0" * 30])
def test_a_file_that_no_kernel_writes_is_a_line_and_the_others_go_on(node, agent, text):
    pod = node.pod("web", container("app", "1Mi"))
    node.write(pod.path, "misc.max", text)
    looker = agent(mode="enforce")
    looker.look()
    assert looker.lines[0].startswith(f"{node.root}{pod.path}/misc.max: ")
    assert node.read(pod.path) == f"{text}\n"
    assert pod.limit("app") == str(MIB)


def test_a_file_that_cannot_be_read_is_a_line_and_the_others_go_on(node, agent):
    pod = node.pod("web", container("app", "1Mi"))
    file = node.root / pod.path.strip("/") / "misc.max"
    file.unlink()
    file.mkdir()
    looker = agent(mode="enforce")
    looker.look()
    assert looker.lines[0] == f"{file}: cannot be read (Is a directory)"
    assert pod.limit("app") == str(MIB)


def test_a_controller_that_the_kernel_does_not_enable_is_a_line_and_nothing_below_it_is_tried(
    tmp_path, agent, monkeypatch
):
    node = Node(tmp_path / "off", misc=False)
    node.pod("web", container("app", "1Mi"))
    tried = []

    def refuse(tree: Tree, path: str, name: str, text: str) -> None:
        tried.append((path, name))
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Tree, "write", refuse)
    looker = agent(node, mode="enforce", options={"enable_misc": True})
    looker.look()
    assert tried == [("/", "cgroup.subtree_control")]
    assert looker.lines[0] == (
        f"cannot write +misc to {node.root}/cgroup.subtree_control (Device or resource busy): "
        "limits are wanted below it"
    )


def test_a_pod_that_has_ended_or_is_another_nodes_is_not_looked_at(node, agent):
    node.pod("over", container("app", "1Mi"), phase="Succeeded")
    node.pod("elsewhere", container("app", "1Mi"), node="node-2")
    here = node.pod("here", container("app", "1Mi"))
    looker = agent(mode="enforce", options={"node": "node-1"})
    snapshot = looker.look()
    assert [pod.instance.pod.name for pod in snapshot.pods] == ["here"]
    assert here.limit() == str(MIB)


def test_faults_of_pods_are_said_once_and_again_when_they_come_back(node, agent):
    node.pod("web", container("app", "1Mi"), annotations={"epcgroup.io/limit.app": "4Kib"})
    looker = agent()
    line = (
        "default/web: annotation epcgroup.io/limit.app: '4Kib': unknown suffix 'Kib'; did you mean \"Ki\"?; it does "
        "not count"
    )
    looker.look()
    assert looker.lines == [line]
    looker.look()
    assert looker.lines == []
    annotations = node.items[0]["metadata"]["annotations"]
    said = annotations.pop("epcgroup.io/limit.app")
    looker.tell()
    looker.look()
    annotations["epcgroup.io/limit.app"] = said
    looker.tell()
    looker.look()
    assert looker.lines == [line]


def test_a_source_that_fails_is_a_line_and_what_was_known_stays_enforced(node, agent):
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(mode="enforce")
    looker.look()
    looker.file.write_text('{"items": [')
    node.write(pod.path, "misc.max", "sgx_epc max")
    looker.look()
    assert pod.limit() == str(MIB)
    assert looker.lines[0].startswith(f"{looker.file}: not JSON: ")
    assert looker.lines[0].endswith("; going on with the 1 pods known before")


def test_a_line_is_said_again_only_after_a_turn_without_it():
    lines: list[str] = []
    once = Once(lines.append)
    for said in (["a", "a"], ["a"], [], ["a"]):
        for line in said:
            once(line)
        once.next_turn()
    assert lines == ["a", "a"]


def test_a_look_reads_a_file_for_each_limit_and_little_more(node, agent):
    for number in range(30):
        node.pod(f"web-{number}", container("a", "1Mi"), container("b", "1Mi"))
    looker = agent(mode="enforce")
    looker.look()
    reads = looker.reconciler.tree.reads
    looker.look()
    # misc.max of 30 pods and 60 containers; folders: root, kubepods, besteffort, 30 pods; misc.capacity.
    assert looker.reconciler.tree.reads - reads == 90 + 33 + 1


# ---- manifests of pods that never were in a cluster


def test_a_folder_of_manifests_limits_the_pods_of_our_own_trees(tmp_path, node):
    uid = cgroup_path.pod_uid("default", "web-1")
    path = cgroup_path.pod_path("besteffort", uid)
    leaf = cgroup_path.container_path(path, cgroup_path.container_id(uid, "app"))
    node.group(leaf)
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "web.yaml").write_text(
        "kind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  template:\n    spec:\n      containers:\n"
        "      - {name: app, resources: {limits: {sgx.intel.com/epc: 1Mi}}}\n"
    )
    lines: list[str] = []
    tree = Tree(node.root, "sgx_epc")
    snapshot = Reconciler(tree, Manifests(tmp_path / "pods"), Rules("enforce"), lines.append).turn()
    assert [pod.instance.pod.name for pod in snapshot.pods] == ["web-0", "web-1"]
    assert (node.read(path), node.read(leaf)) == (f"sgx_epc {MIB}\n", f"sgx_epc {MIB}\n")


# ---- whatever kubelet says

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.data())
def test_no_answer_of_kubelet_stops_the_agent_and_the_good_pods_stay_limited(tmp_path_factory, data):
    """One pod's fields replaced by anything: its neighbour keeps its limit, every line is one line."""
    folder = tmp_path_factory.mktemp("fuzz")
    node = Node(folder / "cgroup")
    node.pod("bad", container("app", "1Mi"), annotations={"epcgroup.io/limit.app": "2Mi"})
    good = node.pod("good", container("app", "1Mi"))
    broken = node.items[0]
    for _ in range(data.draw(st.integers(1, 3))):
        where = broken
        while True:
            key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
            if not (isinstance(where[key], dict | list) and where[key]) or data.draw(st.booleans()):
                where[key] = data.draw(json_values)
                break
            where = where[key]
    (folder / "pods.json").write_text(json.dumps({"items": node.items}))
    lines: list[str] = []
    Reconciler(
        Tree(node.root, "sgx_epc"), KubeletFile(folder / "pods.json"), Rules("enforce"), lines.append
    ).turn()
    assert good.limit() == str(MIB)
    assert all(line.isprintable() for line in lines)


@given(
    st.dictionaries(
        st.sampled_from(["misc.max", "misc.current", "misc.peak", "misc.events", "misc.events.local"]),
        st.text(max_size=40) | st.sampled_from(["sgx_epc max", "sgx_epc.max 1", "sgx_epc 1\nsev 2", "sgx_epc\0 1"]),
    ),
    st.booleans(),
)
def test_no_text_in_the_files_of_a_pod_stops_the_agent_or_a_scrape(tmp_path_factory, files, root_too):
    pytest.importorskip("prometheus_client")
    from epcgroup.agent.metrics import EpcCollector

    folder = tmp_path_factory.mktemp("fuzz")
    node = Node(folder / "cgroup")
    bad = node.pod("bad", container("app", "1Mi"))
    good = node.pod("good", container("app", "1Mi"))
    for name, text in files.items():
        (node.root / bad.path.strip("/") / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    if root_too:
        (node.root / "misc.current").write_text("".join(files.values()), encoding="utf-8", errors="replace")
    (folder / "pods.json").write_text(node.pod_list())
    lines: list[str] = []
    tree = Tree(node.root, "sgx_epc")
    agent = Reconciler(tree, KubeletFile(folder / "pods.json"), Rules("enforce"), lines.append, enable_misc=True)
    agent.turn()
    text = EpcCollector(agent, lines.append).text().decode()
    assert (good.limit(), good.limit("app")) == (str(MIB), str(MIB))
    assert f'pod_sgx_epc_limit_bytes{{namespace="default",pod="good",qos="besteffort",uid="{good.uid}"}}' in text
    assert all(line.isprintable() for line in lines)
