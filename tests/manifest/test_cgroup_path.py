"""kubelet's cgroup layout, written and read."""

import re

import pytest

from epcgroup.manifest.cgroup_path import Place, container_id, container_path, parent_path, parse, pod_path, pod_uid

UID = "d5b3a1f0-1111-2222-3333-444455556666"
UID_ = UID.replace("-", "_")
CID = "8e954047603988904515782f3245455758cf68fc7a2b28ab8ff6fb329b55b22d"


@pytest.mark.parametrize(
    ("qos", "driver", "root", "path"),
    [
        ("guaranteed", "cgroupfs", "/", f"/kubepods/pod{UID}"),
        ("burstable", "cgroupfs", "/", f"/kubepods/burstable/pod{UID}"),
        ("besteffort", "cgroupfs", "/", f"/kubepods/besteffort/pod{UID}"),
        ("burstable", "cgroupfs", "/kubelet", f"/kubelet/kubepods/burstable/pod{UID}"),
        ("guaranteed", "systemd", "/", f"/kubepods.slice/kubepods-pod{UID_}.slice"),
        (
            "besteffort",
            "systemd",
            "/",
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice",
        ),
        (
            "burstable",
            "systemd",
            "/kubelet",
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
            f"/kubelet-kubepods-burstable-pod{UID_}.slice",
        ),
    ],
)
def test_a_pod_path_spells_root_qos_and_uid_and_reads_back(qos, driver, root, path):
    assert pod_path(qos, UID, driver=driver, root=root) == path
    assert parse(path) == Place(UID, None, qos)


@pytest.mark.parametrize(
    ("driver", "runtime", "leaf"),
    [
        ("cgroupfs", "containerd", CID),
        ("cgroupfs", "crio", f"crio-{CID}"),
        ("cgroupfs", "docker", CID),
        ("systemd", "containerd", f"cri-containerd-{CID}.scope"),
        ("systemd", "crio", f"crio-{CID}.scope"),
        ("systemd", "docker", f"docker-{CID}.scope"),
    ],
)
def test_a_container_is_a_leaf_of_its_pod_and_reads_back(driver, runtime, leaf):
    pod = pod_path("burstable", UID, driver=driver)
    path = container_path(pod, CID, driver=driver, runtime=runtime)
    assert path == f"{pod}/{leaf}"
    assert parse(path) == Place(UID, CID, "burstable")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/user.slice/user-0.slice",
        "/kubepods/besteffort",
        "/kubepods/burstable/podweb",
        f"/system.slice/pod{UID}",
        f"/kubepods/xpod{UID}",
    ],
)
def test_other_cgroups_are_not_taken_for_pods(path):
    assert parse(path) is None


def test_a_static_pod_has_a_uid_without_dashes():
    uid = "0123456789abcdef0123456789abcdef"
    assert parse(f"/kubepods/burstable/pod{uid}") == Place(uid, None, "burstable")


def test_the_monitor_of_a_container_is_no_container():
    assert parse(f"/kubepods/pod{UID}/crio-conmon-{CID}.scope") == Place(UID, None, "guaranteed")


def test_a_runtime_without_the_systemd_driver_still_leads_to_its_pod():
    path = f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/{CID}"
    assert parse(path) == Place(UID, CID, "besteffort")


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("/kubepods/besteffort/pod1", "/kubepods/besteffort/pod1"),
        ("//kubepods/", "/kubepods"),
        ("/", "/"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("/a.slice/a-b.slice", "/a.slice/a-b.slice"),
        ("a-b.slice:cri-containerd:0123", "/a.slice/a-b.slice"),
        *((no_group, None) for no_group in ("", "kubepods", "/a/../b", "/a\0b", "a--b.slice", "-.slice", "a\0.slice")),
    ],
)
def test_a_cgroup_parent_of_either_driver_is_a_path(parent, path):
    assert parent_path(parent) == path


def test_names_give_the_same_ids_every_time_and_different_ones_for_every_replica():
    uid = pod_uid("default", "web")
    assert uid == pod_uid("default", "web", 0)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uid)
    assert len({pod_uid("default", "web", n) for n in range(100)}) == 100
    assert pod_uid("a", "bc") != pod_uid("ab", "c")
    assert re.fullmatch(r"[0-9a-f]{64}", container_id(uid, "main"))
    assert container_id(uid, "main") != container_id(uid, "side")
