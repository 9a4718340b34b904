"""Run a command in a cgroup of its own under an EPC limit, say what it used, and clean up.

The group is a real cgroup2 group; what the command gets by epcgroup.live.client (or the wire protocol) is paged when
it goes over the limit. The exit status is the command's, 128 and the signal's number when one killed it. A group that
was there before is used and stays.
"""

import argparse

from epcgroup.cli import command


def set_arguments(parser: argparse.ArgumentParser) -> None:
    command.set_arguments(parser)


def main(args: argparse.Namespace) -> int:
    words = command.words_of(args, "exec")
    with command.limited_group(args, "exec") as group:
        status = command.run(words, group, args.directory)
        command.say_what_was_used(args, group)
        return status
