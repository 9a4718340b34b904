"""Sizes, times and counts as people write them, and the one line they get back when it is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.units import (
    MAX_BYTES,
    PAGE_SIZE,
    format_bytes,
    format_count,
    pages_down,
    pages_up,
    parse_bytes,
    parse_duration,
    quoted,
)

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "nr_bytes"),
    [
        ("96Mi", 96 * MIB),
        ("96MiB", 96 * MIB),
        ("96 MiB", 96 * MIB),
        ("  96Mi\n", 96 * MIB),
        ("64M", 64_000_000),
        ("1.5Gi", 3 * 2**29),
        (".5Ki", 512),
        ("0.001k", 1),
        ("4096", 4096),
        ("4096B", 4096),
        (4096, 4096),
        ("0", 0),
        ("-0", 0),
        (str(MAX_BYTES), MAX_BYTES),
    ],
)
def test_sizes_are_read_in_binary_and_decimal_units(text, nr_bytes):
    assert parse_bytes(text) == nr_bytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-1", "negative"),
        (-4096, "negative"),
        ("-5Mi", "negative"),
        ("0.3", "whole number of bytes"),
        ("0.0001Ki", "whole number of bytes"),
        (str(MAX_BYTES + 1), "too large"),
        ("8388608Ti", "too large"),
        ("9" * 5000, "too many digits"),
        ("96mi", 'did you mean "Mi"'),
        ("96m", 'did you mean "M"'),
        ("4K", 'did you mean "k"'),
        ("4 MiBs", 'did you mean "MiB"'),
        ("4 pages", "unknown unit 'pages'"),
        ("0x1000", "only decimal numbers"),
        ("1e3", "unknown unit 'e3'"),
        ("", "is not bytes"),
        ("Mi", "is not bytes"),
        ("1_000", "unknown unit"),
        ("٤٠٩٦", "is not bytes"),
        (True, "is not bytes"),
        (float("nan"), "is not bytes"),
        (None, "is not bytes"),
    ],
)
def test_a_size_that_is_none_is_refused_in_one_line(text, said):
    with pytest.raises(InputError, match=r"^node\.toml, epc: ") as caught:
        parse_bytes(text, where="node.toml", key="epc")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("250ms", 0.25),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        (5, 5.0),
        (0.5, 0.5),
        ("5", 5.0),
        ("0", 0.0),
    ],
)
def test_times_are_seconds_unless_a_unit_says_otherwise(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["-1s", "1 day", "soon", "", "1e999", float("inf"), "9999999999", True])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(InputError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nr_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (4096, "4 KiB"),
        (96 * MIB, "96 MiB"),
        (96 * MIB + 1, "96.0 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (100_000_000, "95.4 MiB"),
        (5 * 2**28, "1.25 GiB"),
        (21474836480, "20 GiB"),
        (MIB - 1, "1.00 MiB"),
        (10 * MIB - 1, "10.0 MiB"),
        (-4096, "-4 KiB"),
    ],
)
def test_exact_multiples_are_shown_without_decimals_and_rounded_values_with(nr_bytes, text):
    assert format_bytes(nr_bytes) == text


@given(st.integers(0, 2**50))
def test_what_is_shown_reads_back_within_its_rounding(nr_bytes):
    number, _, unit = format_bytes(nr_bytes).partition(" ")
    unit_bytes = {"B": 1, "KiB": 2**10, "MiB": MIB, "GiB": 2**30, "TiB": 2**40}[unit]
    assert abs(float(number) * unit_bytes - nr_bytes) <= 0.05 * unit_bytes + 1


@given(st.text() | st.integers() | st.floats())
def test_any_text_is_a_size_or_an_input_error(value):
    for parse in (parse_bytes, parse_duration):
        try:
            assert parse(value) >= 0
        except InputError as error:
            assert "\n" not in str(error)


def test_counts_have_their_thousands_set_apart():
    assert format_count(1234567) == "1,234,567"


def test_a_limit_holds_whole_pages_and_a_need_takes_them():
    assert (pages_down(2 * PAGE_SIZE - 1), pages_up(2 * PAGE_SIZE - 1)) == (1, 2)
    assert (pages_down(42), pages_up(42), pages_up(0)) == (0, 1, 0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 100, "'" + "x" * 56 + "..."),
        (4096, "4096"),
        (2**300, "a number beyond 2**256"),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_a_value_in_a_message_is_short_printable_and_on_one_line(value, shown):
    assert quoted(value) == shown
