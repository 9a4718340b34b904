"""Carries a plan out: for each of its runs a private daemon, real cgroups, and the containers as client processes.

The daemon's pool is the node's EPC and its machine that of the run's series; the pods' cgroups are made below
/epcgroup-run-PID of the host's cgroup2 tree and get their limits there. Time is the host's. A run's record is filled
from the machine's counters in the daemon and from what the clients' threads have noted (`account`). However a run
ends, nothing of it is left: no process, no cgroup, no file.
"""

import contextlib
import ctypes
import errno
import heapq
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from epcgroup.enact.account import BUILD, BUSY, REFUSED, STALL, STOP, TOUCHES, WAIT, Account
from epcgroup.enact.worker import Job
from epcgroup.errors import InputError
from epcgroup.live import signals, wire
from epcgroup.live.cgroups import Group
from epcgroup.machine import ENCLAVE_COUNTERS
from epcgroup.sim.plan import ContainerPlan, LimitChange, Plan, PodPlan
from epcgroup.sim.run import RunPlan, RunProgress, record_of, runs_of, simulate, twins
from epcgroup.trace import LIVE, STALL_BUCKETS, Event, PodRun, Run, RunSet
from epcgroup.units import format_bytes

SAMPLES = 200  # of a run at most
LEAST_INTERVAL = 0.02  # seconds between two of them
TICK = 0.01  # seconds until an ended client is noticed
GRACE = 0.5  # seconds that threads have to finish their batch at the end
START_SECONDS = 120.0  # until the daemon or a client must be ready; the daemon may have to compile the machine

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Stopped(Exception):
    """The daemon has ended by itself."""


class Interrupted(Exception):
    """A signal came before the run began."""


def predict_and_measure(
    plan: Plan, progress: RunProgress | None = None, command: str = "", *, pageout: bool = True
) -> RunSet:
    """Everything the plan compares, simulated and then live. `plan` has been through fit.fitted."""
    run_set = simulate(plan, progress, command)
    if not any(run.ended_early and run.ended_early.startswith("interrupted") for run in run_set.runs):
        run_set.runs += enact(plan, progress, pageout=pageout)
        host = os.uname()
        run_set.config["live"] = {
            "host": f"{host.sysname} {host.release} {host.machine}, {plan.node.cpus} CPUs",
            "touches_seen_by": "pageout, if it works here" if pageout else "copy-out",
            "cgroups_below": "/epcgroup-run-PID",
        }
    return run_set


def enact(plan: Plan, progress: RunProgress | None = None, *, pageout: bool = True) -> list[Run]:
    """Everything the plan compares, live; an interrupted run is the last. `plan` has been through fit.fitted.

    `pageout=False`: the daemon sees touches by copying pages out, exactly, at a higher cost.
    """
    runs: list[Run] = []
    with signals.noted() as came:
        for what in runs_of(plan):
            run = _LiveRun(plan, what, pageout, came).run(progress)
            runs += [run, *twins(plan, run)]
            if came:
                break
    return runs


@dataclass(eq=False)
class _Client:
    """A container's process."""

    container: ContainerPlan
    group: str  # cgroup2 path
    account: Account
    popen: subprocess.Popen[bytes]
    errors: IO[bytes]


@dataclass(eq=False)
class _Pod:
    plan: PodPlan
    record: PodRun
    clients: list[_Client] = field(default_factory=list)


def _lives(pod: _Pod) -> bool:
    return bool(pod.clients) and pod.record.ended_at is None


