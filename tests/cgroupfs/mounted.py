"""A tree mounted by the command line, in a folder of the test; unmounted whatever happens."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import epcgroup.cgroupfs.control
from epcgroup.cgroupfs import mounts
from epcgroup.cli.main import main


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
