"""What the operations of the EPC cost, in CPU cycles: named profiles, each figure with its range and source.

The simulator counts operations and multiplies; nothing here counts. No processor vendor publishes these
figures: they were measured through other people's programs on other people's machines, and differ by a factor
of two to five between them. So every item carries a range, who measured it and how sure that is, "cheap" and
"dear" run a scenario at the two ends, and a report names the profile it used. There is no profile for a named
processor: no published set of figures covers even one of them (the best documented, Skylake client, is what
"default" follows).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from epcgroup.errors import InputError, nearest
from epcgroup.units import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_CPU_HZ = 3.0e9
MAX_CPU_HZ = 1.0e11
MAX_CYCLES = 10**12  # of one operation: minutes; beyond it is a slip of the keyboard
SCAN_BATCH = 16  # v17 SGX_NR_TO_SCAN: pages that one ETRACK and one round of IPIs serve
EEXTENDS_PER_PAGE = 16  # EEXTEND measures 256 bytes

# read: in the source's own text. memory: quoted from a paper not read again for this table. derived: computed
# from such a figure. assumed: order of magnitude only, no figure is known to us.
Provenance = Literal["read", "memory", "derived", "assumed", "override"]


@dataclass(frozen=True)
class Cost:
    """Cycles of one operation; `low` to `high` is what was seen, or seems possible where nothing was."""

    cycles: float
    low: float
    high: float
    per: str  # what one of it is
    source: str
    provenance: Provenance


@dataclass(frozen=True)
class CostProfile:
    """A full set of costs. `items` is read-only and has the same keys in every profile."""

    name: str
    source: str
    cpu_hz: float
    items: Mapping[str, Cost]

    def cycles(self, item: str) -> float:
        return self.items[item].cycles

    def nanoseconds(self, cycles: float) -> float:
        return cycles * 1e9 / self.cpu_hz

    def cycles_vector(self, names: Iterable[str]) -> "NDArray[np.float64]":
        """Cycles of the named items, in that order, to be multiplied with a vector of counts."""
        import numpy as np

        return np.array([self.items[name].cycles for name in names], dtype=np.float64)

    def as_table(self) -> list[dict[str, Any]]:
        """One row an item, for reports: item, per, cycles, nanoseconds, low, high, source, provenance."""
        return [
            {
                "item": name,
                "per": cost.per,
                "cycles": cost.cycles,
                "nanoseconds": self.nanoseconds(cost.cycles),
                "low": cost.low,
                "high": cost.high,
                "source": cost.source,
                "provenance": cost.provenance,
            }
            for name, cost in self.items.items()
        ]

    def reload_fault_cycles(self, cpus: int = 4, scanned: int = 2) -> float:
        """One reload fault that evicts one page: the check value of the profile.

        The page written out carries its sixteenth of ETRACK and of the IPIs to the `cpus` that run the
        enclave, and `scanned` pages were looked at to find it.
        """
        c = self.cycles
        load = c("aex_eresume") + c("fault_path") + c("eldu") + c("tlb_refill")
        tracking = (c("etrack") + cpus * c("ipi_per_cpu")) / SCAN_BATCH
        return load + scanned * c("age_scan") + c("eblock") + tracking + c("ewb")


ELEOS = "Eleos, EuroSys'17 (Skylake client)"
SECONDS = "Regaining Lost Seconds, Middleware'20"
PIE = "PIE, ISCA'21 (Pentium Silver, SGX2)"
SGX_PERF = "sgx-perf, Middleware'18 (Xeon E3); Gramine performance notes for the upper end"
HOTCALLS = "HotCalls, ISCA'17 (i7-6700K) for the value; " + SGX_PERF + " for the range"
ETRACK_SPLIT = "ETRACK with its IPIs is put at 2 k to 40 k on 4 CPUs; the split between the two is ours"
KERNEL_WORK = "no figure published; order of magnitude of the kernel code it stands for"

_ITEMS: dict[str, Cost] = {
    # One page fault of an enclave thread.
    "aex_eresume": Cost(
        7_000, 5_000, 20_000, "asynchronous exit and ERESUME", f"{ELEOS}; upper end {SECONDS}", "memory"
    ),
    "fault_path": Cost(
        2_500,
        1_500,
        5_000,
        "#PF in the kernel: VMA and page look-up, charge",
        f"about an ordinary fault, {SECONDS}",
        "memory",
    ),
    "tlb_refill": Cost(
        5_000,
        0,
        15_000,
        "indirect cost after a fault: TLB and cache refill",
        f"{ELEOS}: 40 k with indirect cost against 25 k direct",
        "derived",
    ),
    "refused_charge": Cost(
        1_500, 500, 4_000, "charge that a limit refuses: walk up, undo, event", KERNEL_WORK, "assumed"
    ),
    # Paging.
    "eldu": Cost(12_000, 8_000, 44_000, "page loaded back", f"{ELEOS}; upper end {SECONDS}", "memory"),
    "ewb": Cost(
        12_000, 7_500, 16_000, "page written out", f"{ELEOS}; 40 k a whole swap, VAULT, ASPLOS'18", "memory"
    ),
    "eblock": Cost(800, 500, 1_500, "page blocked before it is written out", KERNEL_WORK, "assumed"),
    "etrack": Cost(
        6_000,
        1_000,
        10_000,
        "ETRACK, per enclave and batch of 16 pages",
        ETRACK_SPLIT,
        "assumed",
    ),
    "ipi_per_cpu": Cost(
        2_000,
        250,
        7_500,
        "IPI to one CPU that runs the enclave, per ETRACK",
        ETRACK_SPLIT,
        "assumed",
    ),
    "age_scan": Cost(
        400,
        200,
        1_500,
        "page scanned: test and clear the accessed bit under mmap_lock",
        KERNEL_WORK,
        "assumed",
    ),
    "epa": Cost(5_000, 2_000, 10_000, "version array page made", KERNEL_WORK, "assumed"),
    # Building and taking down.
    "ecreate": Cost(10_000, 5_000, 30_000, "enclave created (SECS)", KERNEL_WORK, "assumed"),
    "eadd": Cost(8_000, 5_000, 12_000, "page added (the copy included)", PIE, "memory"),
    "eextend": Cost(
        5_500,
        3_000,
        6_000,
        "256 bytes measured; 16 a page",
        f"{PIE}; EADD with 16 EEXTEND is 35-60 k by Intel KB 000089477 (1 GiB in several seconds)",
        "memory",
    ),
    "einit": Cost(88_000, 50_000, 150_000, "enclave initialised", f"{PIE}; the range is ours", "memory"),
    "eremove": Cost(4_500, 2_000, 8_000, "page removed", f"{PIE}; the range is ours", "memory"),
    # SGX2.
    "eaug": Cost(10_000, 5_000, 15_000, "dynamic page added", PIE, "memory"),
    "eaccept": Cost(6_000, 5_000, 15_000, "change of a page accepted by the enclave", PIE, "memory"),
    "emodt": Cost(5_000, 2_000, 10_000, "page type changed (trim)", KERNEL_WORK, "assumed"),
    "emodpr": Cost(5_000, 2_000, 10_000, "page permissions restricted", KERNEL_WORK, "assumed"),
    # Calls and wake-ups.
    "eenter_eexit": Cost(8_600, 5_900, 24_000, "call into the enclave and back", HOTCALLS, "memory"),
    "ioctl": Cost(1_000, 300, 3_000, "system call into the SGX driver", KERNEL_WORK, "assumed"),
    "wakeup": Cost(
        5_000, 2_000, 15_000, "wake-up of ksgxd or of a queued cgroup work", KERNEL_WORK, "assumed"
    ),
}


def _at(end: Literal["low", "high"]) -> Mapping[str, Cost]:
    return MappingProxyType({name: replace(cost, cycles=getattr(cost, end)) for name, cost in _ITEMS.items()})


_PROFILES: dict[str, CostProfile] = {
    p.name: p
    for p in (
        CostProfile(
            "default",
            "middle of the published figures; reload with one eviction: 41 k cycles (VAULT, Eleos: 40 k)",
            DEFAULT_CPU_HZ,
            MappingProxyType(_ITEMS),
        ),
        CostProfile(
            "cheap",
            "the lower end of every range at once; a bound, no machine was measured to be it",
            DEFAULT_CPU_HZ,
            _at("low"),
        ),
        CostProfile(
            "dear",
            "the upper end of every range at once; a bound, its reload is dearer than the 64 k published",
            DEFAULT_CPU_HZ,
            _at("high"),
        ),
    )
}
# Live paging (epcgroup run --live): nanoseconds that `make bench` measured, as cycles of a clock of 1 GHz. The first
# touch of a new page is a fault and no more; a reload with its eviction is split by what their steps cost.
_LIVE_SOURCE = "python -m bench --only live-costs, on 2 CPUs of a virtual machine (Intel Xeon, Linux 6.18)"
_LIVE_NS = {"eadd": 12_000, "fault_path": 20_000, "eldu": 5_000, "ewb": 11_000}


def _live() -> Mapping[str, Cost]:
    """What live paging has no step for, or does within another one, costs nothing."""
    items = {}
    for name, item in _ITEMS.items():
        ns = float(_LIVE_NS.get(name, 0))
        items[name] = replace(item, cycles=ns, low=ns / 2, high=2 * ns, source=_LIVE_SOURCE, provenance="derived")
    return MappingProxyType(items)


_PROFILES["live"] = CostProfile("live", _LIVE_SOURCE, 1e9, _live())
PROFILE_NAMES = tuple(_PROFILES)


def profile(name: str, *, where: object = None, key: str | None = None) -> CostProfile:
    """The named profile."""
    if name not in _PROFILES:
        raise InputError(
            f"no cost profile {quoted(name)}{nearest(name, PROFILE_NAMES)}", where=where, key=key
        )
    return _PROFILES[name]


def override(
    base: CostProfile, changes: Mapping[str, object], *, where: object = None, key: str | None = None
) -> CostProfile:
    """`base` with some items (in cycles) or `cpu_hz` replaced; its name says so ("default, ewb 15000").

    Faults are named by `key` and the item: where, costs.ewb: ...
    """
    items, cpu_hz, name = dict(base.items), base.cpu_hz, base.name
    for item, value in changes.items():
        at = f"{key}.{item}" if key else item
        if item == "cpu_hz":
            cpu_hz = _number(value, 1.0, MAX_CPU_HZ, "CPU cycles per second", where, at)
            shown = cpu_hz
        elif item in items:
            shown = _number(value, 0.0, MAX_CYCLES, "CPU cycles", where, at)
            items[item] = replace(
                items[item], cycles=shown, source=str(where or "set by hand"), provenance="override"
            )
        else:
            raise InputError(f"no such cost{nearest(item, [*items, 'cpu_hz'])}", where=where, key=at)
        name += f", {item} {shown:g}" if shown >= 1e6 else f", {item} {shown:.10g}"
    return replace(base, name=name, cpu_hz=cpu_hz, items=MappingProxyType(items))


def _number(value: object, least: float, most: float, what: str, where: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{quoted(value)} is not a number of {what}", where=where, key=key)
    if not least <= value <= most:
        raise InputError(
            f"{quoted(value)} is out of range; {least:g} to {most:g} {what}", where=where, key=key
        )
    return float(value)
