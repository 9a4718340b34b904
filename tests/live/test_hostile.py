"""Clients that break the protocol are answered or dropped, get no page of anybody's, and nobody else notices."""

import os
import resource
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epcgroup.live import daemon, wire
from epcgroup.live.daemon import MAX_SILENT_OF_ONE

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

    def tell(self, text: str) -> None:
        self._client.tell(text)

    def line(self) -> str:
        return str(self._client.line())

    def assert_unharmed(self) -> None:
        self.tell("check")
        assert self.line() == "True"

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


SILENT_AS = """
os.setuid(int(sys.argv[1]))
silent = []
for words in iter(hear, "end"):
    silent += [wire.connect() for _ in range(int(words))]
    say("connected")
"""


def test_who_says_nothing_too_often_drops_only_what_is_his(live: Boot) -> None:
    """Neither who is between connect and CREATE nor who serves a tree, though both connected first."""
    node = live(96)
    with connect(node) as slow, connect(node) as tree:
        wire.send(tree, wire.Packet(wire.GROUPS, text=b"=/\0"))
        assert answer(node, tree) is not None
        crowd = node.client(SILENT_AS, "65534")
        for _ in range(3):
            crowd.tell("50")
            assert crowd.line() == "connected"
        node.until(lambda: node.daemon.dropped == 150 - MAX_SILENT_OF_ONE)
        wire.send(slow, wire.Packet(wire.CREATE, a=4096))
        created = answer(node, slow)
        assert created is not None and created.errno == 0
        for fd in created.fds:
            os.close(fd)
        wire.send(tree, wire.Packet(wire.GROUPS))
        assert answer(node, tree) is not None
        crowd.tell("end")
        assert crowd.ended() == 0
        assert node.daemon.dropped == 150 - MAX_SILENT_OF_ONE


