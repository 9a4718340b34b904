"""Clients that break the protocol are answered or dropped, get no page of anybody's, and nobody else notices."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epcgroup.live import wire

Boot = Callable[..., Any]

HONEST = """
with Enclave(128 * PAGE) as enclave:
    m = enclave.memory
    for page in range(128):
        m[page * PAGE] = page
    say("filled")
    while hear() != "end":
        say(all(m[page * PAGE] == page for page in range(128)))
"""


class Bystander:
    """An honest client that pages: checks its memory when asked."""

    def __init__(self, node: Any) -> None:
        self._client = node.client(HONEST)
        assert self._client.line() == "filled"

    def assert_unharmed(self) -> None:
        self._client.tell("check")
        assert self._client.line() == "True"

    def end(self) -> None:
        self.assert_unharmed()
        self._client.tell("end")
        assert self._client.ended() == 0


def _open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def connect(node: Any) -> socket.socket:
    peer = wire.connect(node.directory)
    peer.setblocking(False)
    return peer


def answer(node: Any, peer: socket.socket) -> wire.Packet | None:
    """The next packet from the daemon; None: it hung up."""
    got: list[wire.Packet | None] = []

    def there() -> bool:
        try:
            got.append(wire.receive(peer))
        except BlockingIOError:
            return False
        except ConnectionResetError:
            got.append(None)
        return True

    node.until(there)
    return got[0]


def test_one_that_says_nothing_keeps_nobody_waiting(live: Boot) -> None:
    node = live(96)
    silent = []
    for _ in range(200):
        silent.append(connect(node))
        node.daemon.turn(0)
    bystander = Bystander(node)
    bystander.end()
    assert node.daemon.dropped >= 200 - 128
    for peer in silent:
        peer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"x", b"x" * 23, bytes(24), b"\xff" * 24, b"\xff" * 60_000, b"GET / HTTP/1.1\r\n\r\n" * 5],
    ids=["nothing", "a byte", "almost", "zeros", "ones", "much", "http"],
)
def test_garbage_is_answered_by_an_error_or_hung_up_on(live: Boot, garbage: bytes) -> None:
    node = live(96)
    bystander = Bystander(node)
    with connect(node) as peer:
        peer.send(garbage)
        reply = answer(node, peer)
        assert reply is None or reply.errno != 0
    bystander.end()


def test_too_long_a_packet_is_hung_up_on(live: Boot) -> None:
    node = live(96)
    with connect(node) as peer:
        peer.send(bytes(100_000))
        assert answer(node, peer) is None


@pytest.mark.parametrize("count", [1, 4, 5, 200])
def test_descriptors_nobody_asked_for_are_closed(live: Boot, count: int) -> None:
    node = live(96)
    bystander = Bystander(node)
    before = _open_fds()
    with connect(node) as peer:
        rights = struct.pack("i", 0) * count
        header = struct.pack("<IIQQ", wire.STATUS, 0, 0, 0)
        peer.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        reply = answer(node, peer)
        assert (reply is None) == (count > wire.MAX_FDS)
        for fd in reply.fds if reply else ():
            os.close(fd)
    node.until(lambda: len(node.daemon.status()["enclaves"]) == 1 and _open_fds() <= before)
    bystander.end()


@pytest.mark.parametrize("size", [0, 1 << 60, (1 << 64) - 1, (1 << 36) + 1])
def test_impossible_sizes_are_einval(live: Boot, size: int) -> None:
    node = live(96)
    with connect(node) as peer:
        wire.send(peer, wire.Packet(wire.CREATE, a=size))
        reply = answer(node, peer)
        assert reply is not None and reply.errno == 22
    node.assert_empty()


def test_one_that_stops_reading_is_dropped(live: Boot) -> None:
    node = live(96)
    bystander = Bystander(node)
    with connect(node) as peer:

        def dropped() -> bool:
            try:
                wire.send(peer, wire.Packet(wire.READ, text=b"/\0misc.capacity"))
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        node.until(dropped)
    assert node.daemon.dropped == 1
    bystander.end()


def test_attach_takes_only_ones_own_userfaultfd_of_ones_own_mapping(live: Boot) -> None:
    node = live(96)
    for what in ("pipe", "elsewhere", "twice"):
        client = node.client(
            f"""
