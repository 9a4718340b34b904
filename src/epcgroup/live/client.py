"""For programs: memory on the EPC pool of `epcgroup up`.

    with Enclave(8 << 20) as enclave:
        data = numpy.frombuffer(enclave.memory, numpy.int64)

The memory behaves like any other, except: it is shared with no child (a fork'ed child that touches it gets SIGSEGV),
no direct I/O into it, and no mremap, munmap, MADV_REMOVE or MADV_DONTNEED (SIGBUS). A page that cannot be served, a
page whose seal does not verify and the end of the daemon are SIGBUS. While a plain Python access waits for a page,
all threads of the program wait.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import time
from types import TracebackType
from typing import Self

from epcgroup.live import uffd, wire

_F_SETSIG = 10


class Enclave:
    """`size` bytes of enclave memory, zero at first. OSError: no daemon, or the errno of its refusal (ENOMEM).

    The first `built` pages are charged at once (EADD), the others at their first touch (EAUG).
    """

    def __init__(self, size: int, directory: str | None = None, built: int = 0) -> None:
        if not 0 < size < 1 << 64:
            raise ValueError(f"size {size} is not positive and below 2**64")
        self._daemon = wire.connect(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(self._daemon.close)
            self._attach(size, built > 0, undo)
            undo.pop_all()
        if built:
            try:
                self._build(built)
            except OSError:
                self.close()
                raise
        self.memory = memoryview((ctypes.c_ubyte * size).from_address(self.address)).cast("B")

    def _attach(self, size: int, to_be_built: bool, undo: contextlib.ExitStack) -> None:
        created = wire.ask(self._daemon, wire.Packet(wire.CREATE, a=size, b=int(to_be_built)))
        file, device, self._lifeline = created.fds
        undo.callback(os.close, self._lifeline)
        self._length, self.number = created.a, created.b
        try:
            self.address = uffd.map_shared(file, self._length)
            undo.callback(uffd.unmap, self.address, self._length)
            uffd.madvise(self.address, self._length, uffd.MADV_DONTFORK)
            # Our own copy stays open: while it does, a fault waits. Without it and without a daemon it would be a zero.
            self._uffd = uffd.new_from_device(device)
            undo.callback(os.close, self._uffd)  # before it unmaps, which would wait for a reader of the event
        finally:
            os.close(file)
            os.close(device)
        fcntl.fcntl(self._lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._lifeline, _F_SETSIG, signal.SIGBUS)
        fcntl.fcntl(self._lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        wire.ask(self._daemon, wire.Packet(wire.ATTACH, a=self.address, fds=(self._uffd,)))

    def _build(self, nr_pages: int) -> None:
        done = 0
        while done < nr_pages:
            added = wire.ask(self._daemon, wire.Packet(wire.ADD, a=done, b=nr_pages - done)).a
            done += added
            if not added:
                time.sleep(0.001)
        wire.ask(self._daemon, wire.Packet(wire.INIT))

    def close(self) -> None:
        """Give the memory back. What still looks at it (an array) must not be used any more: SIGSEGV."""
        if self._uffd < 0:
            return
        fcntl.fcntl(self._lifeline, fcntl.F_SETFL, os.O_NONBLOCK)
        with contextlib.suppress(ConnectionError):  # the daemon's end is the enclave's
            wire.ask(self._daemon, wire.Packet(wire.CLOSE))
        os.close(self._uffd)
        self._uffd = -1
        uffd.unmap(self.address, self._length)
        os.close(self._lifeline)
        self._daemon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
