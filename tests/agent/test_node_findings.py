"""`epcgroup doctor`: what a node can do, on imitated roots; what each finding says, and the exit status."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, container

from epcgroup.agent.node import Finding, enforceable, survey
from epcgroup.cli.main import main

SRC = Path(__file__).parent.parent.parent / "src"
TREE = "sys/fs/cgroup"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of an SGX node that has everything; a pod with two containers runs on it."""
    root = tmp_path / "host"
    node = Node(root / TREE)
    node.pod("web", container("app", "2Mi"), container("side"))
    for name in (
        "dev/sgx_enclave",
        "dev/sgx_provision",
        "var/run/nri/nri.sock",
        "var/lib/kubelet/device-plugins/kubelet.sock",
        "run/containerd/containerd.sock",
    ):
        add(root, name)
    add(root, "proc/1/mountinfo", f"30 23 0:26 / /{TREE} rw,nosuid - cgroup2 cgroup2 rw\n")
    add(root, "proc/cpuinfo", "processor : 0\nflags : fpu sgx sgx_lc vme\n")
    for number in (0, 1):
        add(root, f"sys/devices/system/node/node{number}/x86/sgx_total_bytes", f"{64 * MIB}\n")
    return root


def add(root: Path, name: str, text: str = "") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def found(root: Path, name: str, **more) -> Finding:
    (finding,) = (finding for finding in survey(root, **more) if finding.name == name)
    return finding


def states(root: Path) -> dict[str, str]:
    return {finding.name: finding.state for finding in survey(root)}


def pod_of(root: Path) -> Path:
    (pod,) = (root / TREE).rglob("*-pod*.slice")
    return pod


def test_a_mount_whose_name_is_no_utf8_is_passed_over(host: Path):
    mounts = host / "proc/1/mountinfo"
    mounts.write_bytes(b"29 1 0:1 / /mnt/\xff rw - tmpfs none rw\n" + mounts.read_bytes())
    assert found(host, "cgroup2").state == "ok"


def test_a_node_that_has_everything_is_ok_in_every_line(host):
    findings = survey(host)
    assert {finding.state for finding in findings} == {"ok"}
    assert enforceable(findings)
    assert [finding.found for finding in findings if finding.name in ("driver", "sgx_epc", "enabled", "epc")] == [
        "systemd, 1 pod",
        "capacity 128 MiB",
        "down to all 4 groups of pods and containers",
        "node0 64 MiB, node1 64 MiB",
    ]


def test_what_is_not_ok_says_what_follows_and_what_to_do(tmp_path):
    for finding in survey(tmp_path):
        assert finding.state != "ok" and finding.found and finding.follows, finding


def test_a_folder_that_is_no_host_has_no_cgroups_to_tell_of(tmp_path):
    assert found(tmp_path, "cgroup2").state == "unknown"
    assert not enforceable(survey(tmp_path))


def test_a_host_on_cgroup_v1_is_told_how_to_boot(host):
    add(host, "proc/1/mountinfo", "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    finding = found(host, "cgroup2")
    assert (finding.state, finding.found) == ("missing", "cgroup2 is not mounted on this host")
    assert "systemd.unified_cgroup_hierarchy=1" in finding.follows
    assert "misc" not in states(host)


def test_a_tree_elsewhere_can_be_named(host, tmp_path):
    Node(tmp_path / "other", driver="cgroupfs", capacity=4 * MIB).pod("a", container("a"))
    assert found(host, "sgx_epc", cgroup_root=tmp_path / "other").found == "capacity 4 MiB"
    assert found(host, "driver", cgroup_root=tmp_path / "other").found == "cgroupfs, 1 pod"


def test_a_kernel_without_the_misc_controller_cannot_enforce(host):
    (host / TREE / "cgroup.controllers").write_text("cpu memory pids\n")
    finding = found(host, "misc")
    assert finding.state == "missing" and "CONFIG_CGROUP_MISC" in finding.follows
    assert not {"sgx_epc", "enabled", "misc.peak"} & set(states(host))
    assert not enforceable(survey(host))


def test_a_kernel_without_the_resource_cannot_enforce_and_says_which_series_it_takes(host):
    (host / TREE / "misc.capacity").write_text("sev 509\n")
    finding = found(host, "sgx_epc")
    assert finding.state == "missing" and "Add Cgroup support for SGX EPC memory" in finding.follows
    assert not enforceable(survey(host))
    (capacity,) = (f.found for f in survey(host, resource="sev") if f.name == "sev")
    assert capacity == "capacity 509 B"


def test_where_misc_ends_above_a_container_is_named(host):
    pod = pod_of(host)
    (pod / "cgroup.subtree_control").write_text("cpu memory\n")
    leaf = next(folder for folder in pod.iterdir() if folder.is_dir())
    (leaf / "misc.max").unlink()
    finding = found(host, "enabled")
    assert finding.state == "missing"
    assert finding.found == f"not in 1 of 4 groups; misc ends at {pod}/cgroup.subtree_control"
    assert "enable_misc" in finding.follows
    assert not enforceable(survey(host))


def test_a_node_without_pods_does_not_know_yet_and_that_is_no_fault(host):
    for folder in (host / TREE).iterdir():
        if folder.is_dir():
            folder.rename(host / "gone")
    assert {name: state for name, state in states(host).items() if state != "ok"} == {
        "driver": "unknown",
        "enabled": "unknown",
        "misc.events.local": "unknown",
    }
    assert enforceable(survey(host))


def test_groups_of_two_drivers_are_named(host):
    Node(host / TREE, driver="cgroupfs").pod("old", container("a"), uid="8a6e0804-2bd0-4672-b79d-d97027f9071a")
    assert found(host, "driver")[1:3] == ("unknown", "cgroupfs and systemd")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (f"{TREE}/misc.peak", "misc.peak"),
        ("dev/sgx_enclave", "sgx_enclave"),
        ("dev/sgx_provision", "sgx_provision"),
        ("var/run/nri/nri.sock", "nri"),
        ("var/lib/kubelet/device-plugins/kubelet.sock", "kubelet"),
    ],
)
def test_what_limits_can_be_enforced_without_is_missing_and_no_failure(host, file, name):
    (host / file).unlink()
    assert [finding.name for finding in survey(host) if finding.state == "missing"] == [name]
    assert enforceable(survey(host))


