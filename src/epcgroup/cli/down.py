"""Stop the live daemon, and wait for its end and that of its mounts. Processes that still use its memory get SIGBUS."""

import argparse
import contextlib
import os
import select
import socket

from epcgroup.cli import daemon
from epcgroup.live import uffd, wire

PATIENCE = 10  # seconds


def set_arguments(parser: argparse.ArgumentParser) -> None:
    daemon.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    with daemon.connect(args.directory) as peer:
        processes = [peer.getsockopt(socket.SOL_SOCKET, uffd.SO_PEERPIDFD)]
        for pid in daemon.status(args.directory)["file_servers"]:
            with contextlib.suppress(ProcessLookupError):
                processes.append(os.pidfd_open(pid))
        daemon.ask_on(peer, wire.Packet(wire.STOP), "cannot stop it")
        for process in processes:
            select.select([process], [], [], PATIENCE)
            os.close(process)
    return 0
