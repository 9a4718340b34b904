"""The live daemon's files in the host's tree: a limit written there holds for real processes at once."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import PATIENCE, epcgroup, lacking, live_files, server_of, until, write

from epcgroup.cgroupfs import mounts
from epcgroup.live import probe

LACKING = lacking() or probe.missing()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
MIB = 1 << 20

CLIENT = """
import os, sys
from epcgroup.live.client import Enclave
fd = os.open(sys.argv[1] + "/cgroup.procs", os.O_WRONLY)
os.write(fd, b"0")
os.close(fd)
with Enclave(2 << 20) as enclave:
    memory = enclave.memory
    for line in sys.stdin:
        for page in range(512):
            memory[page * 4096] = page & 255
        print(all(memory[page * 4096] == page & 255 for page in range(512)), flush=True)
"""


@pytest.fixture
def files() -> Iterator[tuple[Path, str]]:
    """(the mounted directory of cgroup2, the daemon's directory)"""
    with live_files("8Mi") as both:
        yield both


@contextmanager
def client(group: Path, run: str) -> Iterator[Callable[[], str]]:
    """A process in the group with 2 MiB of enclave memory; the answer writes all of it, and says if it reads back."""
    environment = {**os.environ, "EPCGROUP_RUN": run}
    argv = [sys.executable, "-c", CLIENT, str(group)]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def use() -> str:
            process.stdin.write(b"\n")
            process.stdin.flush()
            return process.stdout.readline().decode().strip()

        try:
            yield use
        finally:
            process.kill()


def current(group: Path) -> int:
    return int((group / "misc.current").read_text().split()[1])


def limited(top: Path) -> Path:
    """A group of its own with a limit of a MiB."""
    group = top / "ct"
    group.mkdir()
    write(group / "misc.max", f"sgx_epc {MIB}")
    return group


def test_a_limit_written_to_the_file_holds_and_a_lower_one_too(files: tuple[Path, str]) -> None:
    top, run = files
    group = limited(top)
    with client(group, run) as use:
        assert use() == "True"
        assert 0 < current(group) <= MIB
        assert current(top) == current(group)
        write(group / "misc.max", f"sgx_epc {MIB // 2}")
        assert use() == "True"
        assert current(group) <= MIB // 2
        write(group / "misc.max", "sgx_epc max")
        assert use() == "True"
        assert current(group) > 2 * MIB
    until(lambda: current(group) == 0)
    until(lambda: "populated 0" in (group / "cgroup.events").read_text())
    group.rmdir()
    assert current(top) == 0


def test_who_waits_for_refused_charges_is_woken(files: tuple[Path, str]) -> None:
    top, run = files
    group = limited(top)
    with client(group, run) as use, (group / "misc.events").open("rb", buffering=0) as events:
        assert events.read(100) == b"sgx_epc.max 0\n"
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        assert use() == "True"
        assert poll.poll(PATIENCE * 1000) == [(events.fileno(), select.POLLPRI | select.POLLERR)]
        assert int(os.pread(events.fileno(), 100, 0).split()[1]) > 0


def test_the_controller_taken_and_given_again_starts_afresh_and_charges_stay_above(files: tuple[Path, str]) -> None:
    top, run = files
    group = limited(top)
    with client(group, run) as use:
        assert use() == "True"
        held = current(top)
        write(top / "cgroup.subtree_control", "-misc")
        assert not (group / "misc.max").exists()
        assert current(top) == held
        write(top / "cgroup.subtree_control", "+misc")
        assert (group / "misc.max").read_text() == "sgx_epc max\n"
        assert (group / "misc.events").read_text() == "sgx_epc.max 0\n"
        assert use() == "True"
    until(lambda: current(top) == 0)


@pytest.mark.parametrize("who", ["daemon", "files"])
def test_whoever_is_killed_no_mount_is_left(files: tuple[Path, str], who: str) -> None:
    top, run = files
    status = epcgroup("status", "--directory", run, "--json").stdout
    daemon = int(status.partition('"pid": ')[2].partition(",")[0])
    os.kill(server_of(top) if who == "files" else daemon, signal.SIGKILL)
    until(lambda: str(top) not in mounts.ours())
    assert "misc.max" not in os.listdir(top)  # noqa: PTH208


def test_down_returns_when_the_mount_has_gone(files: tuple[Path, str]) -> None:
    real, run = files
    assert epcgroup("down", "--directory", run).returncode == 0
    assert str(real) not in mounts.ours()


def test_a_directory_is_covered_once(files: tuple[Path, str]) -> None:
    top, run = files
    (top / "group").mkdir()
    for place in (top, top / "group"):
        done = epcgroup("mount", str(place), "--live", "--directory", run)
        assert (done.returncode, done.stderr) == (2, f"epcgroup: {place}: has another mount over it already\n")
    (top / "group").rmdir()


def test_what_cannot_be_joined_is_one_line(tmp_path: Path) -> None:
    done = epcgroup("mount", str(tmp_path), "--live", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "with --mirror GROUP it may be anywhere else" in done.stderr or "no cgroup2 is mounted" in done.stderr
    done = epcgroup("mount", str(tmp_path), "--live", "--mirror", "/", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert "no daemon" in done.stderr or "no cgroup2 is mounted" in done.stderr
    done = epcgroup("mount", str(tmp_path), "--live", "--mirror", "/../..", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert '"/../.." is no cgroup in' in done.stderr or "no cgroup2 is mounted" in done.stderr
    done = epcgroup("mount", str(tmp_path), "--epc", "4Mi", "--mirror", "/")
    assert (done.returncode, done.stderr) == (2, "epcgroup: --mirror: goes with --live\n")
