"""Page faults: what the machine decides about them, and the pager carrying it out.

Knows enclaves (areas) and their userfaultfds, no sockets. A fault that the machine refuses is SIGBUS; one that finds
no room yet is repeated, as a processor does, for as long as it takes. An area that cannot be kept right any more is
`revoke`d: whoever made this decides what that means, and must then mark it ended.
"""

import os
from collections.abc import Callable, Sequence

from epcgroup.live import batch, uffd
from epcgroup.live.pager import HIDDEN, MAPPED, NEW, POISONED, SEALED, STAGED, UNMAPPED, Area, Pager, Revoked
from epcgroup.machine import TP_AGE, TP_ELDU, TP_EWB, TP_OOM, Machine
from epcgroup.units import PAGE_SIZE

_FAULT = uffd.EVENT_FAULT
FAULT_TRIES = 16  # a turn, of a fault that finds no room, each after all reclaim that was wanted
WAIT_SECONDS = 0.01  # until a fault that found no room is tried again


class Faults:
    """The faults of all areas of `pager`. Areas and the machine's enclaves have the same ids."""

    def __init__(self, machine: Machine, pager: Pager, revoke: Callable[[Area], None]) -> None:
        self.machine = machine
        self.pager = pager
        self.unserved = 0
        self.waiting: list[tuple[Area, int]] = []  # faults that found no room
        self._revoke = revoke
        self._late: list[tuple[Area, uffd.Message]] = []  # heard while something else was done
        self._ksgxd_runs = False
        self.soft_a_turn = batch.SOFT  # so many faults that only map a page again make a turn
        self._ears = batch.Ears(pager.pool.fd)
        self._areas: dict[int, Area] = {}  # by slot of the ears
        self._heard: list[list[int]] = []
        self._mapped_again: list[list[int]] = []
        pager.drain_events = self._listen_to

    # ---- a turn ------------------------------------------------------------------------------------

    def attach(self, area: Area) -> None:
        """Listen to an area's userfaultfd, which is in the epoll from now on."""
        self._areas[self._ears.add(area.uffd, area.address, area.state_address)] = area
        self.set_watched(area)

    def set_watched(self, area: Area) -> None:
        """The area's watches have changed. Where there are any, each fault is theirs first."""
        if area.uffd >= 0:
            self._ears.set_pages(area.uffd, 0 if area.watches else area.nr_pages)

    def detach(self, area: Area) -> None:
        del self._areas[self._ears.remove(area.uffd)]

    def wait(self, epoll: int, timeout: float | None) -> list[int]:
        """Wait for something, at most `timeout` seconds; the ready descriptors that are not an area's. What areas have
        to say is for `hear`, but faults that only map a page again have been served."""
        self._heard, self._mapped_again, others = self._ears.wait(epoll, timeout, self.soft_a_turn)
        return others

    def pool_is_as_counted(self) -> bool:
        """When the last wait ended, did the kernel count as many pages in the pool as we do?"""
        return self._ears.pages_in_pool == self.pager.in_pool

    def hear(self) -> None:
        """Deal with what areas had to say."""
        if self._mapped_again:
            self._tell_touches()
        for slot, *message in self._heard:
            self._message(self._areas[slot], message)

    def _tell_touches(self) -> None:
        """Tell the machine of the pages that were mapped again, before it decides anything."""
        pages: dict[int, list[int]] = {}
        for slot, page in self._mapped_again:
            pages.setdefault(slot, []).append(page)
        for slot, touched in pages.items():
            area = self._areas[slot]
            area.counters["soft_faults"] += len(touched)
            area.last_fault = (uffd.EVENT_FAULT, 0, area.at(touched[0]), 0)
            self.machine.touch(area.id, touched)

    def turn(self) -> None:
        """What is left to do when everybody has been heard."""
        if self._late or self.waiting:
            self._catch_up()
        self._background()
        if self.pager.put_off:
            self._put_back()

    def _catch_up(self) -> None:
        while self._late:
            self._message(*self._late.pop(0))
        waiting, self.waiting = self.waiting, []
        for area, page in waiting:
            if not area.ended and area.state[page] in (NEW, SEALED):
                self._try_again(area, page)

    def _put_back(self) -> None:
        for area, page in [*self.pager.put_off]:
            try:
                if not area.ended:
                    self.pager.put_back(area, page)
            except Revoked:
                self._revoke(area)

    def patience(self) -> float | None:
        """Seconds until the next turn has something to do even when nobody says anything; None: nothing."""
        if self.pager.put_off:
            return 0.001
        if self._ksgxd_runs or self._late:
            return 0
        return WAIT_SECONDS if self.waiting else None

    def forget(self, area: Area) -> None:
        """The area ends: nobody waits in it any more."""
        self.waiting = [(which, page) for which, page in self.waiting if which is not area]
        self._late = [(which, message) for which, message in self._late if which is not area]

    def _background(self) -> None:
        """Queued reclaim works, and one batch of ksgxd: clients run between two batches."""
        ksgxd, works = self.machine.woken()
        if works:
            self.machine.run_works()
            self.carry_out()
        if ksgxd or self._ksgxd_runs:
            self._ksgxd_runs = not self.machine.ksgxd(1)
            self.carry_out()

    # ---- a fault -----------------------------------------------------------------------------------

    def _try_again(self, area: Area, page: int) -> None:
        try:
            self._fault(area, page, 0)
        except Revoked:
            self._revoke(area)

    def _listen_to(self, area: Area) -> None:
        """Read an area's events while something is being done for it; faults are dealt with later in the turn."""
        self._late.extend((area, message) for message in self._read(area))

    def _read(self, area: Area) -> list[uffd.Message]:
        try:
            return uffd.read_messages(area.uffd)
        except OSError:  # EMFILE: what it forks with the mapping has no descriptor here
            self._revoke(area)
            return []

    def _message(self, area: Area, message: Sequence[int]) -> None:
        event, flags, address, _ = message
        if event != _FAULT:
            # fork with the mapping, mremap, munmap, MADV_REMOVE or MADV_DONTNEED (the event does not say which of the
            # two): what it would see could be wrong, so it sees nothing any more. Or its events cannot be read (EMFILE:
            # what it forks with the mapping has no descriptor here).
            if event == uffd.EVENT_FORK:
                os.close(flags & 0xFFFFFFFF)
            if not area.ended:
                self._revoke(area)
            return
        if area.ended:
            return
        area.last_fault = message
        page = (address - area.address) // PAGE_SIZE
        try:
            if not 0 <= page < area.nr_pages:
                raise Revoked("a fault outside")
            if area.watches:
                for watch in area.watches.values():
                    watch(page)
            self._fault(area, page, flags)
        except Revoked:
            self._revoke(area)

    def _fault(self, area: Area, page: int, flags: int) -> None:
        state = area.state[page]
        if state in (NEW, SEALED):
            stop = self._touch_absent(area.id, page, state == NEW)
            self.carry_out()
            if area.ended:
                return
            if stop == "EBUSY":
                self.waiting.append((area, page))
            elif stop is not None:
                self.unserved += 1
                self.pager.poison(area, page)
            elif state == NEW:
                self.pager.add(area, page)
        elif state in (UNMAPPED, STAGED):
            self.machine.fault(area.id, page)
            self.pager.touched(area, page)
        elif state == HIDDEN:
            self.pager.put_back(area, page)
        elif state == POISONED:
            self.pager.wake(area, page)
        elif flags & uffd.FLAG_WP:
            self.pager.unprotect(area, page)
        else:
            assert state == MAPPED
            self.pager.map_again(area, page)

    def _touch_absent(self, name: str, page: int, new: bool) -> str | None:
        """The machine's part of a fault in a page that is not on the EPC."""
        if new and self.machine.series == "v2":
            # v2 cannot reclaim a page that was added by a fault (EAUG) and hangs or dies of it. Here its enclaves stay
            # uninitialised, and each page is added (EADD) before its first touch.
            batch = self.machine.add_pages(name, page)
            if batch.stop is not None:
                return batch.stop
        return self.machine.fault(name, page, retry=FAULT_TRIES)

    # ---- carrying out ------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Do what the machine has decided since the last time. Pages of an area that are written out in a row form one
        batch; pages whose accessed bit was cleared are unmapped at the end, so that their next touch is seen, and
        before a load wakes who could touch them."""
        aged: dict[Area, list[int]] = {}
        written: list[int] = []
        writing: Area | None = None
        for kind, name, first, count in self.machine.drain():
            area = self.pager.areas.get(name)
            # The SECS (page -1) is charged and counted like any page, but holds no data here.
            if area is None or area.ended or (kind != TP_OOM and first < 0):
                continue
            pages = range(first, first + count)
            if writing is not None and (kind != TP_EWB or area is not writing):
                self._write_out(writing, written)
                writing, written = None, []
            if kind == TP_EWB:
                writing = area
                written += pages
            elif kind == TP_ELDU:
                self._unmap_all(aged)
                self._load(area, pages)
            elif kind == TP_AGE:
                aged.setdefault(area, []).extend(pages)
            else:
                self._revoke(area)
        if writing is not None:
            self._write_out(writing, written)
        self._unmap_all(aged)

    def _write_out(self, area: Area, pages: list[int]) -> None:
        try:
            if not area.ended:
                self.pager.write_out(area, pages)
        except Revoked:
            self._revoke(area)

    def _load(self, area: Area, pages: range) -> None:
        try:
            for page in pages:
                self.pager.load(area, page)
        except Revoked:
            self._revoke(area)

    def _unmap_all(self, aged: dict[Area, list[int]]) -> None:
        while aged:
            self._unmap(*aged.popitem())

    def _unmap(self, area: Area, pages: list[int]) -> None:
        state = area.state
        if area.hides:
            self.pager.clear_hidden(area, pages)
        mapped = [page for page in pages if state[page] == MAPPED]
        try:
            if mapped and not area.ended:
                self.pager.unmap(area, mapped)
        except Revoked:
            self._revoke(area)