class _LiveRun:
    """One run. `run` sets everything up, watches it, takes everything back and returns the record."""

    def __init__(self, plan: Plan, what: RunPlan, pageout: bool, signals: list[int]) -> None:
        self.plan, self.what, self.pageout, self.signals = plan, what, pageout, signals
        self.record = replace(record_of(plan, what), label=LIVE + what.label, cpu_hz=0.0, cost_profile="", live=True)
        self.pods: list[_Pod] = []
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.revoked = 0  # enclaves that the daemon has taken away
        self._zero = 0.0

    def run(self, progress: RunProgress | None) -> Run:
        began = time.perf_counter()
        with contextlib.ExitStack() as undo:
            try:
                self._set_up(undo)
                self._watch(progress)
            except Stopped:
                self.record.duration = max(self._now(), 1e-3)
                self._cut_short(f"the daemon ended at {self._now():.3g} s: {self._last_words(self.log)}")
            except Interrupted:
                self.record.duration = 1e-3
                self._cut_short("interrupted before it began")
        self.record.wall_seconds = round(time.perf_counter() - began, 3)
        return self.record

    # ---- setting up --------------------------------------------------------------------------------

    def _set_up(self, undo: contextlib.ExitStack) -> None:
        self.directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=f"epcgroup-run-{os.getpid()}-")))
        self.group = Group(f"/epcgroup-run-{os.getpid()}")
        undo.callback(self.group.close)  # with whatever still runs in it
        self.log = undo.enter_context((self.directory / "log").open("w+b"))
        self._start_daemon(undo)
        self._daemon = wire.connect(str(self.directory))
        undo.callback(self._daemon.close)
        for pod in self.what.pods:
            self._add_pod(pod, undo)
        for path, limit in self.what.limits.items():
            if (self.group.folder / path[1:]).is_dir():
                self._set_limit(path, limit)
        for client in self._clients():
            assert client.popen.stdout is not None
            if self._line(client.popen.stdout) != b"ready\n":
                raise InputError(f"a client did not start: {self._last_words(client.errors)}", where="--live")

    def _start_daemon(self, undo: contextlib.ExitStack) -> None:
        options = ["--epc", str(self.plan.node.epc_bytes), "--series", self.record.series]
        options += [] if self.pageout else ["--copy-out"]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "epcgroup", "up", "--foreground", "--directory", str(self.directory), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,  # ^C is for us alone
            preexec_fn=_die_with_parent,
        )
        undo.callback(_end, daemon)
        assert daemon.stdout is not None
        if not self._line(daemon.stdout).startswith(b"ready"):
            raise InputError(f"the daemon did not start: {self._last_words(self.log)}", where="--live")

    def _add_pod(self, plan: PodPlan, undo: contextlib.ExitStack) -> None:
        limits = self.what.limits
        limit = limits.get(plan.path)
        own = [limits[p] for p in map(plan.container_path, plan.containers) if p in limits]
        if len(own) == len(plan.containers) and own:
            limit = min(sum(own), limit) if limit is not None else sum(own)
        pod = _Pod(plan, PodRun(plan.name, plan.path, plan.claim_bytes, limit, plan.use_bytes, plan.describe()))
        self.pods.append(pod)
        self.record.pods.append(pod.record)
        for container in plan.containers:
            folder = self.group.folder / plan.container_path(container)[1:]
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"cannot make its cgroup: {error.strerror}", where="--live", key=plan.name) from error
            account = Account(container.enclaves * container.threads)
            undo.callback(account.close)
            errors = undo.enter_context((self.directory / f"client-{next(self._order)}").open("w+b"))
            popen = subprocess.Popen(
                [sys.executable, "-m", "epcgroup.enact.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[account.fd],
                start_new_session=True,
                preexec_fn=lambda folder=folder: _enter(folder),  # type: ignore[misc]
            )
            undo.callback(_end, popen)
            assert popen.stdin is not None
            job = Job(str(self.directory), plan.name, container, self.plan.seed, account.fd)
            popen.stdin.write(pickle.dumps(job))
            popen.stdin.flush()
            path = self.group.path + plan.container_path(container)
            pod.clients.append(_Client(container, path, account, popen, errors))

    def _line(self, pipe: IO[bytes]) -> bytes:
        """The first line a process says; empty when it has ended, or says nothing for START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.signals:
                raise Interrupted
            if select.select([pipe], [], [], TICK)[0]:
                return pipe.readline()
        return b""

    def _clients(self) -> Iterator[_Client]:
        for pod in self.pods:
            yield from pod.clients

    # ---- the run -----------------------------------------------------------------------------------

    def _now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._zero if self._zero else 0.0

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (when, next(self._order), what))

    def _watch(self, progress: RunProgress | None) -> None:
        duration = self.record.duration
        samples = min(SAMPLES, max(1, int(duration / LEAST_INTERVAL)))
        for i in range(samples):
            self._at(duration * i / samples, self._sample)
        for change in self.what.changes:
            self._at(change.at, lambda change=change: self._change_limit(change))  # type: ignore[misc]
        self._zero = time.monotonic() + TICK
        for pod in self.pods:
            if pod.plan.stop is not None and pod.plan.stop < duration:
                self._at(pod.plan.stop, lambda pod=pod: self._end_pod(pod, "finished"))  # type: ignore[misc]
            for client in pod.clients if pod.plan.start < duration else ():
                assert client.popen.stdin is not None
                client.popen.stdin.write(b"go %d\n" % round((self._zero + pod.plan.start) * 1e9))
                client.popen.stdin.flush()
        while (now := self._now()) < duration and not self.signals and any(map(_lives, self.pods)):
            while self.timers and self.timers[0][0] <= now:
                heapq.heappop(self.timers)[2]()
            for pod in self.pods:
                self._look_after(pod)
            if progress is not None:
                progress(self.record.label, now / duration)
            until = self.timers[0][0] if self.timers else duration
            time.sleep(max(0.0, min(until - self._now(), TICK)))
        self._finish()
        if self.signals:
            self._cut_short(f"interrupted at {now:.3g} s of {self.plan.duration:g} s")

    def _look_after(self, pod: _Pod) -> None:
        """Has a process of the pod ended? Then the pod has, if it failed or was the last."""
        if not _lives(pod):
            return
        ended = [client for client in pod.clients if client.popen.poll() is not None]
        for client in ended:
            if client.popen.returncode:
                self._end_pod(pod, self._why(client))
                return
        if len(ended) == len(pod.clients):
            self._end_pod(pod, "finished")

    def _why(self, client: _Client) -> str:
        refused = int(client.account.client[REFUSED])
        if refused:
            return f"creation refused: {errno.errorcode.get(refused, str(refused))}"
        if client.popen.returncode == -signal.SIGBUS:
            before, self.revoked = self.revoked, self._status()["revoked"]
            zapped = self.record.series == "v2" and self.revoked > before
            return "killed by the OOM path" if zapped else "SIGBUS: a page fault could not be served"
        if client.popen.returncode < 0:
            return f"its client was killed by {signal.Signals(-client.popen.returncode).name}"
        return f"its client failed: {self._last_words(client.errors)}"

    def _end_pod(self, pod: _Pod, outcome: str) -> None:
        """All containers of the pod end; the record has what they did."""
        if pod.record.ended_at is not None:
            return
        now = self._now()
        for client in pod.clients:
            client.popen.kill()
            client.popen.wait()
        timed = outcome.startswith(("finished", "SIGBUS", "killed"))
        pod.record.outcome = f"{outcome} at {now:.3g} s" if timed else outcome
        pod.record.ended_at = now
        self._event(pod.record.name, pod.record.outcome)

    def _finish(self) -> None:
        """The last sample: gauges as they stand, counters when every thread has come to the end of its batch."""
        now, status = self._now(), self._status()
        for client in self._clients():
            client.account.client[STOP] = 1
        deadline = time.monotonic() + GRACE
        for client in self._clients():
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.popen.wait(max(0.0, deadline - time.monotonic()))
            client.popen.kill()
            client.popen.wait()
        after = self._status()
        while after["enclaves"]:
            time.sleep(TICK)
            after = self._status()
        self._sample(now, status, after)
        self.record.duration = min(now, self.record.duration)
        for pod in self.pods:
            counts = sum((client.account.stalls() for client in pod.clients), np.zeros(STALL_BUCKETS, np.int64))
            pod.record.stalls = counts.tolist()

    def _cut_short(self, why: str) -> None:
        self._event("", why)
        self.record.ended_early = why

    # ---- the record --------------------------------------------------------------------------------

    def _event(self, pod: str, what: str) -> None:
        self.record.events.append(Event(self._now(), pod, what))

    def _sample(self, now: float | None = None, gauges: Any = None, counters: Any = None) -> None:
        record = self.record
        gauges = gauges or self._status()
        counters = counters or gauges
        record.times.append(self._now() if now is None else now)
        mine = 0
        for pod in self.pods:
            p, path = pod.record, self.group.path + pod.plan.path
            usage = gauges["groups"].get(path, {}).get("current", 0)
            mine += usage
            first = not p.max_events
            self._gather(pod, counters["groups"])
            if p.max_events and first:
                limit = "" if p.limit_bytes is None else f": misc.max of {format_bytes(p.limit_bytes)} reached"
                self._event(p.name, f"first charge refused{limit}")
            p.sample(usage)
        record.s_free_bytes.append(gauges["free"])
        record.s_unattributed_bytes.append(max(0, gauges["epc"] - gauges["free"] - mine))

    def _gather(self, pod: _Pod, groups: dict[str, Any]) -> None:
        """Counters of a pod until now."""
        p = pod.record
        for name in ENCLAVE_COUNTERS:
            setattr(p, name, sum(groups.get(client.group, {}).get(name, 0) for client in pod.clients))
        p.max_events = groups.get(self.group.path + pod.plan.path, {}).get("refused", 0)
        accounts = [client.account for client in pod.clients]
        p.touches = sum(account.total(TOUCHES) for account in accounts)
        p.busy_seconds, p.stall_seconds, p.wait_seconds, p.build_seconds = (
            sum(account.total(field) for account in accounts) / 1e9 for field in (BUSY, STALL, WAIT, BUILD)
        )

    # ---- the daemon --------------------------------------------------------------------------------

    def _ask(self, packet: wire.Packet) -> wire.Packet:
        try:
            return wire.ask(self._daemon, packet)
        except ConnectionError as error:
            raise Stopped from error

    def _status(self) -> dict[str, Any]:
        return wire.status_of(self._ask(wire.Packet(wire.STATUS)))

    def _set_limit(self, path: str, limit_bytes: int | None) -> None:
        self._ask(wire.limit(self.group.path + path, limit_bytes))

    def _change_limit(self, change: LimitChange) -> None:
        if change.what:
            self._event("", change.what)
        self._set_limit(change.path, change.limit_bytes)

    @staticmethod
    def _last_words(file: IO[bytes]) -> str:
        """The last line of what a process said on its standard error."""
        file.seek(0)
        lines = file.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _enter(folder: Path) -> None:
    _die_with_parent()
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
