"""The EPC: a tmpfs of exactly its size, mounted nowhere.

The kernel itself then holds every client to the pool, whatever it does with its descriptor, and counts the pages
independently of us (`used_pages`). An enclave is a nameless file in it. With the daemon's last descriptor, however
it died, the pool is gone: there is nothing to unmount.
"""

import os

from epcgroup.live import uffd
from epcgroup.units import PAGE_SIZE

LEAST_BYTES, MOST_BYTES = 1 << 18, 1 << 40  # of `epcgroup up`


class Pool:
    """A pool of nr_pages EPC pages. OSError EPERM without CAP_SYS_ADMIN."""

    def __init__(self, nr_pages: int) -> None:
        self.nr_pages = nr_pages
        self.fd = uffd.new_tmpfs(nr_pages * PAGE_SIZE)

    def new_file(self, nr_pages: int) -> int:
        """A descriptor of an empty file of so many pages; it uses no page of the pool yet."""
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        os.ftruncate(fd, nr_pages * PAGE_SIZE)
        return fd

    def used_pages(self) -> int:
        """What the kernel counts."""
        stat = os.fstatvfs(self.fd)
        return stat.f_blocks - stat.f_bfree

    def close(self) -> None:
        os.close(self.fd)


def pages_of_file(fd: int) -> int:
    """Pages of the pool that a file has, as the kernel counts."""
    return os.fstat(fd).st_blocks * 512 // PAGE_SIZE
