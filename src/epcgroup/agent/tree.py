"""A cgroup2 tree as files: groups, their misc.* files, and which of them can be had.

Paths are relative to the mount and start with `/`; the root is `/`. What has gone (a container ended while we looked)
is None, never an error; what cannot be read, or is not what the kernel prints, is an InputError of one line.
Not here: which groups are pods (discover.py), what their limits should be (policy.py).
"""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from epcgroup.errors import InputError
from epcgroup.interface import max_line, read_events, read_values

MISC = "misc"
MOUNTS = Path("/proc/self/mountinfo")
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)
_USUAL = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def find_root(mountinfo: str) -> str:
    """Where cgroup2 is mounted, unified or hybrid; InputError when it is not."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2" and len(before.split(" ")) > 4:
            escaped = before.split(" ")[4]
            found.append(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped))
    for root in (*_USUAL, *found):
        if root in found:
            return root
    raise InputError("cgroup2 is not mounted on this host; a tree elsewhere is named by cgroup_root")


def printable(path: str) -> str:
    """A path on one line: names of groups may hold any bytes."""
    return path if path.isprintable() else ascii(path)[1:-1]


class Tree:
    """The tree below `root`, for one resource of the misc controller."""

    def __init__(self, root: str | Path, resource: str) -> None:
        """InputError when there is no cgroup2 tree."""
        self.root = str(root).rstrip("/")
        self.resource = resource
        self.reads = 0  # files read and folders listed so far
        if self.text("/", "cgroup.controllers") is None:
            raise InputError("not a cgroup2 tree: it has no cgroup.controllers", where=self.root or "/")

    def where(self, path: str, name: str = "") -> str:
        """The file on the host."""
        folder = self.root if path == "/" else self.root + path
        return f"{folder}/{name}" if name else folder or "/"

    def shown(self, path: str, name: str = "") -> str:
        """The same on one printable line."""
        return printable(self.where(path, name))

    def entries(self, path: str) -> list[os.DirEntry[str]]:
        """Groups and files directly below, by name; none when it has gone."""
        self.reads += 1
        try:
            with os.scandir(self.where(path)) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if error.errno in _GONE:
                return []
            raise self._fault(error, path) from None

    @staticmethod
    def is_group(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir(follow_symlinks=False)
        except OSError:
            return False  # gone, where the file system did not say it with the name

    def text(self, path: str, name: str) -> str | None:
        """What the file shows; None when it is not there."""
        self.reads += 1
        try:
            fd = os.open(self.where(path, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, 1 << 16).decode("utf-8", "replace")
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise self._fault(error, path, name) from None

    def value(self, path: str, name: str) -> int | None:
        """The resource's bytes in misc.max, current, peak or capacity; UNLIMITED for `max`."""
        return self._number(read_values, path, name)

    def events(self, path: str, name: str) -> int | None:
        """The resource's refused charges in misc.events or misc.events.local."""
        return self._number(read_events, path, name)

    def _number(self, read: Callable[[str], dict[str, int]], path: str, name: str) -> int | None:
        text = self.text(path, name)
        try:
            return None if text is None else read(text).get(self.resource)
        except InputError as error:
            raise InputError(str(error), where=self.shown(path, name)) from None

    def words(self, path: str, name: str) -> list[str] | None:
        """The controllers in cgroup.controllers or cgroup.subtree_control."""
        text = self.text(path, name)
        return None if text is None else text.split()

    def has(self, path: str, name: str = "") -> bool:
        """Whether the group, or a file of it, is there."""
        return os.path.exists(self.where(path, name))  # noqa: PTH110 (Path costs as much as the read)

    def max_line(self, limit_bytes: int) -> str:
        """What to write to misc.max."""
        return max_line(self.resource, limit_bytes)

    def write(self, path: str, name: str, text: str) -> None:
        """One write(2). OSError as the kernel says; `gone` knows the group that has ended."""
        fd = os.open(self.where(path, name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    @staticmethod
    def gone(error: OSError) -> bool:
        """Whether it says that the group is no more."""
        return error.errno in _GONE

    def _fault(self, error: OSError, path: str, name: str = "") -> InputError:
        return InputError(f"cannot be read ({error.strerror})", where=self.shown(path, name))
