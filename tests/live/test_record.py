"""A recording holds the pages that a client touches, in order, and changes nothing about what is paged."""

import itertools
import json
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from conftest import PRELUDE, command

from epcgroup.live import uffd, wire
from epcgroup.live.pager import MAPPED
from epcgroup.sim.tracefile import read_trace

Boot = Callable[..., Any]

# Pages come as numbers on a line of standard input; "done" after each line.
TOUCH = """
with Enclave(int(sys.argv[1]) * PAGE) as enclave:
    say("ready")
    while line := hear():
        for page in map(int, line.split()):
            enclave.memory[page * PAGE] += 1
        say("done")
"""


class Recorder:
    """A recording of a test's daemon, as `epcgroup record` asks for one."""

    def __init__(self, node: Any, group: str = "/", window: int = 0, file: BinaryIO | None = None) -> None:
        self._node = node
        self.file = tempfile.TemporaryFile() if file is None else file  # noqa: SIM115
        self.peer = wire.connect(node.directory)
        begin = wire.Packet(wire.RECORD, a=window, text=os.fsencode(group), fds=(self.file.fileno(),))
        self.begun = answer(node, self.peer, begin).errno

    def end(self) -> list[tuple[int, int]]:
        """(enclave, page) of each record."""
        assert self.begun == 0
        assert answer(self._node, self.peer, wire.Packet(wire.RECORD)).errno == 0
        self.close()
        return self._records

    def close(self) -> None:
        self.peer.close()
        self.file.seek(0)
        self._records = list(wire.RECORDED.iter_unpack(self.file.read()))
        self.file.close()


def answer(node: Any, peer: socket.socket, packet: wire.Packet) -> wire.Packet:
    wire.send(peer, packet)
    node.until(lambda: select.select([peer], [], [], 0)[0])
    got = wire.receive(peer)
    assert got is not None
    return got


def switches(pages: Sequence[int], window: int) -> Iterator[int]:
    """The touches that are faults when only the last `window` pages that faulted are mapped."""
    mapped: list[int] = []
    for page in pages:
        if page not in mapped:
            yield page
            mapped = [*mapped, page][-window:]


def words(pages: Sequence[int]) -> str:
    return " ".join(map(str, pages))


def random_pages(n: int, nr_pages: int) -> list[int]:
    return np.random.default_rng(1).integers(0, nr_pages, n).tolist()


# ---- what is in it --------------------------------------------------------------------------------


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
@pytest.mark.parametrize("limit", [48, None], ids=["paged", "all resident"])
def test_every_switch_of_a_page_is_recorded_in_order(live: Boot, pageout: bool, limit: int | None) -> None:
    node = live(256, pageout=pageout)
    node.limit("/g", limit)
    recorder = Recorder(node, node.path("/g"), window=2)
    client = node.client(TOUCH, "128", group="/g")
    assert client.line() == "ready"
    # None of them is one of the two before it.
    pages = [*range(100), *range(0, 90, 3)] * 2 + list(switches(random_pages(1000, 128), 2))
    client.tell(words(pages))
    assert client.line() == "done"
    client.tell()
    assert client.ended() == 0
    assert [page for _, page in recorder.end()] == pages
    assert (node.counters("/g")["loads"] > 0) is (limit is not None)


def test_a_window_of_eight_pages_hides_only_what_eight_later_pages_push_out(live: Boot) -> None:
    node = live(128)
    recorder = Recorder(node, window=8)
    client = node.client(TOUCH, "32")
    assert client.line() == "ready"
    pages = random_pages(500, 32)
    client.tell(words(pages))
    assert client.line() == "done"
    client.tell()
    assert client.ended() == 0
    assert [page for _, page in recorder.end()] == list(switches(pages, 8))


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
def test_otherwise_a_recording_has_the_first_touches_and_what_was_paged(live: Boot, pageout: bool) -> None:
    """Each touch of a page that was not mapped is one record, and no other."""
    node = live(256, pageout=pageout)
    node.limit("/g", 48)
    recorder = Recorder(node, node.path("/g"))
    client = node.client(TOUCH, "128", group="/g")
    assert client.line() == "ready"
    (area,) = node.pager.areas.values()
    expected = []
    for page in random_pages(400, 96):
        while node.daemon.faults.patience() is not None:
            node.daemon.turn(0)
        if area.state[page] != MAPPED:
            expected.append(page)
        client.tell(str(page))
        assert client.line() == "done"
    client.tell()
    assert client.ended() == 0
    pages = [page for _, page in recorder.end()]
    done = node.counters("/g")
    assert pages == expected
    assert len(pages) == done["added"] + done["loads"] + done["soft_faults"]
    assert len(set(pages)) == done["added"] < len(pages)


