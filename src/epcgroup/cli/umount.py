"""Unmount what `epcgroup mount` has mounted; its process ends. So do `umount DIR` and `fusermount3 -u DIR`."""

import argparse
import os
import select
from pathlib import Path

from epcgroup.errors import InputError


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path)


def main(args: argparse.Namespace) -> int:
    from epcgroup.cgroupfs import mounts

    directory = Path(os.path.abspath(args.directory))  # noqa: PTH100 - resolve() would ask a dead mount
    source = mounts.ours().get(str(directory))
    if source is None:
        raise InputError("epcgroup has mounted nothing here", where=args.directory)
    try:
        server = os.pidfd_open(int(source.rpartition(":")[2]))
    except ProcessLookupError:
        server = -1
    try:
        mounts.unmount(directory)
    except OSError as error:
        raise InputError(f"cannot unmount it: {error.strerror}", where=args.directory) from error
    if server >= 0:
        select.select([server], [], [], 10)
        os.close(server)
    return 0
