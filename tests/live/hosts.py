"""A host as OCI runtimes want it: cgroup2 at /sys/fs/cgroup, our tree over one directory of it, a daemon.

All in a mount namespace of its own, so that no mount stays behind; the directory has the test's pid in its name and is
removed at the end with everything below. `host.run` runs a command there. Skipped with a reason where that cannot be.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from epcgroup.live import cgroups, probe, seccomp

PATIENCE = 60  # seconds until a test that waits for something gives up; never part of what is asserted

NAMESPACE = """
set -e
umount -l -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
echo ready
read line
"""


def lacking() -> str | None:
    if os.geteuid() != 0:
        return "root is needed"
    if cgroups.mount_point() is None:
        return "no cgroup2 is mounted"
    if importlib.util.find_spec("mfusepy") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "mfusepy and /dev/fuse are needed"
    return probe.missing() or seccomp.missing()


_numbers = itertools.count()


class Host:
    """`tree` is the directory that our tree covers, `path` its cgroup2 path, `run_directory` the daemon's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_directory = folder / "run"
        self.path = f"/epcgroup-test-{os.getpid()}-{next(_numbers)}"
        self.tree = Path(f"/sys/fs/cgroup{self.path}")
        self._namespace = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", NAMESPACE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._started: list[subprocess.Popen[bytes]] = []
        self._real = cgroups.Group(self.path)

    def start(self, *, tree: bool) -> None:
        assert self._namespace.stdout is not None
        assert self._namespace.stdout.readline() == b"ready\n"
        self.run("epcgroup", "up", "--epc", "16Mi", *(["--files", str(self.tree)] if tree else []))

    def popen(self, *argv: str, **options: Any) -> "subprocess.Popen[bytes]":
        """A command in the namespace; `epcgroup` is ours. Killed at the end."""
        command = [sys.executable, "-m", *argv] if argv[0] == "epcgroup" else [*argv]
        environment = {**os.environ, "EPCGROUP_RUN": str(self.run_directory)}
        inside = ["nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt", f"--wd={self.folder}", *command]
        process = subprocess.Popen(inside, env=environment, **options)
        self._started.append(process)
        return process

    def run(self, *argv: str, status: int = 0, given: bytes = b"") -> str:
        """What a command in the namespace prints, standard error too."""
        with tempfile.TemporaryFile() as output:
            process = self.popen(*argv, stdin=subprocess.PIPE, stdout=output, stderr=output)
            process.communicate(given, timeout=PATIENCE)
            output.seek(0)
            text = output.read().decode()
        assert process.returncode == status, text
        return text

    def line(self, process: "subprocess.Popen[bytes]") -> str:
        """The next line that a process prints."""
        assert process.stdout is not None
        late = threading.Timer(PATIENCE, process.kill)
        late.start()
        try:
            return process.stdout.readline().decode()
        finally:
            late.cancel()

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            time.sleep(0.01)
            assert time.monotonic() < deadline, "waited in vain"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("epcgroup", "status", "--json"))
        return found

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        if (self.run_directory / "socket").exists():
            subprocess.run([sys.executable, "-m", "epcgroup", "down", "--directory", str(self.run_directory)])
        self._namespace.kill()
        self._namespace.communicate()
        self._real.close()


def _host(*, tree: bool) -> Iterator[Host]:
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="epcgroup-test-") as folder:
        Path(folder).chmod(0o755)
        one = Host(Path(folder))
        try:
            one.start(tree=tree)
            yield one
        finally:
            one.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """With our tree."""
    yield from _host(tree=True)


@pytest.fixture
def own_host() -> Iterator[Host]:
    """With our tree, for a test that breaks it."""
    yield from _host(tree=True)


@pytest.fixture(scope="module")
def bare_host() -> Iterator[Host]:
    """Without any mount of ours."""
    yield from _host(tree=False)
