"""The misc.* files in the host's real cgroup2 tree: the kernel's stays the kernel's, by the caller's rights."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import lacking, passthrough, real_cgroup, remove, write

from epcgroup.cgroupfs.controller import Machines
from epcgroup.cgroupfs.passthrough import Passthrough
from epcgroup.cgroupfs.tree import ROOT
from epcgroup.interface import EPC
from epcgroup.machine import Machine, Section

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@pytest.fixture
def sub() -> Iterator[Path]:
    """Mounted over the directory itself."""
    with real_cgroup() as real, passthrough(real, real) as place:
        yield place


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def of_process(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def test_membership_is_the_real_kernels(sub: Path) -> None:
    (sub / "ct").mkdir()
    with sleeper() as process:
        write(sub / "ct/cgroup.procs", str(process.pid))
        assert of_process(process.pid) == f"/{sub.name}/ct"
        assert (sub / "ct/cgroup.procs").read_text() == f"{process.pid}\n"
        assert "populated 1" in (sub / "ct/cgroup.events").read_text()
        with pytest.raises(OSError, match="busy"):
            (sub / "ct").rmdir()
        write(sub / "ct/cgroup.kill", "1")
        assert process.wait() == -9
    remove(sub / "ct")
    assert not (sub / "ct").exists()


def test_a_writer_of_0_moves_itself_and_not_the_server(sub: Path) -> None:
    (sub / "ct").mkdir()
    script = f"echo 0 > {sub}/ct/cgroup.procs; exec cat /proc/self/cgroup"
    shown = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout
    assert f"0::/{sub.name}/ct" in shown.splitlines()
    for wrong, error in (("x", "Invalid argument"), ("999999999", "No such process"), ("1 2", "Invalid argument")):
        with pytest.raises(OSError, match=error):
            write(sub / "ct/cgroup.procs", wrong)


def test_a_pid_of_another_pid_namespace_is_that_process(sub: Path) -> None:
    (sub / "ct").mkdir()
    # The shell of the namespace is its process 1.
    script = f"echo $$ > {sub}/ct/cgroup.procs; echo $$; exec cat /proc/self/cgroup"
    argv = ["unshare", "--pid", "--fork", "sh", "-c", script]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    assert shown[0] == "1"
    assert f"0::/{sub.name}/ct" in shown


def test_misc_is_a_controller_like_another(sub: Path) -> None:
    assert "misc" in (sub / "cgroup.controllers").read_text().split()
    assert "misc" in (sub / "cgroup.subtree_control").read_text().split()
    (sub / "ct").mkdir()
    (sub / "ct/inner").mkdir()
    assert (sub / "ct/misc.max").read_text() == "sgx_epc max\n"
    assert not (sub / "ct/inner/misc.max").exists()
    with sleeper() as process:
        write(sub / "ct/cgroup.procs", str(process.pid))
        with pytest.raises(OSError, match="busy"):
            write(sub / "ct/cgroup.subtree_control", "+misc")
        write(sub / "ct/inner/cgroup.procs", str(process.pid))
        write(sub / "ct/cgroup.subtree_control", "+misc")
        with pytest.raises(OSError, match="busy"):
            write(sub / "ct/cgroup.procs", str(process.pid))
    assert (sub / "ct/inner/misc.max").read_text() == "sgx_epc max\n"
    with pytest.raises(OSError, match="busy"):
        write(sub / "cgroup.subtree_control", "-misc")
    with pytest.raises(OSError, match="Invalid"):
        write(sub / "cgroup.subtree_control", "misc")
    write(sub / "ct/inner/misc.max", "sgx_epc 4096")
    write(sub / "ct/cgroup.subtree_control", "-misc")
    assert not (sub / "ct/inner/misc.max").exists()
    with pytest.raises(FileNotFoundError):
        write(sub / "ct/inner/cgroup.subtree_control", "+misc")
    write(sub / "ct/cgroup.subtree_control", "+misc")
    assert (sub / "ct/inner/misc.max").read_text() == "sgx_epc max\n"


def test_a_group_made_again_is_another_one(sub: Path) -> None:
    (sub / "ct").mkdir()
    write(sub / "ct/misc.max", "sgx_epc 4096")
    with (sub / "ct/misc.max").open("rb", buffering=0) as old:
        remove(sub / "ct")
        (sub / "ct").mkdir()
        with pytest.raises(OSError, match="No such device"):
            old.read(100)
    assert (sub / "ct/misc.max").read_text() == "sgx_epc max\n"


def test_another_user_has_his_own_rights_and_no_more(sub: Path) -> None:
    (sub / "mine").mkdir()
    (sub / "other").mkdir()
    for path in (sub / "mine", sub / "mine/cgroup.procs", sub / "mine/cgroup.subtree_control"):
        os.chown(path, 1234, 1234)
    script = """
import os, sys
os.setgroups([]); os.setgid(1234); os.setuid(1234)
sub = sys.argv[1]
def write(path, text):
    try:
        fd = os.open(sub + path, os.O_WRONLY)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
        return "ok"
    except OSError as error:
        return error.strerror
