"""A tree of files on a FUSE mount: one thread serves it, and nothing of it is cached by the kernel.

libfuse 3 by mfusepy. Requests are answered in the order in which they come, so what one process did is seen by the
next. What the server must not do to itself, or cannot do any more, a companion process does. Not root: no other users,
as FUSE has it.
"""

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, Protocol

from epcgroup.cgroupfs import mounts
from epcgroup.cgroupfs.companion import Companion
from epcgroup.cgroupfs.tree import CHANGED, Caller
from epcgroup.errors import InputError
from epcgroup.units import PAGE_SIZE

LOOP_ENDED = 8  # libfuse's status after a signal told it to end


class OpenFile(Protocol):
    def attributes(self) -> dict[str, int]: ...

    def pread(self, count: int, offset: int) -> bytes: ...

    def pwrite(self, data: bytes, caller: Caller | None = None) -> int: ...

    def poll(self) -> int: ...

    def close(self) -> None: ...


class Files(Protocol):
    """What is served. All methods raise OSError with the errno of the system call. `restless`: it changes without being
    asked, so it is asked for changes now and then."""

    @property
    def restless(self) -> bool: ...

    def attributes(self, path: str) -> dict[str, int]:
        """stat(2), names as in C, times in nanoseconds."""

    def names(self, path: str, caller: Caller) -> list[str]: ...

    def open(self, path: str, flags: int, caller: Caller) -> OpenFile: ...

    def mkdir(self, path: str, mode: int, caller: Caller) -> object: ...

    def rmdir(self, path: str, caller: Caller) -> None: ...

    def chmod(self, path: str, mode: int, caller: Caller) -> None: ...

    def chown(self, path: str, uid: int, gid: int, caller: Caller) -> None: ...

    def utime(self, path: str, mtime_ns: int) -> None: ...

    def xattrs(self, path: str) -> MutableMapping[str, bytes]:
        """The extended attributes, to be changed in place."""

    def changed(self) -> Iterable[str]:
        """Files whose watchers are to be told, since the last call."""


def _binding() -> Any:
    try:
        import mfusepy
    except ImportError:
        raise InputError("the module mfusepy is missing; pip install 'epcgroup[fuse]'") from None
    except OSError:
        raise InputError("libfuse 3 is missing; apt-get install libfuse3-3 fuse3") from None
    if mfusepy.fuse_version_major != 3:
        raise InputError("only libfuse 2 was found; apt-get install libfuse3-3 fuse3")
    return mfusepy


