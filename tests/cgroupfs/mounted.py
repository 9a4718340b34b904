"""A tree mounted by the command line, in a folder of the test; unmounted whatever happens."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epcgroup.cgroupfs import fuse, mounts
from epcgroup.cgroupfs.controller import Below, Machines
from epcgroup.cgroupfs.passthrough import Passthrough
from epcgroup.cli.main import main
from epcgroup.interface import EPC
from epcgroup.live import cgroups
from epcgroup.machine import Machine, Section

PATIENCE = 30.0  # seconds; only a failing test waits so long


def lacking() -> str | None:
    if os.geteuid() != 0:
        return "root is needed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed"
    try:
        import mfusepy  # noqa: F401
    except OSError:
        return "libfuse3 is not installed"
    return None


def epcgroup(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command line, in a fork of this process: it has the engine loaded already."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            status = main(argv)
            sys.stderr.flush()
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, os.waitstatus_to_exitcode(status), out.read(), err.read())


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    started = epcgroup("mount", str(folder), "--epc", "4Mi", "--log", str(log), *options)
    try:
        assert started.returncode == 0, started.stderr
        yield folder
        assert log.read_text() == ""
    finally:
        if str(folder) in mounts.ours():
            mounts.unmount(folder, lazy=True)


def server_of(folder: Path) -> int:
    return int(mounts.ours()[str(folder)].rpartition(":")[2])


def write(file: Path, text: str) -> None:
    """One write(2)."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@contextmanager
def real_cgroup() -> Iterator[Path]:
    """A directory of the host's cgroup2, removed with all below and in it."""
    top = cgroups.mount_point()
    if top is None:
        pytest.skip("no cgroup2 is mounted")
    folder = top / f"epcgroup-test-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        if str(folder) in mounts.ours():
            mounts.unmount(folder, lazy=True)
        (folder / "cgroup.kill").write_text("1")
        for each in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
            remove(each)
        remove(folder)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def live_files(epc: str) -> Iterator[tuple[Path, str]]:
    """A live daemon with its files: (the mounted directory of cgroup2, the daemon's directory)."""
    with real_cgroup() as real, tempfile.TemporaryDirectory(prefix="epcgroup-test-") as run:
        started = epcgroup("up", "--epc", epc, "--strict", "--directory", run, "--files", str(real))
        try:
            assert started.returncode == 0, started.stderr
            yield real, run
        finally:
            epcgroup("down", "--directory", run)
            until(lambda: str(real) not in mounts.ours())
            said = Path(run, "log").read_text() + Path(run, "files.log").read_text()
        assert said == ""


def remove(folder: Path) -> None:
    """A killed process leaves its group a moment later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def passthrough(real: Path, place: Path) -> Iterator[Path]:
    """The files of a simulated machine in a real tree, served by a fork."""
    top = cgroups.mount_point()
    assert top is not None
    base = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
    said, say = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(said)
        try:
            machines = Machines({EPC: Machine([Section(0, 1024)])})
            tree = Passthrough(Below(machines, f"/{real.relative_to(top)}"), base, is_root=False)
            fuse.serve(tree, place, lambda: os.close(say))
        finally:
            os._exit(0)
    os.close(say)
    os.close(base)
    try:
        assert os.read(said, 1) == b""
        assert str(place) in mounts.ours()
        yield place
    finally:
        os.close(said)
        if str(place) in mounts.ours():
            mounts.unmount(place, lazy=True)
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