def test_a_kernel_without_local_events_is_told_apart_from_a_node_without_pods(host):
    (pod_of(host) / "misc.events.local").unlink()
    assert found(host, "misc.events.local").state == "missing"


def test_a_cpu_whose_firmware_has_sgx_off_is_seen_by_its_flags(host):
    add(host, "proc/cpuinfo", "processor : 0\nflags : fpu sgx vme\n")
    assert found(host, "cpu")[1:3] == ("missing", "no sgx_lc in /proc/cpuinfo")


def cpuid(root: Path, *sections: tuple[int, int]) -> None:
    """/dev/cpu/0/cpuid as a sparse file: the leaf in the low half of the offset, the sub-leaf in the high half."""
    with add(root, "dev/cpu/0/cpuid").open("wb") as file:
        for sub_leaf, (kind, size) in enumerate(sections, 2):
            file.seek(sub_leaf << 32 | 0x12)
            file.write(struct.pack("<4I", 0x70200000 | kind, 0, size & 0xFFFFF000 | 1, size >> 32))


def test_epc_sections_are_read_from_cpuid(host):
    cpuid(host, (1, 64 << 30), (1, 93 * MIB), (0, 0))
    assert found(host, "epc").found == "64 GiB, 93 MiB by cpuid; node0 64 MiB, node1 64 MiB"


def test_a_cpu_without_sections_has_no_epc_and_one_that_cannot_be_asked_is_unknown(host):
    for file in host.glob("sys/devices/system/node/*/x86/sgx_total_bytes"):
        file.unlink()
    assert found(host, "epc").state == "unknown"
    cpuid(host, (0, 0))
    assert found(host, "epc").state == "missing"


@pytest.mark.parametrize("text", ["", "sgx_epc\n", "sgx_epc ten\n", "\0\xff\n"])
def test_files_that_say_nothing_sensible_are_missing_not_a_traceback(host, text):
    (host / TREE / "misc.capacity").write_text(text)
    assert found(host, "sgx_epc").state == "missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_files_that_may_not_be_written_make_the_agent_an_observer(host):
    for file in (host / TREE).rglob("misc.max"):
        file.chmod(0o444)
    assert found(host, "writable").state == "missing"


# ---- the command


def test_the_exit_status_of_node_says_whether_limits_can_be_enforced(host, capsys):
    assert main(["doctor", "node", "--root", str(host)]) == 0
    assert capsys.readouterr().out.startswith("node:\n  ok      cgroup2 ")
    (host / TREE / "misc.capacity").write_text("")
    assert main(["doctor", "node", "--root", str(host)]) == 1
    assert f"  missing sgx_epc           not in {host}/{TREE}/misc.capacity\n" + " " * 28 + "no limits and no use" in (
        capsys.readouterr().out
    )


def test_json_has_a_list_for_each_part(host, capsys):
    status = main(["doctor", "--json", "--root", str(host)])
    both = json.loads(capsys.readouterr().out)
    assert list(both) == ["node", "live"]
    assert both["node"][0] == {
        "name": "cgroup2", "state": "ok", "found": f"at {host}/{TREE}", "follows": "", "needed": True,
    }  # fmt: skip
    assert set(both["live"][0]) == {"name", "ok", "found", "remedy", "needed"}
    # Without a part it is that of live.
    assert main(["doctor", "live", "--json"]) == status == int(any(f["needed"] and not f["ok"] for f in both["live"]))
    assert list(json.loads(capsys.readouterr().out)) == ["live"]


def test_a_part_or_resource_that_is_none_is_one_line(capsys):
    assert main(["doctor", "nodes"]) == 2
    assert "invalid choice: 'nodes'" in capsys.readouterr().err
    assert main(["doctor", "node", "--resource", "SGX EPC"]) == 2
    assert capsys.readouterr().err == (
        "epcgroup: --resource: 'SGX EPC' is no resource of the misc controller, as in sgx_epc\n"
    )


def test_doctor_loads_no_engine():
    code = (
        "import sys; from epcgroup.cli.main import main; main(['doctor']);"
        "sys.exit(repr([m for m in ('numpy', 'numba', 'epcgroup.machine') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True
    )
    assert done.stderr.strip() == "[]"