def test_a_recording_changes_nothing_about_what_is_paged(live: Boot) -> None:
    """The same touches, one at a time, without a recording and with each kind: the same counters and sealed pages."""
    runs = []
    for window in (None, 0, 2, 8):
        node = live(256, pageout=False)
        node.limit("/g", 48)
        recorder = None if window is None else Recorder(node, node.path("/g"), window)
        client = node.client(TOUCH, "128", group="/g")
        assert client.line() == "ready"
        for page in [*range(60), *random_pages(400, 96)]:
            while node.daemon.faults.patience() is not None:
                node.daemon.turn(0)
            client.tell(str(page))
            assert client.line() == "done"
        (area,) = node.pager.areas.values()
        counters = {name: n for name, n in area.counters.items() if name != "stale_events"}
        runs.append((counters, sorted(area.store.sealed), node.machine.usage_bytes(node.path("/g"))))
        client.tell()
        assert client.ended() == 0
        if recorder is not None:
            recorder.end()
    assert runs[0][0]["loads"] > 100 and runs[0][0]["soft_faults"] > 10
    assert all(run == runs[0] for run in runs[1:])


@pytest.mark.parametrize("pageout", [True, False], ids=["pageout", "copy-out"])
def test_no_write_of_a_thread_is_lost_when_every_switch_is_recorded(live: Boot, pageout: bool) -> None:
    """Three threads count in the same pages, each in words of its own, more pages than the limit."""
    node = live(256, pageout=pageout)
    node.limit("/g", 32)
    recorder = Recorder(node, node.path("/g"), window=8)
    client = node.client(
        """
import numpy as np
with Enclave(64 * PAGE) as enclave:
    words = np.frombuffer(enclave.memory, np.int64).reshape(64, 512)
    def work(n):
        rng = random.Random(n)
        for _ in range(700):
            mine = words[rng.randrange(64), n::3]
            np.add(mine, 1, out=mine)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say(*(int(words[:, n].sum()) for n in range(3)))
    del words
""",
        group="/g",
    )
    assert client.line() == "700 700 700"
    assert client.ended() == 0
    assert len(recorder.end()) > 1000
    assert node.counters("/g")["loads"] > 0


def test_only_the_group_and_those_below_it_are_recorded_each_enclave_by_its_number(live: Boot) -> None:
    node = live(256)
    recorder = Recorder(node, node.path("/g"), window=2)
    clients = [node.client(TOUCH, "32", group=group) for group in ("/g", "/g/child", "/gh")]
    for client in clients:
        assert client.line() == "ready"
        client.tell("1 2 3 1")
        assert client.line() == "done"
    numbers = {area.number: node.daemon.groups.of(area) for area, _ in areas_of(node)}
    for client in clients:
        client.tell()
        assert client.ended() == 0
    records = recorder.end()
    by_group = {numbers[number]: [page for n, page in records if n == number] for number, _ in records}
    assert by_group == {node.path("/g"): [1, 2, 3, 1], node.path("/g/child"): [1, 2, 3, 1]}


