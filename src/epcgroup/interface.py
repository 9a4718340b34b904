"""The text of the misc.* files to values and back, by the misc controller's own rules (kernel/cgroup/misc.c).

Values are bytes and event counts (int, 0 to 2**64-1); a limit of UNLIMITED is written and shown as `max`.
Resources are given and shown in the machine's order. `parse_max` answers what write(2) to misc.max answers,
errno included; `read_*` take text that a kernel (or our own files) wrote; any other text is an InputError.
The grammar is the same for mainline, v2 and v17: what differs is which files a cgroup has (`files_of`).
Not here: charging, permissions, writes of zero bytes (they never reach the controller) or above one page.
"""

import errno
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

from epcgroup.errors import InputError, MachineError
from epcgroup.units import quoted

EPC = "sgx_epc"
UNLIMITED = 2**64 - 1

Series = Literal["mainline", "v2", "v17"]

# Mode of each file by series; "mainline" has the controller of today, "v2" that of Linux 6.1.
_ROOT_FILES: dict[str, dict[str, int]] = {
    "mainline": {"misc.capacity": 0o444, "misc.current": 0o444, "misc.peak": 0o444},
    "v2": {"misc.capacity": 0o444},
}
_CGROUP_FILES: dict[str, dict[str, int]] = {
    "mainline": {
        "misc.max": 0o644,
        "misc.current": 0o444,
        "misc.peak": 0o444,
        "misc.events": 0o444,
        "misc.events.local": 0o444,
    },
    "v2": {"misc.max": 0o644, "misc.current": 0o444, "misc.events": 0o444},
}


class Counts(NamedTuple):
    """What a cgroup holds of one resource: the numbers behind its files."""

    max: int = UNLIMITED
    current: int = 0
    peak: int = 0
    events: int = 0
    events_local: int = 0


# The kernel's isspace(): ASCII white space and the Latin-1 no-break space.
_SPACE = b" \t\n\v\f\r\xa0"
_DIGITS = {8: b"01234567", 10: b"0123456789", 16: b"0123456789abcdefABCDEF"}


def files_of(series: Series, *, root: bool) -> Mapping[str, int]:
    """File names and modes of the root or of any other cgroup."""
    tables = _ROOT_FILES if root else _CGROUP_FILES
    return tables["v2" if series == "v2" else "mainline"]


def parse_max(
    text: str | bytes, resources: Collection[str], capacities: Mapping[str, int]
) -> tuple[str, int]:
    """One write to misc.max: the resource it names and the limit it sets, unrounded.

    `resources` are the names compiled in, `capacities` what the machine has of each (bytes; absent means 0).
    MachineError EINVAL: not `RESOURCE VALUE`, an unknown resource, not a number, a resource without capacity;
    ERANGE: a number above 2**64-1, looked at before the capacity.
    """
    written = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    # The controller sees a C string.
    name, space, value = written.partition(b"\0")[0].strip(_SPACE).partition(b" ")
    known = {resource.encode(): resource for resource in resources}
    if not space or name not in known:
        raise MachineError(errno.EINVAL, f"write {quoted(text)} to misc.max")
    try:
        limit = UNLIMITED if value == b"max" else parse_u64(value)
    except OverflowError:
        raise MachineError(errno.ERANGE, f"write {quoted(text)} to misc.max") from None
    except ValueError:
        raise MachineError(errno.EINVAL, f"write {quoted(text)} to misc.max") from None
    resource = known[name]
    if capacities.get(resource, 0) == 0:
        raise MachineError(errno.EINVAL, f"write {quoted(text)} to misc.max")
    return resource, limit


def parse_u64(text: bytes) -> int:
    """kstrtou64 with base 0: `0x` is hexadecimal, a leading 0 octal, one `+` and one final newline are taken.

    OverflowError when the digits are too many, even if something else follows them; else ValueError.
    """
    text = text.removeprefix(b"+")
    if text[:2].lower() == b"0x" and text[2:3] and text[2:3] in _DIGITS[16]:
        base, text = 16, text[2:]
    else:
        base = 8 if text.startswith(b"0") else 10
    rest = text.lstrip(_DIGITS[base])
    digits = text[: len(text) - len(rest)]
    # Octal needs the most digits, 22; int() itself refuses very long decimal numbers.
    if len(digits.lstrip(b"0")) > 22 or (digits and int(digits[-23:], base) > UNLIMITED):
        raise OverflowError
    if not digits or rest not in (b"", b"\n"):
        raise ValueError
    return int(digits[-23:], base)


def max_line(resource: str, limit: int) -> str:
    """What to write to misc.max, and a line of what it shows: `sgx_epc 4096`, `sgx_epc max`."""
    return f"{resource} {'max' if limit >= UNLIMITED else limit}"


def show(file: str, counts: Mapping[str, Counts], capacities: Mapping[str, int]) -> str:
    """The text of a misc.* file."""
    match file:
        case "misc.capacity":
            return show_capacity(capacities)
        case "misc.max":
            return show_max({res: c.max for res, c in counts.items()}, capacities)
        case "misc.current":
            return show_usage({res: c.current for res, c in counts.items()}, capacities)
        case "misc.peak":
            return show_usage({res: c.peak for res, c in counts.items()}, capacities)
        case "misc.events":
            return show_events({res: c.events for res, c in counts.items()}, capacities)
        case _:
            return show_events({res: c.events_local for res, c in counts.items()}, capacities)


def show_capacity(capacities: Mapping[str, int]) -> str:
    """misc.capacity: resources that the machine has none of are left out, here and below."""
    return _lines(f"{res} {capacity}" for res, capacity in capacities.items() if capacity)


def show_max(limits: Mapping[str, int], capacities: Mapping[str, int]) -> str:
    """misc.max."""
    return _lines(max_line(res, limit) for res, limit in limits.items() if capacities.get(res))


def show_usage(usage: Mapping[str, int], capacities: Mapping[str, int]) -> str:
    """misc.current and misc.peak: what is in use is shown even when the capacity has gone. A negative usage
    (v2 after its accounting defects) shows as the unsigned number the kernel prints."""
    return _lines(
        f"{res} {count & UNLIMITED}" for res, count in usage.items() if count or capacities.get(res)
    )


def show_events(events: Mapping[str, int], capacities: Mapping[str, int]) -> str:
    """misc.events and misc.events.local: `sgx_epc.max 3`."""
    return _lines(f"{res}.max {count}" for res, count in events.items() if count or capacities.get(res))


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def read_values(text: str, *, where: object = None) -> dict[str, int]:
    """misc.capacity, misc.current, misc.peak or misc.max as resource -> bytes (UNLIMITED for `max`)."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        resource, _, value = line.partition(" ")
        if value == "max":
            number = UNLIMITED
        elif value.isascii() and value.isdigit() and len(value) <= 20 and int(value) <= UNLIMITED:
            number = int(value)
        else:
            raise InputError(f"{quoted(line)} is not a line of a misc file; RESOURCE NUMBER", where=where)
        values[resource] = number
    return values


def read_events(text: str, *, where: object = None) -> dict[str, int]:
    """misc.events or misc.events.local as resource -> number of refused charges."""
    events: dict[str, int] = {}
    for key, count in read_values(text, where=where).items():
        resource, dot, event = key.rpartition(".")
        if not dot:
            raise InputError(f"{quoted(key)} is not an event; RESOURCE.max NUMBER", where=where)
        # Other events of later kernels are not refused charges.
        if event == "max":
            events[resource] = count
    return events
