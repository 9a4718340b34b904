"""What the daemon writes down for `epcgroup record`: enclave and page of every fault it serves, in their order.

A fault is a page's first touch, a load, or the touch of a page whose accessed bit the machine had cleared. With a
`window` an enclave keeps only its last `window` pages mapped, and so nearly every switch to another page is a fault:
the others are hidden, copied out of the pool behind the machine's back, before the new one comes. For the machine
they stay where they are, young; touching one changes nothing there, so a recording does not change what is paged.

The records go to a regular file that the recorder has opened: nobody has to read for the daemon to go on.
"""

import errno
import os
import stat

from epcgroup.live import wire
from epcgroup.live.pager import HIDDEN, MAPPED, POISONED, Area, Pager

_FLUSH_AT = 1 << 16  # bytes


class Recording:
    """Of the enclaves of a group and of the groups below it. OSError EINVAL: `file` is not a regular file."""

    def __init__(self, file: int, group: str, window: int) -> None:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "a regular file is wanted")
        self._file = os.dup(file)
        self._group = group.rstrip("/") + "/"
        self.window = window  # pages; 0: whatever the machine leaves mapped
        self._buffer = bytearray()
        self._error = 0  # errno of the write that failed; it was the last

    def covers(self, group: str) -> bool:
        return f"{group.rstrip('/')}/".startswith(self._group)

    def put(self, enclave: int, page: int) -> None:
        if self._error:
            return
        self._buffer += wire.RECORDED.pack(enclave, page)
        if len(self._buffer) >= _FLUSH_AT:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._buffer:
                del self._buffer[: os.write(self._file, self._buffer)]
        except OSError as error:
            self._error = error.errno or errno.EIO
            self._buffer.clear()

    def close(self) -> int:
        """The end; 0, or the errno of the write that failed."""
        self._flush()
        os.close(self._file)
        return self._error


class Watch:
    """A recording's look at one enclave. Revoked when a page cannot be hidden."""

    def __init__(self, recording: Recording, pager: Pager, area: Area) -> None:
        self._recording = recording
        self._pager = pager
        self._area = area
        self._mapped: list[int] = []  # with a window: the pages that are, the one longest there first
        if recording.window and area.in_pool:
            states = bytes(area.state)
            page = states.find(MAPPED)
            while page != -1:
                pager.hide(area, page)
                page = states.find(MAPPED, page + 1)

    def fault(self, page: int) -> None:
        """A page is about to be served."""
        state = self._area.state[page]
        if state == POISONED or (state == HIDDEN and not self._recording.window):
            return
        self._recording.put(self._area.number, page)
        if not self._recording.window:
            return
        if page in self._mapped:
            self._mapped.remove(page)
        if len(self._mapped) == self._recording.window:
            self._pager.hide(self._area, self._mapped.pop(0))
        self._mapped.append(page)
