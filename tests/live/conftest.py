"""A daemon in the test's own process and clients in processes of their own; skipped where userfaultfd cannot be had.

The test turns the daemon's loop itself (`live.until`), strictly audited at every turn, so it stands still when the
test looks at it or tampers. Clients speak in lines: `say` and `hear`. Everything is taken back in the fixture.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import bare_host, host, own_host  # noqa: F401  (fixtures)

from epcgroup.live import cgroups, probe
from epcgroup.units import PAGE_SIZE

LACKING = probe.missing()
PATIENCE = 600  # seconds until a test that waits for something gives up; never part of what is asserted

PRELUDE = """
import os, random, sys, threading
from epcgroup.live import wire
from epcgroup.live.client import Enclave

PAGE = 4096

def say(*words):
    # One write: forked clients speak into the same pipe.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def hear():
    return sys.stdin.readline().strip()

"""


def is_mapped(pid: int, address: int) -> bool:
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE_SIZE * 8)
        return bool(pagemap.read(8)[7] & 0x80)


def stand_until(condition: Callable[[], bool]) -> None:
    """Wait without turning the daemon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        time.sleep(0.001)
        assert time.monotonic() < deadline, "waited in vain"


class Process:
    """A client that runs a script after PRELUDE."""

    def __init__(self, live: "Live", script: str, group: str | None, argv: tuple[str, ...]) -> None:
        self._live = live
        enter = None if group is None else live.group(group).enter
        environment = {**os.environ, "EPCGROUP_RUN": live.directory, "PYTHONFAULTHANDLER": ""}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            preexec_fn=enter,
        )
        assert self.popen.stdout is not None and self.popen.stdin is not None
        os.set_blocking(self.popen.stdout.fileno(), False)
        self._heard = b""

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tell(self, text: str = "") -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode() + b"\n")
        self.popen.stdin.flush()

    def line(self) -> str:
        """The next line it says, the daemon turning meanwhile."""
        self._live.until(self._has_line)
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def _has_line(self) -> bool:
        assert self.popen.stdout is not None
        self._heard += self.popen.stdout.read() or b""
        if b"\n" not in self._heard:
            assert self.popen.poll() is None or b"\n" in (self.popen.stdout.read() or b""), (
                f"the client ended with {self.popen.returncode} before it said anything"
            )
        return b"\n" in self._heard

    def rest(self) -> str:
        """All that it said and nobody has read, after it has ended."""
        assert self.popen.stdout is not None and self.popen.returncode is not None
        return (self._heard + (self.popen.stdout.read() or b"")).decode()

    def ended(self) -> int:
        """Its exit status, negative signal; the daemon turns meanwhile."""
        self._live.until(lambda: self.popen.poll() is not None)
        return int(self.popen.returncode)

    def stop(self) -> None:
        if self.popen.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()


class Live:
    """A daemon that the test turns."""

    def __init__(self, directory: Path, nr_pages: int, **options: Any) -> None:
        from epcgroup.live.daemon import Daemon

        self.directory = str(directory)
        self.nr_pages = nr_pages
        self.daemon = Daemon(self.directory, nr_pages * PAGE_SIZE, strict=True, **options)
        self.machine = self.daemon.machine
        self.pager = self.daemon.pager
        self._processes: list[Process] = []
        self._groups: dict[str, cgroups.Group] = {}

    def client(self, script: str, *argv: str, group: str | None = None) -> Process:
        process = Process(self, script, group, argv)
        self._processes.append(process)
        return process

    def group(self, name: str) -> cgroups.Group:
        """A real cgroup2 group; its path has the test's pid in it."""
        if cgroups.mount_point() is None:
            pytest.skip("no cgroup2 is mounted")
        if name not in self._groups:
            self._groups[name] = cgroups.Group(f"/epcgroup-test-{os.getpid()}{name}")
        return self._groups[name]

    def path(self, name: str) -> str:
        return self.group(name).path

    def limit(self, name: str, nr_pages: int | None) -> None:
        value = "max" if nr_pages is None else str(nr_pages * PAGE_SIZE)
        self.daemon.write(self.path(name), "misc.max", f"sgx_epc {value}")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.daemon.turn(0.01)
            assert time.monotonic() < deadline, "waited in vain"

    def settle(self) -> None:
        """Until all connections have ended."""
        self.until(lambda: not self.daemon.status()["enclaves"])

    @property
    def used(self) -> int:
        return self.daemon.pool.used_pages()

    def counters(self, name: str) -> dict[str, int]:
        return self.daemon.groups.counters(self.path(name))

    def assert_empty(self) -> None:
        """Every page and every charge has come back."""
        from epcgroup.kernel.validate import validate_everything

        assert self.used == 0
        assert self.machine.free_pages == self.nr_pages
        assert all(self.machine.usage_bytes(path) == 0 for path in self.machine.cgroups)
        validate_everything(self.machine)

    def close(self) -> None:
        for process in self._processes:
            process.stop()
        for group in self._groups.values():
            with contextlib.suppress(FileNotFoundError):  # the test has removed it
                (group.folder / "cgroup.kill").write_text("1")  # what they forked
        try:
            self.settle()
            self.assert_empty()
        finally:
            self.daemon.close()
            for group in reversed(self._groups.values()):
                group.close()


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    """`live(256)` boots a daemon with a pool of 256 pages. At the end everything must have come back."""
    if LACKING is not None:
        pytest.skip(LACKING)
    # Not tmp_path: clients of other users come here too.
    with tempfile.TemporaryDirectory(prefix="epcgroup-test-") as directory, contextlib.ExitStack() as ends:
        Path(directory).chmod(0o755)
        count = itertools.count()

        def boot(nr_pages: int, **options: Any) -> Live:
            one = Live(Path(directory) / str(next(count)), nr_pages, **options)
            ends.callback(one.close)
            return one

        yield boot


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A place for a daemon of its own process; killed by its pid at the end."""
    if LACKING is not None:
        pytest.skip(LACKING)
    place = tmp_path / "run"
    yield place
    command(place, "down")


def command(directory: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "EPCGROUP_RUN": str(directory)}
    return subprocess.run(
        [sys.executable, "-m", "epcgroup", *argv],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
