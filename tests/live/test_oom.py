"""Series v2 kills enclaves when a limit leaves nothing else to reclaim: SIGBUS for theirs, nothing for anybody else."""

import signal
from collections.abc import Callable
from typing import Any

from epcgroup.units import PAGE_SIZE

Boot = Callable[..., Any]

KEEPS = """
enclave = Enclave(128 * PAGE)
m = enclave.memory
for page in range(40):
    m[page * PAGE] = page + 1
say("filled")
while hear() != "end":
    say(all(m[page * PAGE] == page + 1 for page in range(40)))
"""


def test_a_limit_of_nothing_kills_the_enclaves_of_the_group_only(live: Boot) -> None:
    node = live(256, series="v2")
    killed = [node.client(KEEPS, group="/a") for _ in range(2)]
    neighbour = node.client(KEEPS, group="/b")
    for client in (*killed, neighbour):
        assert client.line() == "filled"
    assert node.machine.usage_bytes(node.path("/a")) == 2 * 42 * PAGE_SIZE
    node.limit("/a", 0)
    assert node.machine.usage_bytes(node.path("/a")) == 0
    assert [client.ended() for client in killed] == [-signal.SIGBUS] * 2
    assert node.daemon.revoked == 2
    # What could be reclaimed was written out before.
    assert node.counters("/a")["write_outs"] == 80 and node.counters("/b")["write_outs"] == 0
    neighbour.tell("check")
    assert neighbour.line() == "True"
    assert node.counters("/b")["loads"] == 0
    neighbour.tell("end")
    assert neighbour.ended() == 0


def test_the_older_enclave_is_killed_when_that_is_enough(live: Boot) -> None:
    """SECS and VA page of each stay: of four such pages the limit has room for three."""
    node = live(256, series="v2")
    older = node.client(KEEPS, group="/a")
    assert older.line() == "filled"
    younger = node.client(KEEPS, group="/a")
    assert younger.line() == "filled"
    node.limit("/a", 3)
    assert older.ended() == -signal.SIGBUS
    assert node.machine.usage_bytes(node.path("/a")) == 2 * PAGE_SIZE
    younger.tell("check")
    assert younger.line() == "True"
    assert node.counters("/a")["loads"] >= 40
    assert node.machine.usage_bytes(node.path("/a")) == 3 * PAGE_SIZE
    younger.tell("end")
    assert younger.ended() == 0


def test_an_enclave_that_is_killed_while_its_threads_fault_is_sigbus(live: Boot) -> None:
    node = live(96, series="v2")
    client = node.client(
        """
enclave = Enclave(256 * PAGE)
m, rng = enclave.memory, random.Random(1)
say("churns")
while True:
    m[rng.randrange(256) * PAGE] = 1
""",
        group="/a",
    )
    assert client.line() == "churns"
    node.until(lambda: node.counters("/a")["loads"] > 500)
    node.limit("/a", 0)
    assert client.ended() == -signal.SIGBUS
    node.settle()
    node.assert_empty()
