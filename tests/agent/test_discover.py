"""Which groups of a tree are pods and containers: drivers, QoS classes, runtimes, roots, and what is none."""

import os
import shutil
from pathlib import Path

import pytest
from cgroup_nodes import Node, cid_of, container, uid_of
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent import discover
from epcgroup.agent.discover import PodGroup
from epcgroup.agent.tree import Tree, find_root
from epcgroup.errors import InputError
from epcgroup.manifest import cgroup_path

MOUNT = "30 23 0:26 / {} rw,nosuid shared:4 - {} cgroup rw\n"


def tree_of(node: Node) -> Tree:
    return Tree(node.root, node.resource)


def pod_groups(tree: Tree) -> dict[str, PodGroup]:
    """With no folder that cannot be listed."""
    faults: list[str] = []
    found = discover.pod_groups(tree, faults.append)
    assert faults == []
    return found


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
@pytest.mark.parametrize("runtime", ["containerd", "crio", "docker"])
@pytest.mark.parametrize("qos", ["guaranteed", "burstable", "besteffort"])
@pytest.mark.parametrize("root", ["/", "/kubelet"])
def test_a_pod_and_its_containers_are_found_wherever_kubelet_puts_them(tmp_path, driver, runtime, qos, root):
    node = Node(tmp_path / "cgroup", driver, runtime)
    node.group("/system.slice/ssh.service")
    pod = node.pod("web", container("app"), container("side"), qos=qos, root=root)
    (found,) = pod_groups(tree_of(node)).values()
    assert (found.uid, found.qos, found.path) == (pod.uid, qos, pod.path)
    # Ids 1 and 2 are the containers, 3 is the sandbox.
    assert {cid_of(1): pod.containers["app"], cid_of(2): pod.containers["side"]}.items() <= found.containers.items()
    assert len(found.containers) == 3


def test_a_static_pod_has_a_uid_without_dashes(node):
    node.pod("etcd", container("etcd"), uid="0123456789abcdef0123456789abcdef", qos="burstable")
    assert list(pod_groups(tree_of(node))) == ["0123456789abcdef0123456789abcdef"]


@pytest.mark.parametrize("above", ["system.slice", "a.slice"], ids=["found after its pod", "found before its pod"])
def test_a_container_of_a_runtime_with_the_other_driver_is_its_pods(node, above):
    pod = node.pod("web", container("app"))
    stray = f"/{above}/containerd.service/{pod.path.rpartition('/')[2]}:cri-containerd:{cid_of(77)}"
    node.group(stray)
    assert cgroup_path.parse(stray) == cgroup_path.Place(pod.uid, cid_of(77), "besteffort")
    (found,) = pod_groups(tree_of(node)).values()
    assert found.path == pod.path
    assert {cid_of(77): stray, cid_of(1): pod.containers["app"]}.items() <= found.containers.items()


def test_of_a_change_of_drivers_the_groups_that_are_in_use_count(tmp_path):
    node = Node(tmp_path / "cgroup", "systemd")
    node.group(cgroup_path.pod_path("besteffort", uid_of(1), driver="cgroupfs"))
    pod = node.pod("web", container("app"), uid=uid_of(1))
    assert pod_groups(tree_of(node))[uid_of(1)].path == pod.path


@pytest.mark.parametrize("name", [f"crio-conmon-{cid_of(9)}.scope", "init.scope", "kubepods", "x" * 200])
def test_what_is_no_container_below_a_pod_is_left_alone(node, name):
    pod = node.pod("web", container("app"))
    node.group(f"{pod.path}/{name}")
    (found,) = pod_groups(tree_of(node)).values()
    assert f"{pod.path}/{name}" not in found.containers.values()


def test_what_is_inside_a_container_is_not_looked_at(node):
    pod = node.pod("web", container("app"))
    before = tree_of(node)
    pod_groups(before)
    node.group(f"{pod.containers['app']}/{pod.path.strip('/')}/{cid_of(5)}")
    after = tree_of(node)
    assert list(pod_groups(after)) == [pod.uid]
    assert after.reads == before.reads