def test_an_enclave_is_recorded_while_its_process_is_in_the_group(live: Boot) -> None:
    node = live(128)
    recorder = Recorder(node, node.path("/in"), window=2)
    client = node.client(TOUCH, "32", group="/out")
    assert client.line() == "ready"
    for group, pages in (("/out", "1 2 3"), ("/in", "4 5 1 4"), ("/out", "6 7 1")):
        (node.group(group).folder / "cgroup.procs").write_text(str(client.pid))
        node.daemon.follow()
        client.tell(pages)
        assert client.line() == "done"
    client.tell()
    assert client.ended() == 0
    assert [page for _, page in recorder.end()] == [4, 5, 1, 4]


def areas_of(node: Any) -> list[tuple[Any, Any]]:
    return [(client.area, client) for client in node.daemon._by_area.values()]


def test_an_enclave_that_is_there_already_is_seen_from_its_next_touch_on(live: Boot) -> None:
    node = live(128)
    client = node.client(TOUCH, "32")
    assert client.line() == "ready"
    client.tell(words(range(20)))
    assert client.line() == "done"
    recorder = Recorder(node, window=2)
    client.tell("19 3 3 19 7 19 5")
    assert client.line() == "done"
    assert [page for _, page in recorder.end()] == [19, 3, 7, 19, 5]
    # What was hidden stays right when nobody records any more.
    client.tell(words([*range(32)] * 2))
    assert client.line() == "done"
    client.tell()
    assert client.ended() == 0


# ---- ends and refusals ----------------------------------------------------------------------------


def test_a_recorder_that_goes_ends_its_recording_and_nothing_else(live: Boot) -> None:
    node = live(128)
    node.limit("/g", 24)
    before = open_fds()
    recorder = Recorder(node, node.path("/g"), window=2)
    client = node.client(TOUCH, "64", group="/g")
    assert client.line() == "ready"
    client.tell(words(range(40)))
    assert client.line() == "done"
    assert node.daemon.status()["recordings"] == 1
    recorder.close()
    node.until(lambda: node.daemon.status()["recordings"] == 0)
    client.tell(words([*range(64)] * 2))
    assert client.line() == "done"
    client.tell()
    assert client.ended() == 0
    node.settle()
    client.stop()
    node.until(lambda: open_fds() == before)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_no_recording_can_be_written_to_is_refused(live: Boot) -> None:
    node = live(128)
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb") as pipe:
        refused = Recorder(node, file=pipe)
        assert refused.begun == 22
        refused.peer.close()
    recorder = Recorder(node)
    second = wire.Packet(wire.RECORD, text=b"/", fds=(recorder.file.fileno(),))
    assert answer(node, recorder.peer, second).errno == 16
    assert recorder.end() == []
    with wire.connect(node.directory) as peer:
        assert answer(node, peer, wire.Packet(wire.RECORD)).errno == 22


def test_only_root_records(live: Boot) -> None:
    node = live(128)
    client = node.client(
        """
os.setuid(65534)
memory = os.memfd_create("records")
try:
    wire.ask(wire.connect(), wire.Packet(wire.RECORD, text=b"/", fds=(memory,)))
except OSError as error:
    say(error.errno)
"""
    )
    assert client.line() == "1"
    assert client.ended() == 0


def test_a_full_disk_ends_the_recording_with_its_error_and_the_client_goes_on(live: Boot) -> None:
    node = live(256)
    disk = uffd.new_tmpfs(4096)
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=disk)
        with os.fdopen(fd, "w+b", buffering=0) as file:
            recorder = Recorder(node, window=2, file=file)
            client = node.client(TOUCH, "64")
            assert client.line() == "ready"
            client.tell(words(random_pages(1000, 64)))
            assert client.line() == "done"
            client.tell()
            assert client.ended() == 0
            assert answer(node, recorder.peer, wire.Packet(wire.RECORD)).errno == 28
            recorder.close()
            assert len(recorder._records) == 4096 // 8
    finally:
        os.close(disk)


# ---- the command ----------------------------------------------------------------------------------

TWO = """
with Enclave(32 * PAGE) as a, Enclave(64 * PAGE) as b:
    for page in range(10):
        for enclave in (b, a):
            enclave.memory[3 * page % 10 * PAGE] = 1
"""
ONE = """
with Enclave(256 * PAGE) as enclave:
    for n in range(2000):
        enclave.memory[n * 89 % 256 * PAGE] = 1
sys.exit(3)
"""


