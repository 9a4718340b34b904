"""Stop the live daemon. Processes that still use its memory get SIGBUS."""

import argparse

from epcgroup.cli import daemon
from epcgroup.live import wire


def set_arguments(parser: argparse.ArgumentParser) -> None:
    daemon.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    daemon.ask(args.directory, wire.Packet(wire.STOP), "cannot stop it")
    return 0
