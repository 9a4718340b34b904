"""Carries out, with real memory, what the machine has decided: write out, load, add, forget, poison.

It decides nothing. A page that is written out is write-protected (from then on a store waits in a fault), read,
punched out of the pool and sealed; a page that is loaded is verified and copied back, which wakes who waits. An
accessed bit that the machine has cleared becomes a page that is unmapped and kept (`unmap`): the next touch is a
fault, and so seen. `pageout` unmaps by process_madvise; without it the page is copied out and kept in plain (staged).

What an event of the kernel means is decided by the page's state here, not by the event's flags: events may be stale.
"""

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from epcgroup.live import batch, uffd
from epcgroup.live.pool import Pool
from epcgroup.live.store import SealError, Store
from epcgroup.units import PAGE_SIZE

# State of a page: never touched; in the store; mapped; unmapped but in the pool; in plain, waiting for a copy or a
# touch; SIGBUS for good; like STAGED, but its accessed bit is set (a recording looks for its touches).
NEW, SEALED, MAPPED, UNMAPPED, STAGED, POISONED, HIDDEN = range(7)
STATES = ("new", "sealed", "mapped", "unmapped", "staged", "poisoned", "hidden")
IN_POOL = (MAPPED, UNMAPPED)
assert (batch.MAPPED, batch.UNMAPPED) == IN_POOL

_PATIENCE = 10_000  # tries of a call that a client's mremap or munmap in progress refuses
_PER_CALL = 512  # runs unmapped by one process_madvise
_AT_ONCE = 64  # pages written out by one go
_GONE = (errno.ESRCH, errno.EBADF)  # the client's address space has ended

COUNTERS = ("loads", "write_outs", "added", "soft_faults", "unmapped", "seal_failures", "poisoned", "stale_events")


class Revoked(Exception):
    """The enclave cannot be kept right any more: the client changed its mapping, or lies."""


@dataclass(eq=False)
class Area:
    """An enclave's memory: file in the pool, mapping in the client, backing store."""

    id: str
    number: int
    nr_pages: int
    file: int
    store: Store
    uffd: int = -1  # set when the client has attached
    pidfd: int = -1
    address: int = 0
    last_fault: Sequence[int] | None = None  # a message, see uffd.py
    ended: bool = False  # it holds nothing of the pool any more
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def __post_init__(self) -> None:
        # Indexed a page at a time, which an array would take long for; its memory comes when it is written to.
        states = np.zeros(self.nr_pages, np.uint8)
        self.state, self.state_address = states.data, states.ctypes.data
        self.staged: dict[int, bytes] = {}
        self.in_pool = 0  # pages of state IN_POOL
        self.nr_poisoned = 0
        self.watches: dict[object, Callable[[int], None]] = {}  # called with the page of a fault before it is served
        self.hides = False  # it has had hidden pages

    def at(self, page: int) -> int:
        return self.address + page * PAGE_SIZE

    def stage(self, page: int, data: memoryview) -> None:
        self.staged[page] = bytes(data)


