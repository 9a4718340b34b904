"""Pages of real processes come back as they were written, whatever is written out meanwhile, and no limit is passed."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from conftest import is_mapped

from epcgroup.kernel.structs import P_YOUNG
from epcgroup.live import batch, uffd
from epcgroup.live.pager import Area, Pager
from epcgroup.units import PAGE_SIZE

Boot = Callable[..., Any]


FILL_AND_CHECK = """
import numpy as np
pages, rounds = int(sys.argv[1]), int(sys.argv[2])
with Enclave(pages * PAGE) as enclave:
    a = np.frombuffer(enclave.memory, np.int64).reshape(pages, 512)
    assert not a.any()
    a[:] = np.arange(pages)[:, None]
    rng = random.Random(1)
    for n in range(rounds):
        page = rng.randrange(pages)
        a[page, 3] += 1
        a[page, 4] -= 1
    assert (a[:, 3] + a[:, 4] == 2 * np.arange(pages)).all()
    assert (a[:, 5] == np.arange(pages)).all()
    say(int(a[:, 3].sum() - np.arange(pages).sum()))
    del a
"""


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
@pytest.mark.parametrize("series", ["v17", "v2"])
def test_memory_four_times_the_pool_keeps_what_is_written(live: Boot, pageout: bool, series: str) -> None:
    node = live(128, pageout=pageout, series=series)
    client = node.client(FILL_AND_CHECK, "512", "2000")
    assert client.line() == "2000"
    assert client.ended() == 0
    done = node.daemon.groups.counters("/")
    assert done["loads"] > 1000 and done["write_outs"] > 1000
    assert done["soft_faults"] > 0


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
def test_a_page_touched_since_the_last_look_is_kept_and_untouched_ones_go(live: Boot, pageout: bool) -> None:
    """The first page over the limit finds all young: all bits are cleared, the 16 oldest go. Then one is touched."""
    node = live(512, pageout=pageout)
    node.limit("/g", 66)  # with SECS and VA page
    client = node.client(
        """
with Enclave(128 * PAGE) as enclave:
    m = enclave.memory
    for page in range(65):
        m[page * PAGE] = 1
    say("over")
    hear()
    m[16 * PAGE] = 2
    for page in range(65, 90):
        m[page * PAGE] = 1
    say("more")
    hear()
""",
        group="/g",
    )
    assert client.line() == "over"
    (area,) = node.pager.areas.values()
    assert sorted(area.store.sealed) == list(range(16))
    while pageout and is_mapped(client.pid, area.at(16)):
        # PAGEOUT leaves out pages that another CPU has on its way to a list.
        uffd.process_madvise(area.pidfd, [(area.at(16), PAGE_SIZE)], uffd.MADV_PAGEOUT)
    client.tell()
    assert client.line() == "more"
    assert area.counters["soft_faults"] == 1
    assert 16 not in area.store.sealed
    assert all(page in area.store.sealed for page in range(17, 32))
    client.tell()
    assert client.ended() == 0


def test_pages_that_one_turn_maps_again_are_all_told_to_the_machine(live: Boot) -> None:
    """Many soft faults make a turn where every turn is not audited; the machine hears of each page."""
    node = live(128)
    node.daemon.faults.soft_a_turn = 64
    client = node.client(
        """
with Enclave(64 * PAGE) as enclave:
    for page in range(40):
        enclave.memory[page * PAGE] = page
    say("filled")
    hear()
    say(sum(enclave.memory[page * PAGE] == page for page in range(40)))
    hear()
