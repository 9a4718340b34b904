"""Sees faults that get no answer: each is a defect of ours, or a kernel that puts a copy off for long.

A fault is stalled when a thread has waited in one since the last look, its enclave has asked for nothing new since,
and the machine is not what it waits for (no room: that may last). It is reported, once a look, and woken, so that it
asks again. A thread that stalls while others of its enclave are served is seen when these rest.
"""

from collections.abc import Callable, Collection, Sequence

from epcgroup.live import uffd
from epcgroup.live.pager import STATES, Area, Pager
from epcgroup.units import PAGE_SIZE


class Watchdog:
    """`say` gets a line for each stalled enclave; `stalled` counts them."""

    def __init__(self, pager: Pager, say: Callable[[str], None]) -> None:
        self.stalled = 0
        self._pager = pager
        self._say = say
        self._last: dict[str, Sequence[int]] = {}  # of each enclave in which somebody waited

    def look(self, without_room: Collection[tuple[Area, int]]) -> None:
        """Compare with the last look. `without_room`: the faults that wait for the machine."""
        last, self._last = self._last, {}
        excused = {area.id for area, _ in without_room}
        for area in list(self._pager.areas.values()):
            message = area.last_fault
            if message is None or area.ended or area.id in excused or not _somebody_waits(area):
                continue
            if last.get(area.id) is message:
                self._report(area, (message[2] - area.address) // PAGE_SIZE)
            self._last[area.id] = message

    def _report(self, area: Area, page: int) -> None:
        self.stalled += 1
        put_off = [page for which, page in self._pager.put_off if which is area]
        if put_off:
            page, state = min(put_off), "put off by the kernel"
        else:
            state = STATES[area.state[page]]
        self._say(f"enclave {area.id}: a fault in page {page} ({state}) has no answer; it is asked again")
        self._pager.wake(area, 0, area.nr_pages)


def _somebody_waits(area: Area) -> bool:
    try:
        return uffd.nr_waiting(area.uffd) > 0
    except OSError:  # no descriptor left to look with
        return False
