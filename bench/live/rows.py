"""The live daemon against a pager in C (pager.c) under the same client (client.c): same protocol, same touches.

A client goes round 4096 pages in one random order while 1024 may be resident, so every touch is a full paged fault:
a page sealed and written out, one loaded and verified. All daemons and clients are real-time (SCHED_RR) on one CPU and
work in bursts of some 0.2 s, in turn, so that neither other jobs nor wake-ups across CPUs are measured; the best burst
of each counts. CPU time is the daemon's own run time by /proc/PID/schedstat.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.compiler import NotThere, built
from bench.measure import Effort, Row
from epcgroup.live import cgroups, probe, wire
from epcgroup.units import PAGE_SIZE

HERE = Path(__file__).parent
PAGES = 4096  # of an enclave
RESIDENT = 1024
OVERHEAD = 32  # pages of a group for the SECS, VA pages and the credit of a reclaim work
SOFT = 512  # pages of a burst of soft faults
ATTACHES = 50
CLIENTS = (1, 2, 4, 8)
POOL = 16 * RESIDENT


def rows(effort: Effort) -> list[Row]:
    try:
        return _rows(effort)
    except NotThere as why:
        return [Row("live paging", f"skipped: {why}")]


class Child:
    """A process that says "ready" and then one line a command; real-time, on one CPU with all the others."""

    def __init__(self, command: list[str | Path], enter: Callable[[], None] | None = None) -> None:
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent.parent, preexec_fn=enter
        )
        self.hear()
        os.sched_setaffinity(self.popen.pid, {max(os.sched_getaffinity(0))})
        os.sched_setscheduler(self.popen.pid, os.SCHED_RR, os.sched_param(1))

    def say(self, command: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(command + "\n")
        self.popen.stdin.flush()

    def hear(self) -> list[str]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.popen.args} ended with {self.popen.wait()}")
        return line.split()

    def ask(self, command: str) -> tuple[int, int]:
        """Total and median ns of what a client was told to do."""
        self.say(command)
        total, median = self.hear()
        return int(total), int(median)

    def cpu(self) -> float:
        """Seconds it has run."""
        return int(Path(f"/proc/{self.popen.pid}/schedstat").read_text().split()[0]) / 1e9

    def close(self) -> None:
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()
        self.popen.terminate()
        self.popen.wait()


class Side:
    """A daemon and its clients."""

    def __init__(
        self, stack: contextlib.ExitStack, directory: Path, command: list[str | Path], groups: str = ""
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self.has_status = command[0] == sys.executable
        self.groups = groups  # prefix of the clients' cgroups; "" for none
        self.stack = stack
        self.daemon = Child(command)
        stack.callback(self.daemon.close)
        self.clients: list[Child] = []
        self.best: dict[str, float] = {}

    def add_client(self, program: Path) -> None:
        enter = None
        if self.groups:
            group = cgroups.Group(f"{self.groups}-{len(self.clients)}")
            self.stack.callback(group.close)
            enter = group.enter
            limit = f"{group.path}\0misc.max\0sgx_epc {(RESIDENT + OVERHEAD) * PAGE_SIZE}"
            with wire.connect(str(self.directory)) as daemon:
                wire.ask(daemon, wire.Packet(wire.WRITE, text=limit.encode()))
        client = Child([program, self.directory, str(PAGES)], enter)
        self.stack.callback(client.close)
        self.clients.append(client)

    def note(self, what: str, value: float) -> None:
        self.best[what] = min(value, self.best.get(what, value))

    def faults(self, count: int) -> None:
        """A burst of full paged faults: us a fault, on the clock and of the daemon's CPU."""
        with pause(), self.all_are_loads(count):
            cpu = self.daemon.cpu()
            total, median = self.clients[0].ask(f"touch {count}")
            self.note("cpu", (self.daemon.cpu() - cpu) / count * 1e6)
            self.note("wall", total / count / 1e3)
            self.note("median", median / 1e3)

    def soft_faults(self) -> None:
        with pause():
            self.clients[0].ask(f"around {SOFT}")
            os.kill(self.daemon.popen.pid, signal.SIGUSR1)
            assert self.daemon.hear() == ["unmapped"]
            self.note("soft", self.clients[0].ask(f"around {SOFT}")[1] / 1e3)

    def attaches(self) -> None:
        with pause():
            self.note("attach", self.clients[0].ask(f"attach {ATTACHES}")[1] / 1e3)

    def faults_a_cpu_second(self, clients: int, count: int) -> float:
        with pause(), self.all_are_loads(count):
            cpu = self.daemon.cpu()
            for client in self.clients[:clients]:
                client.say(f"touch {count // clients}")
            for client in self.clients[:clients]:
                client.hear()
            return count / (self.daemon.cpu() - cpu)

    @contextlib.contextmanager
    def all_are_loads(self, count: int) -> Iterator[None]:
        """Every one of so many touches was a page loaded."""
        before = self.loads()
        yield
        if self.has_status and self.loads() - before != count:
            raise RuntimeError(f"{count} touches were {self.loads() - before} loads")

    def loads(self) -> int:
        """Pages loaded since its start; the comparator does not say."""
        if not self.has_status:
            return 0
        with wire.connect(str(self.directory)) as daemon:
            fd = wire.ask(daemon, wire.Packet(wire.STATUS)).fds[0]
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            return sum(enclave["loads"] for enclave in json.load(file)["enclaves"])