def test_a_group_that_goes_while_we_look_is_no_error(node, monkeypatch):
    node.group("/aaa.slice/inner.slice")
    node.pod("web", container("app"))
    doomed = node.pod("web", container("app"))
    listed = Tree.entries

    def late(tree, path):
        found = listed(tree, path)
        for gone in ("/aaa.slice/inner.slice", doomed.path):
            if gone.rpartition("/")[0] == path:
                shutil.rmtree(node.root / gone.strip("/"))
        return found

    monkeypatch.setattr(Tree, "entries", late)
    found = pod_groups(tree_of(node))
    assert [len(pod.containers) for pod in found.values()] == [2, 0]
    monkeypatch.setattr(Tree, "entries", listed)
    assert len(pod_groups(tree_of(node))) == 1


def test_a_folder_that_cannot_be_listed_is_a_line_and_the_others_are_searched(node, monkeypatch):
    node.group("/aaa.slice/inner.slice")
    node.pod("web", container("app"))
    scan = os.scandir

    def refuse(path):
        if path.endswith("/aaa.slice"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    faults: list[str] = []
    assert len(discover.pod_groups(tree_of(node), faults.append)) == 1
    assert faults == [f"{node.root}/aaa.slice: cannot be read (Permission denied)"]


def test_every_folder_is_listed_once(node):
    for number in range(20):
        node.pod(f"web-{number}", container("app"))
    tree = tree_of(node)
    reads = tree.reads
    pod_groups(tree)
    assert tree.reads - reads == 20 + 3  # pods; root, kubepods, besteffort


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1), max_size=5))
def test_no_name_of_a_group_stops_the_search(tmp_path_factory, names):
    node = Node(tmp_path_factory.mktemp("fuzz"))
    node.pod("web", container("app"))
    for name in names:
        if name not in (".", "..") and len(name.encode()) < 200 and not (node.root / name).exists():
            (node.root / name).mkdir()
            node.group(f"/{name}/kubepods-pod{uid_of(99)}.slice")
    assert uid_of(1) in pod_groups(tree_of(node))


@given(st.text(st.sampled_from("kubepods-/._:burstable0123456789abcdefcriodocker\n ").map(str), max_size=200))
def test_no_path_is_more_than_a_place_or_none(path):
    place = cgroup_path.parse(path)
    assert place is None or cgroup_path.is_uid(place.pod_uid)


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        (MOUNT.format("/sys/fs/cgroup", "cgroup2"), "/sys/fs/cgroup"),
        (MOUNT.format("/sys/fs/cgroup", "tmpfs") + MOUNT.format("/sys/fs/cgroup/unified", "cgroup2"),
         "/sys/fs/cgroup/unified"),
        (MOUNT.format("/mnt/a\\040b", "cgroup2"), "/mnt/a b"),
        (MOUNT.format("/mnt/x", "cgroup2") + MOUNT.format("/sys/fs/cgroup", "cgroup2"), "/sys/fs/cgroup"),
    ],
    ids=["unified", "hybrid", "a blank in its name", "the usual place first"],
)  # fmt: skip
def test_the_mount_table_says_where_cgroup2_is(mounts, root):
    assert find_root(MOUNT.format("/", "ext4") + mounts) == root


def test_without_cgroup2_one_line_says_so():
    with pytest.raises(InputError, match=r"^cgroup2 is not mounted on this host; a tree elsewhere is named by"):
        find_root(MOUNT.format("/sys/fs/cgroup", "tmpfs") + "\n\nnonsense - \n")


@pytest.mark.parametrize("root", ["", "missing"])
def test_a_folder_that_is_no_cgroup2_tree_is_refused(tmp_path: Path, root):
    with pytest.raises(InputError, match=r"not a cgroup2 tree: it has no cgroup\.controllers$"):
        Tree(tmp_path / root, "sgx_epc")
