"""System calls in a row, compiled: what the pager does to a batch of pages, and the wait for faults.

Between two system calls Python costs more than most of these calls do. `pages` are ascending page numbers (int64); a
run of neighbours is one call. The ioctls are those of uffd.py. What is compiled is kept where the ring is kept.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from epcgroup.machine import is_compiled  # noqa: F401 - that import says where

PAGE = 4096
UNMAPPED, MAPPED = 3, 2  # states of a page, see pager.py
SOFT = 64  # soft faults of one wait
_ESRCH, _EBADF, _EAGAIN = 3, 9, 11
_COPY, _WRITEPROTECT, _CONTINUE, _MODE_WP = 0xC028AA03, 0xC018AA06, 0xC020AA07, 1
_EVENT_FAULT = 0x12
_KEEP_SIZE_PUNCH_HOLE = 3
_RWF_NOWAIT = 8
_READ = 16  # messages of one read, each of four words: event, flags, address, thread
_EVENTS = 64  # of one epoll_wait, each of 12 bytes: events, descriptor
_ROWS = SOFT + _EVENTS * _READ

# Pointers are passed as numbers.
_i32, _i64 = types.int32, types.int64
_ioctl = types.ExternalFunction("ioctl", _i32(_i32, _i64, _i64))
_pread = types.ExternalFunction("pread", _i64(_i32, _i64, _i64, _i64))
_preadv2 = types.ExternalFunction("preadv2", _i64(_i32, _i64, _i32, _i64, _i32))
_fallocate = types.ExternalFunction("fallocate", _i32(_i32, _i32, _i64, _i64))
_fstatfs = types.ExternalFunction("fstatfs", _i32(_i32, _i64))
_epoll_wait = types.ExternalFunction("epoll_wait", _i32(_i32, _i64, _i32, _i32))
_clock_gettime = types.ExternalFunction("clock_gettime", _i32(_i32, _i64))
_errno_location = types.ExternalFunction("__errno_location", types.CPointer(_i32)())


def _compiled(function):
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@intrinsic
def _bytes_at(typingctx, address):
    """The bytes at an address."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), codegen


@intrinsic
def _words_at(typingctx, address):
    """The 64-bit numbers at an address: a call takes addresses in a tenth of the time that it takes arrays in."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@_compiled
def _run(pages, at):
    """How many of pages[at:] are neighbours."""
    n = 1
    while at + n < len(pages) and pages[at + n] == pages[at] + n:
        n += 1
    return n


@_compiled
def write_protect(uffd, address, pages):
    """After this no store reaches the pages: (pages done, errno). An address space that has gone has no writer."""
    words = np.empty(3, np.int64)
    at = 0
    while at < len(pages):
        n = _run(pages, at)
        words[0] = address + pages[at] * PAGE
        words[1] = n * PAGE
        words[2] = _MODE_WP
        if _ioctl(uffd, _WRITEPROTECT, words.ctypes.data) != 0:
            error = _errno_location()[0]
            if error != _ESRCH and error != _EBADF:
                return at, error
        at += n
    return at, 0


@_compiled
def copy(uffd, address, source):
    """Put one page there and wake whoever waits for it: 0 or an errno."""
    words = np.zeros(5, np.int64)
    words[0], words[1], words[2] = address, source, PAGE
    return 0 if _ioctl(uffd, _COPY, words.ctypes.data) == 0 else _errno_location()[0]


@_compiled
def read(file, pages, buffer):
    """Read the pages one behind the other into `buffer`: 0 or an errno. What the file does not have is zeros."""
    at = 0
    while at < len(pages):
        n = _run(pages, at)
        got = _pread(file, buffer[at * PAGE :].ctypes.data, n * PAGE, pages[at] * PAGE)
        if got < 0:
            return _errno_location()[0]
        buffer[at * PAGE + got : (at + n) * PAGE] = 0
        at += n
    return 0


@_compiled
def punch(file, pages):
    """Free the blocks of the pages; every mapping loses them: 0 or an errno."""
    at = 0
    while at < len(pages):
        n = _run(pages, at)
        if _fallocate(file, _KEEP_SIZE_PUNCH_HOLE, pages[at] * PAGE, n * PAGE) != 0:
            return _errno_location()[0]
        at += n
    return 0


# ---- waiting ---------------------------------------------------------------------------------------


class Ears:
    """Who is listened to: what `wait` reads, and where it writes what it has heard. `pool`: descriptor of the tmpfs."""

    def __init__(self, pool: int) -> None:
        self._pool = pool
        self._slots = np.full(64, -1)  # by descriptor: row of areas, -1: not an area's
        self._areas = np.zeros((16, 3), np.int64)  # address, pages, address of the page states (a byte each)
        self._heard = np.zeros((_ROWS, 5), np.int64)
        self._scratch = np.zeros(4 * _READ + 16 + 2 * _EVENTS, np.int64)
        self._words = self._heard.reshape(-1).data
        self._set_addresses()
        # Compile everything now, not while the first client waits.
        nothing = np.empty(0, np.int64)
        copy(-1, 0, 0), write_protect(-1, 0, nothing), read(-1, nothing, np.empty(0, np.uint8)), punch(-1, nothing)
        self.wait(-1, 0, 1)

    def _set_addresses(self) -> None:
        tables = (self._slots, self._areas, self._heard, self._scratch)
        context = np.array([0, self._pool, len(self._slots), *(table.ctypes.data for table in tables)])
        self._context, self._at = context.data, context.ctypes.data

    def add(self, fd: int, address: int, states: int) -> int:
        """Listen to an area's userfaultfd; its slot. No page of it is served by `wait` until `set_pages`."""
        used = set(self._slots.tolist())
        slot = next(i for i in range(len(self._areas) + 1) if i not in used)
        if slot == len(self._areas):
            self._areas = np.concatenate([self._areas, np.zeros_like(self._areas)])
        if fd >= len(self._slots):
            self._slots = np.concatenate([self._slots, np.full(fd, -1)])
        self._slots[fd] = slot
        self._areas[slot] = address, 0, states
        self._set_addresses()
        return slot

    def set_pages(self, fd: int, nr_pages: int) -> None:
        """How many pages of an area may be served by `wait`."""
        self._areas[self._slots[fd], 1] = nr_pages

    def remove(self, fd: int) -> int:
        """Stop to; the slot it had."""
        slot = int(self._slots[fd])
        self._slots[fd] = -1
        return slot

    @property
    def pages_in_pool(self) -> int:
        """What the kernel counted when the last wait ended."""
        return self._context[0]

    def wait(self, epoll: int, timeout: float | None, most: int) -> tuple[list[list[int]], list[list[int]], list[int]]:
        """Wait, at most `timeout` seconds, for something that is not just a page of state UNMAPPED to be mapped again,
        or for `most` of those.

        Returns messages (slot, event, flags, address, thread), pages that were mapped again (slot, page; the last one
        first), and ready descriptors that are no area's. All empty: interrupted, or nothing came. Event 0: an area's
        events cannot be read.
        """
        milliseconds = -1 if timeout is None else math.ceil(timeout * 1000)
        messages, soft, others = _wait(epoll, milliseconds, most, self._at)
        if soft == others == 0 and messages == 1:
            return [self._words[:5].tolist()], [], []
        behind = messages + others
        return (
            self._heard[:messages].tolist(),
            self._heard[len(self._heard) - soft :, :2].tolist(),
            self._heard[messages:behind, 0].tolist(),
        )