os.mkdir(sub + "/mine/a")
print(write("/mine/misc.max", b"sgx_epc max"))
print(write("/other/cgroup.procs", b"0"))
print(write("/mine/a/cgroup.procs", b"0"))
print(write("/mine/cgroup.subtree_control", b"+misc"))
print(write("/mine/a/misc.max", b"sgx_epc 4096"))
try:
    os.mkdir(sub + "/other/a")
except OSError as error:
    print(error.strerror)
"""
    argv = [sys.executable, "-S", "-c", script, str(sub)]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    # The third: writable by him, but not so the common ancestor of where he is and where he would go.
    assert shown == ["Permission denied", "Permission denied", "Permission denied", "ok", "ok", "Permission denied"]
    assert (sub / "mine/a/misc.max").stat().st_uid == 1234
    assert (sub / "mine/a").stat().st_uid == 1234


def test_side_mode_covers_nothing_and_notices_what_the_real_tree_does() -> None:
    with real_cgroup() as real, tempfile.TemporaryDirectory(prefix="epcgroup-test-") as folder:
        (real / "before").mkdir()
        with passthrough(real, Path(folder)) as side:
            assert (side / "before/misc.max").read_text() == "sgx_epc max\n"
            assert not (real / "before/misc.max").exists()
            (real / "ct").mkdir()
            write(side / "ct/misc.max", "sgx_epc 4096")
            (real / "ct").rmdir()
            assert not (side / "ct").exists()
            (real / "ct").mkdir()
            assert (side / "ct/misc.max").read_text() == "sgx_epc max\n"
            assert sorted(os.listdir(side)) == sorted([*os.listdir(real), *MISC])  # noqa: PTH208


def test_a_misc_controller_of_the_kernels_own_is_not_seen(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    for folder in (tmp_path, group):
        (folder / "cgroup.controllers").write_text("cpu misc\n")
        (folder / "cgroup.subtree_control").write_text("misc\n")
        (folder / "misc.max").write_text("sev 7\n")
    (tmp_path / "misc.slice").mkdir()
    base = os.open(tmp_path, os.O_RDONLY)
    try:
        tree = Passthrough(Machines({EPC: Machine([Section(0, 1024)])}), base, is_root=False)
        assert sorted(tree.names("/group")) == sorted(["cgroup.controllers", "cgroup.subtree_control", *MISC])
        assert "misc.slice" in tree.names("/")
        assert tree.read("/group/misc.max") == "sgx_epc max\n"
        assert read(tree, "/group/cgroup.controllers") == b"cpu misc\n"
        assert read(tree, "/group/cgroup.subtree_control") == b""
        control = tree.open("/cgroup.subtree_control", os.O_RDWR)
        control.pwrite(b"-misc", ROOT)
        control.close()
        assert sorted(tree.names("/group")) == ["cgroup.controllers", "cgroup.subtree_control"]
        assert read(tree, "/group/cgroup.controllers") == b"cpu\n"
        with pytest.raises(FileNotFoundError):
            tree.attributes("/group/misc.max")
        assert (group / "misc.max").read_text() == "sev 7\n"
    finally:
        os.close(base)


def test_0_from_a_process_that_we_cannot_see_does_not_move_the_server(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    base = os.open(tmp_path, os.O_RDONLY)
    try:
        tree = Passthrough(Machines({EPC: Machine([Section(0, 1024)])}), base, is_root=False)
        procs = tree.open("/cgroup.procs", os.O_WRONLY)
        with pytest.raises(ProcessLookupError):
            procs.pwrite(b"0", ROOT)
        procs.close()
    finally:
        os.close(base)
    assert (tmp_path / "cgroup.procs").read_bytes() == b""


def read(tree: Passthrough, path: str) -> bytes:
    file = tree.open(path)
    try:
        return file.pread(4096, 0)
    finally:
        file.close()


MISC = ["misc.current", "misc.events", "misc.events.local", "misc.max", "misc.peak"]


def test_eight_processes_at_once_lose_nothing(sub: Path) -> None:
    script = """
import os, sys
sub, number = sys.argv[1], int(sys.argv[2])
for turn in range(60):
    path = f"{sub}/w{number}"
    os.mkdir(path)
    limit = (number * 1000 + turn) * 4096
    with open(path + "/misc.max", "w") as file:
        file.write(f"sgx_epc {limit}")
    with open(path + "/misc.max") as file:
        assert file.read() == f"sgx_epc {limit}\\n"
    with open(path + "/misc.current") as file:
        assert file.read() == "sgx_epc 0\\n"
    os.rmdir(path)
"""
    argv = [sys.executable, "-S", "-c", script, str(sub)]
    workers = [subprocess.Popen([*argv, str(number)]) for number in range(8)]
    assert [worker.wait() for worker in workers] == [0] * 8
    assert not [name for name in os.listdir(sub) if name.startswith("w")]  # noqa: PTH208
