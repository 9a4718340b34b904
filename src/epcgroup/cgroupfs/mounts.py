"""Our FUSE mounts in this mount namespace, and how they are taken away. Nothing of the engine here."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

SOURCE = "epcgroup"  # a mount's source is `epcgroup:PID`
MNT_DETACH = 2


def ours() -> dict[str, str]:
    """Our FUSE mounts in this mount namespace: place -> source."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, source = rest.split(" ")[:2]
        place = fields.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if kind.startswith("fuse") and source.startswith(f"{SOURCE}:"):
            found[os.fsdecode(place.encode("latin-1"))] = source
    return found


def unmount(directory: Path, *, lazy: bool = False) -> None:
    """OSError, EBUSY when it is in use."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(directory), MNT_DETACH if lazy else 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), str(directory)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(directory))
