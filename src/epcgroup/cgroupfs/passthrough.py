"""The host's real cgroup2 tree with misc.* files in it: sub mode (mounted over the directory itself) and side mode.

Everything but `misc.*` is the real kernel's, done with the caller's rights: its directories, cgroup.procs, kill,
freeze, other controllers' files. Ours are the `misc.*` files, the word misc in cgroup.controllers and
cgroup.subtree_control, and the rules that go with it (ENOENT, EBUSY). The top has misc, and has it enabled for its
children to begin with, so that runtimes that do not know misc find it there; further below it is enabled as usual.
A misc controller of the real kernel's is not seen and not touched.
Writers of cgroup.procs are seen by the kernel as this server, so "0" and pids of another namespace are rewritten.
Left out: inotify of the real files, which FUSE does not pass on.
"""

import contextlib
import ctypes
import errno
import os
import select
import stat
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from epcgroup import interface
from epcgroup.cgroupfs.controller import Controller
from epcgroup.cgroupfs.tree import (
    CHANGED,
    READY,
    ROOT,
    Caller,
    Cgroup,
    File,
    Open,
    SeqFile,
    Tree,
    attributes,
    fail,
    parse_int,
    parse_subtree_control,
)
from epcgroup.units import PAGE_SIZE

MISC_FILES = {*interface.files_of("v17", root=True), *interface.files_of("v17", root=False)}

_libc = ctypes.CDLL(None, use_errno=True)
_TIMES = ("st_atime", "st_mtime", "st_ctime")
_KEPT = ("st_mode", "st_uid", "st_gid", "st_nlink", "st_size", "st_blksize")


@contextlib.contextmanager
def rights_of(caller: Caller) -> Iterator[None]:
    """The files that are opened or made meanwhile are the caller's doing. The server has one thread."""
    if caller.uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(caller.groups)
    _libc.setfsgid(caller.gid)
    _libc.setfsuid(caller.uid)
    try:
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
        os.setgroups(groups)