@_compiled
def _now(words_at):
    """CLOCK_MONOTONIC in ms."""
    words = _words_at(words_at)
    _clock_gettime(1, words_at)
    return words[0] * 1000 + words[1] // 1_000_000


@_compiled
def _wait(epoll, timeout, most, ears_at):
    """The number of messages, of soft faults, of other descriptors. Rows of `heard`: messages, then descriptors; soft
    faults from the last row up."""
    ears = _words_at(ears_at)
    nr_slots, scratch_at = ears[2], ears[6]
    slots, areas, heard = _words_at(ears[3]), _words_at(ears[4]), _words_at(ears[5])
    words_at = scratch_at + 8 * 4 * _READ
    buffer, words = _words_at(scratch_at), _words_at(words_at)
    events_at = scratch_at + 8 * (4 * _READ + 16)
    events = _bytes_at(events_at)
    fds = np.empty(_EVENTS, np.int64)
    messages = soft = others = 0
    end = _now(words_at) + timeout
    while True:
        n = _epoll_wait(epoll, events_at, _EVENTS, timeout)
        for i in range(n):
            at = 12 * i + 4
            fd = events[at] | events[at + 1] << 8 | events[at + 2] << 16 | events[at + 3] << 24
            slot = slots[fd] if fd < nr_slots else -1
            if slot < 0:
                fds[others] = fd
                others += 1
                continue
            address, nr_pages, states = areas[3 * slot], areas[3 * slot + 1], _bytes_at(areas[3 * slot + 2])
            words[0], words[1] = scratch_at, 8 * 4 * _READ
            got = _preadv2(fd, words_at, 1, -1, _RWF_NOWAIT)
            if got < 0 and _errno_location()[0] != _EAGAIN:
                buffer[0] = 0
                got = 8
            for word in range(0, got // 8, 4):
                event = buffer[word] & 0xFF
                page = (buffer[word + 2] - address) // PAGE
                if event == _EVENT_FAULT and 0 <= page < nr_pages and states[page] == UNMAPPED:
                    words[0], words[1], words[2], words[3] = address + page * PAGE, PAGE, 0, 0
                    if _ioctl(fd, _CONTINUE, words_at) == 0:
                        states[page] = MAPPED
                        soft += 1
                        heard[5 * (_ROWS - soft)] = slot
                        heard[5 * (_ROWS - soft) + 1] = page
                        continue
                heard[5 * messages] = slot
                heard[5 * messages + 1] = event
                for part in range(1, 4):
                    heard[5 * messages + 1 + part] = buffer[word + part]
                messages += 1
        if n <= 0 or others != 0 or messages != 0 or soft >= most:
            _fstatfs(ears[1], words_at)
            ears[0] = words[2] - words[3]  # blocks, free blocks
            for i in range(others):
                heard[5 * (messages + i)] = fds[i]
            return messages, soft, others
        if timeout >= 0:
            timeout = max(0, end - _now(words_at))