def test_a_recorded_trace_is_a_workload_of_a_run(directory: Path, tmp_path: Path) -> None:
    assert command(directory, "up", "--epc", "4Mi", "--strict").returncode == 0
    trace = str(tmp_path / "work.epctrace.xz")
    argv = ("record", "-o", trace, "--epc", "512Ki", "--every-switch", "--", sys.executable, "-c", PRELUDE + ONE)
    done = command(directory, *argv)
    assert done.returncode == 3
    touched, said = done.stderr.splitlines()
    assert "limit 512 KiB, peak 512 KiB, 256 pages added" in touched
    assert said == f"epcgroup: {trace}: 2000 page accesses, 256 pages"
    recorded = read_trace(trace)
    assert recorded.addresses[recorded.pages].tolist() == [n * 89 % 256 for n in range(2000)]
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\nspec:\n  containers:\n"
        "  - {name: job, resources: {limits: {sgx.intel.com/epc: 512Ki}}}\n"
    )
    use = f"job=2Mi:trace:{trace}"
    options = ("--duration", "500ms", "--quiet", "--json")
    run = command(directory, "run", str(tmp_path / "pod.yaml"), "--use", use, *options)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["runs"][-1]["pods"][0]["page_ins_per_second"] > 0
    assert command(directory, "status", "--json").stdout.count('"recordings": 0') == 1


def test_pages_of_several_enclaves_stand_one_behind_the_other_with_a_thread_each(
    directory: Path, tmp_path: Path
) -> None:
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    trace = tmp_path / "two.csv"
    done = command(directory, "record", "-o", str(trace), "--every-switch=2", "--", sys.executable, "-c", PRELUDE + TWO)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1] == f"epcgroup: {trace}: 20 page accesses, 20 pages of 2 enclaves"
    pages = [3 * page % 10 for page in range(10)]
    rows = [f"{page + 10 * thread},1,{thread}" for page, thread in itertools.product(pages, (0, 1))]
    assert trace.read_text().splitlines() == ["page,count,thread", *rows]
    assert read_trace(trace).of_thread(1).nr_events == 10


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["-o", "x.bin", "--", "true"], "x.bin: no trace is written with suffix '.bin'; allowed: epctrace, csv, "),
        (["-o", "nowhere/x.csv", "--", "true"], "nowhere/x.csv: cannot be written\n"),
        (["-o", "x.csv", "--every-switch=1", "--", "true"], '--every-switch: "1" is not a number of pages from 2 to '),
        (["-o", "x.csv", "--every-switch", "true"], '--every-switch: "true" is not a number of pages from 2 to '),
        (["-o", "x.csv"], "no command; epcgroup record --epc 8Mi -- COMMAND ...\n"),
        (["--", "true"], "the following arguments are required: -o/--output (see epcgroup record --help)\n"),
    ],
)
def test_what_cannot_be_recorded_is_said_before_anything_runs(
    argv: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = command(tmp_path / "run", "record", *argv)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"epcgroup: {what}")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_dies_leaves_no_trace_and_is_said_in_one_line(directory: Path, tmp_path: Path) -> None:
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    pid = json.loads(command(directory, "status", "--json").stdout)["pid"]
    done = command(directory, "record", "-o", str(tmp_path / "x.csv"), "--", "kill", "-9", str(pid))
    assert done.returncode == 2
    assert done.stderr.startswith("epcgroup: the recording is not whole: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.csv").exists()


def test_a_command_that_touches_no_enclave_memory_leaves_no_trace(directory: Path, tmp_path: Path) -> None:
    assert command(directory, "up", "--epc", "1Mi").returncode == 0
    done = command(directory, "record", "-o", str(tmp_path / "x.csv"), "--", "true")
    assert done.returncode == 2
    assert done.stderr.endswith(f"epcgroup: it touched no enclave memory; {tmp_path / 'x.csv'} is not written\n")
    assert not (tmp_path / "x.csv").exists()