def check(directory: Path, *, covering: bool = False) -> None:
    """InputError when it cannot be mounted on. `covering`: what is in it may be hidden."""
    _binding()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise InputError("cannot be opened; FUSE needs it (modprobe fuse, or a container with --device /dev/fuse)",
                         where="/dev/fuse")  # fmt: skip
    try:
        with os.scandir(directory) as entries:
            empty = next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("is not a directory to mount on", where=directory) from None
    except OSError as error:
        raise InputError(f"cannot be mounted on: {error.strerror}", where=directory) from error
    if not empty and not covering:
        raise InputError("is not empty; the mount would hide what is in it", where=directory)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class _Operations:
    """libfuse's operations. Numbers of open files are ours."""

    use_ns = True
    # An open file goes on after its name has gone.
    flag_nopath = True
    flag_nullpath_ok = True

    def __init__(self, files: Files, companion: Companion, ready: Callable[[], None]) -> None:
        self._files = files
        self._ready = ready
        self._fuse = _binding()
        self._open: dict[int, OpenFile] = {}
        self._directories: dict[int, str] = {}
        self._next = 1
        self._waiting: dict[int, int] = {}  # open file -> poll handle of libfuse
        self._companion = companion
        self._looking = files.restless

    # ---- callers -----------------------------------------------------------------------------------

    def _caller(self, *, whole: bool = False) -> Caller:
        """Who calls. `whole`: with its groups, and the process where FUSE has the thread."""
        uid, gid, pid = self._fuse.fuse_get_context()
        if uid == 0 and not whole:
            return Caller(0, gid, (), pid)
        try:
            status = _status(pid)
        except (FileNotFoundError, ProcessLookupError):
            return Caller(uid, gid, (), pid)
        return Caller(uid, gid, tuple(map(int, status["Groups"].split())), int(status["Tgid"]))

    # ---- telling -----------------------------------------------------------------------------------

    def _tell(self) -> None:
        """After whatever may have changed something: wake pollers, have watchers told."""
        for path in self._files.changed():
            self._companion.poke(path)
        for number in [n for n in self._waiting if self._open[n].poll() & CHANGED]:
            self._wake(self._waiting.pop(number))
        self._look()

    def _look(self) -> None:
        """While somebody waits, changes without a caller are looked for."""
        looking = bool(self._waiting) or self._files.restless
        if looking != self._looking:
            self._looking = looking
            self._companion.look(looking)

    def _wake(self, handle: int) -> None:
        self._fuse._libfuse.fuse_notify_poll(ctypes.c_void_p(handle))
        self._fuse._libfuse.fuse_pollhandle_destroy(ctypes.c_void_p(handle))

    # ---- operations --------------------------------------------------------------------------------

    def init(self, path: str) -> None:
        self._ready()

    def getattr(self, path: str | None, info: Any = None) -> dict[str, int]:
        if info is not None:
            return self._open[info.fh].attributes()
        assert path is not None
        if path == "/" and self._fuse.fuse_get_context()[2] == self._companion.pid:
            self._tell()
        return self._files.attributes(path)

    def opendir(self, path: str) -> int:
        self._directories[self._next], self._next = path, self._next + 1
        return self._next - 1

    def readdir(self, path: str | None, number: int) -> list[str]:
        try:
            return [".", "..", *self._files.names(self._directories[number], self._caller())]
        except FileNotFoundError:
            return []  # removed while it was open

    def releasedir(self, path: str | None, number: int) -> int:
        del self._directories[number]
        return 0

    def open(self, path: str, info: Any) -> int:
        self._open[self._next] = self._files.open(path, info.flags, self._caller())
        info.fh, self._next = self._next, self._next + 1
        info.direct_io = 1
        return 0

    def create(self, path: str, mode: int, info: Any) -> int:
        raise OSError(errno.EACCES, path)

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        return self._open[info.fh].pread(size, offset)

    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:
        _, _, pid = self._fuse.fuse_get_context()
        if pid == self._companion.pid:
            return len(data)
        name = (path or "").rpartition("/")[2]
        try:
            return self._open[info.fh].pwrite(data, self._caller(whole=name in ("cgroup.procs", "cgroup.threads")))
        finally:
            self._tell()

    def release(self, path: str | None, info: Any) -> int:
        handle = self._waiting.pop(info.fh, None)
        if handle is not None:
            self._fuse._libfuse.fuse_pollhandle_destroy(ctypes.c_void_p(handle))
        self._open.pop(info.fh).close()
        return 0

    def poll(self, path: str | None, info: Any, handle: int | None, events: Any) -> int:
        if handle:
            old = self._waiting.get(info.fh)
            if old is not None:
                self._fuse._libfuse.fuse_pollhandle_destroy(ctypes.c_void_p(old))
            self._waiting[info.fh] = handle
            self._look()
        events[0] = self._open[info.fh].poll()
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._files.mkdir(path, mode, self._caller())
        return 0

    def rmdir(self, path: str) -> int:
        self._files.rmdir(path, self._caller())
        self._tell()
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._files.chmod(path, mode, self._caller())
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        minus = 2**32 - 1
        self._files.chown(path, -1 if uid in (-1, minus) else uid, -1 if gid in (-1, minus) else gid, self._caller())
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._files.utime(path, time.time_ns() if times is None else times[1])
        return 0

    def truncate(self, path: str | None, length: int, info: Any = None) -> int:
        """Nothing happens, as on kernfs."""
        return 0

    def ioctl(self, path: str | None, command: int, *rest: Any) -> int:
        raise OSError(errno.ENOTTY, "ioctl")

    def mknod(self, path: str, mode: int, device: int) -> int:
        raise OSError(errno.EACCES if stat.S_ISREG(mode) else errno.EPERM, path)

    def unlink(self, path: str) -> int:
        raise OSError(errno.EPERM, path)

    def symlink(self, path: str, target: str) -> int:
        raise OSError(errno.EPERM, path)

    def link(self, path: str, source: str) -> int:
        raise OSError(errno.EPERM, path)

    def rename(self, old: str, new: str) -> int:
        raise OSError(errno.EPERM, old)

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": PAGE_SIZE, "f_frsize": PAGE_SIZE, "f_namemax": 255}

    def getxattr(self, path: str, name: str) -> bytes:
        if path.rpartition("/")[2].startswith("misc.") and name.startswith("security."):
            raise OSError(errno.ENODATA, name)  # asked before every write
        value = self._files.xattrs(path).get(name)
        if value is None:
            raise OSError(errno.ENODATA, name)
        return value

    def setxattr(self, path: str, name: str, value: bytes, options: int) -> int:
        if not name.startswith(("user.", "trusted.", "security.")):
            raise OSError(errno.EOPNOTSUPP, name)
        known = name in self._files.xattrs(path)
        if options & os.XATTR_CREATE and known:
            raise OSError(errno.EEXIST, name)
        if options & os.XATTR_REPLACE and not known:
            raise OSError(errno.ENODATA, name)
        self._files.xattrs(path)[name] = value
        return 0

    def listxattr(self, path: str) -> list[str]:
        return [*self._files.xattrs(path)]

    def removexattr(self, path: str, name: str) -> int:
        if self._files.xattrs(path).pop(name, None) is None:
            raise OSError(errno.ENODATA, name)
        return 0


def serve(files: Files, directory: Path, ready: Callable[[], None] = lambda: None) -> None:
    """Mount, and serve until it is unmounted or SIGTERM, SIGINT or SIGHUP comes. InputError: it cannot be mounted."""
    binding = _binding()
    directory = directory.resolve()
    companion = Companion(directory, looking=files.restless)
    options: dict[str, Any] = {"allow_other": True} if os.geteuid() == 0 else {}
    try:
        binding.FUSE(
            _Operations(files, companion, ready),
            str(directory),
            raw_fi=True,
            foreground=True,
            nothreads=True,
            default_permissions=True,
            fsname=f"{mounts.SOURCE}:{os.getpid()}",
            entry_timeout=0,
            attr_timeout=0,
            negative_timeout=0,
            **options,
        )
    except RuntimeError as error:
        if error.args == (LOOP_ENDED,):
            return
        raise InputError(f"cannot be mounted on (libfuse status {error})", where=directory) from None
    finally:
        companion.close()
