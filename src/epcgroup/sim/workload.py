"""What the threads of an enclave do with its heap: specs that people write, and the touches they become.

A touch is the work done on one 4 KiB page until the thread turns to another page; between two touches lie
`touch_ns` of computing. By default that is 200 ns, the time a core needs to stream 4 KiB at 20 GB/s: a thread
that does less on a page (pointer chasing: 10 to 100 ns) or more (hashing, AES: about 1 us) says so with
touch_ns=.

A spec is parsed once, from text ("zipf:1.2", "bursts:of=uniform,on=2s,off=5s") or a TOML table, and started
for every thread with that thread's own generator of chance. The same generator gives the same touches, however
the simulator cuts them into batches. Page numbers count from the first page of the heap.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from epcgroup.errors import InputError, nearest
from epcgroup.sim.tracefile import PageTrace, read_trace
from epcgroup.units import PAGE_SIZE, format_bytes, parse_bytes, parse_duration, quoted

DEFAULT_TOUCH_NS = 200.0
MAX_TOUCH_NS = 1e9
BLOCK = 16384  # touches generated at a time: temporaries fit a second-level cache
MAX_TABLE = 1 << 20  # slots of a zipf table: one a page for heaps up to 4 GiB
MAX_HEAP_PAGES = 2**32 - 2**16

Pages = NDArray[np.uint32]


class Batch(NamedTuple):
    """Touches of one thread, in order. `pages` belongs to the workload: read, do not write."""

    pages: Pages
    touch_ns: float  # computing before each touch
    idle_ns: float = 0.0  # pause after the last touch
    release: tuple[int, int] | None = None  # (first page, count) given back after the last touch (SGX2 trim, remove)


class Workload(ABC):
    """One thread at work. `touch_ns` is that of the next batch; `finished` says that nothing will come any
    more."""

    touch_ns: float
    finished: bool = False

    def __init__(self, spec: "WorkloadSpec", nr_pages: int) -> None:
        self.spec = spec
        self.nr_pages = nr_pages

    @abstractmethod
    def next(self, max_touches: int) -> Batch:
        """The next 0 to `max_touches` touches: fewer where a phase or a burst ends, none where the thread
        only pauses or has finished."""

    def describe(self) -> str:
        return self.spec.describe(self.nr_pages)


# ---- specs


@dataclass(frozen=True)
class WorkloadSpec(ABC):
    """What a person asked for. `start` makes a thread of it; `describe` says it in one line."""

    touch_ns: float | None = None  # None: DEFAULT_TOUCH_NS, or a trace's own pace

    NAME: ClassVar[str]
    KEYS: ClassVar[dict[str, "Reader"]]
    POSITIONAL: ClassVar[str | None] = None  # the key that a bare argument in text sets

    @abstractmethod
    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload: ...

    @abstractmethod
    def summary(self) -> str:
        """The spec without its size: "zipf 1.2"."""

    def start(self, nr_pages: int, rng: np.random.Generator, layout: int = 0) -> Workload:
        """A thread over pages 0..nr_pages-1. Threads that share a heap share `layout`, which says where its
        hot pages lie, and differ in `rng`."""
        if not 0 < nr_pages <= MAX_HEAP_PAGES:
            raise InputError(f"a heap of {nr_pages} pages; 1 to {MAX_HEAP_PAGES} are allowed", key=self.NAME)
        if nr_pages < self.min_pages():
            wanted, have = self.min_pages() * PAGE_SIZE, nr_pages * PAGE_SIZE
            raise InputError(f"touches {format_bytes(wanted)}, the heap has {format_bytes(have)}", key=self.summary())
        return self._start(nr_pages, rng, layout)

    def describe(self, nr_pages: int | None = None) -> str:
        over = "" if nr_pages is None else f" over {format_bytes(nr_pages * PAGE_SIZE)}"
        pace = "" if self.touch_ns is None else f", {self.touch_ns:g} ns a touch"
        return f"{self.summary()}{over}{pace}"

    def min_pages(self) -> int:
        """Pages below which it does not run: one, except for traces."""
        return 1

    def with_touch_ns(self, touch_ns: float) -> "WorkloadSpec":
        """Itself, with `touch_ns` wherever none was given."""
        return self if self.touch_ns is not None else replace(self, touch_ns=touch_ns)

    @property
    def _touch_ns(self) -> float:
        return DEFAULT_TOUCH_NS if self.touch_ns is None else self.touch_ns


@dataclass(frozen=True)
class _Place:
    """Where a value stands, for messages, and the directory that relative file names start from."""

    where: object
    key: str | None
    base: Path | None

    def at(self, name: str) -> "_Place":
        return replace(self, key=f"{self.key}.{name}" if self.key else name)

    def fault(self, message: str) -> InputError:
        return InputError(message, where=self.where, key=self.key)


Reader = Callable[[Any, _Place], Any]


def _number(least: float, most: float, *, above: bool = False) -> Reader:
    def read(value: Any, place: _Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise place.fault(f"{quoted(value)} is not a number")
        if not least <= value <= most or (above and value == least):
            low = f"above {least:g}" if above else f"{least:g}"
            raise place.fault(f"{quoted(value)} is out of range; {low} to {most:g} is allowed")
        return float(value)

    return read


def _whole(least: int, most: int) -> Reader:
    def read(value: Any, place: _Place) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise place.fault(f"{quoted(value)} is not a whole number")
        if not least <= value <= most:
            raise place.fault(f"{quoted(value)} is out of range; {least} to {most} is allowed")
        return value

    return read


def _seconds(*, zero: bool) -> Reader:
    def read(value: Any, place: _Place) -> float:
        seconds = parse_duration(value, where=place.where, key=place.key)
        if not zero and seconds <= 0:
            raise place.fault(f"{quoted(value)} is no time; more than 0 is allowed")
        return seconds

    return read


def _bytes_per_second(value: Any, place: _Place) -> float:
    text = value.strip().removesuffix("/s") if isinstance(value, str) else value
    rate = parse_bytes(text, where=place.where, key=place.key)
    if not rate:
        raise place.fault(f"{quoted(value)} is no growth; more than 0 bytes a second is allowed")
    return float(rate)


def _switch(value: Any, place: _Place) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("yes", "no"):
        return bool(value == "yes")
    raise place.fault(f"{quoted(value)} is neither yes nor no")


def _inner(value: Any, place: _Place) -> WorkloadSpec:
    if (place.key or "").count("of") > 8:
        raise place.fault("too many workloads within workloads")
    if isinstance(value, Mapping):
        return _from_table(value, place)
    if isinstance(value, str):
        return _parse(value, place)
    raise place.fault(f"{quoted(value)} is no workload; a text or a table is wanted")


TOUCH_NS = _number(0, MAX_TOUCH_NS, above=True)
SHARE = _number(0, 1)
POSITIVE_SHARE = _number(0, 1, above=True)


# ---- the simple ones: blocks of touches from a generator


class _Blocks(Workload):
    """A workload whose touches come in blocks that `_fill` makes; `next` hands them out in slices, so that
    the touches do not depend on how they are asked for."""

    def __init__(self, spec: WorkloadSpec, nr_pages: int) -> None:
        super().__init__(spec, nr_pages)
        self.touch_ns = spec._touch_ns
        self._block: Pages = np.empty(0, np.uint32)
        self._at = 0
        self._release: tuple[int, int] | None = None  # after the last touch of the block

    @abstractmethod
    def _fill(self) -> Pages:
        """The next block, never empty; may set `_release` for it."""

    def next(self, max_touches: int) -> Batch:
        if self.finished:
            return Batch(self._block[:0], self.touch_ns)
        if self._at == len(self._block):
            self._release = None
            self._block, self._at = self._fill(), 0
        start, end = self._at, min(self._at + max_touches, len(self._block))
        touch_ns, release = self.touch_ns, None
        self._at = end
        if end == len(self._block):
            release = self._release
            self._ended()
        return Batch(self._block[start:end], touch_ns, 0.0, release)

    def _ended(self) -> None:
        """The block has been handed out: the place to set touch_ns for the next one, or `finished`."""


@dataclass(frozen=True)
class Uniform(WorkloadSpec):
    """Every page as often as any other."""

    NAME = "uniform"
    KEYS: ClassVar[dict[str, Reader]] = {"touch_ns": TOUCH_NS}

    def summary(self) -> str:
        return "uniform"

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        return _UniformRun(self, nr_pages, rng)


class _UniformRun(_Blocks):
    def __init__(self, spec: Uniform, nr_pages: int, rng: np.random.Generator) -> None:
        super().__init__(spec, nr_pages)
        self._rng = rng

    def _fill(self) -> Pages:
        return self._rng.integers(0, self.nr_pages, BLOCK, dtype=np.uint32)


@dataclass(frozen=True)
class Zipf(WorkloadSpec):
    """The k-th hottest page k ** -exponent as often as the hottest; hot pages lie scattered over the heap."""

    exponent: float = 1.0

    NAME = "zipf"
    KEYS: ClassVar[dict[str, Reader]] = {"exponent": _number(0, 8, above=True), "touch_ns": TOUCH_NS}
    POSITIONAL = "exponent"

    def summary(self) -> str:
        text = f"{self.exponent:g}"
        return f"zipf {text if '.' in text else text + '.0'}"

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        if nr_pages <= MAX_TABLE:
            return _ZipfRun(self, nr_pages, rng, layout)
        return _LargeZipfRun(self, nr_pages, rng, layout)


RAW_MAX = 2**64 - 1
HALF = np.uint64(32)


def _alias_table(weights: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Walker's alias table: slot i is i with probability threshold / 2**32, else its alias.

    One 64-bit row a slot: threshold in the high half, alias in the low half. Made by sweeping the light
    slots over the heavy ones: with D the running sum of what light slots lack and E that of what heavy ones
    have to spare, the light slot after D is filled by the first heavy one with E >= D, and a heavy slot
    that is drained below one is filled by the next heavy one.
    """
    n = len(weights)
    p = weights * (n / weights.sum())
    light, heavy = np.flatnonzero(p < 1), np.flatnonzero(p >= 1)
    keep = np.where(p < 1, p, 1.0)
    alias = np.arange(n)
    if len(light) and len(heavy):
        lack, spare = np.cumsum(1 - p[light]), np.cumsum(p[heavy] - 1)
        before = np.concatenate([[0.0], lack[:-1]])
        alias[light] = heavy[np.minimum(np.searchsorted(spare, before), len(heavy) - 1)]
        drained_by = np.searchsorted(lack, spare[:-1], side="right")
        drained = np.flatnonzero(drained_by < len(light))
        keep[heavy[drained]] = 1 + spare[drained] - lack[drained_by[drained]]
        alias[heavy[drained]] = heavy[drained + 1]
    threshold = np.clip(np.rint(keep * 2.0**32), 0, 2**32 - 1).astype(np.uint64)
    table: NDArray[np.uint64] = (threshold << HALF) | alias.astype(np.uint64)
    return table