what = {what!r}
daemon = wire.connect()
created = wire.ask(daemon, wire.Packet(wire.CREATE, a=16 * PAGE))
from epcgroup.live import uffd
address = uffd.map_shared(created.fds[0], created.a)
mine = uffd.new_from_device(created.fds[1])
packet = wire.Packet(wire.ATTACH, a=address, fds=(mine,))
if what == "pipe":
    packet = packet._replace(fds=(os.pipe()[0],))
elif what == "elsewhere":
    memory = os.memfd_create("other")
    os.ftruncate(memory, created.a)
    packet = packet._replace(a=uffd.map_shared(memory, created.a))
else:
    wire.ask(daemon, packet)
try:
    wire.ask(daemon, packet)
except OSError as error:
    say(error.errno)
"""
        )
        assert client.line() == "22"
        assert client.ended() == 0
        node.settle()
    node.assert_empty()


def test_only_root_writes_limits(live: Boot) -> None:
    node = live(96)
    node.limit("/g", 64)
    client = node.client(
        f"""
os.setuid(65534)
for op in (wire.WRITE, wire.STOP):
    try:
        wire.ask(wire.connect(), wire.Packet(op, text=b"{node.path("/g")}\\0misc.max\\0sgx_epc max"))
    except OSError as error:
        say(error.errno)
with Enclave(16 * PAGE) as enclave:
    enclave.memory[0] = 7
    say(enclave.memory[0])
"""
    )
    assert [client.line() for _ in range(3)] == ["1", "1", "7"]
    assert client.ended() == 0
    assert node.machine.limit_bytes(node.path("/g")) == 64 * 4096


CHEAT = """
import mmap
daemon = wire.connect()
created = wire.ask(daemon, wire.Packet(wire.CREATE, a=1024 * PAGE))
from epcgroup.live import uffd
file, device, lifeline = created.fds
address = uffd.map_shared(file, created.a)
mine = uffd.new_from_device(device)
wire.ask(daemon, wire.Packet(wire.ATTACH, a=address, fds=(mine,)))
say("attached")
hear()
how = sys.argv[1]
try:
    if how == "write":
        for page in range(1024):
            os.pwrite(file, b"x" * PAGE, page * PAGE)
    elif how == "second mapping":
        other = mmap.mmap(file, created.a)
        for page in range(1024):
            other[page * PAGE] = 1
    elif how == "own copy":
        import ctypes
        source = ctypes.create_string_buffer(2 * PAGE)
        for page in range(1024):
            uffd.copy(mine, address + page * PAGE, (ctypes.addressof(source) + PAGE - 1) & -PAGE)
    elif how == "unregister":
        uffd.unregister(mine, address, created.a)
        view = (ctypes_array := __import__("ctypes").c_ubyte * created.a).from_address(address)
        for page in range(1024):
            view[page * PAGE] = 1
except OSError as error:
    say("refused", error.errno)
say("through")
hear()
"""


@pytest.mark.parametrize("how", ["write", "second mapping", "own copy", "unregister"])
def test_no_cheat_gets_more_than_the_pool_and_none_is_kept(live: Boot, how: str) -> None:
    """The kernel holds the file to the pool; the audit of the next turn takes what was taken, and the enclave."""
    node = live(96)
    bystander = Bystander(node)
    cheat = node.client(CHEAT, how)
    assert cheat.line() == "attached"
    cheat.tell()
    # A touch beyond the pool is SIGBUS, and ends it before the audit does.
    node.until(lambda: node.daemon.revoked == 1 or cheat.popen.poll() is not None)
    assert node.used <= 96
    node.until(lambda: node.used == node.pager.in_pool)
    cheat.stop()
    bystander.end()
