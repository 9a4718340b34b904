"""Where pods come from: a folder of manifests, kubelet's answer in a file, and what either may have wrong."""

import json
import os
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, cid_of, container, uid_of
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.source import KubeletFile, Manifests, pods_of
from epcgroup.errors import InputError
from epcgroup.manifest import cgroup_path

POD = """kind: Pod
metadata: {name: NAME, namespace: team, uid: UID}
spec:
  containers:
  - {name: app, resources: {limits: {sgx.intel.com/epc: 1Mi}}}
"""
SHARED = Path(__file__).parent.parent / "samples" / "manifests"


def write(folder: Path, name: str, text: str) -> None:
    """As ConfigMaps and editors do: a new file in the place of the old one."""
    new = folder / "new"
    new.write_text(text)
    new.rename(folder / name)


def manifest(name: str = "web", uid: str | None = None) -> str:
    return POD.replace("NAME", name).replace("UID", uid or uid_of(1))


def test_pods_of_a_folder_have_their_uids_claims_and_namespaces(tmp_path):
    write(tmp_path, "a.yaml", manifest("web") + "---\n" + manifest("db", uid_of(2)))
    write(tmp_path, "notes.txt", "not a manifest")
    known = Manifests(tmp_path).look()
    assert [(p.pod.namespace, p.pod.name, p.uid, p.pod.claim_bytes) for p in known.pods] == [
        ("team", "web", uid_of(1), MIB),
        ("team", "db", uid_of(2), MIB),
    ]
    assert known.problems == ()


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    write(tmp_path, "a.yaml", manifest("a"))
    write(tmp_path, "b.yaml", manifest("b", uid_of(2)))
    source = Manifests(tmp_path)
    first = source.look()
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), real(self, *a, **k))[1])
    assert source.look() is first
    assert opened == []
    write(tmp_path, "b.yaml", manifest("c", uid_of(3)))
    opened.clear()
    assert [pod.pod.name for pod in source.look().pods] == ["a", "c"]
    assert opened == ["b.yaml"]
    (tmp_path / "a.yaml").unlink()
    assert [pod.pod.name for pod in source.look().pods] == ["c"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ .Values.x }}: [", "b.yaml: a Helm template; render it first (helm template)"),
        ("kind: Service\nmetadata: {name: web}\n", "b.yaml: Service web has no pod template"),
        ("- 1\n", "b.yaml: holds a list, not a Kubernetes object"),
        ("kind: Pod\nmetadata: {name: x}\nspec: {containers: 5}\n",
         "b.yaml: pod x: spec.containers: not a list of containers"),
        ("kind: Pod\nmetadata: {name: x, uid: ../../etc}\nspec: {containers: [{name: a}]}\n",
         "b.yaml: pod x: metadata.uid: '../../etc' is no UID of a pod"),
        ("kind: PodList\nitems: 7\n", "b.yaml: items: 7 is not a list"),
        ("kind: List\nitems: [{kind: List, items: []}]\n", "b.yaml, item 1: a List within a List"),
        ("kind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 99999\n  template: {spec: {containers: "
         "[{name: a, resources: {limits: {sgx.intel.com/epc: 1}}}]}}\n",
         "b.yaml: Deployment d: 99999 replicas; at most 1000 on a node"),
        (manifest("twin"), f"b.yaml: a second pod with the UID {uid_of(1)}; that of a.yaml counts"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_a_line_and_the_others_count(tmp_path, monkeypatch, text, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(manifest("web"))
    (tmp_path / "b.yaml").write_text(text)
    known = Manifests(Path()).look()
    assert [pod.pod.name for pod in known.pods] == ["web"]
    assert known.problems == (problem,)


words = st.sampled_from(
    ["kind", ": ", "Pod", "List", "\n", "  ", "- ", "spec", "containers", "metadata", "uid", "name", "items", "{", "}",
     "[", "]", "'", "---\n", "&a", "*a", "!!binary ", "annotations", "1Mi", "\t", "\x85", "{{ x }}"]
)  # fmt: skip


@given(st.lists(words | st.text(max_size=3), max_size=40).map("".join))
def test_any_file_is_pods_or_lines_and_its_neighbour_counts(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "good.yaml").write_text(manifest("web"))
    (folder / "bad.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    known = Manifests(folder).look()
    assert "web" in [pod.pod.name for pod in known.pods]
    assert all(line.isprintable() for line in known.problems)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_line(tmp_path):
    (tmp_path / "a.yaml").write_text(manifest())
    (tmp_path / "a.yaml").chmod(0)
    assert Manifests(tmp_path).look().problems == (f"{tmp_path}/a.yaml: cannot be read (Permission denied)",)


def test_a_link_that_leads_to_itself_is_a_line(tmp_path):
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    problems = Manifests(tmp_path).look().problems
    assert problems == (f"{tmp_path}/a.yaml: cannot be read (Too many levels of symbolic links)",)


def test_an_answer_that_is_too_large_is_refused(tmp_path):
    with (tmp_path / "pods.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match=r"pods.json: larger than 64 MiB$"):
        KubeletFile(tmp_path / "pods.json").look()


def test_a_name_that_is_a_folder_is_a_line(tmp_path):
    (tmp_path / "a.yaml").mkdir()
    known = Manifests(tmp_path).look()
    assert known.pods == ()
    assert len(known.problems) == 1 and known.problems[0].startswith(f"{tmp_path}/a.yaml: ")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"/none: cannot be read \(No such file or directory\)$"):
        Manifests(tmp_path / "none").look()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no sample manifests")
def test_manifests_of_real_products_become_pods_of_simulated_names(tmp_path):
    known = Manifests(SHARED).look()
    claiming = [pod for pod in known.pods if pod.pod.claim_bytes]
    assert len(claiming) >= 3
    for pod in claiming:
        assert pod.uid == cgroup_path.pod_uid(pod.pod.namespace, pod.pod.name)
        assert set(pod.container_ids.values()) == {container.name for container in pod.pod.containers}


def kubelet(node: Node) -> list:
    known = pods_of(node.pod_list().encode(), "pods.json")
    assert known.problems == ()
    return list(known.pods)


def test_kubelet_tells_ids_node_and_phase(node):
    node.pod("web", container("app", "1Mi"), phase="Pending")
    (pod,) = kubelet(node)
    assert (pod.node, pod.phase, pod.over) == ("node-1", "Pending", False)
    assert pod.container_ids[cid_of(1)] == "app"


def test_a_pod_without_epc_is_known_too(node):
    node.pod("plain", container("app"))
    (pod,) = kubelet(node)
    assert (pod.pod.name, pod.pod.claim_bytes) == ("plain", None)


def test_a_static_pod_goes_by_the_uid_of_its_file_not_by_that_of_its_mirror(node):
    mirror = {"kubernetes.io/config.mirror": "0123456789abcdef0123456789abcdef"}
    node.pod("etcd", container("etcd"), annotations=mirror)
    assert kubelet(node)[0].uid == "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "not JSON: 'Expecting value: line 1 column 1 (char 0)'"),
        (b'{"items": [', "not JSON: "),
        (b"\xff", "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b"[]", "a list is no PodList"),
        (b"Unauthorized", "not JSON: "),
        (b'{"kind": "Status", "code": 403}', "a mapping is no PodList"),
    ],
    ids=["empty", "cut off", "no text", "endless", "a list", "words", "a refusal"],
)
def test_an_answer_that_is_no_list_of_pods_is_refused_in_one_line(answer, message):
    with pytest.raises(InputError) as refusal:
        pods_of(answer, "pods.json")
    assert str(refusal.value).startswith(f"pods.json: {message}")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("items", ["[]", "null"])
def test_no_pods_is_an_answer(items):
    assert pods_of(f'{{"items": {items}}}'.encode(), "pods.json").pods == ()


def test_kubelets_file_is_read_again_when_it_has_changed(tmp_path, node):
    write(tmp_path, "pods.json", node.pod_list())
    source = KubeletFile(tmp_path / "pods.json")
    first = source.look()
    assert first.pods == () and source.look() is first
    node.pod("web", container("app", "1Mi"))
    write(tmp_path, "pods.json", node.pod_list())
    assert len(source.look().pods) == 1
    (tmp_path / "pods.json").unlink()
    with pytest.raises(InputError, match=r"pods.json: cannot be read \(No such file or directory\)"):
        source.look()


def test_five_hundred_pods_are_read_whole(node):
    for number in range(500):
        node.pod(f"web-{number}", container("a", "1Mi"), container("b", "1Mi"), groups=False)
    assert len(kubelet(node)) == 500
    assert len(json.loads(node.pod_list())["items"]) == 500