def own_pid(pid: int, caller: Caller) -> int:
    """A pid as the caller means it, in our pid namespace. ESRCH."""
    try:
        theirs = os.stat(f"/proc/{caller.pid}/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        raise fail(errno.ESRCH, str(pid)) from None
    if theirs == os.stat("/proc/self/ns/pid").st_ino:  # noqa: PTH116
        return pid
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(process / "ns/pid").st_ino != theirs:  # noqa: PTH116
                    continue
                for line in (process / "status").read_text(errors="replace").splitlines():
                    if line.startswith("NSpid:") and line.split()[-1] == str(pid):
                        return int(process.name)
    raise fail(errno.ESRCH, str(pid))


class Passthrough(Tree):
    """`base`: a descriptor of the real directory, opened before anything is mounted over it."""

    restless = True  # numbers and processes change without a caller of ours

    def __init__(self, controller: Controller, base: int, *, is_root: bool) -> None:
        self._base = base
        self._is_root = is_root
        self._inodes: dict[Cgroup, int] = {}
        super().__init__(controller)

    def _populate(self) -> None:
        self.controller.online("/", fresh=False)
        self._adopt(self.root)
        self.root.subtree_control.add("misc")

    # ---- names -------------------------------------------------------------------------------------

    @staticmethod
    def _real(path: str) -> str:
        return path.lstrip("/") or "."

    def _stat(self, path: str) -> os.stat_result:
        return os.stat(self._real(path), dir_fd=self._base, follow_symlinks=False)

    def _adopt(self, cgroup: Cgroup) -> None:
        found = self._stat(cgroup.path)
        self._inodes[cgroup] = found.st_ino
        if self.has_misc(cgroup):
            types = self._misc(root=self._is_root and cgroup is self.root)
            self._add_files(cgroup, types, Caller(found.st_uid, found.st_gid))

    def cgroup(self, path: str) -> Cgroup:
        """What we keep of a directory, made or forgotten as the real one comes and goes."""
        at = self.root
        for name in [part for part in path.split("/") if part]:
            below = f"{at.path.rstrip('/')}/{name}"
            known = at.children.get(name)
            try:
                found = self._stat(below)
            except OSError:
                if known is not None:
                    self._forget(known)
                raise
            if not stat.S_ISDIR(found.st_mode):
                raise fail(errno.ENOTDIR, path)
            if known is not None and self._inodes[known] != found.st_ino:
                self._forget(known)
                known = None
            if known is None:
                known = at.children[name] = Cgroup(found.st_mode, found.st_uid, found.st_gid, name=name, parent=at)
                if self.has_misc(known):
                    self.controller.online(known.path, fresh=False)
                self._adopt(known)
            at = known
        return at

    def _forget(self, cgroup: Cgroup) -> None:
        for child in [*cgroup.children.values()]:
            self._forget(child)
        assert cgroup.parent is not None
        if self.has_misc(cgroup):
            self.controller.offline(cgroup.path)
        self._remove_files(cgroup, list(cgroup.files))
        cgroup.alive = False
        del cgroup.parent.children[cgroup.name]
        del self._inodes[cgroup]

    def _ours(self, path: str) -> File | None:
        head, _, name = path.rpartition("/")
        if not name.startswith("misc.") and name not in self.root.files:
            return None
        found = self.cgroup(head).files.get(name)
        if found is None and name in MISC_FILES:
            raise fail(errno.ENOENT, path)
        return found

    # ---- what FUSE asks ----------------------------------------------------------------------------

    def reap(self) -> None:
        """The real kernel knows its processes."""

    def attributes(self, path: str) -> dict[str, int]:
        ours = self._ours(path)
        return _attributes(self._stat(path)) if ours is None else attributes(ours)

    def names(self, path: str, caller: Caller = ROOT) -> list[str]:
        cgroup = self.cgroup(path)
        fd = os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._base)
        try:
            return [*(name for name in os.listdir(fd) if name not in MISC_FILES), *cgroup.files]  # noqa: PTH208
        finally:
            os.close(fd)

    def open(self, path: str, flags: int = os.O_RDONLY, caller: Caller = ROOT) -> "Open | RealFile":  # type: ignore[override]
        if flags & os.O_DIRECT:
            raise fail(errno.EINVAL, path)
        ours = self._ours(path)
        if ours is not None:
            return Open(self, ours, flags, caller)
        with rights_of(caller):
            fd = os.open(self._real(path), flags & os.O_ACCMODE | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._base)
        head, _, name = path.rpartition("/")
        kinds = {"cgroup.procs": Procs, "cgroup.threads": Procs, "cgroup.controllers": Controllers,
                 "cgroup.subtree_control": SubtreeControl}  # fmt: skip
        return kinds.get(name, RealFile)(self, self.cgroup(head), fd)

    def mkdir(self, path: str, mode: int = 0o755, caller: Caller = ROOT) -> Cgroup:
        with rights_of(caller):
            os.mkdir(self._real(path), mode, dir_fd=self._base)
        return self.cgroup(path)

    def rmdir(self, path: str, caller: Caller = ROOT) -> None:
        known = self.cgroup(path)
        with rights_of(caller):
            os.rmdir(self._real(path), dir_fd=self._base)
        self._forget(known)

    def chmod(self, path: str, mode: int, caller: Caller = ROOT) -> None:
        ours = self._ours(path)
        if ours is None:
            os.chmod(self._real(path), mode & 0o7777, dir_fd=self._base)
        else:
            ours.mode = stat.S_IFREG | mode & 0o7777

    def chown(self, path: str, uid: int, gid: int, caller: Caller = ROOT) -> None:
        ours = self._ours(path)
        if ours is None:
            os.chown(self._real(path), uid, gid, dir_fd=self._base)
        else:
            ours.uid = ours.uid if uid == -1 else uid
            ours.gid = ours.gid if gid == -1 else gid

    def utime(self, path: str, mtime_ns: int) -> None:
        ours = self._ours(path)
        if ours is None:
            os.utime(self._real(path), ns=(mtime_ns, mtime_ns), dir_fd=self._base)
        else:
            ours.mtime_ns = mtime_ns

    def xattrs(self, path: str) -> MutableMapping[str, bytes]:
        ours = self._ours(path)
        return _Xattrs(f"/proc/self/fd/{self._base}/{self._real(path)}") if ours is None else ours.xattrs

    # ---- misc in cgroup.subtree_control --------------------------------------------------------------

    def set_subtree(self, cgroup: Cgroup, data: bytes, real: int, caller: Caller) -> None:
        """A write to cgroup.subtree_control whose other words are for the descriptor `real`."""
        enable, disable = parse_subtree_control(data)
        on = "misc" in enable and "misc" not in cgroup.subtree_control
        off = "misc" in disable and "misc" in cgroup.subtree_control
        if on and not self.has_misc(cgroup):
            raise fail(errno.ENOENT, "misc")
        if off and any("misc" in child.subtree_control for child in cgroup.children.values()):
            raise fail(errno.EBUSY, "misc")
        if on and not self._may_be_inner(cgroup) and self._has_processes(cgroup):
            raise fail(errno.EBUSY, cgroup.path)
        words = [f"+{name}" for name in sorted(enable - {"misc"})] + [f"-{name}" for name in sorted(disable - {"misc"})]
        if words:
            os.write(real, " ".join(words).encode())
        for name in self.names(cgroup.path) if on or off else ():
            with contextlib.suppress(OSError):
                self.cgroup(f"{cgroup.path.rstrip('/')}/{name}")
        if on:
            cgroup.subtree_control.add("misc")
        if off:
            cgroup.subtree_control.discard("misc")
        if on or off:
            self._set_misc(cgroup, on, caller)

    def _may_be_inner(self, cgroup: Cgroup) -> bool:
        """The root of the hierarchy may have processes and children with controllers; only there is no cgroup.type."""
        try:
            self._stat(f"{cgroup.path.rstrip('/')}/cgroup.type")
        except FileNotFoundError:
            return True
        return False

    def _has_processes(self, cgroup: Cgroup) -> bool:
        path = self._real(f"{cgroup.path.rstrip('/')}/cgroup.procs")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._base)
        try:
            return os.read(fd, 1) != b""
        finally:
            os.close(fd)

    def refuses_processes(self, cgroup: Cgroup) -> bool:
        """The rule of no internal processes, for the controller that the real kernel does not know of."""
        return "misc" in cgroup.subtree_control and not self._may_be_inner(cgroup)


