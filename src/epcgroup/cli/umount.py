"""Unmount what `epcgroup mount` has mounted; its process ends. So do `umount DIR` and `fusermount3 -u DIR`."""

import argparse
import errno
import os
import select
import time
from pathlib import Path

from epcgroup.errors import InputError

PATIENCE = 2.0  # seconds; a server's companion looks into its mount now and then, and it is busy for that moment


def set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path)


def main(args: argparse.Namespace) -> int:
    from epcgroup.cgroupfs import mounts

    ours = mounts.ours()
    directory = Path(os.path.abspath(args.directory))  # noqa: PTH100 - resolve() would ask a dead mount
    if str(directory) not in ours:
        directory = Path(os.path.realpath(directory))  # a symbolic link may lead there
    source = ours.get(str(directory))
    if source is None:
        raise InputError("epcgroup has mounted nothing here", where=args.directory)
    try:
        server = os.pidfd_open(int(source.rpartition(":")[2]))
    except ProcessLookupError:
        server = -1
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            mounts.unmount(directory)
            break
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise InputError(f"cannot unmount it: {error.strerror}", where=args.directory) from error
            time.sleep(0.02)
    if server >= 0:
        select.select([server], [], [], 10)
        os.close(server)
    return 0
