"""Run an OCI runtime to which the daemon's tree looks like the cgroup2 directory that it covers.

RUNTIME becomes this process. What it and its containers ask by statfs, fstatfs, openat2 and bpf of the tree is answered
by the daemon's helper, everything else by the kernel. crun needs this when the container has device rules, runc always.
Without a daemon RUNTIME runs as if it had been called itself. Podman and containerd want one file: two lines of shell,

  #!/bin/sh
  exec /usr/bin/epcgroup runtime -- /usr/bin/runc "$@"
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from epcgroup.cli import daemon
from epcgroup.errors import InputError
from epcgroup.live import seccomp, wire


def set_arguments(parser: argparse.ArgumentParser) -> None:
    daemon.set_arguments(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- RUNTIME ARGS ...")


def main(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("no runtime; epcgroup runtime -- crun ARGS ...")
    try:
        peer = wire.connect(args.directory)
    except (FileNotFoundError, ConnectionRefusedError):
        print(f"epcgroup: no daemon in {args.directory}; {command[0]} sees no misc files", file=sys.stderr)
    else:
        lacking = seccomp.missing()
        if lacking is not None:
            raise InputError(lacking)
        with peer:
            _hand_over(peer)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise InputError(f"cannot run it: {error.strerror}", where=command[0]) from error


def _hand_over(peer: socket.socket) -> None:
    """Filter this process; the daemon gets the listener."""
    with Path("/proc/self/mountinfo").open("rb") as mountinfo:
        try:
            listener = seccomp.install()
        except OSError as error:
            raise InputError(f"cannot install a seccomp filter: {error.strerror}") from error
        try:
            wire.ask(peer, wire.Packet(wire.LISTENER, fds=(listener, mountinfo.fileno())))
        except OSError as error:
            raise InputError(f"the daemon does not take the seccomp listener: {error.strerror}") from error
        finally:
            os.close(listener)
