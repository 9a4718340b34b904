"""Unmodified OCI runtimes, podman and cgroup-tools with our tree: the limit arrives, is kept, and nothing is left.

In each container this interpreter runs a client of the daemon, on the host's own files bound into an empty root.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import epcgroup

LIMIT = 1 << 20
SIZE = 4 << 20

# Tells what it may do with a device that no rule allows, and if its memory, four times the limit, keeps its data.
CLIENT = f"""
import errno, os, sys
from epcgroup.live.client import Enclave

try:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    device = "opened"
except OSError as error:
    device = errno.errorcode[error.errno]
with Enclave({SIZE}) as enclave:
    for page in range({SIZE} // 4096):
        enclave.memory[4096 * page] = page % 251
    kept = all(enclave.memory[4096 * page] == page % 251 for page in range({SIZE} // 4096))
    print(device, "kept" if kept else "lost", flush=True)
    sys.stdin.readline()
"""

DEVICE_RULES = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "rwm"}]

SOURCES = str(Path(epcgroup.__file__).parents[1])
BOUND = sorted({"/usr", sys.prefix, sys.base_prefix, SOURCES})

# crun raises RLIMIT_MEMLOCK before it loads a program, though kernels since 5.11 do not look at it. Without the
# capability for it nothing could be tested: there prlimit64 of that limit says it did, and does nothing.
MEMLOCK = """
import ctypes, os, struct, sys

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
code = [(LOAD, 0, 0, 0), (EQUAL, 0, 4, 302), (LOAD, 0, 0, 24), (EQUAL, 0, 2, 8), (LOAD, 0, 0, 32), (EQUAL, 0, 1, 0),
        (RETURN, 0, 0, 0x7FFF0000), (RETURN, 0, 0, 0x00050000)]
text = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
kept = ctypes.create_string_buffer(text, len(text))
head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(kept)))
assert ctypes.CDLL(None).syscall(317, 1, 0, head) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def without_memlock() -> list[str]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    may = int(status["CapEff"], 16) >> 24 & 1  # CAP_SYS_RESOURCE
    return [] if may else [sys.executable, "-c", MEMLOCK]


def root(place: Path) -> Path:
    """An empty root directory, with the links that /usr needs."""
    folder = place / "root"
    folder.mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(Path("/", name).readlink())
    return folder


def environment(host: Any) -> dict[str, str]:
    return {"PATH": "/usr/bin", "PYTHONPATH": SOURCES, "EPCGROUP_RUN": str(host.run_directory)}


def bundle(
    host: Any,
    place: Path,
    rules: list[dict[str, Any]] | None,
    *,
    group: str = "ct1",
    script: str = CLIENT,
    limit: int | None = LIMIT,
    **more: Any,
) -> str:
    """A container in a group below our tree, with a client in it."""
    binds = [
        {"destination": one, "source": one, "type": "bind", "options": ["rbind"]}
        for one in (*BOUND, str(host.run_directory), "/dev/fuse")
    ]
    resources: dict[str, Any] = {} if rules is None else {"devices": rules}
    if limit is not None:
        resources["unified"] = {"misc.max": f"sgx_epc {limit}"}
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [sys.executable, "-c", script],
            "env": [f"{key}={value}" for key, value in environment(host).items()],
            "cwd": "/",
        },
        "root": {"path": str(root(place))},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            *binds,
        ],
        "linux": {
            "cgroupsPath": f"{host.path}/{group}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "resources": resources,
        },
        **more,
    }
    (place / "config.json").write_text(json.dumps(config))
    return str(place)


def held(host: Any, container: "subprocess.Popen[bytes]", group: str, device: str) -> None:
    """The client in the container is kept to the limit; when it ends nothing of the group is left."""
    assert host.line(container) == f"{device} kept\n"
    (path,) = [path for path in host.status()["groups"] if path.startswith(group)]
    found = host.status()["groups"][path]
    assert (found["max"], found["peak"]) == (LIMIT, LIMIT)
    # All but a limit's worth of pages has been written out once, and had to be loaded again to be looked at.
    assert found["write_outs"] >= (SIZE - LIMIT) // 4096
    assert found["loads"] >= (SIZE - LIMIT) // 4096
    container.communicate(b"\n")
    assert container.returncode == 0
    assert f"/sys/fs/cgroup{path}\n" not in host.run("find", str(host.tree), "-type", "d")
    assert path not in host.status()["groups"]


