"""The series' claim with real processes: who goes over its limit pages itself, and its neighbour loads nothing."""

from collections.abc import Callable
from typing import Any

import pytest

MIB_PAGES = 256

WORK = """
pages, operations = int(sys.argv[1]), int(sys.argv[2])
with Enclave(pages * PAGE) as enclave:
    m, rng = enclave.memory, random.Random(pages)
    for page in range(pages):
        m[page * PAGE] = 1
    say("filled")
    while hear() != "end":
        for _ in range(operations):
            m[rng.randrange(pages) * PAGE] += 0
        say("done")
"""


@pytest.mark.parametrize("limited", [False, True], ids=["without limits", "A limited to 4 MiB"])
def test_b_loads_nothing_only_when_a_is_limited(live: Callable[..., Any], limited: bool) -> None:
    """Pool 16 MiB, A touches 12 MiB and B 8 MiB at random: hard loads of B in 10 rounds of 1000 operations."""
    node = live(16 * MIB_PAGES)
    if limited:
        node.limit("/a", 4 * MIB_PAGES)
    a = node.client(WORK, str(12 * MIB_PAGES), "2000", group="/a")
    b = node.client(WORK, str(8 * MIB_PAGES), "1000", group="/b")
    assert a.line() == b.line() == "filled"
    for _ in range(3):  # both touch everything about once
        for client in (a, b):
            client.tell()
        assert a.line() == b.line() == "done"
    before = node.counters("/b")["loads"]
    loads_of_a = node.counters("/a")["loads"]
    for _ in range(10):
        for client in (a, b):
            client.tell()
        assert a.line() == b.line() == "done"
    loads = (node.counters("/b")["loads"] - before) / 10
    loads_of_a = (node.counters("/a")["loads"] - loads_of_a) / 20
    print(f"loads per 1000 operations: A {loads_of_a}, B {loads}")
    if limited:
        assert loads == 0
        assert node.counters("/b")["write_outs"] == 0
        assert node.machine.usage_bytes(node.path("/a")) <= 4 << 20
        assert loads_of_a > 500
    else:
        assert loads > 10
    for client in (a, b):
        client.tell("end")
    assert a.ended() == b.ended() == 0
