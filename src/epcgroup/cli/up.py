"""Start the live daemon: an EPC pool of real memory, to which the processes of this host can be paged.

It goes on in the background; `epcgroup down` stops it, and whoever still uses its memory then gets SIGBUS.
Root is needed. The pool is a tmpfs of its size that is mounted nowhere: nothing stays behind, however it ends.
"""

import argparse
import ctypes
import os
import sys
from pathlib import Path

from epcgroup.cli import background, daemon
from epcgroup.cli.background import Voice
from epcgroup.errors import InputError
from epcgroup.live import cgroups, wire
from epcgroup.live.pool import LEAST_BYTES, MOST_BYTES
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epc", metavar="SIZE", required=True, help="size of the pool, e.g. 64Mi")
    parser.add_argument("--series", choices=("v17", "v2", "mainline"), default="v17", help="whose policy (default v17)")
    parser.add_argument("--copy-out", action="store_true", help="see touches by copying pages out, not by PAGEOUT")
    parser.add_argument("--strict", action="store_true", help="assert all invariants at every turn")
    parser.add_argument(
        "--files",
        metavar="DIR",
        nargs="?",
        const="",
        help="mount the misc.* files over a directory of cgroup2 (default: epc in it), as epcgroup mount --live",
    )
    parser.add_argument("--foreground", action="store_true", help="do not go to the background")
    daemon.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from epcgroup.live import probe

    size = parse_bytes(args.epc, where="--epc")
    if not LEAST_BYTES <= size <= MOST_BYTES or size % PAGE_SIZE:
        raise InputError(f"{args.epc.strip()} is not whole pages of 4Ki between 256Ki and 1Ti", where="--epc")
    lacking = probe.missing()
    if lacking is not None:
        raise InputError(lacking)
    if args.foreground and args.files is not None:
        raise InputError("goes with the background; epcgroup mount --live does it beside a daemon", where="--files")
    if args.foreground:
        return _serve(args, size, Voice(sys.stdout.fileno()))
    from epcgroup.machine import is_compiled

    if not is_compiled():
        print("epcgroup: first run: compiling the machine, some 15 s; kept for the next runs", file=sys.stderr)
    directory = Path(args.directory)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", where=directory) from error
    print(background.start(lambda voice: _serve(args, size, voice), directory / "log"))
    if args.files is not None:
        _mount_files(args)
    return 0


def _mount_files(args: argparse.Namespace) -> None:
    """Over the directory asked for; without it the daemon has not started either."""
    from epcgroup.cli import mount

    try:
        place = Path(args.files or cgroups.needed_mount_point(where="--files") / "epc")
        if not args.files:
            place.mkdir(exist_ok=True)
        files = argparse.Namespace(place=place, live=True, mirror=None, foreground=False, directory=args.directory)
        files.log = Path(args.directory) / "files.log"
        mount.main(files)
    except (InputError, OSError):
        daemon.ask(args.directory, wire.Packet(wire.STOP), "cannot stop it")
        raise


def _own_mounts() -> None:
    """Mounts of later do not reach the daemon: it must never wait for one that waits for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)


def _serve(args: argparse.Namespace, size: int, voice: Voice) -> int:
    from epcgroup.live import probe
    from epcgroup.live.daemon import Daemon
    from epcgroup.machine import MachineDead

    _own_mounts()
    pageout = not args.copy_out and all(f.ok for f in probe.survey() if f.name == "PAGEOUT")
    served = Daemon(args.directory, size, args.series, pageout=pageout, strict=args.strict)
    try:
        voice.say(f"ready: EPC pool of {format_bytes(size)}, pid {os.getpid()}, {args.directory}\n")
        served.serve()
    except MachineDead as death:
        print(f"epcgroup: the machine has died: {death.cause}", file=sys.stderr)
        return 1
    finally:
        served.close()
    return 0
