"""What a Kubernetes node can do about EPC, looked up in files: what `epcgroup doctor node` lists.

Nothing is written, no socket is spoken to. Every path is below `root`, so that a container can look at its host
(mounted at /host, say) and a test at a folder. `unknown` is what these files cannot tell here and now; each finding
that is not ok says what follows and what to do.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from epcgroup.agent.discover import PodGroup, pod_groups
from epcgroup.agent.tree import MISC, Tree, find_root, printable
from epcgroup.errors import InputError
from epcgroup.interface import EPC
from epcgroup.units import format_bytes

State = Literal["ok", "missing", "unknown"]

DEVICES = ("dev/sgx_enclave", "dev/sgx_provision")
NUMA = "sys/devices/system/node"
CPUID = "dev/cpu/0/cpuid"
NRI = "var/run/nri/nri.sock"
KUBELET = "var/lib/kubelet"
RUNTIMES = {
    "run/containerd/containerd.sock": "containerd",
    "run/k3s/containerd/containerd.sock": "containerd of k3s",
    "run/crio/crio.sock": "CRI-O",
    "run/cri-dockerd.sock": "cri-dockerd",
}
# CPUID leaf 12H: sub-leaves from 2 on are EPC sections: type 1 in EAX's lowest 4 bits (Intel's SDM).
_LEAF, _FIRST_SECTION, _MOST_SECTIONS, _VALID = 0x12, 2, 64, 1


class Finding(NamedTuple):
    """One line of the list. `needed`: limits cannot be enforced without it."""

    name: str
    state: State
    found: str
    follows: str = ""  # what follows, and what to do; empty when it is ok
    needed: bool = False


def survey(root: Path = Path("/"), *, cgroup_root: Path | None = None, resource: str = EPC) -> list[Finding]:
    """All findings, from what everything stands on to what stands on it."""
    tree, found = _tree(root, cgroup_root, resource)
    findings = [found]
    if tree is not None:
        findings += _cgroups(tree)
    findings += [_device(root, device) for device in DEVICES]
    findings += [_cpu(root), _epc(root), _nri(root), _kubelet(root), _runtime(root)]
    return findings


def enforceable(findings: list[Finding]) -> bool:
    """Whether the agent can hold containers to their limits here."""
    return all(finding.state == "ok" for finding in findings if finding.needed)


# ---- cgroups


def _tree(root: Path, cgroup_root: Path | None, resource: str) -> tuple[Tree | None, Finding]:
    """The host's cgroup2 tree, and what is to be said about it."""
    follows = "no limits and no use; boot with systemd.unified_cgroup_hierarchy=1, or mount it and say --cgroup-root"
    # Of another root the mounts are those of its first process.
    mounts = root / "proc" / ("self" if root == Path("/") else "1") / "mountinfo"
    try:
        if cgroup_root is None:
            cgroup_root = root / find_root(mounts.read_text(errors="surrogateescape")).lstrip("/")
        tree = Tree(cgroup_root, resource)
    except OSError as error:
        found = f"{printable(str(mounts))} cannot be read ({error.strerror})"
        return None, Finding("cgroup2", "unknown", found, "is this the root of a host?", needed=True)
    except InputError as error:
        return None, Finding("cgroup2", "missing", str(error).partition(";")[0], follows, needed=True)
    return tree, Finding("cgroup2", "ok", f"at {tree.shown('/')}", needed=True)


def _cgroups(tree: Tree) -> Iterator[Finding]:
    unread: list[str] = []
    pods = pod_groups(tree, unread.append)
    yield _driver(tree, pods, unread)
    if MISC not in (_words(tree, "/", "cgroup.controllers") or []):
        found = f"not in {tree.shown('/', 'cgroup.controllers')}"
        follows = "no limits and no use; Linux 5.13 or newer with CONFIG_CGROUP_MISC, and misc not mounted as cgroup v1"
        yield Finding("misc", "missing", found, follows, needed=True)
        return
    yield Finding("misc", "ok", "the controller is there", needed=True)
    capacity = _value(tree, "/", "misc.capacity")
    if not capacity:
        follows = (
            "no limits and no use, claims are counted; a kernel with the series "
            '"Add Cgroup support for SGX EPC memory", and SGX switched on in the firmware'
        )
        found = f"not in {tree.shown('/', 'misc.capacity')}"
        yield Finding(tree.resource, "missing", found, follows, needed=True)
        return
    yield Finding(tree.resource, "ok", f"capacity {format_bytes(capacity)}", needed=True)
    yield _enabled(tree, pods)
    yield _writable(tree, pods)
    yield _file(tree, ["/"], "misc.peak", "peaks are what scrapes saw, --recommend has none; Linux 6.11 or newer")
    groups = [group.path for group in pods.values() if group.path is not None]
    follows = "a pod's own limit cannot be told from its containers'; Linux 6.11 or newer"
    yield _file(tree, groups, "misc.events.local", follows)


