"""System calls and ioctls that Python has no name for: userfaultfd, process_madvise, fsopen, mmap by address.

Numbers are those of x86-64 and hold for every 64-bit little-endian Linux except the system call numbers
(`SUPPORTED` says whether they do here). Everything raises OSError with the kernel's errno. Sources:
include/uapi/linux/userfaultfd.h, include/uapi/asm-generic/unistd.h of Linux 6.12; no compiler is needed.
"""

import ctypes
import errno
import itertools
import os
import platform
import struct
from array import array
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

from epcgroup.units import PAGE_SIZE

SUPPORTED = platform.system() == "Linux" and platform.machine() == "x86_64"
DEVICE = "/dev/userfaultfd"
SO_PEERPIDFD = 77  # the process at the other end of a Unix socket, as a pidfd

_SYS_PROCESS_MADVISE, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 440, 430, 431, 432
MADV_DONTFORK, MADV_PAGEOUT = 10, 21
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_PROT_READ_WRITE, _MAP_SHARED = 3, 1

_NEW = 0xAA00  # USERFAULTFD_IOC_NEW, on the device
_API, _REGISTER, _UNREGISTER, _WAKE = 0xC018AA3F, 0xC020AA00, 0x8010AA01, 0x8010AA02
_COPY, _WRITEPROTECT, _CONTINUE, _POISON = 0xC028AA03, 0xC018AA06, 0xC020AA07, 0xC020AA08
_API_VERSION = 0xAA
_MODE_MISSING, _MODE_WP, _MODE_MINOR = 1, 2, 4
_WP_DONTWAKE = 2

FEATURES = {
    "PAGEFAULT_FLAG_WP": 0, "EVENT_FORK": 1, "EVENT_REMAP": 2, "EVENT_REMOVE": 3, "MISSING_SHMEM": 5,
    "EVENT_UNMAP": 6, "MINOR_SHMEM": 10, "WP_HUGETLBFS_SHMEM": 12, "POISON": 14,
}  # fmt: skip
NEEDED = sum(1 << bit for bit in FEATURES.values())

EVENT_FAULT, EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
FLAG_WRITE, FLAG_WP, FLAG_MINOR = 1, 2, 4

_MESSAGE = struct.Struct("=B7xQQQ")
_Q2, _Q3, _Q4, _Q5 = struct.Struct("=QQ"), struct.Struct("=QQQ"), struct.Struct("=QQQQ"), struct.Struct("=QQQQQ")
_MESSAGES = [bytearray(_MESSAGE.size * 16)]  # of one read

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long


# One event. fault: flags, address, thread; fork: descriptor; remap: from, to, length; unmap: start, end.
Message = tuple[int, int, int, int]


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: int | bytes | None) -> int:
    # The variadic prototype would pass Python's int as a C int and cut addresses.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide))


# ---- memory -----------------------------------------------------------------------------------------


def map_shared(fd: int, size: int) -> int:
    """Map a file whole; the address. Python's own mmap would keep a duplicate of the descriptor."""
    address = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        _checked(-1)
    return int(address)


def unmap(address: int, size: int) -> None:
    _checked(_libc.munmap(address, size))


def madvise(address: int, size: int, advice: int) -> None:
    _checked(_libc.madvise(address, size, advice))


def new_tmpfs(size_bytes: int) -> int:
    """A tmpfs of a fixed size that stands in no directory: its descriptor. It is gone with its last descriptor."""
    return new_mount(b"tmpfs", size=b"%d" % size_bytes, huge=b"never", mode=b"700")


def new_mount(kind: bytes, **options: bytes) -> int:
    """A file system mounted in no directory, where nothing can cover it: the descriptor of its root."""
    context = syscall(_SYS_FSOPEN, kind, _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value, 0)
        syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def process_madvise(pidfd: int, ranges: Sequence[tuple[int, int]], advice: int) -> None:
    """Advise (address, length) of another process, at most 1024 in a call."""
    vector = array("Q", itertools.chain.from_iterable(ranges))
    syscall(_SYS_PROCESS_MADVISE, pidfd, vector.buffer_info()[0], len(ranges), advice, 0)


# ---- userfaultfd ------------------------------------------------------------------------------------


def new_from_device(device_fd: int) -> int:
    """A userfaultfd of the calling process; it also serves faults inside system calls."""
    return ioctl(device_fd, _NEW, os.O_CLOEXEC | os.O_NONBLOCK)


def enable(uffd: int, features: int = NEEDED) -> None:
    """UFFDIO_API; EINVAL when the kernel lacks a feature, or it was done before."""
    ioctl(uffd, _API, _Q3.pack(_API_VERSION, features, 0))


def register(uffd: int, address: int, length: int) -> None:
    ioctl(uffd, _REGISTER, _Q4.pack(address, length, _MODE_MISSING | _MODE_WP | _MODE_MINOR, 0))


def unregister(uffd: int, address: int, length: int) -> None:
    """No more events of the area; whoever waits for one of its pages tries again."""
    ioctl(uffd, _UNREGISTER, _Q2.pack(address, length))


def read_messages(uffd: int) -> list[Message]:
    """What has happened, up to 16 messages; [] when nothing. Never waits: whatever the client did to the flags."""
    try:
        n = os.preadv(uffd, _MESSAGES, -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return []
    return [_MESSAGE.unpack_from(_MESSAGES[0], at) for at in range(0, n, _MESSAGE.size)]


def copy(uffd: int, address: int, source: int) -> None:
    """Put one page there and wake whoever waits for it."""
    ioctl(uffd, _COPY, _Q5.pack(address, source, PAGE_SIZE, 0, 0))


def resume(uffd: int, address: int) -> None:
    """UFFDIO_CONTINUE: map the page that the file has."""
    ioctl(uffd, _CONTINUE, _Q4.pack(address, PAGE_SIZE, 0, 0))


def write_unprotect(uffd: int, address: int, length: int, *, wake: bool = True) -> None:
    ioctl(uffd, _WRITEPROTECT, _Q3.pack(address, length, 0 if wake else _WP_DONTWAKE))


def poison(uffd: int, address: int) -> None:
    """From now on an access to this missing page is SIGBUS."""
    ioctl(uffd, _POISON, _Q4.pack(address, PAGE_SIZE, 0, 0))


def wake(uffd: int, address: int, length: int = PAGE_SIZE) -> None:
    ioctl(uffd, _WAKE, _Q2.pack(address, length))


def nr_waiting(uffd: int) -> int:
    """How many threads wait in a fault."""
    for line in Path(f"/proc/self/fdinfo/{uffd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "total":
            return int(value)
    raise OSError(errno.ENOTSUP, "no count of waiting faults")
