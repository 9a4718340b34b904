"""Run a command in a cgroup of its own under an EPC limit, say what it used, and clean up.

The group is a real cgroup2 group; what the command gets by epcgroup.live.client (or the wire protocol) is paged when
it goes over the limit. The exit status is the command's, 128 and the signal's number when one killed it. A group that
was there before is used and stays.
"""

import argparse
import os
import signal
import subprocess
import sys

from epcgroup.cli import daemon
from epcgroup.errors import InputError
from epcgroup.live.cgroups import Group
from epcgroup.units import format_bytes


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epc", metavar="SIZE|max", default="max", help="its limit, e.g. 8Mi (default max)")
    parser.add_argument("--group", metavar="PATH", help="cgroup2 path, e.g. /pod1 (default: a new one)")
    daemon.set_arguments(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")


def main(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("no command; epcgroup exec --epc 8Mi -- COMMAND ...")
    limit = daemon.parse_limit(args.epc, "--epc")
    daemon.status(args.directory)  # says if there is no daemon
    if os.geteuid() != 0:
        raise InputError("making a cgroup needs root: sudo epcgroup exec ...")
    group = Group(args.group or f"/epcgroup-exec-{os.getpid()}")
    try:
        if args.group is None or args.epc != "max":
            daemon.set_limit(args.directory, group.path, limit)
        status = _run(command, group, args.directory)
        used = daemon.status(args.directory)["groups"].get(group.path)
        if used is not None:
            peak = "-" if used["peak"] is None else format_bytes(used["peak"])
            most = "no limit" if limit is None else f"limit {format_bytes(limit)}"
            print(
                f"epcgroup: {group.path}: {most}, peak {peak}, {used['added']} pages added, {used['loads']} loaded, "
                f"{used['write_outs']} written out, {used['refused']} charges refused",
                file=sys.stderr,
            )
        return status
    finally:
        group.close()


def _run(command: list[str], group: Group, directory: str) -> int:
    environment = {**os.environ, "EPCGROUP_RUN": directory}
    try:
        child = subprocess.Popen(command, env=environment, preexec_fn=group.enter)
    except OSError as error:
        raise InputError(f"cannot run it: {error.strerror}", where=command[0]) from error
    before = {
        number: signal.signal(number, lambda number, _: child.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the child itself
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
