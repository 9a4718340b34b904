"""The live daemon as the bench runs it: `python -m bench.live.serve DIRECTORY PAGES machine|fifo`.

`machine` is the daemon as it is. `fifo` is the same daemon with the machine left out of the faults: 1024 pages an
enclave, first in first out, 16 written out at a time, as the comparator in C does; what remains is the loop, the pager
and the seals. SIGUSR1: unmap all mapped pages, as if the machine had cleared their accessed bits.
"""

import signal
import sys
from collections import defaultdict, deque
from types import FrameType
from typing import ClassVar

from epcgroup.live.daemon import Daemon
from epcgroup.live.faults import Faults
from epcgroup.live.pager import MAPPED, NEW, SEALED, Area
from epcgroup.units import PAGE_SIZE

BATCH = 16


class FifoFaults(Faults):
    """Faults without the machine: `limit` pages an area."""

    limit = 0
    fifos: ClassVar[defaultdict[str, deque[int]]] = defaultdict(deque)

    def _fault(self, area: Area, page: int, flags: int) -> None:
        state = area.state[page]
        if state not in (NEW, SEALED):
            super()._fault(area, page, flags)
            return
        pages = self.fifos[area.id]
        if len(pages) == self.limit:
            self.pager.write_out(area, sorted(pages.popleft() for _ in range(BATCH)))
        pages.append(page)
        if state == SEALED:
            self.pager.load(area, page)
        else:
            self.pager.add(area, page)


def main() -> None:
    directory, pages, what = sys.argv[1:]
    daemon = Daemon(directory, int(pages) * PAGE_SIZE)
    if what == "fifo":
        daemon.faults.__class__ = FifoFaults
        FifoFaults.limit = 1024

    def unmap_all(number: int, frame: FrameType | None) -> None:
        for area in daemon.pager.areas.values():
            daemon.pager.unmap(area, [page for page in range(area.nr_pages) if area.state[page] == MAPPED])
        print("unmapped", flush=True)

    signal.signal(signal.SIGUSR1, unmap_all)
    print("ready", flush=True)
    try:
        daemon.serve()
    finally:
        daemon.close()


if __name__ == "__main__":
    main()
