"""What clients and the daemon say to each other: packets on a SOCK_SEQPACKET Unix socket, little-endian.

Every packet is a header of 24 bytes (op u32, errno u32, a u64, b u64) and up to 65,000 bytes of text; descriptors come
along by SCM_RIGHTS. A reply has the request's op and errno 0 or the kernel's number. One enclave a connection; the
connection's end is the enclave's.

  op         request                       reply
  CREATE 1   a: bytes wanted; b: 1 to      a: bytes to map (a power of two), b: number of the enclave; descriptors:
             build it with ADD and INIT    file to map, /dev/userfaultfd, lifeline
  ATTACH 2   a: address of the mapping;    -
             descriptor: its userfaultfd
  CLOSE 3    -                             - ; the memory may be unmapped from now on
  STATUS 4   -                             descriptor: a memfd with JSON
  READ 5     text: GROUP NUL FILE          text: the misc.* file
  WRITE 6    text: GROUP NUL FILE NUL TEXT - ; root only
  STOP 7     -                             - ; root only; the daemon ends
  ADD 8      a: first page, b: pages       a: pages of zeros added (EADD); fewer: no room, or enough for one request
  INIT 9     -                             -
  RECORD 10  text: GROUP; a: pages an      - ; root only; page faults of the group are written to the file, each
             enclave keeps mapped, 0:      8 bytes: number of the enclave u32, page u32
             no such bound; descriptor:
             a regular file to write to
  RECORD 10  -                             - ; it ends and is whole; errno: writing to the file failed
  LISTENER 11   descriptors: listener of   - ; root only; its notifications are answered, see `supervisor`
             a filter of `seccomp`, own
             /proc/self/mountinfo
  GROUPS 12  text: words, each followed    a: charges refused since the start
             by NUL: = GROUP, + GROUP,
             - GROUP

A process is in the group that it has in cgroup2. GROUPS is for who mounts their files (root only, but for no words at
all): "=" makes a group if there is none, "+" one with all its numbers at 0, "-" ends it, its charges stay above it.
Pages that are not added come into being with their first touch (EAUG).

Between CREATE and ATTACH a client maps the file shared and whole, closes it, calls madvise(MADV_DONTFORK), gets a
userfaultfd by ioctl(0xAA00, O_CLOEXEC | O_NONBLOCK) on the device, keeps its own copy open as long as the mapping
lives, and arms the lifeline: F_SETOWN itself, F_SETSIG SIGBUS, O_ASYNC. When the daemon dies the lifeline hangs up
and the client gets SIGBUS; else it would wait for ever, or see zeros.
"""

import array
import errno
import json
import os
import socket
import struct
from typing import Any, NamedTuple

from epcgroup import interface

CREATE, ATTACH, CLOSE, STATUS, READ, WRITE, STOP, ADD, INIT, RECORD, LISTENER, GROUPS = range(1, 13)
_HEADER = struct.Struct("<IIQQ")
RECORDED = struct.Struct("<II")  # of a recording: number of the enclave, page
MAX_PACKET = 65_024
MAX_FDS = 4
DEFAULT_DIRECTORY = "/run/epcgroup"
SOCKET_NAME = "socket"


class Packet(NamedTuple):
    op: int
    errno: int = 0
    a: int = 0
    b: int = 0
    text: bytes = b""
    fds: tuple[int, ...] = ()


class BadPacket(Exception):
    """Not a packet: too short, too long, or too many descriptors. Its descriptors have been closed."""


def default_directory() -> str:
    """Where the daemon's socket is: $EPCGROUP_RUN or /run/epcgroup."""
    return os.environ.get("EPCGROUP_RUN") or DEFAULT_DIRECTORY


def send(to: socket.socket, packet: Packet) -> None:
    """One packet; the descriptors stay the caller's. BlockingIOError when the other side does not read."""
    header = _HEADER.pack(packet.op, packet.errno, packet.a, packet.b)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", packet.fds))] if packet.fds else []
    to.sendmsg([header, packet.text], rights, socket.MSG_NOSIGNAL)


def receive(of: socket.socket) -> Packet | None:
    """The next packet, its descriptors now the caller's; None when the other side has gone. BadPacket."""
    data, ancillary, flags, _ = of.recvmsg(MAX_PACKET, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(rights[: len(rights) // 4 * 4])
            fds.extend(numbers)
    if not data and not fds:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) < _HEADER.size:
        for fd in fds:
            os.close(fd)
        raise BadPacket
    op, number, a, b = _HEADER.unpack_from(data)
    return Packet(op, number, a, b, data[_HEADER.size :], tuple(fds))


def connect(directory: str | None = None) -> socket.socket:
    """A connection to the daemon. OSError; FileNotFoundError or ConnectionRefusedError when there is none."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        peer.connect(os.path.join(directory or default_directory(), SOCKET_NAME))  # noqa: PTH118
    except OSError:
        peer.close()
        raise
    return peer


def ask(peer: socket.socket, packet: Packet) -> Packet:
    """Send and wait for the answer; OSError with the errno it carries."""
    send(peer, packet)
    try:
        answer = receive(peer)
    except BadPacket:
        raise OSError(errno.EPROTO, "not an answer of the daemon") from None
    if answer is None:
        raise ConnectionResetError(errno.ECONNRESET, "the daemon has closed the connection")
    if answer.errno:
        raise OSError(answer.errno, os.strerror(answer.errno))
    return answer


def limit(group: str, limit_bytes: int | None) -> Packet:
    """The request that writes a group's misc.max; None: max."""
    line = interface.max_line(interface.EPC, interface.UNLIMITED if limit_bytes is None else limit_bytes)
    return Packet(WRITE, text=os.fsencode(f"{group}\0misc.max\0{line}"))


def status_of(answer: Packet) -> dict[str, Any]:
    """What the answer to STATUS says; its descriptor is closed."""
    (fd,) = answer.fds
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        found: dict[str, Any] = json.load(file)
    return found
