"""Numbers as people read them: three figures at most, "-" for what does not apply.

Plain ASCII, so that the same text stands on any terminal and in the page.
"""

import math
from collections.abc import Iterable

from epcgroup.units import format_bytes

NONE = "-"
_SIZES = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def number(value: float | None) -> str:
    """Three figures, thousands with commas: 0, 0.03, 7.4, 16, 1,234."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return _trim(value, 1 if size >= 9.995 else 2 if size >= 0.995 else 3)


def _trim(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rate(value: float | None) -> str:
    """Events per second: whole numbers from 10 on, one digit below; "<0.1" for a few in a long run."""
    if value is None or not math.isfinite(value):
        return NONE
    if value >= 9.95:
        return f"{value:,.0f}"
    if value <= 0:
        return "0"
    return "<0.1" if value < 0.05 else _trim(value, 1)


def percent(share: float | None) -> str:
    """A share in per cent, without the sign; never rounded to a false 0 or 100."""
    if share is None or not math.isfinite(share):
        return NONE
    value = share * 100
    if 0 < value < 0.05:
        return "<0.1"
    if 99.5 <= value < 100:
        return ">99"
    return _trim(value, 1) if abs(value) < 9.95 else f"{value:.0f}"


def factor(value: float | None) -> str:
    """A slowdown: 1.0x, 7.4x, 12x, 1,200x."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.1f}x" if value < 9.95 else f"{value:,.0f}x"


def size(value: float | None) -> str:
    """Bytes in the largest unit that leaves at least one: 16 MiB, 1.5 GiB."""
    return NONE if value is None or not math.isfinite(value) else format_bytes(round(value))


def compact(value: float) -> str:
    """A number on an axis: 500, 20k, 1.5M."""
    for mark, by in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= by:
            return number(value / by) + mark
    return number(value)


def nice_above(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten, for the end of an axis; 1 for nothing."""
    if not (0 < value < 1e300):
        return 1.0
    step = 10.0 ** math.floor(math.log10(value))
    return next(m * step for m in (1, 2, 5, 10, 20) if value <= m * step)


def size_unit(values: Iterable[float | None]) -> tuple[str, int]:
    """One unit for a column of sizes: the largest in which the biggest is at least 8."""
    biggest = max((v for v in values if v is not None and math.isfinite(v)), default=0)
    return next(((n, u) for n, u in _SIZES if biggest >= 8 * u), ("MiB", 1 << 20))


def seconds(value: float | None) -> str:
    """A time in the unit that leaves at least one: 14 us, 2.1 ms, 10 s."""
    if value is None or not math.isfinite(value):
        return NONE
    name, unit = time_unit([value]) if value else ("s", 1.0)
    return f"{number(value / unit)} {name}"


def time_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """One unit for a column of times: the largest in which the longest is at least 1."""
    longest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    return next(((n, u) for n, u in _TIMES if longest >= u), ("us", 1e-6))


def clean(text: str) -> str:
    """Text from outside without control characters, so that no name can steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shorten(name: str, width: int) -> str:
    """A name from outside, cleaned; a long one loses its middle, as the end tells replicas apart."""
    name = clean(name)
    if len(name) <= width:
        return name
    tail = (width - 3) // 2
    return f"{name[: width - 3 - tail]}...{name[len(name) - tail :]}"