def _draw(rng: np.random.Generator, nr: int) -> tuple[NDArray[np.uint64], Pages]:
    """BLOCK times (one of 0..nr-1, a fraction of 2**32), from the two halves of one random word.

    High half times nr: off an even choice by at most nr / 2**32 of it.
    """
    raw = rng.integers(0, RAW_MAX, BLOCK, dtype=np.uint64, endpoint=True)
    fraction = raw.astype(np.uint32)
    raw >>= HALF
    raw *= np.uint64(nr)
    raw >>= HALF
    return raw, fraction


def _pick(table: NDArray[np.uint64], rng: np.random.Generator) -> Pages:
    """BLOCK slots by the table's law."""
    slot, fraction = _draw(rng, len(table))
    row = table.take(slot.view(np.int64), mode="wrap")
    own = (row >> HALF).astype(np.uint32) > fraction
    # np.where on a coin toss costs a mispredicted branch every other touch; arithmetic modulo 2**32 does not.
    pages, alias = slot.astype(np.uint32), row.astype(np.uint32)
    pages -= alias
    pages *= own
    pages += alias
    return pages


@lru_cache(maxsize=16)
def _zipf_table(nr_pages: int, exponent: float, layout: int) -> NDArray[np.uint64]:
    """Alias table over pages; threads with the same heap and layout share it."""
    weights = np.empty(nr_pages)
    weights[_permutation(nr_pages, layout)] = np.arange(1, nr_pages + 1, dtype=np.float64) ** -exponent
    return _alias_table(weights)