@pytest.mark.parametrize(
    ("runtime", "wrapped", "rules", "device"),
    [
        ("crun", False, None, "opened"),
        ("crun", True, DEVICE_RULES, "EPERM"),
        ("runc", True, None, "EPERM"),
        ("runc", True, DEVICE_RULES, "EPERM"),
    ],
    ids=["crun", "crun-with-device-rules", "runc", "runc-with-device-rules"],
)
def test_misc_max_of_a_bundle_is_kept_by_unmodified_runtimes(
    host: Any, tmp_path: Path, runtime: str, wrapped: bool, rules: list[dict[str, Any]] | None, device: str
) -> None:
    need(runtime)
    argv = [*(without_memlock() if rules and runtime == "crun" else [])]
    argv += [sys.executable, "-m", "epcgroup", "runtime", "--"] if wrapped else []
    argv += [
        runtime,
        "--root",
        str(tmp_path / "state"),
        *(["--cgroup-manager=cgroupfs"] if runtime == "crun" else []),
    ]
    argv += ["run", "--bundle", bundle(host, tmp_path, rules), "ct1"]
    container = host.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held(host, container, f"{host.path}/ct1", device)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_the_hook_limits_a_container_without_any_tree(bare_host: Any, tmp_path: Path, runtime: str) -> None:
    need(runtime)
    host = bare_host
    hook = {
        "path": sys.executable,
        "args": [sys.executable, "-m", "epcgroup", "oci-hook"],
        "env": [f"{key}={value}" for key, value in environment(host).items()],
    }
    more = {"hooks": {"createRuntime": [hook]}, "annotations": {"epc-limit.nri.io": str(LIMIT)}}
    argv = [
        runtime,
        "--root",
        str(tmp_path / "state"),
        *(["--cgroup-manager=cgroupfs"] if runtime == "crun" else []),
    ]
    argv += ["run", "--bundle", bundle(host, tmp_path, None, limit=None, **more), "ct1"]
    container = host.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held(host, container, f"{host.path}/ct1", "opened" if runtime == "crun" else "EPERM")


CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
"""


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a name as short as podman wants it."""
    with tempfile.TemporaryDirectory(prefix="epc-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("runtime", "options", "device"),
    [("crun", ["--privileged"], "opened"), ("crun", [], "EPERM"), ("runc", [], "EPERM")],
    ids=["privileged", "default", "runc"],
)
def test_podmans_cgroup_conf_is_kept(
    host: Any, short_path: Path, runtime: str, options: list[str], device: str
) -> None:
    need("podman", "conmon", runtime)
    # conmon clears the environment: what the runtime needs to know stands in the script that podman calls.
    script = short_path / "epc-runtime"
    command = [sys.executable, "-m", "epcgroup", "runtime", "--directory", host.run_directory, "--", runtime]
    inside = [*(without_memlock() if runtime == "crun" else []), *map(str, command)]
    script.write_text(
        f'#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin PYTHONPATH={SOURCES}\nexec {shlex.join(inside)} "$@"\n'
    )
    script.chmod(0o755)
    configuration = short_path / "containers.conf"
    configuration.write_text(CONTAINERS_CONF)
    places = [f"--{name}={short_path / name}" for name in ("root", "runroot", "tmpdir")]
    volumes = [f"--volume={place}:{place}" for place in (*BOUND, host.run_directory)]
    container = host.popen(
        *["env", f"CONTAINERS_CONF={configuration}", "podman", *places, "--storage-driver=vfs"],
        *([] if "--privileged" in options else ["--runtime", str(script)]),
        *[
            "run",
            "--rm",
            "--interactive",
            "--network=none",
            "--pids-limit=-1",
            *options,
            *volumes,
            "--volume=/dev/fuse:/dev/fuse",
        ],
        *[f"--cgroup-parent={host.path}", f"--cgroup-conf=misc.max=sgx_epc {LIMIT}"],
        *[f"--env={key}={value}" for key, value in environment(host).items()],
        *["--rootfs", str(root(short_path)), sys.executable, "-c", CLIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    held(host, container, f"{host.path}/libpod-", device)


def test_cgroup_tools_make_limit_use_and_remove_a_group(host: Any, tmp_path: Path) -> None:
    need("cgcreate", "cgset", "cgget", "cgexec", "cgdelete")
    # libcgroup asks the root of the first cgroup2 for its controllers; `epcgroup up` leaves that file as it is.
    (tmp_path / "controllers").write_text("misc\n")
    host.run("mount", "--bind", str(tmp_path / "controllers"), "/sys/fs/cgroup/cgroup.controllers")
    name = f"{host.path[1:]}/tools"
    host.run("cgcreate", "-g", f"misc:{name}")
    host.run("cgset", "-r", f"misc.max=sgx_epc {LIMIT}", name)
    assert host.run("cgget", "-n", "-v", "-r", "misc.max", name) == f"sgx_epc {LIMIT}\n"
    client = host.popen(
        *["cgexec", "-g", f"misc:{name}", sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert host.line(client) == "opened kept\n"
        assert host.status()["groups"][f"/{name}"]["peak"] == LIMIT
    finally:
        client.communicate(b"\n")
    host.run("cgdelete", "-g", f"misc:{name}")
    host.run("umount", "/sys/fs/cgroup/cgroup.controllers")
    assert f"/{name}" not in host.status()["groups"]
    assert "tools" not in host.run("ls", str(host.tree))
