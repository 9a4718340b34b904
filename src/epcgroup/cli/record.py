"""Run a command as `epcgroup exec` does and write down the pages that its enclaves touch, as a page trace.

What is seen is every page fault: the first touch of a page, every load, and touches of pages whose accessed bit the
machine had cleared. With --every-switch an enclave keeps only its last PAGES pages mapped, and nearly every switch to
another page is seen; what is paged stays the same. An instruction that needs more than PAGES pages at once never ends:
2 is enough for byte code, vector instructions may gather from 8, each further thread wants 2 more.

The format follows from FILE's suffix: .epctrace, .csv, .parquet or .oraclegeneral, each also with .gz or .xz.
`epcgroup run POD.yaml --use job=8Mi:trace:FILE` replays it. Of several enclaves the pages stand one behind the other,
and the thread column says which enclave it was, from 0: trace:FILE,thread=1 is the second.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from epcgroup.cli import command, daemon
from epcgroup.errors import InputError
from epcgroup.live import wire

if TYPE_CHECKING:
    from epcgroup.sim.tracefile import PageTrace

LEAST_WINDOW, MOST_WINDOW = 2, 1 << 20


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the trace to write")
    parser.add_argument(
        "--every-switch", nargs="?", const="2", metavar="PAGES", help="keep so many pages mapped (default 2)"
    )
    command.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from epcgroup.sim.tracefile import check_writable, write_trace  # numpy: not for --help

    window = 0 if args.every_switch is None else _window(args.every_switch)
    words = command.words_of(args, "record")
    check_writable(args.output)
    with command.limited_group(args, "record") as group, tempfile.TemporaryFile(dir=Path(args.output).parent) as file:
        with daemon.connect(args.directory) as peer:
            begin = wire.Packet(wire.RECORD, a=window, text=os.fsencode(group.path), fds=(file.fileno(),))
            daemon.ask_on(peer, begin, "cannot record")
            status = command.run(words, group, args.directory)
            daemon.ask_on(peer, wire.Packet(wire.RECORD), "the recording is not whole")
        command.say_what_was_used(args, group)
        file.seek(0)
        trace = _trace(file, args.output)
    if trace is None:
        print(f"epcgroup: it touched no enclave memory; {args.output} is not written", file=sys.stderr)
        return status or 2
    write_trace(args.output, trace)
    enclaves = "" if trace.threads is None else f" of {int(trace.threads.max()) + 1} enclaves"
    print(
        f"epcgroup: {args.output}: {trace.nr_events} page accesses, {trace.nr_pages} pages{enclaves}", file=sys.stderr
    )
    return status


def _window(text: str) -> int:
    if not (text.isdecimal() and len(text) < 8) or not LEAST_WINDOW <= int(text) <= MOST_WINDOW:
        raise InputError(
            f'"{text}" is not a number of pages from {LEAST_WINDOW} to {MOST_WINDOW}', where="--every-switch"
        )
    return int(text)


def _trace(file: BinaryIO, source: str) -> "PageTrace | None":
    """The daemon's records as a trace; None when there are none."""
    import numpy as np

    from epcgroup.sim.tracefile import trace_of

    enclaves, pages = np.frombuffer(file.read(), "<u4").reshape(-1, 2).T
    if not len(pages):
        return None
    numbers, first, which = np.unique(enclaves, return_index=True, return_inverse=True)
    if len(numbers) == 1:
        return trace_of(pages.astype(np.uint64), source)
    order = np.argsort(np.argsort(first)).astype(np.uint64)[which]  # 0 is the enclave that was touched first
    sizes = np.zeros(len(numbers), np.uint64)
    np.maximum.at(sizes, order, pages.astype(np.uint64) + np.uint64(1))
    return trace_of(pages + (np.cumsum(sizes) - sizes)[order], source, threads=order)
