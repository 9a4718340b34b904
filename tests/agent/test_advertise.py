"""EPC as an extended resource of the node: patched, kept so when others drop or change it, or left alone."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from cgroup_nodes import MIB

from epcgroup.agent.advertise import Advertise, Advertiser, numa_capacity
from epcgroup.agent.reconcile import Once
from epcgroup.agent.watch import Watch
from epcgroup.errors import InputError

EPC = "sgx.intel.com/epc"
STATUS = "/api/v1/nodes/node-1/status"
PATIENCE = 60


class Node:
    """A node at the API server, and an advertiser that looks at it; its clock is the test's."""

    def __init__(self, api, endpoint, folder, **options):
        self.api, self.now, self.lines = api, 0.0, []
        self.once = Once(self.lines.append)
        mode = options.pop("mode", "enforce")
        api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {"cpu": "2"}}})
        self.advertiser = Advertiser(
            endpoint, "node-1", Advertise(EPC, mode), self.lines.append, self.once,
            watching=partial(Watch, first_delay=0.01), numa=folder, **options,
        )  # fmt: skip

    def capacity(self) -> dict:
        return self.api.nodes.objects["", "node-1"]["status"]["capacity"]

    def kubelet_says(self, **amounts: str) -> None:
        amounts = {name.replace("epc", EPC): amount for name, amount in amounts.items()}
        self.api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {"cpu": "2", **amounts}}})

    def turn(self, capacity: int | None = 128 * MIB, seconds: float = 10.0) -> None:
        self.now += seconds
        self.advertiser.turn(capacity, self.now)
        self.once.next_turn()

    def seen(self) -> None:
        """Wait until the watch has told all."""
        watch, end = self.advertiser._watch, time.monotonic() + PATIENCE
        watch.look()
        while watch._place != str(self.api.version) or not self.api.nodes.nr_watches:
            assert time.monotonic() < end, "it did not tell"
            time.sleep(0.005)

    def patches(self) -> int:
        return self.api.asked("PATCH", STATUS)


@pytest.fixture
def make(api, endpoint, tmp_path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def node(**options) -> Node:
        made.append(Node(api, endpoint, tmp_path / "numa", **options))
        return made[-1]

    yield node
    for one in made:
        one.advertiser.close()


def test_the_nodes_epc_less_the_reserve_is_advertised_once(make):
    node = make(reserve_bytes=8 * MIB)
    node.turn()
    assert node.capacity() == {"cpu": "2", EPC: str(120 * MIB)}
    assert node.lines == [f"node node-1: set {EPC} to {120 * MIB}; it had none"]
    node.seen()
    for _ in range(5):
        node.turn(seconds=1000)
    assert node.patches() == 1


def test_a_quantity_that_the_server_writes_its_own_way_is_the_same(make):
    node = make()
    node.turn(94_000_000)
    assert node.capacity()[EPC] == "94M"
    node.seen()
    node.turn(94_000_000, seconds=1000)
    assert node.patches() == 1


@pytest.mark.parametrize("amounts", [{}, {"epc": "0"}, {"epc": "64Mi"}])
def test_what_kubelet_drops_is_set_again_at_the_next_turn(make, amounts):
    node = make()
    node.turn()
    for number in range(3):
        node.seen()
        node.turn()
        node.kubelet_says(**amounts)
        node.seen()
        node.turn()
        assert (node.capacity()[EPC], node.patches()) == (str(128 * MIB), number + 2)
    said = f"said '{amounts['epc']}'" if amounts else "had none"
    assert node.lines[-1] == f"node node-1: set {EPC} to {128 * MIB}; it {said}"


def test_who_fights_for_the_number_is_answered_more_and_more_seldom(make):
    node = make()
    node.turn()
    for _ in range(100):  # a thousand seconds
        node.kubelet_says(epc="1Mi")
        node.seen()
        node.turn()
    assert node.patches() == 8  # at 10, 20, 40, 80, 160, 320, 620 and 920 seconds


def test_a_patch_that_was_dropped_on_its_way_is_sent_again(make, api):
    node = make()
    node.seen()
    api.refuse(500)
    with pytest.raises(InputError, match=r"^PATCH https://.*/nodes/node-1/status: 500 Internal Server Error$"):
        node.turn()
    node.turn(seconds=5)
    assert node.patches() == 1
    node.turn()
    assert node.capacity()[EPC] == str(128 * MIB)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"mode": "observe"}, []),
        ({"mode": "warn"}, [f"node node-1: {EPC} should be {128 * MIB}; it has none"]),
        ({"dry_run": True}, [f"node node-1: {EPC} would be {128 * MIB}; it has none"]),
    ],
)
def test_nothing_is_patched_where_the_mode_says_so(make, options, lines):
    node = make(**options)
    for _ in range(3):
        node.turn()
    assert (node.patches(), node.lines) == (0, lines)


def test_without_a_capacity_the_node_is_left_as_it_is(make):
    node = make()
    node.turn(None)
    assert (node.patches(), node.lines) == (0, [f"node node-1: no EPC is known, {EPC} is left as it is"])


def test_mainlines_sysfs_says_the_capacity_where_the_misc_controller_does_not(make, tmp_path):
    for number in (0, 1):
        folder = tmp_path / "numa" / f"node{number}" / "x86"
        folder.mkdir(parents=True)
        (folder / "sgx_total_bytes").write_text(f"{32 * MIB}\n")
    assert numa_capacity(tmp_path / "numa") == 64 * MIB
    node = make()
    node.turn(None)
    assert node.capacity()[EPC] == str(64 * MIB)


def test_a_node_that_the_server_does_not_know_is_a_line(make, api):
    node = make()
    api.nodes.delete("", "node-1")
    node.turn()
    assert (node.patches(), node.lines) == (0, ["node node-1: the API server knows no such node"])


@pytest.mark.parametrize("status", [None, 5, {}, {"capacity": 5}, {"capacity": {EPC: []}}, {"capacity": {EPC: "x"}}])
def test_a_malformed_node_is_patched_or_a_line(make, api, status):
    node = make()
    api.nodes.put({"metadata": {"name": "node-1"}})
    node.seen()
    value = {"metadata": {"name": "node-1", "resourceVersion": str(api.version + 1)}, "status": status}
    api.nodes.say(json.dumps({"type": "MODIFIED", "object": value}).encode() + b"\n")
    node.seen()
    with pytest.raises(InputError, match=r"422 .*our request"):  # it has no capacity to add to
        node.turn()
