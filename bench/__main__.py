"""`python -m bench`: measure, print the table, say on what."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from bench import agent, files, live_costs, onecgroup, real, run, scale, tree
from bench.live import rows as live
from bench.measure import Effort, Row, table

BENCHES: dict[str, Callable[[Effort], list[Row]]] = {
    "one": onecgroup.rows,
    "libcachesim": onecgroup.library_rows,
    "tree": tree.rows,
    "real": real.rows,
    "scale": scale.rows,
    "run": run.rows,
    "live": live.rows,
    "live-costs": live_costs.rows,
    "agent": agent.rows,
    "files": files.rows,
}


def machine() -> str:
    """What is measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=list(BENCHES), action="append", help="this bench (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="less of everything: an impression")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows and their details")
    args = parser.parse_args()
    effort = Effort(1_000_000, 3) if args.quick else Effort()
    versions = f"Python {platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}"
    heading = f"{time.strftime('%Y-%m-%d %H:%M')}, {machine()}, {versions}"
    rows: list[Row] = []
    for name in args.only or BENCHES:
        print(f"... {name}", flush=True)
        rows += BENCHES[name](effort)
    print(
        f"\n{heading}\nCPU time of one thread; best of {effort.turns}\n\n{table(rows)}\n\nload at the end "
        f"{os.getloadavg()[0]:.2f}"
    )
    if args.json is not None:
        args.json.write_text(json.dumps({"on": heading, "rows": [vars(row) for row in rows]}, indent=1) + "\n")
    return int(any(row.ok is False for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
