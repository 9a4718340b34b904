"""Run a Python program with its numpy arrays in enclave memory, in a cgroup of its own under an EPC limit.

The program is not changed, and runs as `python SCRIPT ARGS` does; numpy's data allocator (NEP 49) gives its arrays
memory of the EPC pool, which is paged when it goes over the limit. Group, exit status and the line at the end are
those of epcgroup exec. Not in the enclave: Python's objects, code, stacks, work buffers of C libraries, numpy.memmap,
and all of the program's child processes. A fault that is refused is SIGBUS, exit status 135.
"""

import argparse
import os
import sys
from pathlib import Path

from epcgroup.cli import command, daemon
from epcgroup.errors import InputError
from epcgroup.live import startup
from epcgroup.units import parse_bytes

# Up to 128 pages series v17 does not reclaim ahead of a limit, and then a fault in a new page that needs a VA page too
# can be refused for ever, with one page to go.
LEAST = 1 << 20
LEAST_HEAP, MOST_HEAP = 1 << 20, 1 << 36  # the latter is the largest enclave


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "epcgroup python [-h] [--epc SIZE|max] [--group PATH] [--directory DIR] [--heap SIZE]\n"
        "                       (SCRIPT | -m MODULE | -c CODE) [ARGUMENT ...]"
    )
    command.set_group_arguments(parser)
    parser.add_argument(
        "--heap", metavar="SIZE", default="4Gi", help="room for all arrays; touched pages alone count (default 4Gi)"
    )
    parser.add_argument("-m", nargs=argparse.REMAINDER, help="run a module, with its arguments")
    parser.add_argument("-c", nargs=argparse.REMAINDER, help="run this code, with its arguments")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="the program and its arguments")


def main(args: argparse.Namespace) -> int:
    words = _words_of(args)
    limit = daemon.parse_limit(args.epc, "--epc")
    if limit is not None and limit < LEAST:
        raise InputError(f"{args.epc} is too little to run numpy in; the least is 1Mi", where="--epc")
    heap = parse_bytes(args.heap, where="--heap")
    if not LEAST_HEAP <= heap <= MOST_HEAP:
        raise InputError(f"{args.heap} is not between 1Mi and 64Gi", where="--heap")
    path = os.pathsep.join([startup.__path__[0], *filter(None, [os.environ.get("PYTHONPATH")])])
    with command.limited_group(args, "python") as group:
        status = command.run(
            [sys.executable, *words], group, args.directory, {"PYTHONPATH": path, "EPCGROUP_HEAP": str(heap)}
        )
        command.say_what_was_used(args, group)
        return status


def _words_of(args: argparse.Namespace) -> list[str]:
    """What stands after `python`."""
    for option, words in (("-m", args.m), ("-c", args.c)):
        if words:
            return [option, *words]
    words = args.script[1:] if args.script[:1] == ["--"] else args.script
    if not words:
        raise InputError("no program; epcgroup python --epc 8Mi SCRIPT.py")
    if words[0] != "-" and not Path(words[0]).exists():
        raise InputError("no such program", where=words[0])
    return list(words)
