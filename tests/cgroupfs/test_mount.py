"""The mounted tree, by real system calls and programs."""

import errno
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import epcgroup, lacking, mounted, server_of, write

from epcgroup.cgroupfs import mounts

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
PATIENCE = 30.0  # seconds; only a failing test waits so long


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "tree") as folder:
        write(folder / "cgroup.subtree_control", "+misc")
        (folder / "pod").mkdir()
        yield folder


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_shell_tools_set_a_limit_and_read_it_back(tree: Path) -> None:
    subprocess.run(["sh", "-c", "echo sgx_epc 1048576 > pod/misc.max"], cwd=tree, check=True)
    shown = subprocess.run(["cat", "pod/misc.max"], cwd=tree, check=True, capture_output=True, text=True).stdout
    assert shown == "sgx_epc 1048576\n"
    refused = subprocess.run(["sh", "-c", "echo sgx_epc 1Mi > pod/misc.max"], cwd=tree, check=False,
                             capture_output=True, text=True)  # fmt: skip
    assert refused.returncode != 0
    assert "Invalid argument" in refused.stderr or "I/O error" in refused.stderr


def test_a_copy_by_sendfile_has_the_whole_text(tree: Path, tmp_path: Path) -> None:
    shutil.copyfile(tree / "misc.capacity", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "sgx_epc 4194304\n"


def test_an_enclave_over_the_limit_stays_within_it_and_counts_refusals(tree: Path) -> None:
    write(tree / "pod/misc.max", "sgx_epc 524288")
    write(tree / "epcgroup.control", "enclave e /pod 1Mi")
    current = int((tree / "pod/misc.current").read_text().split()[1])
    assert 0 < current <= 524288
    assert int((tree / "pod/misc.events").read_text().split()[1]) > 0
    assert (tree / "epcgroup.control").read_text().startswith("enclave e /pod 1048576 resident ")
    write(tree / "epcgroup.control", "close e")
    assert (tree / "pod/misc.current").read_text() == "sgx_epc 0\n"
    assert (tree / "misc.current").read_text() == "sgx_epc 0\n"


def test_a_command_that_cannot_be_done_answers_with_its_errno(tree: Path) -> None:
    wrong = {
        "nonsense": errno.EINVAL,
        "charge c /pod 5Mi": errno.EBUSY,
        "charge c /nowhere 4Ki": errno.ENOENT,
        "charge c /pod 4Ki sev": errno.EINVAL,
        "close e": errno.ENOENT,
        "enclave e /pod 0": errno.EINVAL,
    }
    for command, number in wrong.items():
        with pytest.raises(OSError) as refused:
            write(tree / "epcgroup.control", command)
        assert refused.value.errno == number, command
    assert (tree / "epcgroup.control").read_text() == ""
    write(tree / "epcgroup.control", "charge c /pod 4Ki")
    with pytest.raises(FileExistsError):
        write(tree / "epcgroup.control", "charge c /pod 4Ki")


def test_v2_has_its_own_files_and_a_lowered_limit_reclaims_in_the_write(tmp_path: Path) -> None:
    with mounted(tmp_path / "tree", "--series", "v2") as tree:
        write(tree / "cgroup.subtree_control", "+misc")
        (tree / "pod").mkdir()
        assert not (tree / "pod/misc.peak").exists()
        write(tree / "epcgroup.control", "enclave e /pod 1Mi")
        assert int((tree / "pod/misc.current").read_text().split()[1]) >= 1 << 20
        write(tree / "pod/misc.max", "sgx_epc 262144")
        assert int((tree / "pod/misc.current").read_text().split()[1]) <= 262144


def test_a_waiting_poll_wakes_when_a_charge_is_refused_elsewhere(tree: Path) -> None:
    write(tree / "pod/misc.max", "sgx_epc 4096")
    with (tree / "pod/misc.events").open("rb", buffering=0) as events:
        assert events.read(100) == b"sgx_epc.max 0\n"
        with select.epoll() as epoll:
            epoll.register(events, select.EPOLLPRI)
            assert epoll.poll(0) == []
            charge = f"sleep 0.2; echo charge c /pod 8Ki > {tree}/epcgroup.control"
            with subprocess.Popen(["sh", "-c", charge], stderr=subprocess.DEVNULL):
                assert epoll.poll(PATIENCE) == [(events.fileno(), select.EPOLLPRI | select.EPOLLERR)]
        assert os.pread(events.fileno(), 100, 0) == b"sgx_epc.max 1\n"


def test_a_process_in_a_group_keeps_it_and_its_end_wakes_who_polls(tree: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        try:
            write(tree / "pod/cgroup.procs", str(sleeper.pid))
            with pytest.raises(OSError, match="busy"):
                (tree / "pod").rmdir()
            with (tree / "pod/cgroup.events").open("rb", buffering=0) as events:
                assert events.read(100) == b"populated 1\nfrozen 0\n"
                poll = select.poll()
                poll.register(events, select.POLLPRI)
                assert poll.poll(0) == []
                sleeper.kill()
                sleeper.wait()
                assert poll.poll(PATIENCE * 1000) != []
                assert os.pread(events.fileno(), 100, 0) == b"populated 0\nfrozen 0\n"
        finally:
            sleeper.kill()
    (tree / "pod").rmdir()


def test_a_killed_server_leaves_no_mount_and_nobody_waits(tree: Path) -> None:
    reader = subprocess.Popen(
        ["sh", "-c", "while cat misc.capacity; do :; done"], cwd=tree, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)  # fmt: skip
    with (tree / "pod/misc.events").open("rb", buffering=0) as events:
        os.kill(server_of(tree), signal.SIGKILL)
        reader.wait(PATIENCE)
        with pytest.raises(OSError):
            events.read(10)
    until(lambda: str(tree) not in mounts.ours())
    assert os.listdir(tree) == []  # noqa: PTH208


def test_writes_have_their_own_answers_when_the_companion_was_killed(tree: Path) -> None:
    server = server_of(tree)
    (companion,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    os.kill(int(companion), signal.SIGKILL)
    until(lambda: Path(f"/proc/{companion}/stat").read_text().split()[2] == "Z")
    write(tree / "pod/misc.max", "sgx_epc 4096")
    with pytest.raises(OSError) as refusal:
        write(tree / "epcgroup.control", "charge c1 /pod 64Ki")
    assert refusal.value.errno == errno.EBUSY
    assert (tree / "pod/misc.events").read_text() == "sgx_epc.max 1\n"


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_other_tools_unmount_it_and_the_server_ends(tree: Path, command: list[str]) -> None:
    server = os.pidfd_open(server_of(tree))
    try:
        subprocess.run([*command, str(tree)], check=True)
        assert select.select([server], [], [], PATIENCE)[0] == [server]
    finally:
        os.close(server)
    assert str(tree) not in mounts.ours()


def test_umount_refuses_a_mount_in_use_and_what_is_none_of_ours(tree: Path, tmp_path: Path) -> None:
    with (tree / "misc.capacity").open():
        busy = epcgroup("umount", str(tree))
    assert (busy.returncode, busy.stderr) == (2, f"epcgroup: {tree}: cannot unmount it: Device or resource busy\n")
    assert epcgroup("umount", str(tree)).returncode == 0
    again = epcgroup("umount", str(tree))
    assert (again.returncode, again.stderr) == (2, f"epcgroup: {tree}: epcgroup has mounted nothing here\n")


def test_a_mount_is_not_mounted_over(tree: Path) -> None:
    done = epcgroup("mount", str(tree), "--epc", "4Mi")
    assert done.returncode == 2
    assert done.stderr == f"epcgroup: {tree}: is not empty; the mount would hide what is in it\n"


def test_names_with_spaces_backslashes_and_links_are_mounted_and_unmounted(tmp_path: Path) -> None:
    with mounted(tmp_path / os.fsdecode("a b\\040\nü".encode() + b"\xff")) as place:
        (tmp_path / "link").symlink_to(place)
        assert epcgroup("umount", str(tmp_path / "link")).returncode == 0
        assert str(place) not in mounts.ours()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere", "--epc", "4Mi"], "nowhere: is not a directory to mount on"),
        (["file", "--epc", "4Mi"], "file: is not a directory to mount on"),
        (["n" * 256, "--epc", "4Mi"], f"{'n' * 256}: cannot be mounted on: File name too long"),
        ([".", "--epc", "4Mi"], ".: is not empty; the mount would hide what is in it"),
        (["empty", "--epc", "5k"], "--epc: 5k is not whole pages of 4Ki up to 8Ti"),
        (["empty", "--epc", "4Mi", "--log", "no/where"], "--log: no such folder: no"),
    ],
)
def test_what_cannot_be_mounted_is_one_line(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = epcgroup("mount", *options)
    assert (done.returncode, done.stderr) == (2, f"epcgroup: {said}\n")
