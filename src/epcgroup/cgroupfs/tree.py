"""A tree of cgroups with the misc controller: directories, files and open files, without a mount and without FUSE.

It answers as the kernel does (kernel/cgroup/cgroup.c, fs/kernfs): which files a cgroup has, what may be read and
written, errno, owners and modes, what an open file shows and when it polls. Processes are told to it (cgroup.procs);
it never looks for them, and moves nothing on the host. Left out: other controllers' files, threaded cgroups, PSI;
freezing is remembered, not done.

    tree = Tree(Machines({"sgx_epc": Machine([Section(0, 256)])}))
    tree.open("/cgroup.subtree_control", os.O_WRONLY).write(b"+misc")
    tree.mkdir("/a"); tree.read("/a/misc.max")            # "sgx_epc max\\n"
"""

import errno
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from epcgroup import interface
from epcgroup.cgroupfs.controller import Controller
from epcgroup.units import PAGE_SIZE

THREADED = frozenset({"cpu", "cpuset", "pids", "perf_event"})  # controllers that processes do not keep out
INT_MAX = 2**31 - 1
READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
CHANGED = select.POLLPRI | select.POLLERR
_SPACE = b" \t\n\v\f\r\xa0"


class Caller(NamedTuple):
    """Who calls. ROOT may everything."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    pid: int = 0  # 0: the process of the tree itself


ROOT = Caller()


def fail(number: int, what: str) -> OSError:
    return OSError(number, os.strerror(number), what)


@dataclass(eq=False)
class Inode:
    """Owner, mode and times of a file or directory."""

    mode: int  # with its type
    uid: int
    gid: int
    mtime_ns: int = field(default_factory=time.time_ns)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def may(self, caller: Caller, mask: int) -> bool:
        """mask: os.R_OK, W_OK, X_OK."""
        if caller.uid == 0:
            return True
        shift = 6 if caller.uid == self.uid else 3 if self.gid in (caller.gid, *caller.groups) else 0
        return self.mode >> shift & mask == mask


@dataclass(eq=False)
class File(Inode):
    """A file as long as it exists: one that comes back under its name is another one."""

    cgroup: "Cgroup" = field(kw_only=True)
    type: "Cftype" = field(kw_only=True)
    alive: bool = True
    told: object = None  # the token that watchers have been told of

    @property
    def path(self) -> str:
        return f"{self.cgroup.path.rstrip('/')}/{self.type.name}"


@dataclass(eq=False)
class Cgroup(Inode):
    """A directory."""

    name: str = field(kw_only=True)
    parent: "Cgroup | None" = field(kw_only=True)
    alive: bool = True
    children: "dict[str, Cgroup]" = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    subtree_control: set[str] = field(default_factory=set)
    procs: list[int] = field(default_factory=list)
    max_depth: int = INT_MAX
    max_descendants: int = INT_MAX
    frozen: bool = False

    @property
    def path(self) -> str:
        return "/" if self.parent is None else f"{self.parent.path.rstrip('/')}/{self.name}"

    @property
    def populated(self) -> bool:
        return any(c.procs for c in self.subtree())

    def ancestors(self) -> "Iterator[Cgroup]":
        """Itself first, the root last."""
        at: Cgroup | None = self
        while at is not None:
            yield at
            at = at.parent

    def subtree(self) -> "Iterator[Cgroup]":
        yield self
        for child in self.children.values():
            yield from child.subtree()


@dataclass(frozen=True)
class Cftype:
    """A kind of file (struct cftype). `show` and `store` are given the tree; `token` changes when pollers are told."""

    name: str
    mode: int
    show: "Callable[[Tree, File], str] | None" = None
    store: "Callable[[Tree, File, bytes, Caller], None] | None" = None
    token: "Callable[[Tree, Cgroup], object] | None" = None
    on_root: bool = True


def attributes(of: Cgroup | File) -> dict[str, int]:
    """stat(2), but a file's size: one page, as sysfs has it. With 0 sendfile(2) and splice(2) would find nothing."""
    is_file = isinstance(of, File)
    return {
        "st_mode": of.mode,
        "st_uid": of.uid,
        "st_gid": of.gid,
        "st_nlink": int(of.alive) if isinstance(of, File) else 2 + len(of.children),
        "st_size": PAGE_SIZE if is_file else 0,
        "st_blksize": PAGE_SIZE,
        **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), of.mtime_ns),
    }


