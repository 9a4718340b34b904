"""The strict audit of the live tests is no formality: where the daemon's count is wrong by its own fault, it fails."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from epcgroup.live.pager import MAPPED, SEALED

Boot = Callable[..., Any]

HOLDS = """
with Enclave(32 * PAGE) as enclave:
    m = enclave.memory
    for page in range(20):
        m[page * PAGE] = page
    say("filled")
    hear()
    say(all(m[page * PAGE] == page for page in range(20)))
"""


@pytest.fixture
def node(live: Boot) -> Iterator[Any]:
    """A daemon with a client that holds 20 pages, and that what the test has done to the counts has not harmed."""
    node = live(96)
    client = node.client(HOLDS)
    assert client.line() == "filled"
    assert node.used == node.pager.in_pool == 20
    yield node
    client.tell()
    assert client.line() == "True"
    assert client.ended() == 0
    assert node.daemon.revoked == 0


def test_a_page_in_the_pool_that_is_in_no_count_fails_the_audit(node: Any) -> None:
    """Only the kernel's count can tell: all of ours agree with each other."""
    file = node.daemon.pool.new_file(1)
    node.daemon.turn(0)
    os.pwrite(file, b"x", 0)
    with pytest.raises(AssertionError):
        node.daemon.turn(0)
    os.close(file)
    node.daemon.turn(0)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("whose", ["pager", "area"])
def test_a_wrong_count_fails_the_audit(node: Any, whose: str, by: int) -> None:
    (area,) = node.pager.areas.values()
    counter = {"pager": node.pager, "area": area}[whose]
    counter.in_pool += by
    with pytest.raises(AssertionError):
        node.daemon.turn(0)
    counter.in_pool -= by
    node.daemon.turn(0)


def test_a_page_in_a_wrong_state_fails_the_audit(node: Any) -> None:
    (area,) = node.pager.areas.values()
    page = bytes(area.state).index(MAPPED)
    area.state[page] = SEALED
    with pytest.raises(AssertionError):
        node.daemon.turn(0)
    area.state[page] = MAPPED
    node.daemon.turn(0)