class Pager:
    """All areas of a pool. `drain_events` is called with an area whose client must be listened to before going on."""

    def __init__(self, pool: Pool, *, pageout: bool = True) -> None:
        self.pool = pool
        self.pageout = pageout
        self.areas: dict[str, Area] = {}
        self.in_pool = 0  # pages of all areas
        self.put_off: set[tuple[Area, int]] = set()  # staged pages whose copy the kernel has put off
        self.drain_events: Callable[[Area], None] = lambda area: None
        self._out = np.empty(_AT_ONCE * PAGE_SIZE, np.uint8)  # what is being written out
        self._page = memoryview(mmap.mmap(-1, PAGE_SIZE))  # what is copied from
        self._source = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._zeros = bytes(PAGE_SIZE)

    def new_area(self, id: str, number: int, nr_pages: int) -> Area:
        area = Area(id, number, nr_pages, self.pool.new_file(nr_pages), Store(number))
        self.areas[id] = area
        return area

    # ---- write out ---------------------------------------------------------------------------------

    def write_out(self, area: Area, pages: list[int]) -> None:
        """EWB of pages, each once; their order does not matter."""
        state = area.state
        in_pool = [page for page in pages if state[page] in IN_POOL]
        self._take_out(area, in_pool, area.store.seal, SEALED)
        area.counters["write_outs"] += len(in_pool)
        if len(in_pool) != len(pages):
            for page in set(pages).difference(in_pool):
                if state[page] in (STAGED, HIDDEN):
                    area.store.seal(page, area.staged.pop(page))
                    self.put_off.discard((area, page))
                    state[page] = SEALED
                    area.counters["write_outs"] += 1
                else:
                    assert state[page] == POISONED, f"write out of a page in state {state[page]}"

    def _take_out(self, area: Area, pages: list[int], keep: Callable[[int, memoryview], None], state: int) -> None:
        """Take pages that are in the pool out of it, into `state`; `keep` gets each page and its content."""
        pages = sorted(pages)
        for first in range(0, len(pages), _AT_ONCE):
            some = pages[first : first + _AT_ONCE]
            numbers = np.array(some, np.int64)
            self._protect(area, numbers)
            # Never through a mapping: that would keep PAGEOUT from unmapping, and allocate pages in holes.
            _check(batch.read(area.file, numbers, self._out))
            _check(batch.punch(area.file, numbers))
            area.in_pool -= len(some)
            self.in_pool -= len(some)
            content = self._out.data
            for i, page in enumerate(some):
                keep(page, content[i * PAGE_SIZE : (i + 1) * PAGE_SIZE])
                area.state[page] = state

    def _protect(self, area: Area, pages: npt.NDArray[np.int64]) -> None:
        for _ in range(_PATIENCE):
            done, error = batch.write_protect(area.uffd, area.address, pages)
            if error == 0:
                return
            if error != errno.EAGAIN:
                raise Revoked(f"write-protect: {os.strerror(error)}")
            # The client is inside munmap or mremap and goes on when its event has been read.
            pages = pages[done:]
            self.drain_events(area)
            os.sched_yield()
        raise Revoked("its mapping keeps changing")

    # ---- load --------------------------------------------------------------------------------------

    def load(self, area: Area, page: int) -> None:
        """ELDU of a page. A page whose seal does not verify is poisoned and counted."""
        if area.state[page] == POISONED:
            return
        assert area.state[page] == SEALED, f"load of a page in state {area.state[page]}"
        try:
            data = area.store.open(page)
        except SealError:
            area.counters["seal_failures"] += 1
            self.poison(area, page)
            return
        area.counters["loads"] += 1
        self._put(area, page, data)

    def add(self, area: Area, page: int) -> None:
        """EAUG: a page of zeros."""
        area.counters["added"] += 1
        self._put(area, page, self._zeros)

    def stage(self, area: Area, page: int) -> None:
        """EADD: a page of zeros that its first touch brings into the pool."""
        area.staged[page] = self._zeros
        area.state[page] = STAGED

    def put_back(self, area: Area, page: int) -> None:
        """Copy a staged page into the pool."""
        self.put_off.discard((area, page))
        self._put(area, page, area.staged.pop(page))

    def _put(self, area: Area, page: int, data: bytes) -> None:
        """Put a page into the pool. When the kernel puts it off, it is staged and in `put_off`."""
        self._page[:] = data
        error = batch.copy(area.uffd, area.address + page * PAGE_SIZE, self._source)
        if error:
            area.staged[page] = data
            area.state[page] = STAGED
            if error in (errno.EAGAIN, errno.ENOMEM):
                # ENOMEM: somebody takes pages behind our back, until the next audit.
                self.put_off.add((area, page))
            elif error not in _GONE:  # nobody is left to see it; its connection ends next
                raise Revoked(f"copy: {os.strerror(error)}")
            return
        area.state[page] = MAPPED
        area.in_pool += 1
        self.in_pool += 1

    # ---- accessed bits -----------------------------------------------------------------------------

    def unmap(self, area: Area, pages: list[int]) -> None:
        """Clear the accessed bits of mapped pages: the next touch of each is a fault."""
        area.counters["unmapped"] += len(pages)
        if not self.pageout:
            self._take_out(area, pages, area.stage, STAGED)
            return
        ranges = [(area.at(page), count * PAGE_SIZE) for page, count in _runs(pages)]
        for i in range(0, len(ranges), _PER_CALL):
            try:
                uffd.process_madvise(area.pidfd, ranges[i : i + _PER_CALL], uffd.MADV_PAGEOUT)
            except OSError as error:
                if error.errno not in _GONE:
                    raise Revoked(f"unmap: {error.strerror}") from error
        for page in pages:
            area.state[page] = UNMAPPED

    def hide(self, area: Area, page: int) -> None:
        """Copy a page out without clearing its accessed bit; nothing to do where it is not in the pool."""
        state = area.state[page]
        if state in IN_POOL:
            self._take_out(area, [page], area.stage, HIDDEN if state == MAPPED else STAGED)
            area.hides = True

    def clear_hidden(self, area: Area, pages: list[int]) -> None:
        """Clear the accessed bits of those of the pages that are hidden: they are out of the pool already."""
        for page in pages:
            if area.state[page] == HIDDEN:
                area.state[page] = STAGED
                area.counters["unmapped"] += 1

    def touched(self, area: Area, page: int) -> None:
        """A page that had been unmapped is touched: map it again."""
        area.counters["soft_faults"] += 1
        if area.state[page] == STAGED:
            self.put_back(area, page)
            return
        area.state[page] = MAPPED
        self.map_again(area, page)

    def map_again(self, area: Area, page: int) -> None:
        """A fault in a page of the pool that should be mapped."""
        try:
            uffd.resume(area.uffd, area.at(page))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                area.state[page] = UNMAPPED
                self.wake(area, page)  # it faults again, after the events that come first
            elif error.errno == errno.EEXIST:
                area.counters["stale_events"] += 1
                self.wake(area, page)
            elif error.errno not in _GONE:
                raise Revoked(f"continue: {error.strerror}") from error

    def unprotect(self, area: Area, page: int) -> None:
        """A stale write-protect fault: the page has come back meanwhile."""
        area.counters["stale_events"] += 1
        try:
            uffd.write_unprotect(area.uffd, area.at(page), PAGE_SIZE)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self.wake(area, page)
            elif error.errno not in _GONE:
                raise Revoked(f"unprotect: {error.strerror}") from error

    def wake(self, area: Area, page: int, count: int = 1) -> None:
        """Whoever waits for one of the pages tries again."""
        try:
            uffd.wake(area.uffd, area.at(page), count * PAGE_SIZE)
        except OSError as error:
            if error.errno not in _GONE:
                raise Revoked(f"wake: {error.strerror}") from error

    # ---- the end -----------------------------------------------------------------------------------

    def poison(self, area: Area, page: int) -> None:
        """From now on an access to the page, which is not in the pool, is SIGBUS."""
        area.counters["poisoned"] += 1
        area.nr_poisoned += 1
        area.staged.pop(page, None)
        self.put_off.discard((area, page))
        area.state[page] = POISONED
        try:
            # What is left of the write-protection of the page stands in the way.
            uffd.write_unprotect(area.uffd, area.at(page), PAGE_SIZE, wake=False)
            uffd.poison(area.uffd, area.at(page))
        except OSError as error:
            if error.errno not in _GONE:
                raise Revoked(f"poison: {error.strerror}") from error

    def empty(self, area: Area) -> None:
        """The enclave ends: its pages leave the pool."""
        area.ended = True
        os.ftruncate(area.file, 0)
        self.in_pool -= area.in_pool
        area.in_pool = 0
        self.put_off = {(which, page) for which, page in self.put_off if which is not area}

    def forget(self, area: Area) -> None:
        """Close an enclave that has ended; what still maps it gets SIGBUS."""
        if area.uffd >= 0:
            # ESRCH: nobody is left; EINVAL: it has unmapped some of it.
            with contextlib.suppress(OSError):
                uffd.unregister(area.uffd, area.address, area.nr_pages * PAGE_SIZE)
        del self.areas[area.id]


def _check(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    """Pages as (first, count) of neighbours, ascending."""
    runs: list[tuple[int, int]] = []
    first = count = -1
    for page in sorted(pages):
        if page == first + count:
            count += 1
            continue
        if count > 0:
            runs.append((first, count))
        first, count = page, 1
    if count > 0:
        runs.append((first, count))
    return runs