class SeqFile:
    """What an open file shows is taken by `show` at offset 0 and stays until offset 0 is read again (seq_file). A read
    elsewhere than where the last one ended takes it anew too."""

    def __init__(self, show: Callable[[], bytes], live: Callable[[], None] = lambda: None) -> None:
        self._show = show
        self._live = live  # raises when the file has been removed
        self._rest = b""  # of the text, from _rest_at
        self._rest_at = 0
        self._shown = False  # nothing more to come behind _rest

    def pread(self, count: int, offset: int) -> bytes:
        if offset == 0 or offset != self._rest_at:
            self._rest, self._shown = b"", False
            if offset > 0:
                self._live()
                self._rest, self._shown = self._show()[offset:], True
        out, self._rest = self._rest[:count], self._rest[count:]
        if len(out) < count:
            if not out:
                self._live()
            if not self._shown:
                text = self._show()
                out, self._rest, self._shown = text[:count], text[count:], True
        self._rest_at = offset + len(out)
        return out


class Open:
    """An open file."""

    def __init__(self, tree: "Tree", file: File, flags: int, caller: Caller) -> None:
        self.tree = tree
        self.file = file
        self.caller = caller  # its rights count, not those of who writes later
        access = flags & os.O_ACCMODE
        self._readable = access in (os.O_RDONLY, os.O_RDWR)
        self._writable = access in (os.O_WRONLY, os.O_RDWR)
        self.pos = 0
        self._text = SeqFile(self._show, self._live)
        self._seen: object = _NOTHING

    def _live(self) -> None:
        if not self.file.alive:
            raise fail(errno.ENODEV, self.file.type.name)

    def _show(self) -> bytes:
        assert self.file.type.show is not None
        self._seen = self.tree.token(self.file)
        return self.file.type.show(self.tree, self.file).encode("utf-8", "surrogateescape")

    def pread(self, count: int, offset: int) -> bytes:
        if not self._readable:
            raise fail(errno.EBADF, "read")
        if self.file.type.show is None:
            self._live()
            raise fail(errno.EINVAL, self.file.type.name)
        return self._text.pread(count, offset)

    def read(self, count: int) -> bytes:
        data = self.pread(count, self.pos)
        self.pos += len(data)
        return data

    def pwrite(self, data: bytes, caller: Caller | None = None) -> int:
        """One write(2); the offset never matters. `caller`: who writes, when not who opened (only its pid counts)."""
        if not self._writable:
            raise fail(errno.EBADF, "write")
        if len(data) > PAGE_SIZE:
            raise fail(errno.E2BIG, self.file.type.name)
        self._live()
        if not data:
            return 0
        if self.file.type.store is None:
            raise fail(errno.EINVAL, self.file.type.name)
        who = self.caller if caller is None else self.caller._replace(pid=caller.pid)
        self.file.type.store(self.tree, self.file, data, who)
        return len(data)

    def write(self, data: bytes, caller: Caller | None = None) -> int:
        done = self.pwrite(data, caller)
        self.pos += done
        return done

    def attributes(self) -> dict[str, int]:
        return attributes(self.file)

    def close(self) -> None:
        """Nothing is held."""

    def poll(self) -> int:
        """All that is true of it: READY, and CHANGED until it is read anew."""
        self.tree.reap()
        if self.file.alive and self._seen == self.tree.token(self.file):
            return READY
        return READY | CHANGED


class _Nothing:
    pass


_NOTHING = _Nothing()  # seen by who has not read yet


