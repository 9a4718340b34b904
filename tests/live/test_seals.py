"""What is in the backing store and not what was written out last is SIGBUS and counted, never data."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

Boot = Callable[..., Any]

READS_PAGE_0 = """
enclave = Enclave(256 * PAGE)
m = enclave.memory
def fill(value):
    for page in range(256):
        m[page * PAGE] = value
    say(value)
    hear()
fill(1)
fill(2)
say(m[0])
hear()
"""


def _flip(store: Any, old: dict[int, bytes]) -> None:
    sealed = bytearray(store.sealed[0])
    sealed[100] ^= 1
    store.sealed[0] = bytes(sealed)


def _exchange(store: Any, old: dict[int, bytes]) -> None:
    store.sealed[0], store.sealed[1] = store.sealed[1], store.sealed[0]


def _replay(store: Any, old: dict[int, bytes]) -> None:
    store.sealed[0] = old[0]


def _cut(store: Any, old: dict[int, bytes]) -> None:
    store.sealed[0] = store.sealed[0][:-1]


def _lose(store: Any, old: dict[int, bytes]) -> None:
    del store.sealed[0]


@pytest.mark.parametrize("tamper", [_flip, _exchange, _replay, _cut, _lose])
def test_a_tampered_store_is_sigbus_and_counted(live: Boot, tamper: Callable[..., None]) -> None:
    node = live(128)
    client = node.client(READS_PAGE_0, group="/g")
    assert client.line() == "1"
    (area,) = node.pager.areas.values()
    old = dict(area.store.sealed)
    assert 0 in old and 1 in old
    client.tell()
    assert client.line() == "2"
    assert 0 in area.store.sealed and area.store.sealed[0] != old[0]
    tamper(area.store, old)
    client.tell()
    assert client.ended() == -signal.SIGBUS
    node.settle()
    assert node.counters("/g")["seal_failures"] == 1
    assert node.counters("/g")["poisoned"] == 1


def test_an_untouched_store_gives_the_data_back(live: Boot) -> None:
    """The control of the above."""
    node = live(128)
    client = node.client(READS_PAGE_0, group="/g")
    assert client.line() == "1"
    client.tell()
    assert client.line() == "2"
    client.tell()
    assert client.line() == "2"
    assert node.counters("/g")["seal_failures"] == 0
    client.tell()
    assert client.ended() == 0


def test_a_poisoned_page_that_is_written_out_stays_poisoned(live: Boot) -> None:
    """The client catches the SIGBUS of page 0, and the machine reclaims the page as any other."""
    node = live(128)
    client = node.client(
        READS_PAGE_0.replace("say(m[0])\nhear()", "child()").replace(
            "fill(1)",
            """
def child():
    import ctypes
    # write(2) from the page: the kernel answers EFAULT instead of a signal.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    r, w = os.pipe()
    for n in range(3):
        say(libc.write(w, enclave.address, 1), ctypes.get_errno())
        for page in range(1, 256):
            m[page * PAGE] = 3
    say(sum(m[page * PAGE] for page in range(1, 256)))
fill(1)""",
            1,
        ),
        group="/g",
    )
    assert client.line() == "1"
    client.tell()
    assert client.line() == "2"
    (area,) = node.pager.areas.values()
    _flip(area.store, {})
    client.tell()
    assert [client.line() for _ in range(3)] == ["-1 14"] * 3
    assert client.line() == str(3 * 255)
    assert client.ended() == 0
    node.settle()
    assert node.counters("/g")["seal_failures"] == 1
