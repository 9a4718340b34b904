"""Enclaves built before they are initialised: charged page by page (EADD), no page of the pool until touched."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

BUILT = """
pages, built = int(sys.argv[1]), int(sys.argv[2])
try:
    enclave = Enclave(pages * PAGE, built=built)
except OSError as error:
    say("refused", error.errno)
    sys.exit()
say("built")
hear()
m = enclave.memory
say(sum(m[page * PAGE] for page in range(pages)))
for page in range(pages):
    m[page * PAGE] = page % 251
say(sum(m[page * PAGE] == page % 251 for page in range(pages)))
hear()
"""


@pytest.mark.parametrize("series", ["v17", "v2", "mainline"])
@pytest.mark.parametrize("pageout", [True, False])
def test_pages_added_at_build_are_charged_at_once_and_read_as_zeros(
    live: Callable[..., Any], series: str, pageout: bool
) -> None:
    node = live(256, series=series, pageout=pageout)
    client = node.client(BUILT, "64", "40", group="/a")
    assert client.line() == "built"
    assert node.machine.resident_pages(next(iter(node.machine.enclaves))) == 40
    assert node.used == 0
    client.tell()
    assert client.line() == "0"
    assert client.line() == "64"
    counted = node.counters("/a")
    assert counted["grown"] == (0 if series == "v2" else 24)
    assert counted["faults"] == 64
    client.tell()
    assert client.ended() == 0
    assert node.counters("/a") == counted


def test_an_enclave_larger_than_its_limit_is_built_and_pages_against_itself(live: Callable[..., Any]) -> None:
    node = live(256)
    node.limit("/a", 32)
    client = node.client(BUILT, "64", "64", group="/a")
    assert client.line() == "built"
    client.tell()
    assert client.line() == "0"
    assert client.line() == "64"
    counted = node.counters("/a")
    assert counted["page_outs"] == counted["write_outs"] > 64
    assert counted["page_ins"] == counted["loads"] > 64
    assert counted["page_outs_by_others"] == 0
    client.tell()
    assert client.ended() == 0


def test_a_build_under_a_limit_without_room_for_a_page_is_refused_with_enomem(live: Callable[..., Any]) -> None:
    node = live(256)
    node.limit("/a", 2)
    client = node.client(BUILT, "8", "8", group="/a")
    assert client.line() == f"refused {errno.ENOMEM}"
    assert client.ended() == 0


REFUSED = """
def held():
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum(" rw-s " in line for line in maps)

before = held()
try:
    Enclave(8 * PAGE, built=8)
except OSError:
    say(before == held())
hear()
"""


def test_a_program_that_was_refused_an_enclave_has_nothing_of_it_and_goes_on(live: Callable[..., Any]) -> None:
    node = live(256)
    node.limit("/a", 2)
    client = node.client(REFUSED, group="/a")
    assert client.line() == "True"
    node.settle()
    client.tell()
    assert client.ended() == 0
