"""What the commands that talk to the live daemon share: its directory, a question to it, refusals in one line."""

import argparse
import errno
import os
import socket
from typing import Any

from epcgroup.errors import InputError
from epcgroup.live import wire
from epcgroup.units import PAGE_SIZE, parse_bytes


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=os.path.abspath,  # the commands that are run may go elsewhere
        default=wire.default_directory(),
        help="where the daemon's socket is (default: $EPCGROUP_RUN, or /run/epcgroup)",
    )


def connect(directory: str) -> socket.socket:
    """InputError when there is no daemon."""
    try:
        return wire.connect(directory)
    except (FileNotFoundError, ConnectionRefusedError):
        raise InputError("no daemon; epcgroup up --epc 64Mi starts one", where=directory) from None
    except OSError as error:
        raise InputError(f"cannot talk to the daemon: {error.strerror or error}", where=directory) from error


def ask(directory: str, packet: wire.Packet, what: str) -> wire.Packet:
    """The daemon's answer; InputError when there is no daemon, or it refuses."""
    with connect(directory) as peer:
        return ask_on(peer, packet, what)


def ask_on(peer: socket.socket, packet: wire.Packet, what: str) -> wire.Packet:
    """The answer on a connection that stays; InputError "`what`: why" when it is a refusal."""
    try:
        return wire.ask(peer, packet)
    except OSError as error:
        reason = "root is needed" if error.errno == errno.EPERM else error.strerror
        raise InputError(f"{what}: {reason}") from error


def set_limit(directory: str, group: str, limit_bytes: int | None) -> None:
    """Write misc.max of a group (None: max)."""
    with connect(directory) as peer:
        if group == "/":
            raise InputError("the root group has no limit; epcgroup up --epc is its size")
        ask_on(peer, wire.limit(group, limit_bytes), f"cannot limit {group}")


def status(directory: str) -> dict[str, Any]:
    return wire.status_of(ask(directory, wire.Packet(wire.STATUS), "status"))


def parse_limit(text: str, where: str) -> int | None:
    """`4Mi` or `max`; whole pages."""
    if text == "max":
        return None
    size = parse_bytes(text, where=where)
    if size % PAGE_SIZE:
        raise InputError(f"{text} is not whole pages of 4Ki", where=where)
    return size
