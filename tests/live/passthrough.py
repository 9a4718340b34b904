"""A tree over a directory of cgroup2, as small as OCI runtimes let it be: `passthrough.py DIRECTORY` mounts it.

The kernel's own files but for misc.max, misc.current and the word misc in the lists of controllers, which the daemon
in $EPCGROUP_RUN answers for. So what the tests here find is about runtimes and `epcgroup runtime`, not about a tree.
"""

import errno
import os
import stat
import sys
from pathlib import PurePath
from typing import Any

import mfusepy

from epcgroup.live import wire

MISC = ("misc.max", "misc.current")
CONTROLLERS = ("cgroup.controllers", "cgroup.subtree_control")


def is_misc(path: str) -> bool:
    return PurePath(path).name in MISC


class Passthrough(mfusepy.Operations):
    use_ns = True

    def __init__(self, directory: str) -> None:
        self._name = f"/{PurePath(directory).name}"
        self._real = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)  # before we cover it

    def _ask(self, op: int, path: str, *text: str) -> bytes:
        group = f"{self._name}{PurePath(path).parent}".rstrip("/")
        with wire.connect() as peer:
            return wire.ask(peer, wire.Packet(op, text="\0".join((group, PurePath(path).name, *text)).encode())).text

    def getattr(self, path: str, info: Any = None) -> dict[str, int]:
        if is_misc(path):
            os.stat(f".{PurePath(path).parent}", dir_fd=self._real)
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": 4096}
        found = os.stat(f".{path}", dir_fd=self._real)
        return {key: getattr(found, key) for key in ("st_mode", "st_nlink", "st_uid", "st_gid")} | {"st_size": 4096}

    def readdir(self, path: str, handle: int) -> list[str]:
        directory = os.open(f".{path}", os.O_RDONLY, dir_fd=self._real)
        try:
            return [".", "..", *MISC, *os.listdir(directory)]  # noqa: PTH208
        finally:
            os.close(directory)

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(f".{path}", mode, dir_fd=self._real)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(f".{path}", dir_fd=self._real)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def truncate(self, path: str, length: int, info: Any = None) -> int:
        return 0

    def open(self, path: str, info: Any) -> int:
        info.direct_io = 1
        info.fh = 0 if is_misc(path) else os.open(f".{path}", info.flags & os.O_ACCMODE, dir_fd=self._real)
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        if is_misc(path):
            try:
                return self._ask(wire.READ, path)[offset : offset + size]
            except FileNotFoundError:  # nobody in it has used EPC yet
                return b"sgx_epc max\n"[offset : offset + size]
        text = os.pread(info.fh, size, offset)
        return b"misc " + text if PurePath(path).name in CONTROLLERS and offset == 0 else text

    def write(self, path: str, data: bytes, offset: int, info: Any) -> int:
        text = data
        if is_misc(path):
            self._ask(wire.WRITE, path, data.decode())
            return len(data)
        if PurePath(path).name in CONTROLLERS:
            text = b" ".join(word for word in data.split() if word[1:] != b"misc")
        if PurePath(path).name == "cgroup.procs" and data.strip() == b"0":
            text = str(mfusepy.fuse_get_context()[2]).encode()
        if text:
            os.write(info.fh, text)
        return len(data)

    def release(self, path: str, info: Any) -> int:
        if info.fh:
            os.close(info.fh)
        return 0

    def mknod(self, path: str, mode: int, device: int) -> int:
        raise OSError(errno.EACCES, path)


if __name__ == "__main__":
    _, place = sys.argv
    mfusepy.FUSE(
        Passthrough(place), place, foreground=True, nothreads=True, raw_fi=True, allow_other=True,
        default_permissions=True, fsname=f"epcgroup:{os.getpid()}", entry_timeout=0, attr_timeout=0,
    )  # fmt: skip
