"""The host's real cgroup2 tree: where it is mounted, which group a process is in, groups made for a command.

Nothing of the engine here: the command line uses it without a daemon.
"""

import contextlib
import errno
import os
import select
from pathlib import Path

from epcgroup.errors import InputError


def mount_point(mountinfo: str | None = None) -> Path | None:
    """Where cgroup2 is mounted (v2 or hybrid hosts); None when it is not. `mountinfo`: text of that file."""
    text = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()) if mountinfo is None else mountinfo
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] == "cgroup2":
            return unescaped(fields.split(" ")[4])
    return None


def needed_mount_point(where: str = "") -> Path:
    """Where cgroup2 is mounted; InputError when it is not."""
    mount = mount_point()
    if mount is None:
        raise InputError("no cgroup2 is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified", where=where)
    return mount


def unescaped(text: str) -> Path:
    """A path as mountinfo writes it, with spaces in octal."""
    return Path(os.fsdecode(os.fsencode(text).decode("unicode_escape").encode("latin-1")))


def path_of(pid: int) -> str:
    """The cgroup2 path of a process, "/" on a host without; OSError when it has gone, or see `path_in`."""
    return path_in(os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes()))


def path_in(text: str) -> str:
    """The cgroup2 path in a /proc/PID/cgroup. EINVAL when it is beside or above our cgroup namespace: "/../pod1" is
    no group that we can see."""
    for line in text.splitlines():
        if line.startswith("0::"):
            path = line[3:].removesuffix(" (deleted)")
            if ".." in path.split("/"):
                raise OSError(errno.EINVAL, "in a cgroup outside of the daemon's cgroup namespace", path)
            return path
    return "/"


def inode_of(root: int, path: str) -> int | None:
    """The inode of a group's directory, another one for another group of the same name; None when there is none.

    `root` is a descriptor of cgroup2's root, -1 on a host without.
    """
    try:
        return None if root < 0 else os.stat(f"{path.strip('/') or '.'}/", dir_fd=root).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_path(path: str, where: str = "") -> None:
    """InputError: it names no group, or one by a detour, which would be another name for it."""
    if path != "/" and (not path.startswith("/") or {"", ".", ".."} & set(path[1:].split("/"))):
        raise InputError(f'"{path}" is not an absolute path of a cgroup, e.g. /pod1', where=where)


class Group:
    """A group for one command. Made when it is not there, and then removed by `close`, with what still runs in it."""

    def __init__(self, path: str) -> None:
        mount = needed_mount_point()
        check_path(path, "--group")
        self.path = path
        self.folder = mount / path[1:]
        self._made: list[Path] = []
        for folder in [*reversed(self.folder.parents), self.folder]:
            if folder.is_relative_to(mount) and not folder.exists():
                try:
                    folder.mkdir()
                except OSError as error:
                    self._remove()
                    raise InputError(f"cannot make it: {error.strerror}; root is needed", where=folder) from error
                self._made.append(folder)

    def enter(self) -> None:
        """Move the calling process into it."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        """Kill what the command left behind in groups made here, and remove these groups."""
        if self._made:
            with contextlib.suppress(FileNotFoundError):
                (self._made[0] / "cgroup.kill").write_text("1")
                self._wait_until_empty(self._made[0])
        self._remove()

    @staticmethod
    def _wait_until_empty(folder: Path) -> None:
        with (folder / "cgroup.events").open("rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while b"populated 1" in os.pread(events.fileno(), 4096, 0):
                poll.poll(100)

    def _remove(self) -> None:
        for top in self._made[:1]:
            for folder in sorted((f for f in top.rglob("*") if f.is_dir()), reverse=True):
                if folder not in self._made:
                    folder.rmdir()  # made by the command
        while self._made:
            folder = self._made.pop()
            try:
                folder.rmdir()
            except OSError as error:
                # Somebody else works in it by now: it is theirs.
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise
