"""The machine through its public methods: charges, refusals, reclaim, growth of its tables, files.

The `machine` fixture checks every invariant of each machine when the test is over. Recorded behaviour in full detail is
test_oplog.py's; here stands what a reader wants to see one at a time.
"""

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from epcgroup.errors import MachineError
from epcgroup.kernel.validate import validate_everything
from epcgroup.machine import Machine, MachineDead, Section

Boot = Callable[..., Machine]
SERIES = ("mainline", "v2", "v17")


def refusal(call: Callable[[], Any]) -> int | None:
    """errno that a call raises."""
    with pytest.raises(MachineError) as caught:
        call()
    return caught.value.errno


def limited(machine: Boot, pages: int, limit: int, **options: Any) -> Machine:
    """A machine of so many pages with a cgroup /a that may charge `limit` pages."""
    m = machine(pages, **options)
    m.mkdir("/a")
    m.write("/a", "misc.max", f"sgx_epc {limit * 4096}")
    return m


def enclave(m: Machine, id: str, cgroup: str = "/a", size: int = 64, pages: int = 0) -> None:
    """An initialised enclave with its first pages added."""
    m.enclave_create(id, cgroup, size)
    if pages:
        assert m.add_pages(id, 0, pages).stop is None
    m.init(id)


# ---- boot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [[], [(0, 0)], [(64, 1)], [(-1, 1)], [(0, 1)] * 9, [(0, (1 << 31) + 1)]],
    ids=lambda rows: str(rows)[:20],
)
def test_boot_refuses_sections_no_processor_has(sections: list[tuple[int, int]]) -> None:
    assert refusal(lambda: Machine([Section(*row) for row in sections])) == errno.EINVAL


def test_capacity_is_all_sections_and_all_pages_are_free(machine: Boot) -> None:
    m = machine((0, 10), (3, 20))
    assert (m.capacity_bytes, m.free_pages) == (30 * 4096, 30)
    assert m.read("/", "misc.capacity") == "sgx_epc 122880\n"


# ---- cgroups and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a", "", "/a/", "//a", "/a//b"])
def test_mkdir_takes_absolute_paths_only(machine: Boot, path: str) -> None:
    assert refusal(lambda: machine(64).mkdir(path)) == errno.EINVAL


def test_mkdir_needs_a_parent_and_a_new_name(machine: Boot) -> None:
    m = machine(64)
    m.mkdir("/a")
    assert refusal(lambda: m.mkdir("/a")) == errno.EEXIST
    assert refusal(lambda: m.mkdir("/")) == errno.EEXIST
    assert refusal(lambda: m.mkdir("/b/c")) == errno.ENOENT


def test_rmdir_refuses_a_cgroup_with_tasks_or_children_and_the_root(machine: Boot) -> None:
    m = machine(64)
    m.mkdir("/a")
    m.mkdir("/a/b")
    enclave(m, "e", "/a/b")
    assert refusal(lambda: m.rmdir("/a")) == errno.EBUSY
    assert refusal(lambda: m.rmdir("/a/b")) == errno.EBUSY
    assert refusal(lambda: m.rmdir("/")) == errno.EBUSY
    assert refusal(lambda: m.rmdir("/x")) == errno.ENOENT


def test_a_removed_cgroup_with_pages_keeps_charge_and_limit_until_they_go(machine: Boot) -> None:
    m = limited(machine, 64, 20)
    m.mkdir("/b")
    enclave(m, "e", pages=10)
    row = m.cgroups["/a"]
    m.migrate("e", "/b")
    m.rmdir("/a")
    assert m.cgroup_name(row) == "/a#2"
    assert m.k.cgroups[row].usage == 12 * 4096
    assert m.raw_limit(row) == 20 * 4096
    m.close("e")
    assert m.k.cgroups[row].used == 0


def test_a_path_can_be_made_again_while_the_old_cgroup_is_dying(machine: Boot) -> None:
    m = limited(machine, 64, 20)
    m.mkdir("/b")
    enclave(m, "e", pages=10)
    m.migrate("e", "/b")
    m.rmdir("/a")
    m.mkdir("/a")
    assert (m.usage_bytes("/a"), m.limit_bytes("/a")) == (0, None)
    assert m.usage_bytes("/") == 12 * 4096


@pytest.mark.parametrize(
    ("series", "root", "other"),
    [
        ("v17", {"capacity", "current", "peak"}, {"max", "current", "peak", "events", "events.local"}),
        ("v2", {"capacity"}, {"max", "current", "events"}),
        ("mainline", {"capacity", "current", "peak"}, {"max", "current", "peak", "events", "events.local"}),
    ],
)
def test_files_of_a_cgroup_are_the_controllers(machine: Boot, series: str, root: set[str], other: set[str]) -> None:
    m = machine(64, series=series)
    m.mkdir("/a")
    assert set(m.files("/")) == {f"misc.{name}" for name in root}
    assert set(m.files("/a")) == {f"misc.{name}" for name in other}
    assert {name for name, mode in m.files("/a").items() if mode & 0o222} == {"misc.max"}
    for path in ("/", "/a"):
        for name in m.files(path):
            assert m.read(path, name).startswith("sgx_epc") is (series != "mainline")


def test_files_that_are_not_there_or_not_writable(machine: Boot) -> None:
    m = machine(64)
    m.mkdir("/a")
    assert refusal(lambda: m.read("/a", "misc.min")) == errno.ENOENT
    assert refusal(lambda: m.read("/b", "misc.max")) == errno.ENOENT
    assert refusal(lambda: m.write("/", "misc.max", "sgx_epc 0")) == errno.ENOENT
    assert refusal(lambda: m.set_limit("/", 0)) == errno.ENOENT
    assert refusal(lambda: m.write("/a", "misc.peak", "0")) == errno.EACCES
    assert refusal(lambda: m.write("/a", "misc.max", "0")) == errno.EINVAL
    assert refusal(lambda: m.write("/a", "misc.max", f"sgx_epc {2**64}")) == errno.ERANGE
    assert refusal(lambda: m.files("/b")) == errno.ENOENT


def test_mainline_knows_no_epc_limit(machine: Boot) -> None:
    m = machine(64, series="mainline")
    m.mkdir("/a")
    assert refusal(lambda: m.write("/a", "misc.max", "sgx_epc 0")) == errno.EINVAL


def test_max_is_shown_as_written(machine: Boot) -> None:
    m = machine(64)
    m.mkdir("/a")
    for text, shown in (("sgx_epc 8193", "8193"), ("sgx_epc 0x2000", "8192"), (f"sgx_epc {2**64 - 1}", "max")):
        m.write("/a", "misc.max", text)
        assert m.read("/a", "misc.max") == f"sgx_epc {shown}\n"
    m.set_limit("/a", None)
    assert m.read("/a", "misc.max") == "sgx_epc max\n"


# ---- charges -------------------------------------------------------------------------------------


def test_an_enclave_charges_its_version_array_its_secs_and_its_pages(machine: Boot) -> None:
    m = limited(machine, 64, 20)
    enclave(m, "e", pages=10)
    assert m.usage_bytes("/a") == m.usage_bytes("/") == 12 * 4096
    assert m.read("/a", "misc.peak") == "sgx_epc 49152\n"
    m.close("e")
    assert m.usage_bytes("/a") == m.usage_bytes("/") == 0
    assert m.read("/a", "misc.peak") == "sgx_epc 49152\n"
    assert m.free_pages == 64


def test_charge_over_max_leaves_no_ancestor_charged(machine: Boot) -> None:
    m = limited(machine, 64, 1)
    m.mkdir("/a/b")
    assert refusal(lambda: m.enclave_create("e", "/a/b", 16)) == errno.ENOMEM
    assert m.usage_bytes("/a/b") == m.usage_bytes("/a") == m.usage_bytes("/") == 0
    assert "e" not in m.tasks
    assert m.read("/a", "misc.events.local") == "sgx_epc.max 1\n"
    assert m.read("/a/b", "misc.events") == "sgx_epc.max 0\n"


def test_a_full_cgroup_pages_against_itself_only(machine: Boot) -> None:
    m = limited(machine, 200, 20)
    m.mkdir("/b")
    enclave(m, "e", "/b", pages=30)
    enclave(m, "f", "/a", pages=40)
    assert m.usage_bytes("/a") <= 20 * 4096
    assert m.usage_bytes("/b") == 32 * 4096
    assert m.counters()["EWB"] > 0
    assert m.k.encls[m.enclaves["e"].row].nr_ewb == 0


def test_a_fault_at_the_limit_is_refused_until_the_work_has_run(machine: Boot) -> None:
    m = limited(machine, 200, 20)
    enclave(m, "f", pages=40)
    for _ in range(100):
        batch = m.touch("f", range(40))
        if batch.stop is not None:
            break
    assert batch.stop == "EBUSY"
    assert m.pending_works() == ["/a"]
    m.run_works()
    assert m.pending_works() == []
    assert m.touch("f", [batch.done]).stop is None


def test_retry_repeats_a_refused_fault(machine: Boot) -> None:
    m = limited(machine, 200, 20)
    enclave(m, "f", pages=40)
    batch = m.touch("f", range(40), retry=10)
    assert (batch.done, batch.stop) == (40, None)
    assert batch.retries > 0


def test_a_pending_signal_ends_an_allocation_that_would_reclaim(machine: Boot) -> None:
    m = limited(machine, 200, 20)
    m.enclave_create("e", "/a", 64)
    assert m.add_pages("e", 0, 18).stop is None
    m.signal()
    assert m.add_pages("e", 18, 1).stop == "ERESTARTSYS"
    m.signal(False)
    assert m.add_pages("e", 18, 1).stop is None


def test_lowering_max_frees_at_once_in_v2_and_nothing_in_v17(machine: Boot) -> None:
    used = {}
    for series in ("v2", "v17"):
        m = limited(machine, 200, 50, series=series)
        enclave(m, "e", pages=40)
        m.write("/a", "misc.max", f"sgx_epc {10 * 4096}")
        used[series] = m.usage_bytes("/a") // 4096
    assert used == {"v2": 10, "v17": 42}


def test_v2_kills_an_enclave_when_a_lower_max_cannot_be_met(machine: Boot) -> None:
    m = limited(machine, 200, 50, series="v2", tracing=True)
    enclave(m, "e", pages=10)
    m.write("/a", "misc.max", "sgx_epc 0")
    assert m.usage_bytes("/a") == 0
    assert m.touch("e", [0]).stop == "SIGBUS"
    assert refusal(lambda: m.run("e")) == errno.EAGAIN
    m.close("e")
    assert m.enclaves == {}


def test_v2_dies_at_a_dynamic_page_of_an_enclave_whose_secs_is_out(machine: Boot) -> None:
    m = limited(machine, 200, 50, series="v2")
    enclave(m, "e", pages=10)
    m.write("/a", "misc.max", "sgx_epc 4096")
    m.write("/a", "misc.max", "sgx_epc max")
    with pytest.raises(MachineDead) as death:
        m.touch("e", [60])
    assert death.value.cause == "OOPS"


# ---- enclaves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("series", SERIES)
def test_operations_on_nobody(machine: Boot, series: str) -> None:
    m = machine(64, series=series)
    for call in (
        lambda: m.add_pages("x", 0),
        lambda: m.init("x"),
        lambda: m.touch("x", [0]),
        lambda: m.trim("x", 0),
        lambda: m.fork("x", "y"),
        lambda: m.migrate("x", "/"),
        lambda: m.close("x"),
        lambda: m.run("x"),
        lambda: m.vepc_fault("x", [0]),
        lambda: m.vepc_close("x"),
        lambda: m.vepc_migrate("x", "/"),
        lambda: m.enclave_create("x", "/nowhere"),
    ):
        assert refusal(call) == errno.ENOENT


@pytest.mark.parametrize(("size", "name"), [(0, "EINVAL"), (-1, "EINVAL"), (1 << 25, "EINVAL"), (48, "EIO")])
def test_a_refused_enclave_leaves_nothing_behind(machine: Boot, size: int, name: str) -> None:
    m = limited(machine, 64, 20)
    assert refusal(lambda: m.enclave_create("e", "/a", size)) == getattr(errno, name)
    assert (m.free_pages, m.usage_bytes("/a"), m.k.cgroups[m.cgroups["/a"]].tasks) == (64, 0, 0)
    m.rmdir("/a")
    m.enclave_create("e", "/", 16)


def test_ranges_are_checked_before_anything_is_done(machine: Boot) -> None:
    m = limited(machine, 64, 40)
    m.enclave_create("e", "/a", 16)
    for first, count in ((-1, 1), (0, 0), (0, -1), (0, 17), (16, 1), (15, 2)):
        assert refusal(lambda first=first, count=count: m.add_pages("e", first, count)) == errno.EINVAL  # type: ignore[misc]
    assert refusal(lambda: m.trim("e", 0)) == errno.EINVAL  # not initialised
    m.init("e")
    assert refusal(lambda: m.init("e")) == errno.EINVAL
    assert refusal(lambda: m.add_pages("e", 0)) == errno.EINVAL
    assert m.touch("e", [16]) == (0, "SEGV", 0)


def test_a_page_is_added_once(machine: Boot) -> None:
    m = limited(machine, 64, 40)
    m.enclave_create("e", "/a", 16)
    assert m.add_pages("e", 2) == (1, None, 0)
    assert m.add_pages("e", 0, 4) == (2, "EBUSY", 0)


def test_a_page_is_trimmed_accepted_and_removed(machine: Boot) -> None:
    m = limited(machine, 64, 40)
    enclave(m, "e", pages=4)
    assert m.remove("e", 0).stop == "EPERM"
    assert m.trim("e", 0).stop is None
    assert m.remove("e", 0).stop == "EPERM"
    assert m.touch("e", [0], accept=True).stop is None
    assert m.remove("e", 0).stop is None
    assert m.usage_bytes("/a") == 5 * 4096


def test_without_sgx2_there_are_no_dynamic_pages(machine: Boot) -> None:
    m = limited(machine, 64, 40, sgx2=False)
    enclave(m, "e", pages=4)
    assert m.touch("e", [4]) == (0, "SIGBUS", 0)
    assert refusal(lambda: m.restrict("e", 0)) == errno.ENODEV


def test_a_fork_keeps_the_enclave_open(machine: Boot) -> None:
    m = limited(machine, 64, 40)
    enclave(m, "e", pages=4)
    assert m.touch("e", [0, 1]).done == 2
    m.fork("e", "f")
    assert refusal(lambda: m.fork("e", "f")) == errno.EEXIST
    m.close("e")
    assert m.usage_bytes("/a") == 6 * 4096
    assert m.touch("f", [0, 1, 2]) == (3, None, 0)
    m.close("f")
    assert m.usage_bytes("/a") == 0


def test_migrating_a_task_moves_no_charge(machine: Boot) -> None:
    m = limited(machine, 64, 40)
    m.mkdir("/b")
    enclave(m, "e", pages=4)
    m.migrate("e", "/b")
    assert (m.usage_bytes("/a"), m.usage_bytes("/b")) == (6 * 4096, 0)
    assert m.touch("e", [4]).stop is None  # a dynamic page is charged where the task is now
    assert (m.usage_bytes("/a"), m.usage_bytes("/b")) == (6 * 4096, 4096)


def test_what_was_written_and_loaded_is_told_in_order(machine: Boot) -> None:
    m = limited(machine, 200, 8, tracing=True)
    enclave(m, "e", pages=10)
    written = [event for event in m.drain() if event[1] == "e"]
    assert written == [(1, "e", 0, 6)]
    assert m.touch("e", [3], retry=5).stop is None
    assert (2, "e", 3, 1) in list(m.drain())
    assert list(m.drain()) == []


def test_accessed_bits_that_were_cleared_are_told_before_the_pages_that_go(machine: Boot) -> None:
    m = limited(machine, 200, 8, tracing="ages")
    enclave(m, "e", pages=10)
    assert m.touch("e", [6, 7, 8]).stop is None
    list(m.drain())
    # All that are resident (6 to 9) are taken off the list at once: three stay for their accessed bits.
    assert m.touch("e", [0, 1, 2], retry=5).stop is None
    kinds = [(kind, first, n) for kind, id, first, n in m.drain() if id == "e"]
    assert kinds[:4] == [(2, 0, 2), (4, 6, 3), (4, 0, 2), (1, 9, 1)]


def test_a_single_fault_does_what_a_touch_of_one_page_does(machine: Boot) -> None:
    one, other = (limited(machine, 200, 8, tracing="ages") for _ in range(2))
    for m in (one, other):
        enclave(m, "e", pages=10)
    stops = set()
    for page, retry in ((9, 0), (0, 0), (1, 0), (2, 0), (3, 0), (2, 5), (11, 5), (64, 0), (8, 0)):
        stop = one.fault("e", page, retry=retry)
        assert stop == other.touch("e", [page], retry=retry).stop
        stops.add(stop)
    assert stops == {None, "EBUSY", "SEGV"}
    assert list(one.drain()) == list(other.drain())
    assert one.counters() == other.counters()


# ---- virtual EPC and memory errors ---------------------------------------------------------------


def test_virtual_epc_is_charged_and_never_reclaimed(machine: Boot) -> None:
    m = limited(machine, 64, 10)
    m.vepc_open("v", "/a", 32)
    assert m.vepc_fault("v", range(32)) == (10, "SIGBUS", 0)
    assert m.usage_bytes("/a") == 10 * 4096
    assert refusal(lambda: m.vepc_open("v", "/a", 4)) == errno.EEXIST
    m.vepc_close("v")
    assert m.usage_bytes("/a") == 0


def test_a_guests_secs_with_children_elsewhere_outlives_its_file(machine: Boot) -> None:
    m = machine(64)
    for id in ("v", "w"):
        m.vepc_open(id, "/", 8)
        assert m.vepc_fault(id, [0]).stop is None
    m.vepc_guest("v", 0, "secs")
    m.vepc_guest("w", 0, "child", "v", 0)
    assert refusal(lambda: m.vepc_guest("v", 0, "child", "v", 0)) == errno.EBUSY
    assert refusal(lambda: m.vepc_guest("v", 1, "secs")) == errno.ENOENT
    assert m.vepc_remove_all("v") == 1
    m.vepc_close("v")
    assert (m.k.g.nr_zombies, m.free_pages) == (1, 62)
    m.vepc_close("w")
    assert (m.k.g.nr_zombies, m.free_pages) == (0, 64)


def test_a_poisoned_page_is_not_handed_out_again(machine: Boot) -> None:
    m = machine((0, 8), (0, 8))
    assert refusal(lambda: m.poison(2, 0)) == refusal(lambda: m.poison(0, 8)) == errno.ENXIO
    m.poison(0, 0)
    m.poison(0, 0)
    assert m.free_pages == 16
    m.vepc_open("v", "/", 32)
    assert m.vepc_fault("v", range(32)).done == 15
    m.vepc_close("v")
    assert m.free_pages == 16


# ---- tables grow, rows come back -----------------------------------------------------------------


def test_rows_and_page_ranges_come_back_after_close(machine: Boot) -> None:
    m = limited(machine, 200, 100)
    enclave(m, "first", pages=20)
    first = m.enclaves["first"]
    m.fork("first", "child")
    m.close("first")
    m.close("child")
    sizes = [len(m.k.state), len(m.k.ptes), len(m.k.encls)]
    for i in range(100):
        enclave(m, f"e{i}", pages=20)
        m.fork(f"e{i}", f"f{i}")
        if i == 0:
            assert (m.enclaves["e0"].base, m.enclaves["e0"].row) == (first.base, first.row)
        m.close(f"e{i}")
        m.close(f"f{i}")
    assert [len(m.k.state), len(m.k.ptes), len(m.k.encls)] == sizes
    assert m.free_pages == 200


def test_ranges_given_back_join_their_neighbours(machine: Boot) -> None:
    m = machine(200)
    for i in range(4):
        m.enclave_create(f"e{i}", "/", 32)
    start = m.enclaves["e0"].base
    for i in (0, 2, 1):
        m.close(f"e{i}")
    m.enclave_create("big", "/", 128)
    assert m.enclaves["big"].base == start


def test_more_cgroups_than_the_first_table_holds(machine: Boot) -> None:
    m = machine(400)
    for i in range(200):
        m.mkdir(f"/c{i}")
        m.set_limit(f"/c{i}", 4096 * 100)
    for i in range(0, 200, 7):
        enclave(m, f"e{i}", f"/c{i}", size=16, pages=4)
    assert m.usage_bytes("/c196") == 6 * 4096
    assert m.limit_bytes("/c199") == 4096 * 100
    for i in range(0, 200, 7):
        m.close(f"e{i}")
    for i in range(200):
        m.rmdir(f"/c{i}")
        m.settle()
    rows = m.k.g.nr_cgroups
    m.mkdir("/again")
    assert m.k.g.nr_cgroups == rows
    assert m.limit_bytes("/again") is None


def test_more_enclaves_than_the_first_tables_hold(machine: Boot) -> None:
    m = machine(2000)
    for i in range(100):
        enclave(m, f"e{i}", "/", size=16, pages=3)
        m.fork(f"e{i}", f"f{i}")
    assert m.touch("e99", range(3)).done == m.touch("f0", range(3)).done == 3
    assert m.free_pages == 2000 - 100 * 5


def test_an_enclave_larger_than_the_page_tables_at_boot(machine: Boot) -> None:
    m = machine(200)
    enclave(m, "small", "/", size=64, pages=10)
    m.enclave_create("big", "/", 1 << 18)
    assert m.add_pages("big", (1 << 18) - 300, 300).stop is None
    validate_everything(m)
    assert m.touch("small", range(10), retry=5).stop is None


def test_deep_trees_charge_every_level(machine: Boot) -> None:
    m = machine(64)
    path = ""
    for _ in range(80):
        path += "/x"
        m.mkdir(path)
    enclave(m, "e", path, size=16, pages=2)
    level = path
    while level:
        assert m.usage_bytes(level) == 4 * 4096
        level = level.rpartition("/")[0]


# ---- background ----------------------------------------------------------------------------------


@pytest.mark.parametrize("series", SERIES)
def test_ksgxd_works_up_to_its_high_mark(machine: Boot, series: str) -> None:
    m = machine(200, series=series)
    enclave(m, "e", "/", size=256, pages=180)
    assert m.ksgxd_woken
    assert m.woke()
    assert not m.woke()
    assert m.ksgxd()
    assert not m.ksgxd_woken
    assert m.free_pages >= 64


@pytest.mark.parametrize("series", SERIES)
def test_ksgxd_can_be_run_batch_by_batch(machine: Boot, series: str) -> None:
    m = machine(200, series=series)
    enclave(m, "e", "/", size=256, pages=180)
    free = []
    while not m.ksgxd(1):
        free.append(m.free_pages)
        validate_everything(m)
    assert len(free) > 1
    assert free == sorted(free)


def test_numpy_arrays_and_sequences_of_pages_are_the_same(machine: Boot) -> None:
    m = machine(64)
    enclave(m, "e", "/", size=16, pages=4)
    assert m.touch("e", np.arange(4, dtype=np.uint32)) == m.touch("e", range(4)) == m.touch("e", [0, 1, 2, 3])


@pytest.mark.parametrize("series", ["mainline", "v17"])
def test_a_memory_error_in_a_page_in_use_takes_it_off_the_list_once(series: str) -> None:
    """Mainline unmarks it at once (Linux 6.16); removing it later must not unmark it again."""
    m = Machine([Section(0, 140)], series)  # type: ignore[arg-type]
    m.enclave_create("e", nr_pages=64)
    m.add_pages("e", 0, 8)
    m.init("e")
    m.poison(0, 5)  # the frame of page 3: VA page and SECS come first
    assert m.k.g.nr_lru == (7 if series == "mainline" else 8)
    m.trim("e", 3)
    m.touch("e", [3], accept=True)
    assert m.remove("e", 3).done == 1
    assert m.k.g.nr_lru == 7
    m.close("e")
    assert (m.free_pages, m.k.nodes[0].nr_poison) == (140, 1)
    validate_everything(m)


def test_groups_in_rows_that_had_been_others_are_released_in_any_order() -> None:
    m = Machine([Section(0, 64)])
    for path in ("/a", "/b"):
        m.mkdir(path)
    m.rmdir("/a")
    m.settle()
    m.mkdir("/c")
    assert m.cgroups["/c"] < m.cgroups["/b"]
    m.rmdir("/b")
    m.rmdir("/c")
    validate_everything(m)
    m.settle()
    validate_everything(m)
    assert list(m.cgroups) == ["/"]
