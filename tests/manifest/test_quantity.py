"""Kubernetes quantities, and the reasons why a value is none."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.manifest.quantity import MAX, parse, parse_whole


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("512Ki", 512 << 10),
        ("10Mi", 10 << 20),
        ("1.5Gi", 3 << 29),
        (21474836480, 21474836480),
        ("21474836480", 21474836480),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1e+3", 1000),
        ("1E", 10**18),
        ("2k", 2000),
        ("2M", 2 * 10**6),
        ("+5", 5),
        (".5Ki", 512),
        ("5.", 5),
        (1e3, 1000),
        ("1000m", 1),
        ("0.5e1", 5),
        ("0e999999999", 0),
        (MAX, MAX),
    ],
)
def test_whole_quantities_are_read_by_kubernetes_grammar(value, number):
    assert parse_whole(value) == number


def test_cpu_quantities_may_be_fractions():
    assert parse("100m") == Fraction(1, 10)
    assert parse("250u") == Fraction(1, 4000)
    assert parse(0.5) == Fraction(1, 2)
    assert parse("-1n") == Fraction(-1, 10**9)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.5", "whole number"),
        (0.5, "whole number"),
        ("10Mi5", "not a quantity"),
        ("512m", "whole number"),
        ("1e-1", "whole number"),
        ("1e-999999999", "whole number"),
        (-1, "negative"),
        ("-5Mi", "negative"),
        ("8Ei", "too large"),
        ("1e999999999", "too large"),
        (2**63, "too large"),
        ("10MB", 'did you mean "M"'),
        ("10mib", 'did you mean "Mi"'),
        ("10KB", 'did you mean "k"'),
        ("10x", "unknown suffix 'x'; allowed: n, u, m"),
        ("10 Mi", "not a quantity"),
        (" 10", "not a quantity"),
        ("", "not a quantity"),
        ("0x10", "not a quantity"),
        ("1_000", "not a quantity"),
        ("٣", "not a quantity"),
        (True, "not a quantity"),
        (None, "not a quantity"),
        ([1], "not a quantity"),
        (float("inf"), "not a quantity"),
        ("1" * 5000, "not a quantity"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused_with_key_and_value(value, said):
    with pytest.raises(InputError, match=r"^sgx\.intel\.com/epc: ") as caught:
        parse_whole(value, key="sgx.intel.com/epc")
    assert said in str(caught.value)


def test_a_number_too_long_to_print_is_refused_too():
    with pytest.raises(InputError, match="too large"):
        parse_whole(10**5000)


def test_a_count_of_mib_becomes_bytes_and_may_overflow():
    assert parse_whole(10, unit_bytes=2**20) == 10 << 20
    with pytest.raises(InputError, match="too large"):
        parse_whole("8Ti", unit_bytes=2**20)


@given(st.text(alphabet="0123456789.eE+-KMGTPinumk") | st.text() | st.floats() | st.integers())
def test_any_value_is_a_quantity_or_an_input_error(value):
    try:
        assert 0 <= parse_whole(value) <= MAX
    except InputError as error:
        assert "\n" not in str(error)