"""
    )
    assert client.line() == "filled"
    (area,) = node.pager.areas.values()
    base = node.machine.enclaves[area.id].base
    state = node.machine.k.state[base : base + 40]
    state &= 255 ^ P_YOUNG
    node.pager.unmap(area, list(range(40)))
    for page in range(40):
        while is_mapped(client.pid, area.at(page)):
            uffd.process_madvise(area.pidfd, [(area.at(page), PAGE_SIZE)], uffd.MADV_PAGEOUT)
    client.tell()
    assert client.line() == "40"
    assert area.counters["soft_faults"] == 40
    assert (state & P_YOUNG).all()
    client.tell()
    assert client.ended() == 0


def test_no_group_on_the_path_ever_passes_its_limit(live: Boot) -> None:
    """Parent 112 pages, children 64 and 48: looked at after every turn."""
    node = live(256)
    for name in ("/pod", "/pod/a", "/pod/b"):
        node.group(name)
    node.limit("/pod", 112)
    node.limit("/pod/a", 64)
    node.limit("/pod/b", 48)
    clients = [node.client(FILL_AND_CHECK, "128", "300", group=f"/pod/{name}") for name in "ab"]

    def turned() -> bool:
        a, b, pod = (node.machine.usage_bytes(node.path(name)) // PAGE_SIZE for name in ("/pod/a", "/pod/b", "/pod"))
        assert a <= 64 and b <= 48 and a + b == pod <= 112
        assert node.used == node.pager.in_pool <= node.nr_pages
        return all(client.popen.poll() is not None for client in clients)

    node.until(turned)
    assert [client.ended() for client in clients] == [0, 0]
    assert node.counters("/pod/a")["loads"] > 100 and node.counters("/pod/b")["loads"] > 100


def test_a_fault_without_room_is_no_stall_and_waits_until_a_neighbour_leaves(live: Boot) -> None:
    """v17 reclaims for a group that its parent's limit stops only when the group's own usage reaches that limit."""
    node = live(256)
    for name in ("/pod", "/pod/a", "/pod/b"):
        node.group(name)
    node.limit("/pod", 64)
    touch = "for page in range(40): enclave.memory[page * PAGE] = 1\n"
    one = "enclave = Enclave(64 * PAGE)\nenclave.memory[0] = 1\nsay('one')\n"
    b = node.client(f"{one}hear()\n{touch}say('all')\n", group="/pod/b")
    assert b.line() == "one"
    a = node.client(f"{one}{touch}say('all')\nhear()\n", group="/pod/a")
    assert [a.line(), a.line()] == ["one", "all"]
    b.tell()
    node.until(lambda: node.daemon.status()["waiting"] == 1)
    for _ in range(50):
        node.daemon.watchdog.look(node.daemon.faults.waiting)
        node.daemon.turn(0)
    assert (node.daemon.status()["waiting"], node.daemon.status()["stalled"]) == (1, 0)
    a.tell()
    assert b.line() == "all"
    assert b.ended() == 0 and a.ended() == 0


def test_a_limit_lowered_while_a_client_runs_holds_from_its_next_page(live: Boot) -> None:
    node = live(512)
    client = node.client(
        """
with Enclave(256 * PAGE) as enclave:
    m = enclave.memory
    for page in range(200):
        m[page * PAGE] = page
    say("full")
    hear()
    m[200 * PAGE] = 200
    say("more")
    hear()
    assert all(m[page * PAGE] == page for page in range(201))
""",
        group="/g",
    )
    assert client.line() == "full"
    usage = node.machine.usage_bytes(node.path("/g"))
    node.limit("/g", 64)
    assert node.machine.usage_bytes(node.path("/g")) == usage >= 200 * PAGE_SIZE
    client.tell()
    assert client.line() == "more"
    assert node.machine.usage_bytes(node.path("/g")) <= 64 * PAGE_SIZE
    client.tell()
    assert client.ended() == 0


def test_creation_without_room_is_enomem(live: Boot) -> None:
    node = live(128)
    node.limit("/g", 1)
    client = node.client(
        """
try:
    Enclave(PAGE)
except OSError as error:
    say(error.errno)