def _driver(tree: Tree, pods: dict[str, PodGroup], unread: list[str]) -> Finding:
    """By the names of kubelet's groups."""
    paths = [group.path for group in pods.values() if group.path is not None]
    if not paths:
        paths = [f"/{entry.name}" for entry in _entries(tree, "/") if "kubepods" in entry.name]
    drivers = sorted({"systemd" if ".slice" in path else "cgroupfs" for path in paths})
    if not drivers:
        found = f"no group of kubelet below {tree.shown('/')}" + (f" ({unread[0]})" if unread else "")
        return Finding("driver", "unknown", found, "nothing to hold to limits yet; start kubelet and a pod")
    if len(drivers) > 1:
        follows = "groups of two drivers; an earlier kubelet may have left some: restart the node"
        return Finding("driver", "unknown", " and ".join(drivers), follows)
    return Finding("driver", "ok", f"{drivers[0]}, {len(pods)} pod{'s' * (len(pods) != 1)}")


def _enabled(tree: Tree, pods: dict[str, PodGroup]) -> Finding:
    """Whether all containers, and the pods that have none, have the resource in misc.max."""
    paths = [path for group in pods.values() for path in (group.path, *group.containers.values()) if path is not None]
    if not paths:
        return Finding("enabled", "unknown", "no pods", "seen with the first pod")
    lacking = [path for path in paths if _value(tree, path, "misc.max") is None and tree.has(path)]
    if not lacking:
        return Finding("enabled", "ok", f"down to all {len(paths)} groups of pods and containers", needed=True)
    parts = lacking[0].strip("/").split("/")
    above = ["/", *("/" + "/".join(parts[:depth]) for depth in range(1, len(parts)))]
    at = next((path for path in above if MISC not in (_words(tree, path, "cgroup.subtree_control") or [])), above[-1])
    found = f"not in {len(lacking)} of {len(paths)} groups; misc ends at {tree.shown(at, 'cgroup.subtree_control')}"
    follows = "these have no limits and no use; echo +misc into it, or enable_misc = true in the agent's file"
    return Finding("enabled", "missing", found, follows, needed=True)


def _writable(tree: Tree, pods: dict[str, PodGroup]) -> Finding:
    """Whether this user may write limits through this mount."""
    groups = (path for group in pods.values() for path in (group.path, *group.containers.values()) if path is not None)
    path = next((path for path in groups if tree.has(path, "misc.max")), None)
    file = tree.where("/", "cgroup.subtree_control") if path is None else tree.where(path, "misc.max")
    if os.access(file, os.W_OK):
        return Finding("writable", "ok", printable(file), needed=True)
    follows = "the agent can only observe; run it as root of the host's user namespace, with the tree mounted rw"
    return Finding("writable", "missing", f"{printable(file)} is not, for uid {os.geteuid()}", follows, needed=True)


def _file(tree: Tree, paths: list[str], name: str, follows: str) -> Finding:
    if not paths:
        return Finding(name, "unknown", "no pods", "seen with the first pod")
    if any(tree.has(path, name) for path in paths):
        return Finding(name, "ok", "the kernel shows it")
    return Finding(name, "missing", "the kernel does not show it", follows)


def _value(tree: Tree, path: str, name: str) -> int | None:
    try:
        return tree.value(path, name)
    except InputError:
        return None  # what cannot be read cannot be used


def _words(tree: Tree, path: str, name: str) -> list[str] | None:
    try:
        return tree.words(path, name)
    except InputError:
        return None


def _entries(tree: Tree, path: str) -> list[os.DirEntry[str]]:
    try:
        return tree.entries(path)
    except InputError:
        return []


# ---- SGX


