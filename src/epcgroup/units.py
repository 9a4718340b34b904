"""Bytes, pages, seconds and counts: how people write them and how we show them.

The one place that knows the size of an EPC page. Sizes are whole bytes (int), times are seconds (float).
`parse_*` read command lines and TOML values and answer bad input with one InputError line; the kernel's own
number grammar (base prefixes, `max`) stands in interface.py, Kubernetes' in manifest/quantity.py.
"""

import math
import re
from fractions import Fraction

from epcgroup.errors import InputError, nearest

PAGE_SIZE = 4096  # bytes of one EPC page, and of everything the EPC cgroup charges
MAX_BYTES = 2**63 - 1  # sizes beyond this fit no machine and no signed 64-bit column

BYTE_UNITS = {
    "": 1,
    "B": 1,
    "k": 10**3,
    "kB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "T": 10**12,
    "TB": 10**12,
    "Ki": 2**10,
    "KiB": 2**10,
    "Mi": 2**20,
    "MiB": 2**20,
    "Gi": 2**30,
    "GiB": 2**30,
    "Ti": 2**40,
    "TiB": 2**40,
}
SECOND_UNITS = {
    "": Fraction(1),
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
MAX_SECONDS = 10**9  # thirty years

_NUMBER_AND_UNIT = re.compile(r"(-?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(.*)", re.ASCII | re.DOTALL)
_SHOWN = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def quoted(value: object, length: int = 60) -> str:
    """A value as a message shows it: on one line, printable, cut at `length` characters."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number beyond 2**256"  # str() itself refuses numbers of more than 4300 digits
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"  # YAML aliases can make them endless
    text = repr(value) if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= length else text[: length - 3] + "..."


def parse_bytes(value: str | int, *, where: object = None, key: str | None = None) -> int:
    """Whole bytes from `96Mi`, `96 MiB`, `64M`, `1.5Gi` or 4096: binary units have an i."""
    number = _number(value, BYTE_UNITS, 'bytes, as in "96Mi", "64M" or 4096', where, key)
    if number > MAX_BYTES:
        raise InputError(f"{quoted(value)} is too large; at most {MAX_BYTES} bytes", where=where, key=key)
    if number.denominator != 1:
        raise InputError(f"{quoted(value)} is not a whole number of bytes", where=where, key=key)
    return int(number)


def parse_duration(value: str | int | float, *, where: object = None, key: str | None = None) -> float:
    """Seconds from `10s`, `250ms`, `2m`, `1.5h` or 5; zero is a duration, a negative time is not."""
    number = _number(value, SECOND_UNITS, 'a time, as in "10s", "250ms", "2m" or 5 (seconds)', where, key)
    if number > MAX_SECONDS:
        raise InputError(f"{quoted(value)} is too long; at most {MAX_SECONDS} s", where=where, key=key)
    return float(number)


def _number(
    value: object, units: dict[str, Fraction] | dict[str, int], wanted: str, where: object, key: str | None
) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{quoted(value)} is not {wanted}", where=where, key=key)
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value.strip())
        if match is None:
            raise InputError(f"{quoted(value)} is not {wanted}", where=where, key=key)
        sign, digits, unit = match.groups()
        if len(digits) > 100:
            raise InputError(f"{quoted(value)} has too many digits", where=where, key=key)
        if unit not in units:
            raise InputError(f"{_unit_fault(value, unit)}{_nearest_unit(unit, units)}", where=where, key=key)
        number = Fraction(digits) * units[unit]
        negative = bool(sign) and number != 0
    else:
        if not math.isfinite(value):
            raise InputError(f"{quoted(value)} is not {wanted}", where=where, key=key)
        number = Fraction(value)
        negative = number < 0
    if negative:
        raise InputError(f"{quoted(value)} is negative; 0 or more is allowed", where=where, key=key)
    return number


def _unit_fault(value: str, unit: str) -> str:
    if unit[:1] in ("x", "X"):
        return f"{quoted(value)}: only decimal numbers are read here"
    return f"{quoted(value)}: unknown unit {quoted(unit)}"


def _nearest_unit(unit: str, units: dict[str, Fraction] | dict[str, int]) -> str:
    named = [name for name in units if name]
    same_but_for_case = [name for name in named if name.lower() == unit.lower()]
    if same_but_for_case:
        return f'; did you mean "{same_but_for_case[0]}"?'
    return nearest(unit, named)


def format_bytes(nr_bytes: int) -> str:
    """Binary units, short: `96 MiB`, `1.5 GiB`, `512 B`. What was rounded keeps its decimals: `96.0 MiB` is a
    little more or less than `96 MiB`."""
    sign, size = ("-", -nr_bytes) if nr_bytes < 0 else ("", nr_bytes)
    for name, unit in _SHOWN:
        # What would round to 1024.0 of a unit is shown as 1.00 of the next.
        if size >= unit - unit // 20480:
            return f"{sign}{_decimals(size, unit)} {name}"
    return f"{sign}{size} B"


def _decimals(size: int, unit: int) -> str:
    places = 2 if size < 10 * unit - unit // 200 else 1
    text = f"{size / unit:.{places}f}"
    return text.rstrip("0").rstrip(".") if size * 10**places % unit == 0 else text


def format_count(count: int) -> str:
    """A count with its thousands set apart: `1,234,567`."""
    return f"{count:,}"


def pages_down(nr_bytes: int) -> int:
    """Whole pages that fit into `nr_bytes`: what a limit of that many bytes lets a cgroup charge."""
    return nr_bytes // PAGE_SIZE


def pages_up(nr_bytes: int) -> int:
    """Pages needed to hold `nr_bytes`."""
    return -(-nr_bytes // PAGE_SIZE)