def _permutation(nr_pages: int, layout: int) -> NDArray[np.int64]:
    return np.random.default_rng([layout, nr_pages]).permutation(nr_pages)


class _ZipfRun(_Blocks):
    def __init__(self, spec: Zipf, nr_pages: int, rng: np.random.Generator, layout: int) -> None:
        super().__init__(spec, nr_pages)
        self._rng = rng
        self._table = _zipf_table(nr_pages, spec.exponent, layout)

    def _fill(self) -> Pages:
        return _pick(self._table, self._rng)


@lru_cache(maxsize=16)
def _large_zipf_table(
    nr_pages: int, exponent: float
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """(alias table, first rank, ranks) over groups of ranks: single ranks at the head, then groups so
    narrow that taking a group's pages as equally hot is off by less than exponent / 4096."""
    head, growth = 1 << 16, 1 / 2048
    steps = math.ceil(math.log(nr_pages / head) / growth)
    edges = np.rint(head * (nr_pages / head) ** (np.arange(steps + 1) / steps)).astype(np.uint64)
    first = np.unique(np.concatenate([np.arange(head, dtype=np.uint64), edges]))
    ranks, first = np.diff(first), first[:-1]
    middle = first + (ranks + np.uint64(1)).astype(np.float64) / 2
    return _alias_table(ranks * middle**-exponent), first, ranks


class _LargeZipfRun(_Blocks):
    """Heaps too large for a slot a page. Ranks are scattered by a multiplication instead of a stored
    permutation."""

    def __init__(self, spec: Zipf, nr_pages: int, rng: np.random.Generator, layout: int) -> None:
        super().__init__(spec, nr_pages)
        self._rng = rng
        self._table, self._first, self._ranks = _large_zipf_table(nr_pages, spec.exponent)
        chance = np.random.default_rng([layout, nr_pages])
        # Near the golden section neighbouring ranks land far apart; without a common divisor all differ.
        step = int(nr_pages * 0.6180339887) - int(chance.integers(0, 1000))
        while math.gcd(step, nr_pages) != 1:
            step -= 1
        self._step, self._offset = np.uint64(step), np.uint64(chance.integers(0, nr_pages))

    def _fill(self) -> Pages:
        group = _pick(self._table, self._rng)
        within = self._rng.integers(0, RAW_MAX, BLOCK // 2, dtype=np.uint64, endpoint=True).view(np.uint32)
        rank = self._first.take(group) + ((self._ranks.take(group) * within) >> HALF)
        return ((rank * self._step + self._offset) % np.uint64(self.nr_pages)).astype(np.uint32)


@dataclass(frozen=True)
class HotScan(WorkloadSpec):
    """`share` of the touches go evenly to the first `hot` of the heap; the others walk the rest in a
    circle."""

    hot: float = 0.1
    share: float = 0.9

    NAME = "hot+scan"
    KEYS: ClassVar[dict[str, Reader]] = {"hot": POSITIVE_SHARE, "share": SHARE, "touch_ns": TOUCH_NS}
    POSITIONAL = "hot"

    def summary(self) -> str:
        return f"hot set of {self.hot:.3g} with {self.share:.3g} of the touches, and a scan"

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        return _HotScanRun(self, nr_pages, rng)


class _HotScanRun(_Blocks):
    def __init__(self, spec: HotScan, nr_pages: int, rng: np.random.Generator) -> None:
        super().__init__(spec, nr_pages)
        self._rng = rng
        self._hot = max(1, round(nr_pages * spec.hot))
        self._rest = nr_pages - self._hot if spec.share < 1 else 0
        self._share = np.uint32(min(2**32 - 1, round(spec.share * 2**32)))
        self._position = int(rng.integers(0, max(1, self._rest)))

    def _fill(self) -> Pages:
        drawn, fraction = _draw(self._rng, self._hot)
        pages = drawn.astype(np.uint32)
        if self._rest:
            scan = np.flatnonzero(fraction >= self._share)
            walk = np.arange(self._position, self._position + len(scan), dtype=np.uint32)
            walk %= np.uint32(self._rest)
            pages[scan] = walk + np.uint32(self._hot)
            self._position = (self._position + len(scan)) % self._rest
        return pages


@dataclass(frozen=True)
class Loop(WorkloadSpec):
    """The pages in order, over and over. Each thread starts at a page of its own, or all at `start_at` of the
    heap."""

    start_at: float | None = None

    NAME = "loop"
    KEYS: ClassVar[dict[str, Reader]] = {"start_at": SHARE, "touch_ns": TOUCH_NS}

    def summary(self) -> str:
        return "sequential loop"

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        if self.start_at is None:
            first = int(rng.integers(0, nr_pages))
        else:
            first = min(nr_pages - 1, int(nr_pages * self.start_at))
        return _LoopRun(self, nr_pages, first)


class _LoopRun(_Blocks):
    def __init__(self, spec: Loop, nr_pages: int, first: int) -> None:
        super().__init__(spec, nr_pages)
        self._position = first
        turns = -(-BLOCK // nr_pages) + 1
        # A heap smaller than a block: some turns of it, of which every block is a window.
        small = nr_pages < BLOCK
        self._turns = np.tile(np.arange(nr_pages, dtype=np.uint32), turns) if small else None

    def _fill(self) -> Pages:
        first = self._position
        if self._turns is not None:
            block = self._turns[first : first + BLOCK]
        else:
            block = np.arange(first, min(first + BLOCK, self.nr_pages), dtype=np.uint32)
        self._position = (first + len(block)) % self.nr_pages
        return block


@dataclass(frozen=True)
class Grow(WorkloadSpec):
    """A leak, or a cache that fills: touches evenly what it has, and takes `rate` bytes more for every
    second of touch time, a page at a time in order, until it has the heap. With `shrink_at` it gives back
    all beyond `shrink_to` of the heap when it has that much, and grows again. For one thread: each grows on
    its own."""

    rate: float = 16 * 2**20
    begin: float = 0.1
    shrink_at: float | None = None
    shrink_to: float | None = None  # None: `begin`

    NAME = "grow"
    KEYS: ClassVar[dict[str, Reader]] = {
        "rate": _bytes_per_second,
        "begin": SHARE,
        "shrink_at": POSITIVE_SHARE,
        "shrink_to": SHARE,
        "touch_ns": TOUCH_NS,
    }
    POSITIONAL = "rate"

    def __post_init__(self) -> None:
        low = max(self.begin, self._shrink_to) if self.shrink_at is not None else 0.0
        if self.shrink_at is not None and self.shrink_at <= low:
            raise InputError(f"shrink_at {self.shrink_at:g} is not above {low:g}, where growth begins")
        if self.shrink_to is not None and self.shrink_at is None:
            raise InputError("shrink_to without shrink_at")

    @property
    def _shrink_to(self) -> float:
        return self.begin if self.shrink_to is None else self.shrink_to

    def summary(self) -> str:
        text = f"grows {format_bytes(round(self.rate))}/s from {self.begin:.3g}"
        if self.shrink_at is None:
            return text
        return f"{text}, at {self.shrink_at:.3g} back to {self._shrink_to:.3g}"

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        return _GrowRun(self, nr_pages, rng)


class _GrowRun(_Blocks):
    def __init__(self, spec: Grow, nr_pages: int, rng: np.random.Generator) -> None:
        super().__init__(spec, nr_pages)
        self._rng = rng
        self._pages_per_touch = min(1.0, spec.rate / PAGE_SIZE * self.touch_ns * 1e-9)
        self._begin, self._touches = max(1.0, nr_pages * spec.begin), 0  # pages at first; touches since then
        self._top, self._bottom = nr_pages, nr_pages
        if spec.shrink_at is not None:
            self._top = max(2, round(nr_pages * spec.shrink_at)) if nr_pages > 1 else 1
            self._bottom = max(1, min(self._top - 1, round(nr_pages * spec._shrink_to)))

    def _fill(self) -> Pages:
        if int(self._begin) >= self._top == self._bottom:
            return self._rng.integers(0, self.nr_pages, BLOCK, dtype=np.uint32)
        number = np.arange(self._touches, self._touches + BLOCK + 1)
        # Pages it has at each touch and before the first; 1e-6 keeps a whole page from being rounded to less.
        sizes = (self._begin + self._pages_per_touch * number + 1e-6).astype(np.int64)
        size, grown = sizes[1:], np.diff(sizes) > 0
        self._touches += BLOCK
        full = int(np.searchsorted(size, self._top))  # the touch that takes the last page
        if full < BLOCK:
            size, grown = size[: full + 1], grown[: full + 1]
            self._begin, self._touches = float(self._bottom), 0
            if self._bottom < self._top:
                self._release = (self._bottom, self._top - self._bottom)
        draw = (self._rng.random(len(size)) * size).astype(np.int64)
        return (draw + (size - 1 - draw) * grown).astype(np.uint32)


# ---- traces


@dataclass(frozen=True)
class TraceReplay(WorkloadSpec):
    """A file of page accesses, its pages mapped to 0, 1, 2... in the order they first appear. Pace:
    `touch_ns`, else the times in the file, else the default; `speed` divides it. At the end again from the
    start, or no more."""

    file: str = ""
    speed: float = 1.0
    wrap: bool = True
    thread: int | None = None

    NAME = "trace"
    KEYS: ClassVar[dict[str, Reader]] = {
        "file": lambda value, place: _trace_file(value, place),
        "speed": _number(0, 1e6, above=True),
        "wrap": _switch,
        "thread": _whole(0, 2**32 - 1),
        "touch_ns": TOUCH_NS,
    }
    POSITIONAL = "file"

    def summary(self) -> str:
        name = "standard input" if self.file == "-" else Path(self.file).name
        thread = "" if self.thread is None else f" thread {self.thread}"
        speed = "" if self.speed == 1 else f" at {self.speed:g}x"
        return f"trace {name}{thread}{speed}{'' if self.wrap else ', once'}"

    def trace(self) -> PageTrace:
        """The trace; read once, however many threads replay it."""
        stamp = (0, 0)
        if self.file != "-":
            try:
                status = Path(self.file).stat()
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", where=self.file) from None
            stamp = (status.st_mtime_ns, status.st_size)
        return _trace(self.file, stamp, self.thread)

    def min_pages(self) -> int:
        return self.trace().nr_pages

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        return _TraceRun(self, nr_pages, self.trace())


@lru_cache(maxsize=8)
def _trace(file: str, stamp: tuple[int, int], thread: int | None) -> PageTrace:
    if thread is None:
        return read_trace(file)
    return _trace(file, stamp, None).of_thread(thread)


def _trace_file(value: Any, place: _Place) -> str:
    if not isinstance(value, str) or not value:
        raise place.fault(f"{quoted(value)} is no file name")
    if value == "-":
        return value
    path = value if place.base is None else str(place.base / value)
    if not Path(path).exists():
        raise place.fault(f"no such file {quoted(path)}")
    return path


class _TraceRun(_Blocks):
    def __init__(self, spec: TraceReplay, nr_pages: int, trace: PageTrace) -> None:
        super().__init__(spec, nr_pages)
        self._pages, self._speed, self._wrap = trace.pages, spec.speed, spec.wrap
        own_pace = spec.touch_ns is None and trace.touch_ns is not None
        self._pace = trace.touch_ns if own_pace and trace.touch_ns else spec._touch_ns
        self._times = trace.times_ns if own_pace and len(self._pages) > BLOCK else None
        self._position = 0
        if spec.wrap and len(self._pages) < BLOCK:
            self._pages = np.tile(self._pages, BLOCK // len(self._pages))
        self._next_pace()

    def _next_pace(self) -> None:
        """Touches with times keep the mean pace of their block: slow and fast stretches stay apart."""
        pace = self._pace
        if self._times is not None:
            end = min(self._position + BLOCK, len(self._pages)) - 1
            span = int(self._times[end]) - int(self._times[self._position])
            if end > self._position:
                pace = span / (end - self._position)
        # At least a picosecond: a stretch whose accesses all bear one time must still come to an end.
        self.touch_ns = max(pace / self._speed, 1e-3)

    def _fill(self) -> Pages:
        block = self._pages[self._position : self._position + BLOCK]
        self._position += len(block)
        return block

    def _ended(self) -> None:
        if self._position == len(self._pages):
            self._position = 0
            self.finished = not self._wrap
        self._next_pace()


# ---- workloads made of others


@dataclass(frozen=True)
class Bursts(WorkloadSpec):
    """`of` for `on` seconds of touch time, then `off` seconds of nothing; `after` seconds before the first."""

    of: WorkloadSpec = Uniform()
    on: float = 1.0
    off: float = 1.0
    after: float = 0.0

    NAME = "bursts"
    KEYS: ClassVar[dict[str, Reader]] = {
        "of": _inner,
        "on": _seconds(zero=False),
        "off": _seconds(zero=True),
        "after": _seconds(zero=True),
        "touch_ns": TOUCH_NS,
    }
    POSITIONAL = "of"

    def summary(self) -> str:
        after = f" after {self.after:g} s" if self.after else ""
        return f"bursts ({self.on:g} s on, {self.off:g} s off{after}) of {self.of.describe()}"

    def min_pages(self) -> int:
        return self.of.min_pages()

    def with_touch_ns(self, touch_ns: float) -> WorkloadSpec:
        return replace(self, of=self.of.with_touch_ns(self.touch_ns or touch_ns))

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        inner = self.of if self.touch_ns is None else self.of.with_touch_ns(self.touch_ns)
        return _BurstsRun(self, nr_pages, inner.start(nr_pages, rng, layout))


class _BurstsRun(Workload):
    def __init__(self, spec: Bursts, nr_pages: int, inner: Workload) -> None:
        super().__init__(spec, nr_pages)
        self._inner, self._on, self._off = inner, spec.on * 1e9, spec.off * 1e9
        self._after, self._left = spec.after * 1e9, spec.on * 1e9
        self.touch_ns, self.finished = inner.touch_ns, inner.finished

    def next(self, max_touches: int) -> Batch:
        if self._after:
            pause, self._after = self._after, 0.0
            return Batch(np.empty(0, np.uint32), self.touch_ns, pause)
        batch = self._inner.next(min(max_touches, _touches_in(self._left, self._inner.touch_ns)))
        self._left -= len(batch.pages) * batch.touch_ns
        self.touch_ns, self.finished = self._inner.touch_ns, self._inner.finished
        if _is_over(self._left, batch.touch_ns) and not self.finished:
            self._left = self._on
            return batch._replace(idle_ns=batch.idle_ns + self._off)
        return batch


# A time left is a sum of many small ones. What is less than a thousandth of a touch is rounding, so that the number
# of touches in a phase does not depend on how they were asked for.


def _is_over(left_ns: float, touch_ns: float) -> bool:
    return left_ns <= touch_ns * 1e-3


def _touches_in(left_ns: float, touch_ns: float) -> int:
    """At least one."""
    return max(1, math.ceil(left_ns / touch_ns - 1e-3))


@dataclass(frozen=True)
class Phase:
    """`of` over the part `begin` to `end` of the heap, for `seconds` of touch time or for `touches`."""

    of: WorkloadSpec
    seconds: float | None = None
    touches: int | None = None
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.touches is None):
            raise InputError("a phase has either seconds or touches")
        if self.begin >= self.end:
            raise InputError(f"part {self.begin:g}-{self.end:g} of the heap is empty")

    def part(self, nr_pages: int) -> tuple[int, int]:
        """(first page, pages) of its part; at least one page."""
        first = min(nr_pages - 1, round(nr_pages * self.begin))
        return first, max(1, round(nr_pages * self.end) - first)

    def summary(self) -> str:
        length = f"{self.seconds:g} s" if self.seconds is not None else f"{self.touches} touches"
        part = "" if (self.begin, self.end) == (0, 1) else f" in {self.begin:g}-{self.end:g}"
        return f"{length} of {self.of.describe()}{part}"


_HALVES = (Phase(Uniform(), seconds=1.0, end=0.5), Phase(Uniform(), seconds=1.0, begin=0.5))


@dataclass(frozen=True)
class Phases(WorkloadSpec):
    """One phase after another, in a circle or (repeat = no) with the last one for ever. Each goes on where
    it left off. Without any given: a second on the first half of the heap, a second on the other."""

    phases: tuple[Phase, ...] = _HALVES
    repeat: bool = True

    NAME = "phases"
    KEYS: ClassVar[dict[str, Reader]] = {
        "phases": lambda value, place: _phases(value, place),
        "repeat": _switch,
        "touch_ns": TOUCH_NS,
    }

    def summary(self) -> str:
        then = "" if self.repeat else ", the last for ever"
        return f"phases ({'; '.join(p.summary() for p in self.phases)}{then})"

    def min_pages(self) -> int:
        wanted = [(p.of.min_pages(), p.end - p.begin) for p in self.phases]
        return max(1 if pages == 1 else math.ceil(pages / part) for pages, part in wanted)

    def with_touch_ns(self, touch_ns: float) -> WorkloadSpec:
        ns = self.touch_ns or touch_ns
        return replace(self, phases=tuple(replace(p, of=p.of.with_touch_ns(ns)) for p in self.phases))

    def _start(self, nr_pages: int, rng: np.random.Generator, layout: int) -> Workload:
        runs = []
        for phase in self.phases:
            of = phase.of if self.touch_ns is None else phase.of.with_touch_ns(self.touch_ns)
            first, count = phase.part(nr_pages)
            runs.append((phase, first, of.start(count, rng, layout)))
        return _PhasesRun(self, nr_pages, runs)


class _PhasesRun(Workload):
    def __init__(self, spec: Phases, nr_pages: int, runs: list[tuple[Phase, int, Workload]]) -> None:
        super().__init__(spec, nr_pages)
        self._runs, self._repeat, self._now = runs, spec.repeat, 0
        self._begin()

    def _begin(self) -> None:
        phase, _, run = self._runs[self._now]
        self._last = not self._repeat and self._now == len(self._runs) - 1
        self._touches = math.inf if self._last else float(phase.touches or math.inf)
        self._left = math.inf if self._last else (phase.seconds or math.inf) * 1e9
        self.touch_ns = run.touch_ns

    def next(self, max_touches: int) -> Batch:
        if self.finished:
            return Batch(np.empty(0, np.uint32), self.touch_ns)
        _, first, run = self._runs[self._now]
        if self._left < math.inf:
            max_touches = min(max_touches, _touches_in(self._left, run.touch_ns))
        batch = run.next(int(min(max_touches, self._touches)))
        self._touches -= len(batch.pages)
        self._left -= len(batch.pages) * batch.touch_ns
        self.touch_ns = run.touch_ns
        over = self._touches <= 0 or _is_over(self._left, batch.touch_ns)
        if run.finished:
            del self._runs[self._now]
            self._now -= 1
        if (run.finished and self._last) or not self._runs:
            self.finished = True
        elif run.finished or over:
            self._now = (self._now + 1) % len(self._runs)
            self._begin()
        if not first:
            return batch
        moved = batch.release and (batch.release[0] + first, batch.release[1])
        return batch._replace(pages=batch.pages + np.uint32(first), release=moved)


# ---- reading specs

SPECS: dict[str, type[WorkloadSpec]] = {
    spec.NAME: spec for spec in (Uniform, Zipf, HotScan, Loop, Phases, Bursts, Grow, TraceReplay)
}
PHASE_KEYS: dict[str, Reader] = {
    "of": _inner,
    "seconds": _seconds(zero=False),
    "touches": _whole(1, 10**15),
    "begin": SHARE,
    "end": POSITIVE_SHARE,
}


def parse_workload(
    text: str, *, where: object = None, key: str | None = None, base: Path | None = None
) -> WorkloadSpec:
    """A spec from `NAME[:ARGUMENT,...]`; an argument is KEY=VALUE or, for the main one, the value alone.

    uniform   zipf:1.2   hot+scan:0.2,share=0.8   loop   grow:64Mi,begin=0.1,shrink_at=0.9
    trace:FILE,speed=2   bursts:zipf:1.2,on=2s,off=5s
    phases:2s@0-0.5=loop,100000=uniform (seconds or touches, on a part of the heap)
    Round brackets keep the commas of a workload within another: bursts:(zipf:1.2,touch_ns=500),on=2s.
    """
    return _parse(text, _Place(where, key, base))


def from_table(
    table: Mapping[str, object], *, where: object = None, key: str | None = None, base: Path | None = None
) -> WorkloadSpec:
    """A spec from a TOML table: `workload` names it, as text; the other keys are its arguments.

    { workload = "bursts", on = "2s", of = { workload = "zipf", exponent = 1.2 } }
    """
    return _from_table(table, _Place(where, key, base))


def _parse(text: str, place: _Place) -> WorkloadSpec:
    return _from_table({"workload": text}, place)


def _from_table(table: Mapping[str, object], place: _Place) -> WorkloadSpec:
    named = table.get("workload")
    if named is None:
        raise place.fault(f"no workload is named; allowed: {', '.join(SPECS)}")
    if not isinstance(named, str):
        raise place.at("workload").fault(f"{quoted(named)} is not a text")
    name, colon, arguments = _without_brackets(named).partition(":")
    spec = SPECS.get(name.strip())
    if spec is None:
        raise place.fault(f"no workload {quoted(name)}{nearest(name.strip(), SPECS)}")
    values = _arguments(spec, arguments, place) if colon else {}
    for name, value in table.items():
        if name == "workload":
            continue
        if name in values:
            raise place.at(name).fault("given twice, in the text and as a key")
        values[name] = value
    if spec is TraceReplay and "file" not in values:
        raise place.fault("a trace needs a file: trace:FILE")
    made = _make(spec, spec.KEYS, values, place)
    assert isinstance(made, WorkloadSpec)
    return made


def _make(cls: type, keys: dict[str, Reader], values: Mapping[str, object], place: _Place) -> object:
    for name in values:
        if name not in keys:
            raise place.at(name).fault(f"no such key{nearest(name, keys)}")
    read = {name: keys[name](value, place.at(name)) for name, value in values.items()}
    try:
        return cls(**read)
    except InputError as error:
        raise place.fault(str(error)) from None


def _without_brackets(text: str) -> str:
    """The text without a pair of brackets around all of it."""
    text = text.strip()
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if not depth and at < len(text) - 1:
            return text
    return text[1:-1]


def _split(text: str, at: str, most: int = -1) -> list[str]:
    """`text` cut at each (at most `most`) `at` that stands outside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == at and depth == 0 and len(parts) - 1 != most:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _arguments(spec: type[WorkloadSpec], text: str, place: _Place) -> dict[str, object]:
    if text.count("(") != text.count(")"):
        raise place.fault(f"brackets do not match in {quoted(text)}")
    values: dict[str, object] = {}
    phases: list[object] = []
    for number, argument in enumerate(_split(text, ",")):
        name, *rest = (part.strip() for part in _split(argument, "=", 1))
        if spec is Phases and rest and name not in spec.KEYS:
            phases.append(_phase_text(name, rest[0], place.at(f"phase {len(phases) + 1}")))
            continue
        # A bare first argument is the main one; its own text may hold a "=" (bursts:zipf:exponent=1.2).
        if spec.POSITIONAL and number == 0 and (not rest or (name not in spec.KEYS and ":" in name)):
            name, rest = spec.POSITIONAL, [argument.strip()]
        if not rest or not rest[0]:
            raise place.fault(f"{quoted(argument.strip())} is not KEY=VALUE; keys: {', '.join(spec.KEYS)}")
        if name in values:
            raise place.at(name).fault("given twice")
        values[name] = rest[0] if name in ("file", "of") else _value(rest[0])
    if phases:
        values["phases"] = phases
    return values


def _value(text: str) -> object:
    """Text as a number where it is one, so that text and tables are read by the same rules."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _phase_text(head: str, of: str, place: _Place) -> dict[str, object]:
    """`2s@0-0.5=loop`, `1000=uniform`: a length with a unit is a time, one without is touches."""
    length, at, part = head.partition("@")
    amount = _value(length.strip())
    if isinstance(amount, float) and amount.is_integer():
        amount = int(amount)
    phase: dict[str, object] = {"of": of, "seconds" if isinstance(amount, str) else "touches": amount}
    if at:
        begin, dash, end = part.partition("-")
        if not dash:
            raise place.fault(f"{quoted(part)} is no part of the heap, as in 0-0.5")
        phase["begin"], phase["end"] = _value(begin.strip()), _value(end.strip())
    return phase


def _phases(value: Any, place: _Place) -> tuple[Phase, ...]:
    if not isinstance(value, list) or not value:
        raise place.fault("a list of phases, at least one, is wanted")
    made = []
    for number, table in enumerate(value, 1):
        at = replace(place, key=f"{place.key}[{number}]")
        if not isinstance(table, Mapping) or "of" not in table:
            raise at.fault(f"{quoted(table)} is no phase; a table with of, and seconds or touches, is wanted")
        made.append(_make(Phase, PHASE_KEYS, table, at))
    return tuple(p for p in made if isinstance(p, Phase))