def test_when_all_users_together_say_nothing_too_often_the_one_with_most_loses(
    live: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = live(96)
    monkeypatch.setattr(daemon, "MAX_SILENT", 60)
    first, most, last = (node.client(SILENT_AS, uid) for uid in ("65531", "65532", "65533"))
    for crowd, count in ((first, 10), (most, 50), (last, 10)):
        crowd.tell(str(count))
        assert crowd.line() == "connected"
    node.until(lambda: node.daemon.dropped == 10)
    uids = Counter(client.uid for client in node.daemon._clients.values())
    assert uids == {65531: 10, 65532: 40, 65533: 10}
    for crowd in (first, most, last):
        crowd.tell("end")
        assert crowd.ended() == 0


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


def test_a_containers_root_writes_no_limits(live: Boot) -> None:
    """uid 0 without capabilities, as in most containers."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    node = live(96)
    node.limit("/g", 64)
    ask = (
        "import os\nfrom epcgroup.live import wire\nassert os.getuid() == 0\nfor op in (wire.WRITE, wire.STOP):\n"
        " try: wire.ask(wire.connect(), wire.Packet(op, text=b'/g\\0misc.max\\0sgx_epc max'))\n"
        " except OSError as error: print(error.errno, flush=True)\n"
    )
    client = node.client(f"os.execvp('setpriv', ['setpriv', '--bounding-set=-all', sys.executable, '-c', {ask!r}])\n")
    assert [client.line() for _ in range(2)] == ["1", "1"]
    assert client.ended() == 0
    assert node.machine.limit_bytes(node.path("/g")) == 64 * 4096


CHEAT = """
import ctypes, mmap
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
    elif how == "second mapping, read only":
        other = mmap.mmap(file, created.a, prot=mmap.PROT_READ)
        for page in range(1024):
            other[page * PAGE]
    elif how == "duplicate":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mremap.restype = ctypes.c_void_p
        libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
        view = (ctypes.c_ubyte * created.a).from_address(libc.mremap(address, 0, created.a, 1))
        for page in range(1024):
            view[page * PAGE] = 1
    elif how == "own copy":
        source = ctypes.create_string_buffer(2 * PAGE)
        for page in range(1024):
            uffd.copy(mine, address + page * PAGE, (ctypes.addressof(source) + PAGE - 1) & -PAGE)
    elif how == "unregister":
        uffd.unregister(mine, address, created.a)
        view = (ctypes.c_ubyte * created.a).from_address(address)
        for page in range(1024):
            view[page * PAGE] = 1
except OSError as error:
    say("refused", error.errno)
say("through")
hear()
"""


@pytest.mark.parametrize(
    "how", ["write", "second mapping", "second mapping, read only", "duplicate", "own copy", "unregister"]
)
def test_no_cheat_gets_more_than_the_pool_and_none_is_kept(live: Boot, how: str) -> None:
    """The kernel holds the file to the pool; the audit of the next turn takes what was taken, and the enclave."""
    node = live(96)
    bystander = Bystander(node)
    cheat = node.client(CHEAT, how)
    assert cheat.line() == "attached"
    bystander.tell("check")  # it pages meanwhile
    cheat.tell()

    def caught() -> bool:
        assert node.used <= 96
        # A touch beyond the pool is SIGBUS, and ends it before the audit does.
        return node.daemon.revoked == 1 or cheat.popen.poll() is not None

    node.until(caught)
    node.until(lambda: node.used == node.pager.in_pool)
    assert bystander.line() == "True"
    cheat.stop()
    bystander.end()


def test_an_enclave_is_not_attached_where_another_is(live: Boot) -> None:
    """Neither by a userfaultfd of its own nor by the other's; what is there stays right."""
    node = live(96)
    client = node.client(
        """
from epcgroup.live import uffd
first = Enclave(64 * PAGE)
for page in range(64):
    first.memory[page * PAGE] = page
for whose in ("own", "other's"):
    daemon = wire.connect()
    file, device, lifeline = wire.ask(daemon, wire.Packet(wire.CREATE, a=64 * PAGE)).fds
    fd = uffd.new_from_device(device) if whose == "own" else first._uffd
    try:
        wire.ask(daemon, wire.Packet(wire.ATTACH, a=first.address, fds=(fd,)))
    except OSError as error:
        say(os.strerror(error.errno))
say(all(first.memory[page * PAGE] == page for page in range(64)))
"""
    )
    assert client.line() == "Device or resource busy"
    assert client.line() == "Invalid argument"
    assert client.line() == "True"
    assert client.ended() == 0


def test_an_enclave_where_a_closed_one_was_begins_empty_and_keeps_its_own(live: Boot) -> None:
    node = live(96)
    client = node.client(
        """
seen = set()
for n in range(1, 9):
    with Enclave(128 * PAGE) as enclave:
        m = enclave.memory
        seen.add(enclave.address)
        assert not any(m[::PAGE])
        for page in range(128):
            m[page * PAGE] = n
        say(sum(m[::PAGE]) == 128 * n)
say(len(seen))
"""
    )
    assert [client.line() for _ in range(8)] == ["True"] * 8
    assert client.line() == "1"  # the kernel gave the same address every time
    assert client.ended() == 0


def test_a_flood_of_creations_ends_at_the_limit_of_its_group(live: Boot) -> None:
    """Each costs a SECS and a VA page, nobody ever attaches."""
    node = live(256)
    bystander = Bystander(node)
    node.limit("/flood", 64)
    client = node.client(
        """
connections = []
for n in range(1000):
    connections.append(wire.connect())
    try:
        wire.ask(connections[-1], wire.Packet(wire.CREATE, a=PAGE))
    except OSError as error:
        say(n, error.errno)
        break
hear()
""",
        group="/flood",
    )
    assert client.line() == "32 12"
    assert node.machine.usage_bytes(node.path("/flood")) == 64 * 4096
    bystander.assert_unharmed()
    client.tell()
    assert client.ended() == 0
    node.until(lambda: node.machine.usage_bytes(node.path("/flood")) == 0)
    bystander.end()


def test_without_descriptors_clients_are_refused_and_nothing_of_them_stays(live: Boot) -> None:
    """The daemon may open none, one, two... more files: a client is served when that is enough, and refused before."""
    node = live(96)
    bystander = Bystander(node)
    client = node.client(
        """
while hear() != "end":
    try:
        with Enclave(16 * PAGE) as enclave:
            enclave.memory[0] = 1
            say("served")
    except OSError as error:
        say(os.strerror(error.errno))
"""
    )
    before, highest = _open_fds(), max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    holes = [os.dup(0) for _ in range(highest)]  # no number below is free
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    answers = []
    try:
        while "served" not in answers and len(answers) < 30:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(holes) + 1 + len(answers), hard))
            client.tell("try")
            answers.append(client.line())
            bystander.assert_unharmed()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)
    assert answers[0] in ("Connection reset by peer", "Broken pipe")  # it was hung up on
    assert "Too many open files" in answers
    assert answers[-1] == "served"
    client.tell("end")
    assert client.ended() == 0
    node.until(lambda: len(node.daemon.status()["enclaves"]) == 1 and _open_fds() <= before)
    bystander.end()
