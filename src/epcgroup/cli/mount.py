"""Mount a tree of cgroups with the misc controller's files over a simulated SGX machine: for tests of agents.

No cgroup2, no daemon, no SGX: the files are the kernel's in text, errno and rights, the processes in them are those
that were written to cgroup.procs. The numbers are moved by DIR/epcgroup.control (docs/guides/misc-files.md). It goes on
in the background; `epcgroup umount DIR` ends it.
"""

import argparse
import os
import sys
from pathlib import Path

from epcgroup.cli import background
from epcgroup.errors import InputError
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--epc", metavar="SIZE", required=True, help="the machine's EPC, e.g. 128Mi")
    parser.add_argument("--series", choices=("v17", "v2"), default="v17", help="whose files and policy (default v17)")
    parser.add_argument("--foreground", action="store_true", help="do not go to the background")
    parser.add_argument("--log", metavar="FILE", type=Path, help="what goes wrong in the background")


def main(args: argparse.Namespace) -> int:
    from epcgroup.cgroupfs import fuse

    size = parse_bytes(args.epc, where="--epc")
    if not 0 < size <= 1 << 43 or size % PAGE_SIZE:
        raise InputError(f"{args.epc.strip()} is not whole pages of 4Ki up to 8Ti", where="--epc")
    if args.log is not None and not args.log.parent.is_dir():
        raise InputError(f"no such folder: {args.log.parent}", where="--log")
    fuse.check(args.directory)
    if args.foreground:
        return _serve(args, size, sys.stdout.fileno())
    print(background.start(lambda say: _serve(args, size, say), args.log))
    return 0


def _serve(args: argparse.Namespace, size: int, say: int) -> int:
    from epcgroup.cgroupfs import fuse
    from epcgroup.cgroupfs.control import Control
    from epcgroup.cgroupfs.controller import Machines
    from epcgroup.cgroupfs.tree import Tree
    from epcgroup.interface import EPC
    from epcgroup.machine import Machine, Section

    machines = Machines({EPC: Machine([Section(0, size // PAGE_SIZE)], args.series)})
    tree = Tree(machines)
    Control(tree, machines)

    def ready() -> None:
        text = f"ready: {args.directory}, simulated EPC of {format_bytes(size)}, pid {os.getpid()}\n"
        os.write(say, text.encode())
        if say > 2:
            os.close(say)

    fuse.serve(tree, args.directory, ready)
    return 0