class Tree:
    """The hierarchy. `controllers` are those of its root; only misc has files."""

    restless = False  # everything that changes is a caller's doing; but processes end

    def __init__(self, controller: Controller, controllers: Sequence[str] = ("misc",)) -> None:
        self.controller = controller
        self.controllers = tuple(controllers)
        self.root = Cgroup(stat.S_IFDIR | 0o555, 0, 0, name="", parent=None)
        self.where: dict[int, Cgroup] = {}  # process -> cgroup, of those told
        self._moves = 0  # that may have changed a cgroup.events
        self._told: object = None
        self._populate()

    def _populate(self) -> None:
        self._add_files(self.root, _CORE, ROOT)
        self._add_files(self.root, self._misc(root=True), ROOT)

    # ---- names -------------------------------------------------------------------------------------

    def find(self, path: str, caller: Caller = ROOT) -> Cgroup | File:
        """OSError ENOENT, ENOTDIR, EACCES."""
        at: Cgroup | File = self.root
        for name in [part for part in path.split("/") if part and part != "."]:
            if isinstance(at, File):
                raise fail(errno.ENOTDIR, path)
            if not at.may(caller, os.X_OK):
                raise fail(errno.EACCES, path)
            if name == "..":
                at = at.parent or at
                continue
            found = at.children.get(name) or at.files.get(name)
            if found is None:
                raise fail(errno.ENOENT, path)
            at = found
        return at

    def _directory(self, path: str, caller: Caller) -> Cgroup:
        found = self.find(path, caller)
        if isinstance(found, File):
            raise fail(errno.ENOTDIR, path)
        return found

    def names(self, path: str, caller: Caller = ROOT) -> list[str]:
        """What a directory holds: files, then child cgroups."""
        found = self._directory(path, caller)
        if not found.may(caller, os.R_OK):
            raise fail(errno.EACCES, path)
        return [*found.files, *found.children]

    # ---- cgroups -----------------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int = 0o755, caller: Caller = ROOT) -> Cgroup:
        head, _, name = path.rstrip("/").rpartition("/")
        parent = self._directory(head or "/", caller)
        if name in ("", ".", "..") or name in parent.children or name in parent.files:
            raise fail(errno.EEXIST, path)
        if not parent.may(caller, os.W_OK | os.X_OK):
            raise fail(errno.EACCES, path)
        if "\n" in name:
            raise fail(errno.EINVAL, path)
        for level, above in enumerate(parent.ancestors()):
            if level >= above.max_depth or sum(1 for _ in above.subtree()) > above.max_descendants:
                raise fail(errno.EAGAIN, path)
        new = Cgroup(stat.S_IFDIR | mode & 0o1777, caller.uid, caller.gid, name=name, parent=parent)
        if "misc" in parent.subtree_control:
            self.controller.online(new.path)
        parent.children[name] = new
        self._add_files(new, _CORE, caller)
        if "misc" in parent.subtree_control:
            self._add_files(new, self._misc(root=False), caller)
        return new

    def rmdir(self, path: str, caller: Caller = ROOT) -> None:
        last = path.rstrip("/").rpartition("/")[2]
        if last in (".", ".."):
            raise fail(errno.EINVAL if last == "." else errno.ENOTEMPTY, path)
        found = self._directory(path, caller)
        parent = found.parent
        if parent is None:
            raise fail(errno.EBUSY, path)
        if not parent.may(caller, os.W_OK | os.X_OK):
            raise fail(errno.EACCES, path)
        self.reap()
        if found.children or found.procs:
            raise fail(errno.EBUSY, path)
        if "misc" in parent.subtree_control:
            self.controller.offline(found.path)
        del parent.children[found.name]
        self._remove_files(found, list(found.files))
        found.alive = False

    def has_misc(self, cgroup: Cgroup) -> bool:
        """The root has the controller always."""
        return cgroup.parent is None or "misc" in cgroup.parent.subtree_control

    def charged(self, cgroup: Cgroup) -> Cgroup:
        """Where processes of a cgroup are charged: the nearest one upwards with the controller."""
        return next(each for each in cgroup.ancestors() if self.has_misc(each))

    def _misc(self, *, root: bool) -> "list[Cftype]":
        return [_MISC[name] for name in interface.files_of(self.controller.series, root=root)]

    def _add_files(self, cgroup: Cgroup, types: "Sequence[Cftype]", caller: Caller) -> None:
        for each in types:
            if each.on_root or cgroup.parent is not None:
                mode = stat.S_IFREG | each.mode
                cgroup.files[each.name] = file = File(mode, caller.uid, caller.gid, cgroup=cgroup, type=each)
                file.told = self.token(file)

    def _remove_files(self, cgroup: Cgroup, names: Sequence[str]) -> None:
        for name in names:
            cgroup.files.pop(name).alive = False

    def _available(self, cgroup: Cgroup) -> list[str]:
        if cgroup.parent is None:
            return list(self.controllers)
        return [name for name in self.controllers if name in cgroup.parent.subtree_control]

    def _set_misc(self, cgroup: Cgroup, on: bool, caller: Caller) -> None:
        """Children of a cgroup get or lose the controller. A child's children never have it at that time."""
        for child in cgroup.children.values():
            if on:
                self.controller.online(child.path)
                self._add_files(child, self._misc(root=False), caller)
            else:
                self.controller.offline(child.path)
                self._remove_files(child, [name for name in child.files if name in _MISC])

    # ---- files -------------------------------------------------------------------------------------

    def open(self, path: str, flags: int = os.O_RDONLY, caller: Caller = ROOT) -> Open:
        try:
            found = self.find(path, caller)
        except FileNotFoundError:
            if flags & os.O_CREAT:
                raise fail(errno.EACCES, path) from None
            raise
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise fail(errno.EEXIST, path)
        if isinstance(found, Cgroup):
            raise fail(errno.EISDIR, path)
        access = flags & os.O_ACCMODE
        if not found.may(caller, (os.R_OK, os.W_OK, os.R_OK | os.W_OK)[access]):
            raise fail(errno.EACCES, path)
        if flags & os.O_DIRECT:
            raise fail(errno.EINVAL, path)
        return Open(self, found, flags, caller)

    def read(self, path: str, caller: Caller = ROOT) -> str:
        """The whole text of a file."""
        return self.open(path, os.O_RDONLY, caller).read(1 << 20).decode("utf-8", "surrogateescape")

    def write(self, path: str, text: str | bytes, caller: Caller = ROOT) -> None:
        """One write(2)."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        self.open(path, os.O_WRONLY, caller).write(data)

    def token(self, file: File) -> object:
        """What a poller compares: changes when the file's readers are told."""
        return None if file.type.token is None else file.type.token(self, file.cgroup)

    def changed(self) -> list[str]:
        """Files whose watchers are to be told of a change, since the last call."""
        self.reap()
        state = self.controller.refused(), self._moves
        if state == self._told:
            return []
        self._told = state
        found = []
        for cgroup in self.root.subtree():
            for file in cgroup.files.values():
                token = self.token(file)
                if token != file.told:
                    file.told = token
                    found.append(file.path)
        return found

    def add_to_root(self, type: "Cftype") -> None:
        """A file that no kernel has."""
        self._add_files(self.root, [type], ROOT)

    def attributes(self, path: str) -> dict[str, int]:
        return attributes(self.find(path))

    def xattrs(self, path: str) -> MutableMapping[str, bytes]:
        """The extended attributes, to be changed in place."""
        return self.find(path).xattrs

    def utime(self, path: str, mtime_ns: int) -> None:
        self.find(path).mtime_ns = mtime_ns

    def chmod(self, path: str, mode: int, caller: Caller = ROOT) -> None:
        found = self.find(path, caller)
        if caller.uid not in (0, found.uid):
            raise fail(errno.EPERM, path)
        found.mode = stat.S_IFMT(found.mode) | mode & 0o7777

    def chown(self, path: str, uid: int, gid: int, caller: Caller = ROOT) -> None:
        """-1 leaves one as it is."""
        found = self.find(path, caller)
        allowed = uid in (-1, found.uid) and gid in (-1, found.gid, caller.gid, *caller.groups)
        if caller.uid != 0 and not (caller.uid == found.uid and allowed):
            raise fail(errno.EPERM, path)
        if uid != -1:
            found.uid = uid
        if gid != -1:
            found.gid = gid

    # ---- processes ---------------------------------------------------------------------------------

    def reap(self) -> None:
        """Forget processes that are no more."""
        for pid in [pid for pid in self.where if not _runs(pid)]:
            self.where.pop(pid).procs.remove(pid)
            self._moves += 1

    def move(self, pid: int, to: Cgroup, caller: Caller = ROOT) -> None:
        """Put a process into a cgroup."""
        if not _runs(pid):
            raise fail(errno.ESRCH, str(pid))
        source = self.where.get(pid, self.root)
        common = next(each for each in source.ancestors() if each in [*to.ancestors()])
        if not common.files["cgroup.procs"].may(caller, os.W_OK):
            raise fail(errno.EACCES, "cgroup.procs of the common ancestor")
        if to.parent is not None and to.subtree_control - THREADED:
            raise fail(errno.EBUSY, to.path)
        if source is not to and pid in self.where:
            source.procs.remove(pid)
        if source is not to or pid not in self.where:
            to.procs.append(pid)
            self._moves += 1
            self.where[pid] = to


