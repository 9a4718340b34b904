"""Mount a tree of cgroups with the misc controller's files: over a simulated SGX machine, or the live daemon's.

With --epc, for tests of agents: no cgroup2, no daemon, no SGX; the processes in it are those that were written to
cgroup.procs, and the numbers are moved by DIR/epcgroup.control (docs/guides/misc-files.md). With --live, the files of
the live daemon in the host's cgroup2 tree: DIR is a directory of it, or --mirror says which one DIR shall show.
It goes on in the background; `epcgroup umount DIR` ends it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from epcgroup.cli import background, daemon
from epcgroup.cli.background import Voice
from epcgroup.errors import InputError
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--epc", metavar="SIZE", help="simulate a machine with so much EPC, e.g. 128Mi")
    what.add_argument("--live", action="store_true", help="join the live daemon")
    parser.add_argument("--mirror", metavar="GROUP", help="with --live: the cgroup to show in DIR, e.g. / or /epc")
    parser.add_argument("--series", choices=("v17", "v2"), default="v17", help="whose files and policy (default v17)")
    parser.add_argument("--foreground", action="store_true", help="do not go to the background")
    daemon.set_arguments(parser)
    parser.add_argument("--log", metavar="FILE", type=Path, help="what goes wrong in the background")


def main(args: argparse.Namespace) -> int:
    from epcgroup.cgroupfs import fuse

    if args.log is not None and not args.log.parent.is_dir():
        raise InputError(f"no such folder: {args.log.parent}", where="--log")
    fuse.check(args.place, covering=args.live and args.mirror is None)
    if args.live:
        folder, group = _real_directory(args.place, args.mirror)
        daemon.status(args.directory)  # or there is none
        return _start(args, lambda voice: _serve_live(args, folder, group, voice))
    if args.mirror is not None:
        raise InputError("goes with --live", where="--mirror")
    size = parse_bytes(args.epc, where="--epc")
    if not 0 < size <= 1 << 43 or size % PAGE_SIZE:
        raise InputError(f"{args.epc.strip()} is not whole pages of 4Ki up to 8Ti", where="--epc")
    return _start(args, lambda voice: _serve(args, size, voice))


def _start(args: argparse.Namespace, serve: Callable[[Voice], int]) -> int:
    if args.foreground:
        return serve(Voice(sys.stdout.fileno()))
    print(background.start(serve, args.log))
    return 0


def _real_directory(directory: Path, mirror: str | None) -> tuple[Path, str]:
    """The directory of cgroup2 whose tree is shown, and its path as a cgroup."""
    from epcgroup.live import cgroups

    top = cgroups.needed_mount_point()
    if mirror is None:
        folder = directory.resolve()
        if folder == top or not folder.is_relative_to(top):
            raise InputError(f"is not below {top}; with --mirror GROUP it may be anywhere else", where=directory)
        if folder.stat().st_dev != top.stat().st_dev:
            raise InputError("has another mount over it already", where=directory)
    else:
        folder = (top / mirror.strip("/")).resolve()
        if not mirror.startswith("/") or not folder.is_relative_to(top) or not folder.is_dir():
            raise InputError(f'"{mirror}" is no cgroup in {top}', where="--mirror")
        if directory.resolve().is_relative_to(top):
            raise InputError(f"is in {top}; leave --mirror out", where=directory)
    group = str(folder.relative_to(top))
    return folder, "/" if group == "." else f"/{group}"


def _say(voice: Voice, text: str) -> None:
    voice.say(f"ready: {text}, pid {os.getpid()}\n")


def _serve_live(args: argparse.Namespace, folder: Path, group: str, voice: Voice) -> int:
    from epcgroup.cgroupfs import fuse
    from epcgroup.cgroupfs.controller import Below
    from epcgroup.cgroupfs.passthrough import Passthrough
    from epcgroup.cli.joined import Joined

    base = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = Passthrough(Below(Joined(args.directory), group), base, is_root=group == "/")
    fuse.serve(tree, args.place, lambda: _say(voice, f"{args.place}, cgroup {group} of the live daemon"))
    return 0


def _serve(args: argparse.Namespace, size: int, voice: Voice) -> int:
    from epcgroup.cgroupfs import fuse
    from epcgroup.cgroupfs.control import Control
    from epcgroup.cgroupfs.controller import Machines
    from epcgroup.cgroupfs.tree import Tree
    from epcgroup.interface import EPC
    from epcgroup.machine import Machine, Section

    machines = Machines({EPC: Machine([Section(0, size // PAGE_SIZE)], args.series)})
    tree = Tree(machines)
    Control(tree, machines)
    fuse.serve(tree, args.place, lambda: _say(voice, f"{args.place}, simulated EPC of {format_bytes(size)}"))
    return 0
