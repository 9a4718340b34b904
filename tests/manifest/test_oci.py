"""OCI bundles: misc.max of config.json, and what a runtime or the kernel would refuse."""

import json
import shutil
from pathlib import Path

import pytest

from epcgroup.errors import InputError
from epcgroup.manifest.oci import CGROUP_PATH, parse_misc_max, read_config

BUNDLE = Path(__file__).parent.parent / "samples" / "manifests" / "bundle"


def config(tmp_path, **changes):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ociVersion": "1.2.1", **changes}))
    return file


def misc_max(value):
    return {"resources": {"unified": {"misc.max": value}}}


def test_a_bundle_of_a_kubernetes_container_is_a_pod_with_one_limit():
    pod = read_config(BUNDLE / "config.json")
    assert (pod.name, pod.namespace, pod.kind, pod.qos) == ("web", "shop", "OCI", "burstable")
    assert [(c.name, c.limit_bytes, c.claim_bytes) for c in pod.containers] == [("server", 1 << 20, None)]
    assert pod.annotations[CGROUP_PATH].startswith("/kubepods/burstable/podd5b3a1f0-1111")
    assert pod.notes == ()


def test_a_bundle_directory_stands_for_its_config():
    assert read_config(BUNDLE) == read_config(BUNDLE / "config.json")


def test_a_systemd_cgroup_path_tells_the_qos_class_too(tmp_path):
    path = "kubepods-burstable-podd5b3a1f0_1111_2222_3333_444455556666.slice:cri-containerd:" + "8e" * 32
    pod = read_config(config(tmp_path, linux={"cgroupsPath": path}))
    assert (pod.qos, pod.annotations) == ("burstable", {CGROUP_PATH: path})


def test_the_name_is_the_hostname_or_the_bundle_s(tmp_path):
    assert read_config(config(tmp_path, hostname="runc")).name == "runc"
    bundle = tmp_path / "My_Bundle"
    bundle.mkdir()
    shutil.move(config(tmp_path), bundle)
    assert read_config(bundle).name == "my-bundle"


def test_no_misc_max_is_no_limit_and_a_remark(tmp_path):
    pod = read_config(config(tmp_path))
    assert pod.containers[0].limit_bytes is None
    assert "no linux.resources.unified" in pod.notes[0]


@pytest.mark.parametrize(
    ("value", "limit", "said"),
    [
        ("sgx_epc 1048576", 1 << 20, None),
        ("sgx_epc 0x1000\n", 4096, None),
        ("sgx_epc max", None, "sets no limit for sgx_epc"),
        ("sev 4", None, "sets no limit for sgx_epc"),
        ("sev max\nsgx_epc 8192\n", 8192, "several lines"),
        ("sgx_epc 4096\nsgx_epc 8192", 8192, "several lines"),
        ("", None, "is empty: nothing is written"),
    ],
)
def test_each_line_is_one_write_and_the_last_of_sgx_epc_counts(value, limit, said):
    found, remarks = parse_misc_max(value)
    assert found == limit
    assert [said in remark for remark in remarks][:1] == ([True] if said else [])


def test_a_limit_below_a_page_is_remarked_upon(tmp_path):
    pod = read_config(config(tmp_path, linux=misc_max("sgx_epc 42")))
    assert "a limit of 42 bytes is less than one EPC page" in pod.notes[0]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("sgx_epc 4K", "EINVAL"),
        ("sgx_epc", "EINVAL"),
        ("4096", "EINVAL"),
        ("hugetlb 1", "EINVAL"),
        ("sgx_epc 18446744073709551616", "ERANGE"),
        ("sgx_epc 4096\nsgx_epc -1", "EINVAL"),
    ],
)
def test_what_the_kernel_rejects_is_an_input_error_with_line_and_errno(tmp_path, value, name):
    with pytest.raises(InputError) as caught:
        read_config(config(tmp_path, linux=misc_max(value)))
    assert 'config.json, linux.resources.unified."misc.max": the kernel rejects the line' in str(caught.value)
    assert f"({name})" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"linux": misc_max(4096)}, "4096 is not text"),
        ({"linux": misc_max(["sgx_epc 1"])}, "a list is not text"),
        ({"linux": {"resources": {"unified": [1]}}}, "unified: a list is not a mapping"),
        ({"linux": "yes"}, "linux: 'yes' is not a mapping"),
        ({"annotations": [1]}, "annotations: a list is not a mapping"),
    ],
)
def test_a_configuration_of_the_wrong_shape_is_an_input_error(tmp_path, changes, said):
    with pytest.raises(InputError, match=r"config\.json") as caught:
        read_config(config(tmp_path, **changes))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "Pod"}', "{", "\x00", "ociVersion"])
def test_a_file_that_is_no_configuration_is_an_input_error(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"not an OCI config\.json"):
        read_config(file)
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "other.json")
