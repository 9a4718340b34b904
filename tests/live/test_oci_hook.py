"""`epcgroup oci-hook` as an OCI runtime calls it: the state on standard input, one line and status 2 when it cannot be.

With a real daemon and a process in a real cgroup where the host has them; refusals everywhere.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epcgroup.live import cgroups

Boot = Callable[..., Any]

NO_ENGINE = """
import sys
from epcgroup.cli.main import main
status = main(["oci-hook", *sys.argv[1:]])
loaded = [name for name in ("numba", "numpy", "epcgroup.machine") if name in sys.modules]
assert not loaded, loaded
sys.exit(status)
"""


def bundle(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", **config}))
    return folder


def state(pid: int, of: Path) -> bytes:
    text = {"ociVersion": "1.0.2", "id": "ct1", "status": "creating", "pid": pid, "bundle": str(of)}
    return json.dumps(text).encode()


def hook(given: bytes, directory: str, *options: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", NO_ENGINE, "--directory", directory, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    process.stdin = None
    return process


def refusal(given: bytes, directory: Path) -> str:
    process = hook(given, str(directory))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"")
    lines = err.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"annotations": {"epc-limit.nri.io": "1048576"}}, 1 << 20),
        (
            {
                "annotations": {"epcgroup.io/limit.web": "2Mi", "io.kubernetes.cri.container-name": "web"},
                "linux": {"resources": {"unified": {"misc.max": "sgx_epc 4096"}}},
            },
            2 << 20,
        ),
        ({"linux": {"resources": {"unified": {"misc.max": "sgx_epc 8192"}}}}, 8192),
        ({"annotations": {"epcgroup.io/limit.another": "2Mi"}}, None),
    ],
    ids=["annotation", "annotation-before-unified", "unified", "another-container"],
)
def test_the_limit_of_the_bundle_becomes_misc_max_of_the_container(
    live: Boot, tmp_path: Path, config: dict[str, Any], limit: int | None
) -> None:
    node = live(256)
    container = node.client("hear()", group="/ct1")
    process = hook(state(container.pid, bundle(tmp_path, **config)), node.directory)
    node.until(lambda: process.poll() is not None)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0
    limits = {path: node.machine.limit_bytes(path) for path in node.machine.cgroups}
    assert {path: bytes_ for path, bytes_ in limits.items() if bytes_ is not None} == (
        {} if limit is None else {node.path("/ct1"): limit}
    )


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    line = "epcgroup: standard input: not the JSON state of a container; an OCI runtime calls this"
    assert refusal(b"", tmp_path) == line
    assert refusal(b"[]", tmp_path) == line
    assert refusal(state(0, tmp_path), tmp_path) == (
        "epcgroup: state, pid: 0 is not a process; in createRuntime there is one"
    )


def test_an_annotation_that_is_no_size_is_refused_and_named(tmp_path: Path) -> None:
    given = state(os.getpid(), bundle(tmp_path, annotations={"epc-limit.nri.io": "1Mi"}))
    assert refusal(given, tmp_path) == (
        "epcgroup: annotation epc-limit.nri.io: '1Mi' is not decimal bytes, 0 to 2**64-1: "
        "the NRI plugin would fail the container"
    )


def test_a_limit_that_nobody_can_keep_fails_the_container(tmp_path: Path) -> None:
    given = state(os.getpid(), bundle(tmp_path, annotations={"epc-limit.nri.io": "4096"}))
    assert refusal(given, tmp_path) == f"epcgroup: {tmp_path}: no daemon; epcgroup up --epc 64Mi starts one"


def test_without_a_limit_nothing_is_needed(tmp_path: Path) -> None:
    process = hook(state(os.getpid(), bundle(tmp_path)), str(tmp_path))
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


@pytest.fixture
def own_group(tmp_path: Path) -> Path:
    """A folder for the kernel's cgroup2 tree; the folder of our own group in it."""
    tree = tmp_path / "tree"
    group = tree / cgroups.path_of(os.getpid())[1:]
    group.mkdir(parents=True)
    (tree / "cgroup.controllers").write_text("cpu misc\n")
    return group


def test_with_a_tree_the_kernel_s_file_is_written_and_no_daemon_asked(tmp_path: Path, own_group: Path) -> None:
    (own_group / "misc.max").write_text("sgx_epc max\n")
    given = state(os.getpid(), bundle(tmp_path, annotations={"epc-limit.nri.io": "1048576"}))
    process = hook(given, "/nowhere", "--tree", str(tmp_path / "tree"))
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0
    assert (own_group / "misc.max").read_text() == "sgx_epc 1048576\n"


@pytest.mark.parametrize("there", [None, "sev max\n"], ids=["no controller", "no resource"])
def test_a_kernel_without_the_resource_starts_the_container_and_says_so(
    tmp_path: Path, own_group: Path, there: str | None
) -> None:
    if there is not None:
        (own_group / "misc.max").write_text(there)
    given = state(os.getpid(), bundle(tmp_path, annotations={"epc-limit.nri.io": "1048576"}))
    process = hook(given, "/nowhere", "--tree", str(tmp_path / "tree"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    line = f"epcgroup: {own_group / 'misc.max'} has no sgx_epc: the container starts without a limit\n"
    assert err.decode() == line
    assert [file.read_text() for file in own_group.glob("misc.max")] == ([] if there is None else [there])


def test_a_tree_that_is_none_fails_the_container(tmp_path: Path) -> None:
    given = state(os.getpid(), bundle(tmp_path, annotations={"epc-limit.nri.io": "4096"}))
    process = hook(given, "/nowhere", "--tree", str(tmp_path))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.decode() == f"epcgroup: {tmp_path}: not a cgroup2 tree: it has no cgroup.controllers\n"