@contextlib.contextmanager
def pause() -> Iterator[None]:
    """A burst, and then as long again for whoever else wants the CPU (and the kernel's limit on real-time tasks)."""
    started = time.monotonic()
    yield
    time.sleep(time.monotonic() - started)


def _rows(effort: Effort) -> list[Row]:
    lacking = probe.missing()
    if lacking is None and cgroups.mount_point() is None:
        lacking = "no cgroup2 is mounted"
    if lacking is not None:
        raise NotThere(lacking)
    try:
        pager = built(HERE / "pager.c", ["-O2", "-lcrypto"])
    except NotThere as why:
        raise NotThere(f"{why}; the comparator needs gcc and libssl-dev") from None
    client = built(HERE / "client.c", ["-O2"])
    turns = 3 * effort.turns
    burst = effort.touches // 500
    serve: list[str | Path] = [sys.executable, "-m", "bench.live.serve"]
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="epcgroup-bench-")))
        c = Side(stack, home / "c", [pager, home / "c", str(RESIDENT)])
        fifo = Side(stack, home / "fifo", [*serve, home / "fifo", str(POOL), "fifo"])
        ours = Side(stack, home / "machine", [*serve, home / "machine", str(POOL), "machine"], f"/bench-{os.getpid()}")
        sides = [c, fifo, ours]
        for side in sides:
            side.add_client(client)
            side.clients[0].ask(f"touch {2 * PAGES}")
        for _ in range(turns):
            for side in sides:
                side.faults(burst)
        while len(ours.clients) < CLIENTS[-1]:
            ours.add_client(client)
            ours.clients[-1].ask(f"touch {2 * PAGES}")
        rates = dict.fromkeys(CLIENTS, 0.0)
        for _ in range(effort.turns):
            for number in CLIENTS:
                rates[number] = max(rates[number], ours.faults_a_cpu_second(number, burst))
        for _ in range(effort.turns):
            for side in sides:
                side.soft_faults()
        for _ in range(effort.turns):
            ours.attaches()
    details: dict[str, Any] = {"C": c.best, "fifo": fifo.best, "machine": ours.best, "rates": rates}
    loss = 1 - min(rates.values()) / rates[1]
    text = ", ".join(f"{number}: {rate / 1e3:.1f} k" for number, rate in rates.items())
    return [
        _ratio("live: a paged fault, sealed, without the machine, against C", fifo, c, 2, details),
        _ratio("  with the machine", ours, c, 3),
        Row("  faults a CPU-second of the daemon, by clients", f"loss {loss:.0%} ({text})", "<= 10%", loss <= 0.1),
        _soft(ours, c),
        Row("  attach of an enclave", f"{ours.best['attach'] / 1e3:.2f} ms", "<= 1 ms", ours.best["attach"] <= 1000),
    ]


def _ratio(what: str, side: Side, c: Side, goal: float, details: dict[str, Any] | None = None) -> Row:
    wall, cpu = (side.best[kind] / c.best[kind] for kind in ("wall", "cpu"))
    us = f"{side.best['wall']:.1f} against {c.best['wall']:.1f} us"
    text = f"{wall:.2f}x ({us}); daemon CPU {cpu:.2f}x ({side.best['cpu']:.1f} against {c.best['cpu']:.1f} us)"
    return Row(what, text, f"<= {goal}x", wall <= goal, details or {})


def _soft(side: Side, c: Side) -> Row:
    ratio = side.best["soft"] / c.best["soft"]
    text = f"{ratio:.2f}x ({side.best['soft']:.1f} against {c.best['soft']:.1f} us)"
    return Row("  soft fault, median", text, "<= 1.5x", ratio <= 1.5)
