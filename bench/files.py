"""Opening, reading or writing, and closing a misc.* file of the mounted tree, against a file of the real kernfs.

One process does both in turn, in bursts, so that both see the same machine; the best burst of each counts. Times are by
the clock: the work of the mount is done by other processes. Ours is `epcgroup up --files` over a group of this host's
cgroup2, with nobody in it; the real files are those of the same group beside the mount.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Effort, Row
from epcgroup.cgroupfs import mounts
from epcgroup.live import cgroups, probe

BURST = 250  # so short that other jobs leave one alone
BURSTS = 6  # a turn


def rows(effort: Effort) -> list[Row]:
    top = cgroups.mount_point()
    lacking = probe.missing() or ("no cgroup2 is mounted" if top is None else None)
    if lacking is None and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        lacking = "/dev/fuse cannot be opened"
    if lacking is not None or top is None:
        return [Row("the misc.* files, mounted", f"skipped: {lacking}")]
    covered, beside = (top / f"epcgroup-bench-{os.getpid()}{tail}" for tail in ("", "-real"))
    covered.mkdir()
    beside.mkdir()
    try:
        with tempfile.TemporaryDirectory(prefix="epcgroup-bench-") as run:
            return _rows(covered, beside, run, effort)
    finally:
        covered.rmdir()
        beside.rmdir()


def _rows(covered: Path, beside: Path, run: str, effort: Effort) -> list[Row]:
    from epcgroup.cli.main import main

    if main(["up", "--epc", "4Mi", "--directory", run, "--files", str(covered)]) != 0:
        return [Row("the misc.* files, mounted", "skipped: epcgroup up has failed")]
    group = covered / "a"
    group.mkdir()
    try:
        reads = best_in_turn(
            {
                "misc.current": lambda: _read(group / "misc.current"),
                "misc.max": lambda: _read(group / "misc.max"),
                "cgroup.type": lambda: _read(group / "cgroup.type"),
                "kernfs": lambda: _read(beside / "cgroup.type"),
            },
            effort,
        )
        writes = best_in_turn(
            {
                "misc.max": lambda: _write(group / "misc.max", b"sgx_epc 1048576"),
                "kernfs": lambda: _write(beside / "cgroup.max.depth", b"10"),
            },
            effort,
        )
    finally:
        group.rmdir()
        main(["down", "--directory", run])
        while str(covered) in mounts.ours():
            time.sleep(0.01)
    return [
        Row("open, read and close of a mounted misc.current", _against(reads, "misc.current"), details=reads),
        Row("  of misc.max", _against(reads, "misc.max")),
        Row("  of cgroup.type, which is passed through", _against(reads, "cgroup.type")),
        Row("open, write and close of a mounted misc.max", _against(writes, "misc.max"), details=writes),
    ]


def _against(seconds: dict[str, float], name: str) -> str:
    times = seconds[name] / seconds["kernfs"]
    return f"{1e-3 / seconds[name]:.1f} k/s; the real kernfs {1e-3 / seconds['kernfs']:.0f} k/s, {times:.0f}x"


def best_in_turn(functions: dict[str, Callable[[], object]], effort: Effort) -> dict[str, float]:
    """Least seconds of a call, by the clock."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(BURSTS * effort.turns):
        for name, function in functions.items():
            started = time.perf_counter()
            for _ in range(BURST):
                function()
            best[name] = min(best[name], (time.perf_counter() - started) / BURST)
    return best


def _read(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)


def _write(file: Path, text: bytes) -> None:
    fd = os.open(file, os.O_WRONLY)
    os.write(fd, text)
    os.close(fd)