def _attributes(found: os.stat_result) -> dict[str, int]:
    values = {name: int(getattr(found, name)) for name in _KEPT}
    if stat.S_ISREG(found.st_mode):
        values["st_size"] = PAGE_SIZE  # as ours: see tree.attributes
    return values | {name: int(getattr(found, f"{name}_ns")) for name in _TIMES}


class RealFile:
    """An open file of the real kernel's."""

    def __init__(self, tree: Passthrough, cgroup: Cgroup, fd: int) -> None:
        self.tree = tree
        self.cgroup = cgroup
        self.fd = fd

    def attributes(self) -> dict[str, int]:
        return _attributes(os.fstat(self.fd))

    def pread(self, count: int, offset: int) -> bytes:
        return os.pread(self.fd, count, offset)

    def pwrite(self, data: bytes, caller: Caller | None = None) -> int:
        return os.write(self.fd, data)

    def poll(self) -> int:
        poll = select.poll()
        poll.register(self.fd, READY | CHANGED)
        found = poll.poll(0)
        return found[0][1] if found else 0

    def close(self) -> None:
        os.close(self.fd)


class Procs(RealFile):
    """cgroup.procs and cgroup.threads: the kernel would take the server for the writer."""

    def pwrite(self, data: bytes, caller: Caller | None = None) -> int:
        if self.tree.refuses_processes(self.cgroup):
            raise fail(errno.EBUSY, self.cgroup.path)
        assert caller is not None
        try:
            pid = parse_int(data)
        except OSError:
            pid = -1
        if pid == 0:
            if caller.pid == 0:  # of a pid namespace that we do not see into: the kernel would take us
                raise fail(errno.ESRCH, self.cgroup.path)
            data_for_kernel = str(caller.pid).encode()
        elif pid > 0:
            data_for_kernel = str(own_pid(pid, caller)).encode()
        else:
            data_for_kernel = data  # the kernel says what is wrong with it
        os.write(self.fd, data_for_kernel)
        return len(data)


class Controllers(RealFile):
    """cgroup.controllers: the real ones, and misc where its parent enables it."""

    def __init__(self, tree: Passthrough, cgroup: Cgroup, fd: int) -> None:
        super().__init__(tree, cgroup, fd)
        self._text = SeqFile(self._show)

    def _has_misc(self) -> bool:
        return self.tree.has_misc(self.cgroup)

    def _show(self) -> bytes:
        names = [name for name in os.pread(self.fd, PAGE_SIZE, 0).split() if name != b"misc"]
        names += [b"misc"] if self._has_misc() else []
        return b" ".join(names) + b"\n" if names else b""

    def pread(self, count: int, offset: int) -> bytes:
        return self._text.pread(count, offset)


class SubtreeControl(Controllers):
    """cgroup.subtree_control."""

    def _has_misc(self) -> bool:
        return "misc" in self.cgroup.subtree_control

    def pwrite(self, data: bytes, caller: Caller | None = None) -> int:
        assert caller is not None
        if data:
            self.tree.set_subtree(self.cgroup, data, self.fd, caller)
        return len(data)


class _Xattrs(MutableMapping[str, bytes]):
    """Extended attributes of a real file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getitem__(self, name: str) -> bytes:
        try:
            return os.getxattr(self._path, name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                raise KeyError(name) from None
            raise

    def __setitem__(self, name: str, value: bytes) -> None:
        os.setxattr(self._path, name, value)

    def __delitem__(self, name: str) -> None:
        os.removexattr(self._path, name)

    def __iter__(self) -> Iterator[str]:
        return iter(os.listxattr(self._path))

    def __len__(self) -> int:
        return len(os.listxattr(self._path))
