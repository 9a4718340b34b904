"""What the commands that run another command share: its cgroup with a limit, running it, and what it used.

The group is a real cgroup2 group, made for the command unless --group names one that is there; what was made is
removed in the end, with what still runs in it.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from epcgroup.cli import daemon
from epcgroup.errors import InputError
from epcgroup.live import signals
from epcgroup.live.cgroups import Group
from epcgroup.units import format_bytes


def set_group_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epc", metavar="SIZE|max", default="max", help="its limit, e.g. 8Mi (default max)")
    parser.add_argument("--group", metavar="PATH", help="cgroup2 path, e.g. /pod1 (default: a new one)")
    daemon.set_arguments(parser)


def set_arguments(parser: argparse.ArgumentParser) -> None:
    set_group_arguments(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")


def words_of(args: argparse.Namespace, name: str) -> list[str]:
    """The command's words; `name` is the subcommand, for the message."""
    words: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise InputError(f"no command; epcgroup {name} --epc 8Mi -- COMMAND ...")
    return words


class CommandGroup(Group):
    """The command's group, and the signals that came since before it was made."""

    def __init__(self, path: str, came: list[int]) -> None:
        self.came = came
        super().__init__(path)


@contextlib.contextmanager
def limited_group(args: argparse.Namespace, name: str) -> Iterator[CommandGroup]:
    """The command's group under its limit; no signal leaves it behind. InputError without a daemon, root or cgroup2."""
    limit = daemon.parse_limit(args.epc, "--epc")
    daemon.status(args.directory)  # says if there is no daemon
    if os.geteuid() != 0:
        raise InputError(f"making a cgroup needs root: sudo epcgroup {name} ...")
    with signals.noted() as came:
        group = CommandGroup(args.group or f"/epcgroup-{name}-{os.getpid()}", came)
        try:
            if args.group is None or args.epc != "max":
                daemon.set_limit(args.directory, group.path, limit)
            yield group
        finally:
            group.close()


def run(words: list[str], group: CommandGroup, directory: str, variables: Mapping[str, str] | None = None) -> int:
    """Run it in the group, signals passed on; its exit status, 128 and the signal's number when one killed it."""
    if group.came:
        return 128 + group.came[0]
    environment = {**os.environ, "EPCGROUP_RUN": directory, **(variables or {})}
    try:
        child = subprocess.Popen(words, env=environment, preexec_fn=group.enter)
    except OSError as error:
        raise InputError(f"cannot run it: {error.strerror}", where=words[0]) from error
    except subprocess.SubprocessError as error:  # all it says of what `enter` has raised
        raise InputError("no process may enter it: it is threaded, or has controllers on", where=group.path) from error
    before = {
        number: signal.signal(number, lambda number, _: child.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the child itself
    try:
        for number in group.came:  # while it was being started
            child.send_signal(number)
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def say_what_was_used(args: argparse.Namespace, group: Group) -> None:
    """One line on standard error; none when the group had neither limit nor enclave."""
    try:
        used = daemon.status(args.directory)["groups"].get(group.path)
    except InputError as error:  # the exit status is the command's all the same
        print(f"epcgroup: what it used is not known: {error}", file=sys.stderr)
        return
    if used is None:
        return
    limit = daemon.parse_limit(args.epc, "--epc")
    peak = "-" if used["peak"] is None else format_bytes(used["peak"])
    most = "no limit" if limit is None else f"limit {format_bytes(limit)}"
    print(
        f"epcgroup: {group.path}: {most}, peak {peak}, {used['added']} pages added, {used['loads']} loaded, "
        f"{used['write_outs']} written out, {used['refused']} charges refused",
        file=sys.stderr,
    )