def _device(root: Path, device: str) -> Finding:
    name = Path(device).name
    if os.path.lexists(root / device):
        return Finding(name, "ok", f"/{device}")
    follows = {
        "sgx_enclave": "no enclave can start; a kernel with CONFIG_X86_SGX, SGX and launch control on in the firmware",
        "sgx_provision": "no enclave can attest itself; the same kernel and firmware as for sgx_enclave",
    }[name]
    return Finding(name, "missing", f"no /{device}", follows)


def _cpu(root: Path) -> Finding:
    """The flags of the CPU, which Linux clears where the firmware has SGX off."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError as error:
        return Finding("cpu", "unknown", f"/proc/cpuinfo cannot be read ({error.strerror})", "is this a host's root?")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    lacking = [flag for flag in ("sgx", "sgx_lc") if flag not in flags]
    if not lacking:
        return Finding("cpu", "ok", "sgx, sgx_lc")
    follows = "the kernel runs no enclaves; switch SGX and flexible launch control on in the firmware, or another CPU"
    return Finding("cpu", "missing", f"no {' and no '.join(lacking)} in /proc/cpuinfo", follows)


def _epc(root: Path) -> Finding:
    """How much EPC the hardware has: CPUID where this user may ask, and what Linux says of each NUMA node."""
    sections = _sections(root)
    nodes = []
    for file in sorted((root / NUMA).glob("node[0-9]*/x86/sgx_total_bytes")):
        try:
            nodes.append(f"{file.parts[-3]} {format_bytes(int(file.read_text()))}")
        except (OSError, ValueError):
            nodes.append(f"{file.parts[-3]} unreadable")
    parts = [f"{', '.join(map(format_bytes, sections))} by cpuid"] if sections else []
    parts += [", ".join(nodes)] if nodes else []
    if parts:
        return Finding("epc", "ok", "; ".join(parts))
    if sections is None:
        found = f"neither /{CPUID} nor sgx_total_bytes in /{NUMA}"
        return Finding("epc", "unknown", found, "modprobe cpuid and ask as root, or Linux 5.17 or newer")
    return Finding("epc", "missing", "no section in cpuid leaf 12H", "no enclave can start; set PRMRR in the firmware")


def _sections(root: Path) -> list[int] | None:
    """Bytes of each EPC section as the first CPU tells; None when it cannot be asked."""
    sizes = []
    try:
        with (root / CPUID).open("rb", buffering=0) as cpuid:
            for sub_leaf in range(_FIRST_SECTION, _FIRST_SECTION + _MOST_SECTIONS):
                answer = os.pread(cpuid.fileno(), 16, sub_leaf << 32 | _LEAF)
                if len(answer) < 16:
                    break
                eax, _, ecx, edx = struct.unpack("<4I", answer)
                if eax & 0xF != _VALID:
                    break
                sizes.append((edx & 0xFFFFF) << 32 | ecx & 0xFFFFF000)
    except OSError:
        return None
    return sizes


# ---- Kubernetes


def _nri(root: Path) -> Finding:
    if (root / NRI).exists():
        return Finding("nri", "ok", f"/{NRI}")
    follows = (
        "containers start without a limit and get it at the agent's next look; containerd 1.7: disable = false in "
        '[plugins."io.containerd.nri.v1.nri"], newer ones and CRI-O 1.26 have it on'
    )
    return Finding("nri", "missing", f"no /{NRI}", follows)


def _kubelet(root: Path) -> Finding:
    sockets = ("device-plugins/kubelet.sock", "pod-resources/kubelet.sock")
    there = [f"/{KUBELET}/{name}" for name in sockets if (root / KUBELET / name).exists()]
    if there:
        return Finding("kubelet", "ok", ", ".join(there))
    follows = "no device plugin can register; start kubelet, or this is no Kubernetes node"
    return Finding("kubelet", "missing", f"no socket in /{KUBELET}", follows)


def _runtime(root: Path) -> Finding:
    there = [f"{name} (/{path})" for path, name in RUNTIMES.items() if (root / path).exists()]
    if there:
        return Finding("runtime", "ok", ", ".join(there))
    follows = "no containers to hold to limits; start containerd or CRI-O, or its socket is elsewhere"
    return Finding("runtime", "unknown", "no socket of containerd or CRI-O in /run", follows)
