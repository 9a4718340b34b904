"""What this host can do for `epcgroup up` and `epcgroup exec`: each need tried, not guessed, in well under a second.

`missing` is the one line that a command says instead of failing later; `survey` is what doctor lists. Nothing stays
behind: the trials are a tmpfs that stands nowhere, one page and a userfaultfd of this process.
"""

import ctypes
import importlib.util
import os
import socket
from pathlib import Path
from typing import NamedTuple

from epcgroup.live import cgroups, uffd
from epcgroup.units import PAGE_SIZE


class Finding(NamedTuple):
    """One need: `ok`, what was found, and (when it is not) what would help."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True  # False: something else is done without it


def survey() -> list[Finding]:
    """All needs, in the order in which to mend them."""
    findings = [
        Finding("platform", uffd.SUPPORTED, os.uname().sysname + " " + os.uname().machine, "Linux on x86-64"),
        Finding("page size", os.sysconf("SC_PAGE_SIZE") == PAGE_SIZE, str(os.sysconf("SC_PAGE_SIZE")), "pages of 4096"),
        Finding("root", os.geteuid() == 0, f"uid {os.geteuid()}", "run as root: sudo epcgroup ..."),
        _crypto(),
    ]
    if all(finding.ok for finding in findings[:3]):
        findings += [_peerpidfd(), *_paging()]
    mount = cgroups.mount_point() if uffd.SUPPORTED else None
    findings.append(
        Finding(
            "cgroup2",
            mount is not None,
            f"mounted at {mount}" if mount else "not mounted",
            "mount -t cgroup2 none DIRECTORY; without it all clients are in the root group",
            needed=False,
        )
    )
    return findings


def missing() -> str | None:
    """What the daemon lacks here, and what would help, in one line; None when it can run."""
    for finding in survey():
        if finding.needed and not finding.ok:
            return f"{finding.name}: {finding.found}; {finding.remedy}"
    return None


def _crypto() -> Finding:
    there = importlib.util.find_spec("cryptography") is not None
    return Finding("sealing", there, "cryptography" if there else "no cryptography", "pip install 'epcgroup[live]'")


def _peerpidfd() -> Finding:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, uffd.SO_PEERPIDFD))
        except OSError as error:
            return Finding("SO_PEERPIDFD", False, error.strerror or "", "Linux 6.5 or newer")
    return Finding("SO_PEERPIDFD", True, "works")


def _paging() -> list[Finding]:
    """A pool of one page, the userfaultfd with all its features, and unmapping without freeing."""
    try:
        pool = uffd.new_tmpfs(PAGE_SIZE)
    except OSError as error:
        return [Finding("pool", False, f"no tmpfs: {error.strerror}", "CAP_SYS_ADMIN, and Linux 5.2 or newer")]
    fds = [pool]
    findings = [Finding("pool", True, "a tmpfs can be made")]
    address = 0
    try:
        fds.append(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=pool))
        os.ftruncate(fds[-1], PAGE_SIZE)
        address = uffd.map_shared(fds[-1], PAGE_SIZE)
        remedy = "a kernel with CONFIG_USERFAULTFD and /dev/userfaultfd (Linux 6.6 or newer)"
        try:
            fds.append(os.open(uffd.DEVICE, os.O_RDWR | os.O_CLOEXEC))
            fds.append(uffd.new_from_device(fds[-1]))
            uffd.enable(fds[-1])
            uffd.register(fds[-1], address, PAGE_SIZE)
            uffd.read_messages(fds[-1])
        except OSError as error:
            return [*findings, Finding("userfaultfd", False, error.strerror or "", remedy)]
        findings.append(Finding("userfaultfd", True, "all features"))
        findings.append(_pageout(fds, address))
    finally:
        if address:
            uffd.unmap(address, PAGE_SIZE) if len(fds) < 4 else _unmap_registered(fds.pop(), address)
        for fd in fds:
            os.close(fd)
    return findings


def _unmap_registered(fd: int, address: int) -> None:
    # Its own munmap would wait for somebody to read the event.
    os.close(fd)
    uffd.unmap(address, PAGE_SIZE)


def _pageout(fds: list[int], address: int) -> Finding:
    """Does MADV_PAGEOUT of another process's page unmap it and keep it in the page cache?"""
    page = ctypes.create_string_buffer(2 * PAGE_SIZE)
    uffd.copy(fds[-1], address, (ctypes.addressof(page) + PAGE_SIZE - 1) & -PAGE_SIZE)
    fds.insert(0, os.pidfd_open(os.getpid()))
    remedy = "touches are seen by copying pages out instead, which costs more"
    try:
        uffd.process_madvise(fds[0], [(address, PAGE_SIZE)], uffd.MADV_PAGEOUT)
    except OSError as error:
        return Finding("PAGEOUT", False, error.strerror or "", remedy, needed=False)
    unmapped = not _is_mapped(address)
    kept = os.fstat(fds[2]).st_blocks > 0
    return Finding("PAGEOUT", unmapped and kept, "unmaps and keeps" if unmapped and kept else "does not", remedy, False)


def _is_mapped(address: int) -> bool:
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE_SIZE * 8)
        return bool(pagemap.read(8)[7] & 0x80)
