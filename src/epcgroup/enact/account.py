"""What the threads of a client process have done, in memory that it shares with the process that watches it.

A row of integers a thread, written by that thread alone and read at any time; it is still there when the client has
been killed. Times are nanoseconds.
"""

import mmap
import os

import numpy as np
import numpy.typing as npt

from epcgroup.trace import STALL_BUCKETS

# A row: page touches completed; time computing between them, lost in faults, runnable without a CPU, building the
# enclave; faults of each duration (trace.py).
TOUCHES, BUSY, STALL, WAIT, BUILD, STALLS = range(6)
ROW = STALLS + STALL_BUCKETS
# Row 0: the client's errno when the daemon refused to create an enclave; set by the watcher: threads are to end.
REFUSED, STOP = range(2)


class Account:
    """The rows of `threads` threads. `fd` (a memfd) can be inherited by the client, which opens it with `of`."""

    def __init__(self, threads: int, fd: int = -1) -> None:
        size = (threads + 1) * ROW * 8
        self.fd = fd
        if fd < 0:
            self.fd = os.memfd_create("account", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
        rows: npt.NDArray[np.int64] = np.frombuffer(mmap.mmap(self.fd, size), np.int64).reshape(threads + 1, ROW)
        self.client, self.threads = rows[0], rows[1:]

    def close(self) -> None:
        os.close(self.fd)

    def total(self, field: int) -> int:
        return int(self.threads[:, field].sum())

    def stalls(self) -> npt.NDArray[np.int64]:
        """Faults of all threads by duration."""
        counts: npt.NDArray[np.int64] = self.threads[:, STALLS:].sum(axis=0)
        return counts
