"""Kubernetes quantities ("512Ki", 21474836480, "1e3") as exact numbers.

The grammar of k8s.io/apimachinery resource.Quantity: a decimal number, then one of n u m k M G T P E, Ki to
Ei, or a decimal exponent. Kubernetes caps what exceeds 2**63-1; here that is an error: no machine has it.
"""

import re
from fractions import Fraction

from epcgroup.errors import InputError
from epcgroup.units import quoted

MAX = 2**63 - 1

SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}

_QUANTITY = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))", re.ASCII)


def parse(value: object, *, key: str | None = None) -> Fraction:
    """The exact number of a YAML value (text or bare number); it may be negative or a fraction."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f'{quoted(value)} is not a quantity, as in "512Ki" or 1048576', key=key)
    if isinstance(value, int):
        return _within(Fraction(value), quoted(value), key)
    text = value if isinstance(value, str) else repr(value)
    match = _QUANTITY.fullmatch(text)
    if match is None or len(text) > 200:
        raise InputError(f'{quoted(value)} is not a quantity, as in "512Ki" or 1048576', key=key)
    sign, digits, exponent, suffix = match.groups()
    number = Fraction(digits)
    if exponent is not None:
        # 10**-300 is as far from a whole number as any smaller exponent.
        number *= Fraction(10) ** max(-300, min(300, int(exponent)))
    elif suffix in SUFFIXES:
        number *= SUFFIXES[suffix]
    else:
        raise InputError(f"{quoted(value)}: unknown suffix {quoted(suffix)}{_nearest(suffix)}", key=key)
    return _within(-number if sign == "-" else number, quoted(value), key)


def parse_whole(value: object, *, key: str | None = None, unit_bytes: int = 1) -> int:
    """A quantity of an extended resource, which must be a whole number, 0 or more; times `unit_bytes`."""
    number = parse(value, key=key)
    if number < 0:
        raise InputError(f"{quoted(value)} is negative; 0 or more is allowed", key=key)
    if number.denominator != 1:
        raise InputError(
            f"{quoted(value)} is not a whole number, which Kubernetes demands of extended resources", key=key
        )
    return int(_within(number * unit_bytes, quoted(value), key))


def _within(number: Fraction, shown: str, key: str | None) -> Fraction:
    if abs(number) > MAX:
        raise InputError(f"{shown} is too large; at most {MAX} (2**63-1) is allowed", key=key)
    return number


def _nearest(suffix: str) -> str:
    wanted = suffix.lower().removesuffix("b")
    for name in SUFFIXES:
        if name not in ("", "n", "u", "m") and name.lower() == wanted:
            return f'; did you mean "{name}"?'
    return f"; allowed: {', '.join(name for name in SUFFIXES if name)}"