""",
        group="/g",
    )
    assert client.line() == "12"
    assert client.ended() == 0


def test_a_fault_that_cannot_be_served_is_sigbus(live: Boot) -> None:
    """VA page and SECS fill the limit: nothing of the group can be reclaimed for a third page."""
    node = live(128)
    node.limit("/g", 2)
    client = node.client("enclave = Enclave(PAGE)\nsay('made')\nenclave.memory[0] = 1\n", group="/g")
    assert client.line() == "made"
    assert client.ended() == -7
    assert node.daemon.faults.unserved == 1


# ---- writers against eviction ----------------------------------------------------------------------

WRITERS = """
import numpy as np
pages, passes, nr_threads = 256, int(sys.argv[1]), 4
with Enclave(pages * PAGE) as enclave:
    a = np.frombuffer(enclave.memory, np.int64).reshape(pages, 512)
    def add(n):
        mine = a[n::nr_threads]
        for _ in range(passes):
            for page in mine:
                np.add(page, 1, out=page)
    threads = [threading.Thread(target=add, args=(n,)) for n in range(nr_threads)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    lost = pages * 512 * passes - int(a.sum())
    wrong = int((a != passes).sum())
    say(lost, wrong)
    del a, threads
"""


def _write_out_some(node: Any) -> int:
    """Write out and load again, beside the machine, every fourth mapped page: eviction at any moment of a writer."""
    count = 0
    for area in list(node.pager.areas.values()):
        for page in range(node.daemon.turns // 8 % 4, area.nr_pages, 4):
            if area.state[page] == 2 and not node.pager.put_off:
                node.pager.write_out(area, [page])
                node.pager.load(area, page)
                count += 1
    return count


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
def test_concurrent_writers_lose_nothing_to_eviction(live: Boot, pageout: bool) -> None:
    node = live(256, pageout=pageout)
    node.limit("/g", 48)  # a thread alone has 64 pages
    client = node.client(WRITERS, "40", group="/g")
    evictions = 0
    while client.popen.poll() is None:
        node.daemon.turn(0.01)
        if node.daemon.turns % 8 == 0:
            evictions += _write_out_some(node)
    assert client.line() == "0 0"
    assert evictions > 0
    assert node.counters("/g")["write_outs"] > 2000


@pytest.mark.soak
def test_soak_a_thousand_million_increments(live: Boot) -> None:
    node = live(1024)
    for name in "abcd":
        node.limit(f"/{name}", 64)
    passes = 1_000_000_000 // (4 * 256 * 512) + 1
    clients = [node.client(WRITERS, str(passes), group=f"/{name}") for name in "abcd"]
    while any(client.popen.poll() is None for client in clients):
        node.daemon.turn(0.01)
    assert [client.line() for client in clients] == ["0 0"] * 4
    assert sum(node.counters(f"/{name}")["write_outs"] for name in "abcd") > 1_000_000


WRITER_WITH_PROGRESS = """
import mmap
file = os.open(sys.argv[1], os.O_RDWR)
progress = memoryview(mmap.mmap(file, 16)).cast("Q")
with Enclave(PAGE) as enclave:
    cells = enclave.memory.cast("Q")
    n = 0
    cells[0] = 0
    say("writes")
    while not progress[1]:
        n += 1
        cells[n % 512] = n
        progress[0] = n
    say(sum(cells[i % 512] != i for i in range(max(1, n - 511), n + 1)))
    cells.release()
"""


class _Unprotected(Pager):
    """The control: does not write-protect what it writes out."""

    def _protect(self, area: Area, pages: Any) -> None:
        pass


@pytest.mark.parametrize("protect", [True, False], ids=["protected", "control without protection"])
def test_a_store_during_write_out_is_kept_only_by_write_protection(
    live: Boot, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, protect: bool
) -> None:
    """The writer runs on between the read and the punch if nothing holds it: then its stores are lost, every time."""
    import mmap

    shared = tmp_path / "progress"
    shared.write_bytes(bytes(16))
    with shared.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 16)
    view = memoryview(memory).cast("Q")
    node = live(64)
    client = node.client(WRITER_WITH_PROGRESS, str(shared))
    assert client.line() == "writes"
    node.until(lambda: view[0] > 100)
    (area,) = node.pager.areas.values()
    if not protect:
        node.pager.__class__ = _Unprotected
    punch = batch.punch

    def punch_later(fd: int, pages: Any) -> int:
        # Between read and punch: let the writer go on for 100 stores, or see that it cannot.
        begun = view[0]
        if protect:
            os.sched_yield()
            # At most the store it was in; the next store waits.
            assert view[0] - begun <= 1
        else:
            while view[0] < begun + 100:
                os.sched_yield()
            view[1] = 1
        return int(punch(fd, pages))

    monkeypatch.setattr(batch, "punch", punch_later)
    node.pager.write_out(area, [0])
    monkeypatch.undo()
    node.pager.load(area, 0)
    view[1] = 1
    lost = int(client.line())
    assert lost == 0 if protect else lost > 90
    assert client.ended() == 0
    view.release()
    memory.close()
