"""Threads of one client fault at once, in the same page and in different ones; a fault that is lost is found again."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from conftest import is_mapped, stand_until

from epcgroup.live import daemon, uffd
from epcgroup.live.pager import MAPPED

Boot = Callable[..., Any]

# memset lets go of the GIL, so that all threads are in a fault at the same time.
TOGETHER = """
import ctypes
libc = ctypes.CDLL(None)
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
with Enclave(64 * PAGE) as enclave:
    m = enclave.memory
    for page in range(64):
        m[page * PAGE + 100] = page
    say("filled")
    hear()
    pages = [5, 5, 5, 5, 9, 10, 11, 12]
    threads = [
        threading.Thread(target=libc.memset, args=(enclave.address + page * PAGE + n, n + 1, 1))
        for n, page in enumerate(pages)
    ]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say(*(m[page * PAGE + n] for n, page in enumerate(pages)))
    say(all(m[page * PAGE + 100] == page for page in range(64)))
"""


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
def test_threads_that_fault_at_once_are_all_served(live: Boot, pageout: bool) -> None:
    node = live(128, pageout=pageout)
    node.limit("/g", 32)
    client = node.client(TOGETHER, group="/g")
    assert client.line() == "filled"
    (area,) = node.pager.areas.values()
    assert set(range(16)) <= set(area.store.sealed)
    client.tell()
    stand_until(lambda: uffd.nr_waiting(area.uffd) == 8)
    assert client.line() == "1 2 3 4 5 6 7 8"
    assert client.line() == "True"
    assert client.ended() == 0


def test_a_fault_without_an_answer_is_reported_once_a_look_and_asked_again(
    live: Boot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is mapped again in our books, but nobody tells the kernel: the client would wait for ever."""
    monkeypatch.setattr(daemon, "WATCH_SECONDS", math.inf)  # only this test looks
    node = live(128)
    client = node.client(
        """
enclave = Enclave(16 * PAGE)
m = enclave.memory
for page in range(16):
    m[page * PAGE] = page + 1
say("filled")
hear()
say(m[3 * PAGE])
"""
    )
    assert client.line() == "filled"
    (area,) = node.pager.areas.values()
    node.pager.unmap(area, [3])
    while is_mapped(client.pid, area.at(3)):
        uffd.process_madvise(area.pidfd, [area.at(3)], uffd.MADV_PAGEOUT)
    monkeypatch.setattr(uffd, "resume", lambda fd, address: None)
    area.watches[node] = lambda page: None  # who is watched is served by `uffd`, not by compiled code
    node.daemon.faults.set_watched(area)
    client.tell()
    node.until(lambda: area.state[3] == MAPPED)
    monkeypatch.undo()
    watchdog = node.daemon.watchdog
    watchdog.look([])
    assert watchdog.stalled == 0
    watchdog.look([])
    assert client.line() == "4"
    assert node.daemon.status()["stalled"] == 1
    assert capsys.readouterr().err == (
        f"epcgroup: enclave {area.id}: a fault in page 3 (mapped) has no answer; it is asked again\n"
    )
    assert client.ended() == 0