def _runs(pid: int) -> bool:
    """A zombie is no member any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- the files -------------------------------------------------------------------------------------


def _stripped(data: bytes) -> bytes:
    """What a handler sees: a C string without the white space round it."""
    return data.partition(b"\0")[0].strip(_SPACE)


def parse_int(data: bytes) -> int:
    """kstrtoint with base 0. OSError EINVAL, ERANGE."""
    text = _stripped(data)
    negative = text.startswith(b"-")
    digits = text[1:] if negative else text
    try:
        if negative and digits.startswith(b"+"):
            raise ValueError
        value = interface.parse_u64(digits)
    except ValueError:
        raise fail(errno.EINVAL, "not a number") from None
    except OverflowError:
        raise fail(errno.ERANGE, "too large") from None
    value = -value if negative else value
    if not -INT_MAX - 1 <= value <= INT_MAX:
        raise fail(errno.ERANGE, "too large")
    return value


def _show_subtree_control(tree: Tree, file: File) -> str:
    names = [name for name in tree.controllers if name in file.cgroup.subtree_control]
    return " ".join(names) + "\n" if names else ""


def _show_controllers(tree: Tree, file: File) -> str:
    names = tree._available(file.cgroup)
    return " ".join(names) + "\n" if names else ""


def parse_subtree_control(data: bytes, known: Sequence[str] | None = None) -> tuple[set[str], set[str]]:
    """Controllers to enable and to disable; of two words for one the last counts. OSError EINVAL: a bad word, or a
    name that is not among the `known`."""
    enable: set[str] = set()
    disable: set[str] = set()
    for word in _stripped(data).split(b" "):
        if not word:
            continue
        name = word[1:].decode("utf-8", "surrogateescape")
        if word[:1] not in (b"+", b"-") or (known is not None and name not in known):
            raise fail(errno.EINVAL, "cgroup.subtree_control")
        (enable if word[:1] == b"+" else disable).add(name)
        (disable if word[:1] == b"+" else enable).discard(name)
    return enable, disable


def _store_subtree_control(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    cgroup = file.cgroup
    enable, disable = parse_subtree_control(data, tree.controllers)
    enable -= cgroup.subtree_control
    disable &= cgroup.subtree_control
    for name in tree.controllers:
        if name in enable and name not in tree._available(cgroup):
            raise fail(errno.ENOENT, name)
        if name in disable and any(name in child.subtree_control for child in cgroup.children.values()):
            raise fail(errno.EBUSY, name)
    tree.reap()
    if enable - THREADED and cgroup.parent is not None and cgroup.procs:
        raise fail(errno.EBUSY, cgroup.path)
    cgroup.subtree_control |= enable
    cgroup.subtree_control -= disable
    if "misc" in enable | disable:
        tree._set_misc(cgroup, "misc" in enable, caller)


def _show_procs(tree: Tree, file: File) -> str:
    tree.reap()
    return "".join(f"{pid}\n" for pid in file.cgroup.procs)


def _store_procs(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    try:
        pid = parse_int(data)
    except OSError:
        raise fail(errno.EINVAL, "cgroup.procs") from None
    if pid < 0:
        raise fail(errno.EINVAL, "cgroup.procs")
    tree.move(pid or caller.pid or os.getpid(), file.cgroup, caller)


def _populated(tree: Tree, cgroup: Cgroup) -> tuple[bool, bool]:
    return cgroup.populated, any(each.frozen for each in cgroup.ancestors())


def _show_events(tree: Tree, file: File) -> str:
    tree.reap()
    populated, frozen = _populated(tree, file.cgroup)
    return f"populated {populated:d}\nfrozen {frozen:d}\n"


def _store_freeze(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    value = parse_int(data)
    if value not in (0, 1):
        raise fail(errno.ERANGE, "cgroup.freeze")
    file.cgroup.frozen = value == 1
    tree._moves += 1


def _store_kill(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    if parse_int(data) != 1:
        raise fail(errno.ERANGE, "cgroup.kill")
    tree.reap()
    for cgroup in file.cgroup.subtree():
        for pid in cgroup.procs:
            os.kill(pid, signal.SIGKILL)


def _show_limit(value: int) -> str:
    return "max\n" if value == INT_MAX else f"{value}\n"


def _parse_limit(data: bytes) -> int:
    if _stripped(data) == b"max":
        return INT_MAX
    value = parse_int(data)
    if value < 0:
        raise fail(errno.ERANGE, "below 0")
    return value


def _store_depth(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    file.cgroup.max_depth = _parse_limit(data)


def _store_descendants(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    file.cgroup.max_descendants = _parse_limit(data)


def _show_stat(tree: Tree, file: File) -> str:
    """Dying cgroups are not counted: nobody sees them here."""
    cgroups = [*file.cgroup.subtree()]
    using = {
        name: sum(each.parent is None or name in each.parent.subtree_control for each in cgroups)
        for name in tree.controllers
    }
    lines = [f"nr_descendants {len(cgroups) - 1}", *(f"nr_subsys_{name} {using[name]}" for name in tree.controllers)]
    lines += ["nr_dying_descendants 0", *(f"nr_dying_subsys_{name} 0" for name in tree.controllers)]
    return "".join(f"{line}\n" for line in lines)


def _show_type(tree: Tree, file: File) -> str:
    return "domain\n"


def _store_type(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    raise fail(errno.EOPNOTSUPP if _stripped(data) == b"threaded" else errno.EINVAL, "cgroup.type")


def _show_misc(tree: Tree, file: File) -> str:
    return tree.controller.read(file.cgroup.path, file.type.name)


def _store_misc(tree: Tree, file: File, data: bytes, caller: Caller) -> None:
    tree.controller.write(file.cgroup.path, file.type.name, data)


def _events(tree: Tree, cgroup: Cgroup) -> int:
    return tree.controller.events(cgroup.path)[0]


def _events_local(tree: Tree, cgroup: Cgroup) -> int:
    return tree.controller.events(cgroup.path)[1]


_CORE = [
    Cftype("cgroup.controllers", 0o444, _show_controllers),
    Cftype("cgroup.events", 0o444, _show_events, token=_populated, on_root=False),
    Cftype("cgroup.freeze", 0o644, lambda _, file: f"{file.cgroup.frozen:d}\n", _store_freeze, on_root=False),
    Cftype("cgroup.kill", 0o200, None, _store_kill, on_root=False),
    Cftype("cgroup.max.depth", 0o644, lambda _, file: _show_limit(file.cgroup.max_depth), _store_depth),
    Cftype(
        "cgroup.max.descendants", 0o644, lambda _, file: _show_limit(file.cgroup.max_descendants), _store_descendants
    ),
    Cftype("cgroup.procs", 0o644, _show_procs, _store_procs),
    Cftype("cgroup.stat", 0o444, _show_stat),
    Cftype("cgroup.subtree_control", 0o644, _show_subtree_control, _store_subtree_control),
    Cftype("cgroup.threads", 0o644, _show_procs, _store_procs),
    Cftype("cgroup.type", 0o644, _show_type, _store_type, on_root=False),
]
_MISC = {
    each.name: each
    for each in (
        Cftype("misc.capacity", 0o444, _show_misc),
        Cftype("misc.max", 0o644, _show_misc, _store_misc),
        Cftype("misc.current", 0o444, _show_misc),
        Cftype("misc.peak", 0o444, _show_misc),
        Cftype("misc.events", 0o444, _show_misc, token=_events),
        Cftype("misc.events.local", 0o444, _show_misc, token=_events_local),
    )
}
