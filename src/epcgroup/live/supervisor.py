"""Answers the system calls that `seccomp` notifies: to an OCI runtime our FUSE tree looks like the cgroup2 it covers.

    statfs, fstatfs   of our mount: the file system's type is cgroup2's
    openat2           beneath a descriptor, without crossing mounts, and it ends in our mount: opened
    bpf               programs attached to, detached from, asked of one of our directories: done with the real one

Everything else goes on in the kernel as if nobody had looked. Nothing is guarded by these answers, so it does not
matter that a process may change its memory after it was read: what is answered was copied first, the rest the kernel
reads again. openat2 and bpf are done for root of our own user namespace only, who may do them anyway.

One process beside the daemon, with a thread for each listener, so that a path which hangs hangs nobody else. It starts
with the first listener and ends when the daemon and the last filtered process have ended; with no supervisor their
statfs would be ENOSYS.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from epcgroup.live import cgroups, seccomp, uffd, wire

SOURCE = "epcgroup:"  # our mounts' begins so
CGROUP2_MAGIC = 0x63677270

_RECV, _SEND, _ID_VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")  # id, pid, flags, nr, arch, ip, arguments
_ANSWER = struct.Struct("<Qqii")  # id, value, -errno, flags
_NEW_FD = struct.Struct("<QIIII")  # id, flags, our descriptor, theirs, flags of theirs
_FLAG_CONTINUE = 1
_ADDFD_SEND = 2

_SYS_PIDFD_GETFD = 438
_AT_FDCWD = -100
_OPEN_HOW = struct.Struct("<QQQ")  # flags, mode, resolve
_NO_XDEV, _BENEATH, _IN_ROOT = 0x01, 0x08, 0x10
_PATH = os.O_PATH | os.O_CLOEXEC
_PATH_MAX = 4096
_STATFS_SIZE = 120
_STATUS_SIZE = 1 << 20  # of /proc/PID/status, with as many groups as there can be
_CAP_SYS_ADMIN = 21
_BPF_REPLACE = 4
_ATTRIBUTES = 256  # more than any kernel's of these commands
_MAX_PROGRAMS = 4096  # crun asks for no more

_libc = ctypes.CDLL(None, use_errno=True)


class Tree(NamedTuple):
    """A mount of ours, and the cgroup2 directory it covers; None: it stands beside cgroup2."""

    mount: Path
    covers: Path | None


def trees(mountinfo: str) -> dict[int, Tree]:
    """Our mounts by device number. `mountinfo`: text of that file."""
    cgroup2 = cgroups.mount_point(mountinfo)
    found = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, source, options = rest.split(" ", 2)
        _, _, device, root, place = fields.split(" ")[:5]
        # Only root can mount with user_id=0: nobody else is taken for us.
        if kind.partition(".")[0] == "fuse" and source.startswith(SOURCE) and "user_id=0," in options and root == "/":
            mount = cgroups.unescaped(place)
            inside = cgroup2 is not None and mount.is_relative_to(cgroup2)
            major, _, minor = device.partition(":")
            covers = mount.relative_to(cgroup2) if cgroup2 is not None and inside else None
            found[os.makedev(int(major), int(minor))] = Tree(mount, covers)
    return found


def _openat2(base: int, path: bytes, flags: int, resolve: int) -> int:
    return uffd.syscall(seccomp.OPENAT2, base, path, _OPEN_HOW.pack(flags, 0, resolve), _OPEN_HOW.size)


# ---- one call --------------------------------------------------------------------------------------


class _Call:
    """A notified call of a task. Whatever reads the task raises OSError, of which nothing is told to the task."""

    def __init__(self, listener: int, notification: bytes, stack: contextlib.ExitStack) -> None:
        self.id, self.pid, _, self.nr, _, _, *self.arguments = _NOTIFICATION.unpack(notification)
        self._listener = listener
        self._stack = stack
        self._proc = self.kept(os.open(f"/proc/{self.pid}", _PATH))
        self.check()  # from here on the directory is that task's, and gone when it is gone
        self._memory = -1

    def kept(self, fd: int) -> int:
        """The descriptor, closed when the call is done."""
        self._stack.callback(os.close, fd)
        return fd

    def check(self) -> None:
        """ENOENT when the task is no longer in this call."""
        fcntl.ioctl(self._listener, _ID_VALID, struct.pack("<Q", self.id))

    def open(self, name: str, flags: int = _PATH) -> int:
        """A file of the task's /proc directory, as the task was when it called: another thread's execve(2) makes it
        another program, maybe with more rights, after the call was given up."""
        fd = self.kept(os.open(name, flags | os.O_CLOEXEC, dir_fd=self._proc))
        self.check()
        return fd

    def _status(self, key: str) -> str:
        text = os.read(self.open("status", os.O_RDONLY), _STATUS_SIZE).decode(errors="replace")
        self.check()  # it was written by the read
        return text.partition(f"\n{key}:")[2].split("\n", 1)[0]

    def copy_of(self, number: int) -> int:
        """The file that the task's descriptor stands for, as O_PATH."""
        number = ctypes.c_int(number).value
        return self.open("cwd" if number == _AT_FDCWD else f"fd/{number}")

    def memory(self, address: int) -> int:
        if address >> 47:
            raise OSError(errno.EFAULT, "address")
        if self._memory < 0:
            self._memory = self.open("mem", os.O_RDWR)
        return self._memory

    def read(self, address: int, size: int) -> bytes:
        data = os.pread(self.memory(address), size, address)
        if len(data) < size:
            raise OSError(errno.EFAULT, "address")
        return data

    def write(self, address: int, data: bytes) -> None:
        os.pwrite(self.memory(address), data, address)

    def path(self, address: int) -> bytes:
        text, end, _ = os.pread(self.memory(address), _PATH_MAX, address).partition(b"\0")
        if not end:
            raise OSError(errno.ENAMETOOLONG, "path")
        return text

    def is_root(self) -> bool:
        """Whether the task has CAP_SYS_ADMIN in our user namespace."""
        capabilities = int(self._status("CapEff"), 16)
        theirs, ours = os.stat("ns/user", dir_fd=self._proc), Path("/proc/self/ns/user").stat()
        return bool(capabilities >> _CAP_SYS_ADMIN & 1) and theirs.st_ino == ours.st_ino

    def descriptor(self, number: int) -> int:
        """A descriptor of the task, which cannot be opened anew; -1 when it has none of that number."""
        pidfd = self.kept(os.pidfd_open(int(self._status("Tgid"))))
        self.check()
        try:
            return self.kept(uffd.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return -1


class _Continue(Exception):
    """The call is none of ours."""


class _Refused(Exception):
    """The answer is an errno."""

    def __init__(self, number: int | None) -> None:
        self.errno = number or errno.EIO


class Answers:
    """What a notified call is answered."""

    def __init__(self, mounted: dict[int, Tree]) -> None:
        self._trees = mounted

    def answer(self, listener: int, notification: bytes) -> bytes | None:
        """The struct to send; None when a descriptor was, and with it the answer."""
        number = _NOTIFICATION.unpack(notification)[0]
        try:
            with contextlib.ExitStack() as stack:
                call = _Call(listener, notification, stack)
                match call.nr:
                    case seccomp.STATFS:
                        self._statfs(call, self._named(call, call.path(call.arguments[0])))
                    case seccomp.FSTATFS:
                        self._statfs(call, call.copy_of(call.arguments[0]))
                    case seccomp.OPENAT2:
                        self._openat2(call, listener)
                        return None
                    case seccomp.BPF:
                        self._bpf(call)
                    case _:
                        raise _Continue
        except _Refused as refusal:
            return _ANSWER.pack(number, 0, -refusal.errno, 0)
        except (_Continue, OSError):
            return _ANSWER.pack(number, 0, 0, _FLAG_CONTINUE)
        return _ANSWER.pack(number, 0, 0, 0)

    def _tree(self, fd: int) -> Tree:
        """Our mount in which the file is."""
        tree = self._trees.get(os.fstat(fd).st_dev)
        if tree is None:
            raise _Continue
        return tree

    @staticmethod
    def _named(call: _Call, path: bytes) -> int:
        """What a path leads to from where the task is. Through /proc/self it leads nowhere: that would be ours."""
        if path.startswith(b"/"):
            return call.kept(_openat2(call.open("root"), path, _PATH, _IN_ROOT))
        return call.kept(os.open(path, _PATH, dir_fd=call.copy_of(_AT_FDCWD)))

    def _statfs(self, call: _Call, fd: int) -> None:
        self._tree(fd)
        found = ctypes.create_string_buffer(_STATFS_SIZE)
        if _libc.fstatfs(fd, found) != 0:
            raise _Continue
        call.write(call.arguments[1], struct.pack("<q", CGROUP2_MAGIC) + found.raw[8:])

    def _openat2(self, call: _Call, listener: int) -> None:
        directory, path_at, how_at, size = call.arguments[:4]
        if size != _OPEN_HOW.size:
            raise _Continue
        flags, _, resolve = _OPEN_HOW.unpack(call.read(how_at, size))
        crosses = resolve & (_NO_XDEV | _BENEATH) == _NO_XDEV | _BENEATH
        if not crosses or flags & os.O_PATH or not call.is_root():  # O_PATH descriptors cannot be handed over
            raise _Continue
        path, resolve = call.path(path_at), resolve & ~_NO_XDEV
        base = call.copy_of(directory)
        found = self._beneath(call, base, path, flags & os.O_NOFOLLOW, resolve)
        try:
            others = os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL
            opened = call.kept(os.open(f"/proc/self/fd/{found}", flags & ~others | os.O_CLOEXEC))
            fcntl.ioctl(listener, _ADDFD, _NEW_FD.pack(call.id, _ADDFD_SEND, opened, 0, flags & os.O_CLOEXEC))
        except OSError as error:
            raise _Refused(error.errno) from error

    def _beneath(self, call: _Call, base: int, path: bytes, flags: int, resolve: int) -> int:
        """What the path leads to in our mount. ENOENT is ours to say if what there is of the path is in our mount."""
        missing = None
        while True:
            try:
                found = call.kept(_openat2(base, path or b".", _PATH | flags, resolve))
            except FileNotFoundError as error:
                if not path:
                    raise
                missing, path = error, os.path.dirname(path)  # noqa: PTH120
                continue
            self._tree(found)
            if missing is not None:
                raise _Refused(errno.ENOENT) from missing
            return found

    def _bpf(self, call: _Call) -> None:
        command, at, size = call.arguments[:3]
        if size > _ATTRIBUTES:
            raise _Continue
        attributes = ctypes.create_string_buffer(call.read(at, size), _ATTRIBUTES)
        target, program, _, flags, replaced = struct.unpack_from("<5I", attributes)
        theirs = call.copy_of(target)
        tree = self._tree(theirs)
        place = Path(os.readlink(f"/proc/self/fd/{theirs}"))  # noqa: PTH115
        if tree.covers is None or not place.is_relative_to(tree.mount) or not call.is_root():
            raise _Continue
        real = tree.covers / place.relative_to(tree.mount)
        top = call.kept(uffd.new_mount(b"cgroup2"))
        struct.pack_into("<I", attributes, 0, call.kept(os.open(real, os.O_RDONLY | os.O_CLOEXEC, dir_fd=top)))
        if command == seccomp.PROG_QUERY:
            self._query(call, attributes, at, size)
            return
        struct.pack_into("<i", attributes, 4, call.descriptor(program))
        if flags & _BPF_REPLACE:
            struct.pack_into("<i", attributes, 16, call.descriptor(replaced))
        call.check()
        try:
            uffd.syscall(seccomp.BPF, command, ctypes.addressof(attributes), size)
        except OSError as error:
            raise _Refused(error.errno) from error

    @staticmethod
    def _query(call: _Call, attributes: ctypes.Array[ctypes.c_char], at: int, size: int) -> None:
        """The ids of programs go to a buffer of ours, then to the task's."""
        ids_at, count, _, flags_at = struct.unpack_from("<QIIQ", attributes, 16)
        if count > _MAX_PROGRAMS or flags_at:
            raise _Continue
        ids = ctypes.create_string_buffer(4 * _MAX_PROGRAMS)
        struct.pack_into("<Q", attributes, 16, ctypes.addressof(ids) if ids_at else 0)
        refusal = None
        try:
            uffd.syscall(seccomp.BPF, seccomp.PROG_QUERY, ctypes.addressof(attributes), size)
        except OSError as error:
            refusal = _Refused(error.errno)
            if error.errno != errno.ENOSPC:  # some of the ids, and how many there are
                raise refusal from error
        (found,) = struct.unpack_from("<I", attributes, 24)
        if ids_at:
            call.write(ids_at, ids.raw[: 4 * min(count, found)])
        for start, end in ((12, 16), (24, 28), (56, 64)):  # attach_flags, prog_cnt, revision
            call.write(at + start, attributes.raw[start : min(end, size)])
        if refusal is not None:
            raise refusal


# ---- the process -----------------------------------------------------------------------------------


def serve(listener: int, mountinfo: int) -> None:
    """Answer until the last task with the filter has ended. The listener is closed in any case: nobody waits for us.

    `mountinfo`: that file, of a process that sees what the tasks see; we ourselves may be elsewhere.
    """
    try:
        with os.fdopen(mountinfo, "rb") as file:
            answers = Answers(trees(os.fsdecode(file.read())))
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:
            notification = bytearray(_NOTIFICATION.size)
            with contextlib.suppress(FileNotFoundError):  # the task has gone
                fcntl.ioctl(listener, _RECV, notification)
                answer = answers.answer(listener, bytes(notification))
                if answer is not None:
                    fcntl.ioctl(listener, _SEND, answer)
    finally:
        os.close(listener)


class Supervisor:
    """The process, as the daemon sees it. It starts with the first listener."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def take(self, fds: tuple[int, ...]) -> None:
        """Hand a listener and its mountinfo over; they stay the caller's too. OSError, e.g. EAGAIN."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._socket is not None
        wire.send(self._socket, wire.Packet(wire.LISTENER, fds=fds))

    def _start(self) -> None:
        self.close()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        # A fresh interpreter: a fork would keep the pool, and the lifelines of clients, beyond the daemon's death.
        path = str(Path(__file__).parents[2])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    def close(self) -> None:
        """Let it end when its last listener has."""
        if self._socket is not None:
            self._socket.close()


def main() -> None:
    with socket.socket(fileno=0) as daemon:
        while True:
            try:
                packet = wire.receive(daemon)
            except wire.BadPacket:  # no descriptor was free for the listener, which is closed now
                continue
            if packet is None:
                return
            threading.Thread(target=serve, args=packet.fds).start()


if __name__ == "__main__":
    main()
