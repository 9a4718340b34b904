"""Show who uses the EPC: pods and containers with use, limit, claim, peak, events a second and a trend.

Looks at the cgroup2 tree of this host, at any other tree (--tree), at the live daemon (--directory), or at a run that
`epcgroup run --save` wrote (--recorded). On a terminal it stays until q; keys: / filter, s sort, r reverse, c
containers, space pause, arrows. --once prints one table, --json one line of JSON for each look.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from epcgroup.errors import InputError, nearest
from epcgroup.interface import EPC, UNLIMITED
from epcgroup.top.rows import SORTS, History, Row, arrange
from epcgroup.top.screen import ASCII, BLOCKS, View, render
from epcgroup.top.sources import Look, RunSource, Source, StatusSource, TreeSource
from epcgroup.trace import Run, RunSet
from epcgroup.units import parse_duration

LEAST_INTERVAL = 0.1


def set_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--tree", metavar="DIR", help="a cgroup2 tree (default: where it is mounted)")
    where.add_argument(
        "--directory", metavar="DIR", nargs="?", const="", help="the live daemon (of $EPCGROUP_RUN, or /run/epcgroup)"
    )
    where.add_argument("--recorded", metavar="FILE", type=Path, help="a saved run")
    parser.add_argument(
        "--pods", metavar="PATH", type=Path, help="names and claims: folder of manifests, or kubelet's /pods in a file"
    )
    parser.add_argument("--resource", metavar="NAME", default=EPC, help="of the misc controller (default sgx_epc)")
    parser.add_argument("--run", metavar="LABEL", help="which run of a file (default: the last with limits)")
    parser.add_argument("--at", metavar="TIME", help="stop there, e.g. 2.5s (of a recorded run)")
    parser.add_argument("--sort", choices=SORTS, default="use", help="by use (default), share of the limit, ...")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--filter", metavar="TEXT", default="", help="pods and containers with this in their names")
    parser.add_argument("--interval", metavar="TIME", default="2s", help="between two looks (default 2s)")
    parser.add_argument("--once", action="store_true", help="print what is there, and end")
    parser.add_argument("--json", action="store_true", help="JSON, sizes in bytes")


def main(args: argparse.Namespace) -> int:
    interval = parse_duration(args.interval, where="--interval")
    if interval < LEAST_INTERVAL:
        raise InputError(f"{args.interval} is less than {LEAST_INTERVAL} s", where="--interval")
    source = _source(args)
    view = View(sort=args.sort, reverse=args.reverse, match=args.filter)
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
        blocks = BLOCKS
    except (UnicodeEncodeError, LookupError):
        blocks = ASCII
    if args.once or args.json:
        _print(source, view, args, interval, blocks)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("this is no terminal; --once prints one table, --json a line for each look")
    else:
        from epcgroup.top import terminal

        terminal.watch(source, view, interval, blocks)
    return 0


def _source(args: argparse.Namespace) -> Source:
    if args.pods is not None and (args.directory is not None or args.recorded is not None):
        raise InputError("goes with a tree", where="--pods")
    for option, value in (("--run", args.run), ("--at", args.at)):
        if value is not None and args.recorded is None:
            raise InputError("goes with --recorded", where=option)
    if args.recorded is not None:
        return RunSource(_run(args), None if args.at is None else parse_duration(args.at, where="--at"))
    if args.directory is not None:
        from epcgroup.cli import daemon
        from epcgroup.live import wire

        directory = args.directory or wire.default_directory()
        return StatusSource(lambda: daemon.status(directory))
    from epcgroup.agent import config, source, tree

    root = args.tree or tree.find_root(tree.MOUNTS.read_text(errors="surrogateescape"))
    pods: source.Source | None = None
    if args.pods is not None:
        pods = source.Manifests(args.pods) if args.pods.is_dir() else source.KubeletFile(args.pods)
    return TreeSource(tree.Tree(root, config.resource(args.resource, key="--resource")), pods)


def _run(args: argparse.Namespace) -> Run:
    runs = RunSet.load(args.recorded).runs
    if args.run is not None:
        named = [run for run in runs if run.label == args.run]
        if not named:
            hint = nearest(args.run, [run.label for run in runs])
            raise InputError(f'no run "{args.run}"{hint}', where=args.recorded)
        return named[0]
    limited = [run for run in runs if run.kind == "limited"] or runs
    if not limited:
        raise InputError("holds no run", where=args.recorded)
    return limited[-1]


def _print(source: Source, view: View, args: argparse.Namespace, interval: float, blocks: str) -> None:
    """One table or JSON line, of a recorded run with all that came before; with --json alone a line for each look."""
    history = History()
    last: tuple[Look, list[Row]] | None = None
    while (look := source.look()) is not None:
        rows = arrange(history.add(look), view.sort, reverse=view.reverse, match=view.match, containers=True)
        last = look, rows
        if not args.once:
            print(json.dumps(as_json(look, rows)), flush=True)
        elif args.recorded is None:
            break
        if args.recorded is None:
            time.sleep(interval)
    if last is None:
        raise InputError("there is nothing to see: no sample was recorded", where=args.recorded)
    if args.once and args.json:
        print(json.dumps(as_json(*last)))
    elif args.once:
        width = max(80, shutil.get_terminal_size((100, 24)).columns)
        for line in render(*last, view, width, blocks=blocks):
            print(line.text)


def as_json(look: Look, rows: list[Row]) -> dict[str, Any]:
    """A look with its rows; null is what is not known, and the limit of what has none."""
    return {
        "source": look.title,
        "at": look.at,
        "capacity_bytes": look.capacity,
        "use_bytes": look.use,
        "problems": list(look.problems),
        "rows": [
            {
                "kind": row.group.kind,
                "name": row.group.name,
                "path": row.group.key,
                "pod": row.group.pod or None,
                "use_bytes": row.group.use,
                "limit_bytes": None if row.group.limit == UNLIMITED else row.group.limit,
                "claim_bytes": row.group.claim,
                "peak_bytes": row.group.peak,
                "events": row.group.events,
                "events_per_second": row.events_rate,
                "paged_per_second": row.paged_rate,
            }
            for row in rows
        ],
    }
