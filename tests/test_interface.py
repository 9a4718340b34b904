"""The text of misc.*: cases that a 7.3 kernel and the series' own code answered, with their answers."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.errors import InputError, MachineError
from epcgroup.interface import (
    EPC,
    UNLIMITED,
    files_of,
    max_line,
    parse_max,
    read_events,
    read_values,
    show_capacity,
    show_events,
    show_max,
    show_usage,
)

RESOURCES = ("sev", "sev_es", EPC)
CAPACITIES = {EPC: 96 << 20}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("sgx_epc 5", 5),
        ("sgx_epc 5\n", 5),
        ("sgx_epc max", UNLIMITED),
        ("sgx_epc max \n\n", UNLIMITED),
        ("sgx_epc 0", 0),
        ("sgx_epc +7", 7),
        ("sgx_epc 0x10", 16),
        ("sgx_epc 0X1F", 31),
        ("sgx_epc +0xfFfF\n", 0xFFFF),
        ("sgx_epc 010", 8),
        ("sgx_epc 00000000000000000000000000000000000000005", 5),
        (" sgx_epc 4096 \n", 4096),
        ("\tsgx_epc 8\t\n", 8),
        ("\n\nsgx_epc 9\r\n", 9),
        ("sgx_epc 27\v\f", 27),
        (b"sgx_epc 28\xa0", 28),
        ("sgx_epc 23\0junk", 23),
        ("sgx_epc 4097", 4097),
        ("sgx_epc 100663297", 100663297),
        ("sgx_epc 18446744073709551614", 2**64 - 2),
        ("sgx_epc 18446744073709551615", UNLIMITED),
        ("sgx_epc 0xffffffffffffffff", UNLIMITED),
        ("sgx_epc 01777777777777777777777", UNLIMITED),
        ("sgx_epc " + "0" * 4000 + "17", 0o17),
    ],
)
def test_a_limit_is_taken_as_the_kernel_takes_it(text, limit):
    assert parse_max(text, RESOURCES, CAPACITIES) == (EPC, limit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        " \n",
        "5",
        "max",
        "sgx_epc",
        "sgx_epc ",
        "sgx_epc -1",
        "sgx_epc -0",
        "sgx_epc ++1",
        "sgx_epc 08",
        "sgx_epc 0x",
        "sgx_epc 0xg",
        "sgx_epc 0b11",
        "sgx_epc 1e3",
        "sgx_epc 5.5",
        "sgx_epc 1K",
        "sgx_epc 1_000",
        "sgx_epc 5 6",
        "sgx_epc  11",
        "sgx_epc\t12",
        "sgx_epc \t13",
        "sgx_epc \n15",
        "sgx_epc MAX",
        "sgx_epc maxx",
        "sgx_epc max 5",
        "5 sgx_epc",
        "bogus 1",
        "SGX_EPC 1",
        "sgx_epc.max 1",
        "sgx_epc=1",
        "sgx_epc 5\nsev 6\n",
        "\0sgx_epc 24",
        "sgx_epc\0 25",
        b"sgx_epc\xa029",
        b"\xef\xbb\xbfsgx_epc 30",
        "sgx_epc ٣",
    ],
)
def test_a_write_that_is_not_one_limit_is_einval(text):
    with pytest.raises(MachineError) as caught:
        parse_max(text, RESOURCES, CAPACITIES)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "text",
    [
        "sgx_epc 18446744073709551616",
        "sgx_epc 0x10000000000000000",
        "sgx_epc 99999999999999999999x",
        "sgx_epc " + "9" * 5000,
    ],
)
def test_a_number_above_64_bits_is_erange(text):
    with pytest.raises(MachineError) as caught:
        parse_max(text, RESOURCES, CAPACITIES)
    assert caught.value.errno == errno.ERANGE


@pytest.mark.parametrize(
    ("text", "number"),
    [("sev 1", errno.EINVAL), ("sev zzz", errno.EINVAL), ("sev 99999999999999999999", errno.ERANGE)],
)
def test_the_number_is_looked_at_before_the_capacity(text, number):
    with pytest.raises(MachineError) as caught:
        parse_max(text, RESOURCES, CAPACITIES)
    assert caught.value.errno == number


def test_resources_without_capacity_are_left_out():
    limits = {"sev": 3, "sev_es": UNLIMITED, EPC: 4096}
    assert show_max(limits, CAPACITIES) == "sgx_epc 4096\n"
    assert show_max(limits, {"sev": 0, "sev_es": 509, EPC: 4096}) == "sev_es max\nsgx_epc 4096\n"
    assert show_capacity({"sev": 0, EPC: 4096}) == "sgx_epc 4096\n"
    assert show_max(limits, {}) == ""


def test_usage_and_events_are_shown_even_when_the_capacity_has_gone():
    assert show_usage({"sev": 2, "sev_es": 0, EPC: 0}, CAPACITIES) == "sev 2\nsgx_epc 0\n"
    assert show_events({"sev": 0, EPC: 3}, {}) == "sgx_epc.max 3\n"


def test_a_negative_usage_is_shown_as_the_unsigned_number():
    assert show_usage({EPC: -4096}, CAPACITIES) == "sgx_epc 18446744073709547520\n"


def test_the_root_has_no_limit_and_61_has_fewer_files():
    assert "misc.max" not in files_of("mainline", root=True)
    assert set(files_of("v2", root=True)) == {"misc.capacity"}
    assert set(files_of("v17", root=False)) - set(files_of("v2", root=False)) == {
        "misc.peak",
        "misc.events.local",
    }


@given(st.integers(0, UNLIMITED))
def test_what_max_line_writes_parses_and_reads_back(limit):
    line = max_line(EPC, limit)
    assert parse_max(line, RESOURCES, CAPACITIES) == (EPC, limit)
    assert read_values(line + "\n") == {EPC: limit}


def test_event_files_read_as_refused_charges():
    assert read_events("sev.max 0\nsgx_epc.max 7\n") == {"sev": 0, EPC: 7}
    assert read_events("") == {}


@pytest.mark.parametrize(
    "text", ["sgx_epc", "sgx_epc -1\n", "sgx_epc 1 2\n", "sgx_epc ²\n", "\n", "<html>\n"]
)
def test_text_that_no_kernel_writes_is_an_input_error(text):
    with pytest.raises(InputError, match="misc file"):
        read_values(text, where="/sys/fs/cgroup/a/misc.current")
    with pytest.raises(InputError):
        read_events("sgx_epc 4\n")


@given(st.text() | st.binary() | st.from_regex(r"\s?sgx_epc [+0-9xXa-f]+\s?"))
def test_any_write_is_a_limit_or_one_of_two_errnos(text):
    try:
        resource, limit = parse_max(text, RESOURCES, CAPACITIES)
    except MachineError as error:
        assert error.errno in (errno.EINVAL, errno.ERANGE)
    else:
        assert resource == EPC
        assert 0 <= limit <= UNLIMITED
