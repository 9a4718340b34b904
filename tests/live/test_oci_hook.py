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


def hook(given: bytes, directory: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", NO_ENGINE, "--directory", directory],
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
