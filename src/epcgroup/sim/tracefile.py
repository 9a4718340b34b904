"""Files of page accesses, read into one form: dense page ids in the order of their first appearance.

Read: valgrind's lackey text (`--tool=lackey --trace-mem=yes`), CSV, our own packed form ("epctrace"), Parquet
(through pyarrow, when it is installed), libCacheSim's oracleGeneral; each also from .xz and .gz, and from
standard input ("-"). A format is known by its content; oracleGeneral, which has no mark, by its name.

Consecutive accesses of one stream to one page are one event with a count. A stream is a thread; lackey's
fetches and data accesses are two. That keeps fault counts: a second access to a page just touched changes
nothing, unless the reclaimer looked between the two. Text is parsed in blocks of a mebibyte by numpy over
bytes, no Python per line.
"""

import gzip
import importlib
import io
import lzma
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from epcgroup.errors import InputError, nearest
from epcgroup.units import PAGE_SIZE, quoted

Format = Literal["lackey", "csv", "epctrace", "parquet", "oraclegeneral"]
FORMATS: tuple[Format, ...] = ("lackey", "csv", "epctrace", "parquet", "oraclegeneral")
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".epctrace": "epctrace",
    ".parquet": "parquet",
    ".oraclegeneral": "oraclegeneral",
}

PAGE_SHIFT = PAGE_SIZE.bit_length() - 1
MAX_PAGE = 2**32 - 1  # of a `page` column: what a packed trace can name
BLOCK_BYTES = 1 << 20
TABLE_PAGES = 1 << 26  # page numbers below this (256 GiB of addresses) find their dense id by index
# Lackey has no clock. Half a nanosecond for each of its lines (instructions, loads and stores alike) is one
# instruction in two cycles at 3 GHz; only a starting point, which a workload's `speed` corrects.
LACKEY_ACCESS_NS = 0.5

MAGIC = b"EPCTRACE"
VERSION = 1
# magic, version, flags, nr_pages, nr_events, nanoseconds between events (NaN: unknown); then, little-endian,
# addresses u64[nr_pages], times u64[nr_events] (flag 4), pages u32[nr_events],
# counts u32[nr_events] (flag 1), threads u32[nr_events] (flag 2).
HEADER = struct.Struct("<8sIIQQd")
HAS_COUNTS, HAS_THREADS, HAS_TIMES = 1, 2, 4
ORACLE = np.dtype([("time", "<u4"), ("page", "<u8"), ("size", "<u4"), ("next", "<i8")])

GZIP_MAGIC, XZ_MAGIC, ZSTD_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PAR1"

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PageTrace:
    """A trace of page accesses. Arrays run over events, `addresses` over pages; do not write to them."""

    pages: U32  # dense ids, 0 where the first page was seen
    addresses: U64  # page number (address / 4096) of each dense id, as the file names it
    source: str  # the file, for messages
    counts: U32 | None = None  # accesses that each event stands for; None: one each
    threads: U32 | None = None  # thread number of each event
    times_ns: U64 | None = None  # ascending
    touch_ns: float | None = None  # mean time between events, measured or (lackey) estimated; None: unknown

    @property
    def nr_pages(self) -> int:
        return len(self.addresses)

    @property
    def nr_events(self) -> int:
        return len(self.pages)

    @property
    def accesses(self) -> int:
        """Accesses before consecutive ones to a page were made one event."""
        return len(self.pages) if self.counts is None else int(self.counts.sum(dtype=np.uint64))

    def of_thread(self, thread: int) -> "PageTrace":
        """The events of one thread; page ids stay those of the whole trace."""
        if self.threads is None:
            raise InputError("the trace has no thread column", where=self.source, key="thread")
        keep = self.threads == thread
        if not keep.any():
            known = ", ".join(str(t) for t in np.unique(self.threads)[:8])
            raise InputError(f"no thread {thread} in it; it has {known}", where=self.source, key="thread")
        times = None if self.times_ns is None else self.times_ns[keep]
        counts = None if self.counts is None else self.counts[keep]
        pace = self.touch_ns if times is None else _pace(times)
        return PageTrace(
            self.pages[keep], self.addresses, self.source, counts, self.threads[keep], times, pace
        )


def read_trace(path: str | Path, format: str | None = None) -> PageTrace:
    """The trace in a file ("-": standard input); `format` when the content does not tell. InputError names
    the line or the byte where a bad file goes wrong."""
    source = "standard input" if str(path) == "-" else str(path)
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown trace format {quoted(format)}{nearest(format, FORMATS)}", where=source)
    try:
        if str(path) == "-":
            # A reader of its own: whatever stands in for sys.stdin may be unable to peek.
            return _read(io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer)), None, source, format)
        with Path(path).open("rb") as file:
            return _read(file, Path(path) if Path(path).is_file() else None, source, format)
    except OSError as error:  # gzip's BadGzipFile is one
        raise InputError(f"cannot be read ({error.strerror or error})", where=source) from None
    except (EOFError, lzma.LZMAError, zlib.error):
        raise InputError("the compressed file is truncated or damaged", where=source) from None


def _read(file: io.BufferedReader, path: Path | None, source: str, format: str | None) -> PageTrace:
    head = file.peek(512)[:512]
    if head.startswith(ZSTD_MAGIC):
        raise InputError("zstd is not read here; unpack it first (zstd -d)", where=source)
    if head.startswith((GZIP_MAGIC, XZ_MAGIC)):
        unpacked = _unpack(file, head)
        file, path = io.BufferedReader(unpacked, BLOCK_BYTES), None
        head = file.peek(512)[:512]
    if not head:
        raise InputError("the file is empty", where=source)
    readers: dict[str, Callable[[], PageTrace]] = {
        "lackey": lambda: _read_lackey(file, source),
        "csv": lambda: _read_csv(file, source),
        "epctrace": lambda: _read_packed(file, path, source),
        "parquet": lambda: _read_parquet(file, source),
        "oraclegeneral": lambda: _read_oracle(file, source),
    }
    return readers[format or _recognise(head, source)]()


def _unpack(file: io.BufferedReader, head: bytes) -> Any:
    return gzip.GzipFile(fileobj=file) if head.startswith(GZIP_MAGIC) else lzma.LZMAFile(file)


def _recognise(head: bytes, source: str) -> Format:
    if head.startswith(MAGIC):
        return "epctrace"
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if ".oraclegeneral" in source.lower():
        return "oraclegeneral"
    line = head.lstrip(b"\r\n").split(b"\n")[0]
    if line.startswith((b"==", b"--", b"**", b"I  ", b" L ", b" S ", b" M ")):
        return "lackey"
    if b"\0" in head:
        at = f"byte {head.index(0)}"
        raise InputError(f"{at}: not a page trace; formats: {', '.join(FORMATS)}", where=source)
    return "csv"


# ---- text, a block of whole lines at a time


def _text_blocks(file: BinaryIO, source: str) -> Iterator[tuple[int, U8, Index, Index]]:
    """(lines before, bytes, first byte of each line, end of each line without CR LF) of successive blocks."""
    lines, rest = 0, b""
    while True:
        more = file.read(BLOCK_BYTES)
        text = rest + more
        if not text:
            return
        if more:
            cut = text.rfind(b"\n") + 1
            text, rest = text[:cut], text[cut:]
            if len(rest) > BLOCK_BYTES:
                raise InputError("longer than a mebibyte: not text", where=source, key=f"line {lines + 1}")
            if not text:
                continue
        else:
            rest = b""
            if not text.endswith(b"\n"):
                text += b"\n"
        buf = np.frombuffer(text, np.uint8)
        end = np.flatnonzero(buf == 10)
        start = np.empty_like(end)
        start[0], start[1:] = 0, end[:-1] + 1
        count = len(end)
        end = end - ((end > start) & (buf[end - 1] == 13))
        yield lines, buf, start, end
        lines += count


_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[ord("0") : ord("9") + 1] = np.arange(10)
_HEX_DIGITS = _DIGITS.copy()
_HEX_DIGITS[ord("a") : ord("f") + 1] = _HEX_DIGITS[ord("A") : ord("F") + 1] = np.arange(10, 16)


def _integers(buf: U8, start: Index, end: Index, base: Literal[10, 16]) -> tuple[U64, Flags]:
    """(values, bad) of the ASCII integers buf[start:end]; bad: empty, no digits, over 19 (hex: 16)."""
    table, most = (_DIGITS, 19) if base == 10 else (_HEX_DIGITS, 16)
    width = end - start
    bad = (width < 1) | (width > most)
    value = np.zeros(len(start), np.uint64)
    if not len(start):
        return value, bad
    for k in range(min(int(width.max()), most)):
        digit = table.take(buf.take(end - (1 + k), mode="clip"))
        if k >= int(width.min()):
            digit = np.where(width > k, digit, 0).astype(np.uint8)
        bad |= digit == 255
        value += digit.astype(np.uint64) * np.uint64(base**k)
    return value, bad


def _line(buf: U8, start: Index, end: Index, row: int) -> str:
    return quoted(bytes(buf[start[row] : end[row]]).decode("utf-8", "backslashreplace"), 40)


def _read_lackey(file: BinaryIO, source: str) -> PageTrace:
    collector = _Collector()
    for lines, buf, start, end in _text_blocks(file, source):
        first = buf[start]
        mark = (first == ord("=")) | (first == ord("-")) | (first == ord("*"))
        mark &= buf.take(start + 1, mode="clip") == first  # "==4711== ...": valgrind's own
        skip = mark | (start == end)
        row = np.flatnonzero(~skip) if skip.any() else np.arange(len(start))
        a, z = start[row], end[row]
        c0, c1, c2 = first[row], buf.take(a + 1, mode="clip"), buf.take(a + 2, mode="clip")
        fetch = c0 == ord("I")
        data = (c0 == 32) & ((c1 == ord("L")) | (c1 == ord("S")) | (c1 == ord("M")))
        good = ((fetch & (c1 == 32)) | data) & (c2 == 32) & (z - a >= 6)
        comma = z - 2
        for width in (2, 3, 4):
            comma = np.where(buf.take(comma, mode="clip") == ord(","), comma, z - 1 - width)
        good &= buf.take(comma, mode="clip") == ord(",")
        address, bad = _integers(buf, a + 3, comma, 16)
        size, odd = _integers(buf, comma + 1, z, 10)
        good &= ~(bad | odd)
        if not good.all():
            i = int(np.argmin(good))
            raise InputError(
                f"{_line(buf, a, z, i)} is no line of lackey (cut short, or the program's own output:"
                " --log-file or --log-fd keeps the two apart)",
                where=source,
                key=f"line {lines + int(row[i]) + 1}",
            )
        page = address >> np.uint64(PAGE_SHIFT)
        last = (address + (np.maximum(size, 1) - np.uint64(1)).astype(np.uint64)) >> np.uint64(PAGE_SHIFT)
        stream = fetch.view(np.uint8)
        across = np.flatnonzero(last != page)  # an access over a page boundary touches both
        if len(across):
            page = np.insert(page, across + 1, last[across])
            stream = np.insert(stream, across + 1, stream[across])
        collector.add(page, streams=stream)
    trace = collector.finish(source)
    pace = LACKEY_ACCESS_NS * trace.accesses / trace.nr_events
    return PageTrace(trace.pages, trace.addresses, source, trace.counts, touch_ns=pace)


CSV_COLUMNS = ("page", "address", "time_ns", "thread", "count")


def _read_csv(file: BinaryIO, source: str) -> PageTrace:
    """Columns: `page` (a number) or `address` (of a byte; 0x allowed), and if there are such: time_ns,
    thread, and count, which says that rows are events already, not to be joined. Others are passed over."""
    columns: list[str] = []
    collector = _Collector()
    for lines, buf, start, end in _text_blocks(file, source):
        if not columns:
            columns = _csv_header(bytes(buf[start[0] : end[0]]), source)
            collector.join = "count" not in columns
            start, end, lines = start[1:], end[1:], lines + 1
        rows = np.flatnonzero(end > start)
        a, z = start[rows], end[rows]
        if not len(rows):
            continue

        def fault(row: int, what: str, rows: Index = rows, lines: int = lines) -> InputError:
            return InputError(what, where=source, key=f"line {lines + int(rows[row]) + 1}")

        commas = np.flatnonzero(buf[a[0] : z[-1]] == ord(",")) + a[0]
        fields = np.searchsorted(commas, z) - np.searchsorted(commas, a) + 1
        if (fields != len(columns)).any():
            row = int(np.argmax(fields != len(columns)))
            raise fault(
                row, f"{fields[row]} fields in {_line(buf, a, z, row)}; the header has {len(columns)}"
            )
        commas = commas.reshape(len(rows), len(columns) - 1)
        values: dict[str, U64] = {}
        for k, name in enumerate(columns):
            if name not in CSV_COLUMNS:
                continue
            left = a if k == 0 else commas[:, k - 1] + 1
            right = z if k == len(columns) - 1 else commas[:, k]
            left = left + ((buf.take(left, mode="clip") == 32) & (left < right))
            values[name], bad = _csv_numbers(buf, left, right, name)
            if bad.any():
                row = int(np.argmax(bad))
                raise fault(
                    row, f"{name} {_line(buf, left, right, row)} is not a whole number >= 0 that fits"
                )
        _add_columns(collector, values, fault)
    return collector.finish(source)


def _csv_header(line: bytes, source: str) -> list[str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not text (byte {error.start})", where=source, key="line 1") from None
    columns = [name.strip().strip('"') for name in text.split(",")]
    named = [name for name in columns if name in CSV_COLUMNS]
    if not {"page", "address"} & set(columns) or not text.isprintable():
        raise InputError(
            f"{quoted(text, 40)} is not the header of a page trace; it needs a column page or address, may"
            " have time_ns, thread, count",
            where=source,
            key="line 1",
        )
    if len(named) != len(set(named)):
        raise InputError(f"a column stands twice in {quoted(text, 40)}", where=source, key="line 1")
    return columns


def _csv_numbers(buf: U8, start: Index, end: Index, name: str) -> tuple[U64, Flags]:
    if name == "address":
        second = buf.take(start + 1, mode="clip")
        prefixed = ((second == ord("x")) | (second == ord("X"))) & (buf.take(start, mode="clip") == ord("0"))
        if prefixed.any():
            value, bad = _integers(buf, start + 2 * prefixed, end, 16)
            decimal, not_decimal = _integers(buf, start[~prefixed], end[~prefixed], 10)
            value[~prefixed], bad[~prefixed] = decimal, not_decimal
            return value, bad
    return _integers(buf, start, end, 10)


def _add_columns(
    collector: "_Collector", values: dict[str, U64], fault: Callable[[int, str], InputError]
) -> None:
    """Check and hand over one block of columns, however the file held them."""
    pages, times, threads, counts = (values.get(k) for k in ("page", "time_ns", "thread", "count"))
    if "address" in values:
        pages = values["address"] >> np.uint64(PAGE_SHIFT)
    elif pages is not None and (pages > MAX_PAGE).any():
        row = int(np.argmax(pages > MAX_PAGE))
        raise fault(row, f"page {pages[row]} is beyond 2^32 - 1; a column address takes byte addresses")
    assert pages is not None
    for name, column in (("thread", threads), ("count", counts)):
        if column is not None and (column > MAX_PAGE).any():
            row = int(np.argmax(column > MAX_PAGE))
            raise fault(row, f"{name} {column[row]} is beyond 2^32 - 1")
    if counts is not None and not counts.all():
        raise fault(int(np.argmin(counts)), "count 0; an event stands for at least one access")
    if times is not None:
        before = np.concatenate([[collector.last_time], times[:-1]]).astype(np.uint64)
        if (times < before).any():
            row = int(np.argmax(times < before))
            raise fault(
                row, f"time_ns {times[row]} is before {before[row]}, the time of the access before it"
            )
    collector.add(pages, streams=threads, times=times, threads=threads, counts=counts)


# ---- binary forms


def _read_packed(file: BinaryIO, path: Path | None, source: str) -> PageTrace:
    """The epctrace form; mapped, not read, when it is a plain file."""
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise InputError(f"cut short: {len(head)} bytes, the header alone has {HEADER.size}", where=source)
    magic, version, flags, nr_pages, nr_events, pace = HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or flags & ~(HAS_COUNTS | HAS_THREADS | HAS_TIMES):
        raise InputError(
            f"not an epctrace of version {VERSION} (version {version}, flags {flags})", where=source
        )
    if not 0 < nr_pages <= MAX_PAGE + 1 or not 0 < nr_events < 2**48:
        raise InputError(f"byte 16: {nr_pages} pages and {nr_events} events in its header", where=source)
    per_event = 4 * (1 + bool(flags & HAS_COUNTS) + bool(flags & HAS_THREADS)) + 8 * bool(flags & HAS_TIMES)
    wanted = HEADER.size + 8 * nr_pages + per_event * nr_events
    raw: Any
    if path is not None:
        raw = np.asarray(np.memmap(path, np.uint8, "r"))
    else:
        raw = np.frombuffer(head + file.read(wanted + 1 - HEADER.size), np.uint8)
    if len(raw) != wanted:
        state = "cut short" if len(raw) < wanted else "too long"
        raise InputError(f"{state}: {len(raw)} bytes, its header says {wanted}", where=source)
    at = HEADER.size

    def section(dtype: str, count: int) -> NDArray[Any]:
        nonlocal at
        part = raw[at : at + count * int(dtype[-1])].view(dtype)
        at += part.nbytes
        return part  # type: ignore[no-any-return]

    addresses = section("<u8", nr_pages)
    times = section("<u8", nr_events) if flags & HAS_TIMES else None
    first_page_at = at
    pages = section("<u4", nr_events)
    counts = section("<u4", nr_events) if flags & HAS_COUNTS else None
    threads = section("<u4", nr_events) if flags & HAS_THREADS else None
    if int(pages.max()) >= nr_pages:
        event = int(np.argmax(pages >= nr_pages))
        raise InputError(
            f"byte {first_page_at + 4 * event}: event {event} is page {pages[event]} of {nr_pages}",
            where=source,
        )
    if not (np.isnan(pace) or 0 < pace < np.inf):
        raise InputError(f"byte 32: {pace} ns between events", where=source)
    return PageTrace(pages, addresses, source, counts, threads, times, None if np.isnan(pace) else pace)


def _read_oracle(file: BinaryIO, source: str) -> PageTrace:
    collector, offset = _Collector(), 0
    while block := file.read(ORACLE.itemsize * 65536):
        if len(block) % ORACLE.itemsize:
            raise InputError(
                f"byte {offset + len(block)}: cut short, an oracleGeneral record has {ORACLE.itemsize} bytes",
                where=source,
            )
        collector.add(np.frombuffer(block, ORACLE)["page"].astype(np.uint64))
        offset += len(block)
    return collector.finish(source)


def _pyarrow(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError("Parquet needs pyarrow: pip install 'epcgroup[parquet]'", where=source) from None


def _read_parquet(file: BinaryIO, source: str) -> PageTrace:
    """The columns of the CSV form, as integers."""
    pa, parquet = _pyarrow("pyarrow", source), _pyarrow("pyarrow.parquet", source)
    collector, lines = _Collector(), 0
    try:
        table = parquet.ParquetFile(file if file.seekable() else pa.BufferReader(file.read()))
        names = [name for name in CSV_COLUMNS if name in table.schema_arrow.names]
        if not {"page", "address"} & set(names):
            have = ", ".join(table.schema_arrow.names)
            raise InputError(f"no column page or address; it has {quoted(have)}", where=source)
        collector.join = "count" not in names

        def fault(row: int, what: str) -> InputError:
            return InputError(what, where=source, key=f"row {lines + row + 1}")

        for batch in table.iter_batches(columns=names, batch_size=1 << 18):
            values: dict[str, U64] = {}
            for name in names:
                column = batch.column(name)
                if not pa.types.is_integer(column.type) or column.null_count:
                    what = "has empty cells" if column.null_count else f"holds {column.type}"
                    raise InputError(f"{what}; whole numbers are wanted", where=source, key=f"column {name}")
                numbers = column.to_numpy(zero_copy_only=False)
                if len(numbers) and numbers.min() < 0:
                    row = int(np.argmin(numbers))
                    raise fault(row, f"{name} {numbers[row]} is not a whole number >= 0 that fits")
                values[name] = numbers.astype(np.uint64)
            if len(batch):
                _add_columns(collector, values, fault)
                lines += len(batch)
    except pa.ArrowException as error:
        raise InputError(f"not a Parquet file ({quoted(str(error), 80)})", where=source) from None
    return collector.finish(source)


# ---- events and dense ids


class _Collector:
    """Takes accesses block by block, joins consecutive ones of a stream, gives pages dense ids."""

    def __init__(self) -> None:
        self.join = True
        self.last_time = 0
        self._events = 0
        self._columns: dict[str, list[NDArray[Any]]] = {k: [] for k in ("page", "count", "thread", "time")}
        self._addresses: list[U64] = []
        self._nr_pages = 0
        # Dense id + 1 by page number, untouched memory until used; given up at the first page beyond it.
        self._table: U32 | None = np.zeros(TABLE_PAGES, np.uint32)
        self._known = np.empty(0, np.uint64)  # without the table: page numbers, ascending,
        self._ids = np.empty(0, np.uint32)  # and their dense ids
        self._last: dict[int, tuple[int, int]] = {}  # stream -> (page, event) of its last access
        self._extra: list[tuple[int, int]] = []  # (event, accesses that joined it from a later block)

    def add(
        self,
        pages: U64,
        *,
        streams: NDArray[Any] | None = None,
        times: U64 | None = None,
        threads: U64 | None = None,
        counts: U64 | None = None,
    ) -> None:
        if not len(pages):
            return
        if self.join:
            keep, joined = self._joined(pages, streams)
            self._columns["count"].append(joined)
            pages = pages[keep]
        else:
            keep = np.ones(len(pages), np.bool_)
            assert counts is not None
            self._columns["count"].append(counts)
        self._columns["page"].append(self._dense(pages))
        if times is not None:
            self.last_time = int(times[-1])
            self._columns["time"].append(times[keep])
        if threads is not None:
            self._columns["thread"].append(threads[keep].astype(np.uint32))
        self._events += len(pages)

    def _joined(self, pages: U64, streams: NDArray[Any] | None) -> tuple[Flags, U64]:
        """(which accesses start an event, accesses of each such event within this block)."""
        n = len(pages)
        if streams is None:
            order, new_stream = None, np.zeros(n, np.bool_)
            p, s = pages, np.zeros(1, np.int64)
        else:
            if int(streams.max()) < 2**16:
                streams = streams.astype(np.uint16)  # a stable sort of 16 bits is a radix sort
            order = np.argsort(streams, kind="stable")
            p, by_stream = pages[order], streams[order]
            new_stream = np.concatenate([[True], by_stream[1:] != by_stream[:-1]])
            s = by_stream[new_stream]
        new_stream[0] = True
        starts = np.concatenate([[True], p[1:] != p[:-1]]) | new_stream
        at = np.flatnonzero(starts)
        lengths = np.diff(np.append(at, n))
        # The first run of a stream may go on from the block before.
        heads = np.flatnonzero(new_stream)
        for stream, head in zip(s.tolist(), heads.tolist(), strict=True):
            page, event = self._last.get(stream, (-1, -1))
            if page == int(p[head]):
                self._extra.append((event, int(lengths[np.searchsorted(at, head)])))
                starts[head] = False
        keep, counts = np.empty(n, np.bool_), np.zeros(n, np.uint64)
        sorted_counts = np.zeros(n, np.uint64)
        sorted_counts[at] = lengths.astype(np.uint64)
        if order is None:
            keep, counts = starts, sorted_counts
        else:
            keep[order], counts[order] = starts, sorted_counts
        event_of = np.cumsum(keep) + (self._events - 1)
        tails = np.append(heads[1:], n) - 1
        for stream, head, tail in zip(s.tolist(), heads.tolist(), tails.tolist(), strict=True):
            start = int(at[np.searchsorted(at, tail, side="right") - 1])
            if starts[start]:
                place = start if order is None else int(order[start])
                self._last[stream] = (int(p[tail]), int(event_of[place]))
            else:
                assert start == head  # the whole block went on with the last event
        return keep, counts[keep]

    def _dense(self, pages: U64) -> U32:
        if not len(pages):
            return np.empty(0, np.uint32)
        if self._table is not None and int(pages.max()) >= TABLE_PAGES:
            self._known = np.concatenate([*self._addresses, self._known])
            self._ids = np.argsort(self._known).astype(np.uint32)
            self._known, self._table = self._known[self._ids], None
        if self._table is None:
            return self._dense_sorted(pages)
        at = pages.view(np.int64)
        ids = self._table.take(at)
        if not ids.all():
            new = pages[ids == 0]
            values, first = np.unique(new, return_index=True)
            self._name(values[np.argsort(first)])
            ids = self._table.take(at)
        return ids - np.uint32(1)

    def _name(self, values: U64) -> U32:
        """The next dense ids for pages not seen before, in this order."""
        ids = np.arange(self._nr_pages, self._nr_pages + len(values), dtype=np.uint32)
        self._nr_pages += len(values)
        self._addresses.append(values)
        if self._table is not None:
            self._table[values.view(np.int64)] = ids + np.uint32(1)
        return ids

    def _dense_sorted(self, pages: U64) -> U32:
        """By binary search, for page numbers too large for the table."""
        values, first, inverse = np.unique(pages, return_index=True, return_inverse=True)
        place = np.searchsorted(self._known, values)
        known = np.zeros(len(values), np.bool_)
        if len(self._known):
            known = self._known.take(place, mode="clip") == values
        ids = np.empty(len(values), np.uint32)
        ids[known] = self._ids[place[known]]
        new = np.flatnonzero(~known)
        if len(new):
            new = new[np.argsort(first[new])]  # dense ids follow first appearance
            ids[new] = self._name(values[new])
            merged = np.concatenate([self._known, values[new]])
            order = np.argsort(merged)
            self._known, self._ids = merged[order], np.concatenate([self._ids, ids[new]])[order]
        return ids[inverse]

    def finish(self, source: str) -> PageTrace:
        if not self._events:
            raise InputError("no page accesses in it", where=source)
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items() if parts}
        counts = columns["count"]
        for event, more in self._extra:
            counts[event] += np.uint64(more)
        times = columns.get("time")
        return PageTrace(
            columns["page"],
            np.concatenate(self._addresses),
            source,
            None if (counts == 1).all() else np.minimum(counts, MAX_PAGE).astype(np.uint32),
            columns.get("thread"),
            times,
            None if times is None else _pace(times),
        )


def _pace(times: U64) -> float | None:
    """Mean nanoseconds between events; None when the times do not tell."""
    span = int(times[-1]) - int(times[0])
    return span / (len(times) - 1) if span > 0 else None


def trace_of(pages: U64, source: str, threads: U64 | None = None) -> PageTrace:
    """A trace of page numbers in memory, consecutive ones of a thread joined; `source` names it in messages."""
    collector = _Collector()
    collector.add(pages, streams=threads, threads=threads)
    return collector.finish(source)


# ---- writing


def _how_to_write(target: Path, format: str | None) -> tuple[str, str]:
    """(format, ".gz", ".xz" or "") by the suffixes; InputError when that says none that is written."""
    suffixes = [s.lower() for s in target.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".xz") else ""
    chosen = format or (SUFFIXES.get(suffixes[-1]) if suffixes else None)
    if chosen not in _WRITERS:
        what = f"format {quoted(format)}" if format else f"suffix {quoted(''.join(suffixes))}"
        raise InputError(f"no trace is written with {what}; allowed: {', '.join(_WRITERS)}", where=target)
    return chosen, packed


def check_writable(path: str | Path) -> None:
    """InputError when `write_trace` would refuse this name, or its folder is not there."""
    target = Path(path)
    format, _ = _how_to_write(target, None)
    if format == "parquet":
        _pyarrow("pyarrow.parquet", str(target))
    if target.is_dir() or not os.access(target if target.exists() else target.parent, os.W_OK):
        raise InputError("cannot be written", where=target)


def write_trace(path: str | Path, trace: PageTrace, format: str | None = None) -> None:
    """Write as epctrace, csv, parquet or oraclegeneral, by `format` or the suffix; .gz or .xz after it packs.

    oracleGeneral has no place for counts and threads: each event becomes one request of a page.
    """
    target = Path(path)
    chosen, packed = _how_to_write(target, format)
    write = _WRITERS[chosen]
    try:
        with target.open("wb") as file:
            if packed == ".gz":
                # No name and time of day in it: the same trace gives the same bytes.
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as out:
                    write(out, trace)  # type: ignore[arg-type]
            elif packed == ".xz":
                with lzma.LZMAFile(file, "wb") as out:
                    write(out, trace)  # type: ignore[arg-type]
            else:
                write(file, trace)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=target) from None


def _write_packed(out: BinaryIO, trace: PageTrace) -> None:
    flags = HAS_COUNTS * (trace.counts is not None) | HAS_THREADS * (trace.threads is not None)
    flags |= HAS_TIMES * (trace.times_ns is not None)
    pace = float("nan") if trace.touch_ns is None else trace.touch_ns
    out.write(HEADER.pack(MAGIC, VERSION, flags, trace.nr_pages, trace.nr_events, pace))
    for column, dtype in (
        (trace.addresses, "<u8"),
        (trace.times_ns, "<u8"),
        (trace.pages, "<u4"),
        (trace.counts, "<u4"),
        (trace.threads, "<u4"),
    ):
        if column is not None:
            out.write(np.ascontiguousarray(column, dtype).tobytes())


def _columns(trace: PageTrace) -> dict[str, NDArray[Any]]:
    """The columns of the text and Parquet forms. `count` always: these rows are not to be joined again."""
    numbers = trace.addresses[trace.pages]
    columns: dict[str, NDArray[Any]]
    if int(trace.addresses.max()) > MAX_PAGE:
        columns = {"address": numbers << np.uint64(PAGE_SHIFT)}
    else:
        columns = {"page": numbers}
    columns["count"] = np.ones(trace.nr_events, np.uint32) if trace.counts is None else trace.counts
    if trace.times_ns is not None:
        columns["time_ns"] = trace.times_ns
    if trace.threads is not None:
        columns["thread"] = trace.threads
    return columns


def _write_csv(out: BinaryIO, trace: PageTrace) -> None:
    columns = _columns(trace)
    out.write((",".join(columns) + "\n").encode())
    for at in range(0, trace.nr_events, 1 << 16):
        rows = zip(*(column[at : at + (1 << 16)].tolist() for column in columns.values()), strict=True)
        out.write("".join(",".join(map(str, row)) + "\n" for row in rows).encode())


def _write_parquet(out: BinaryIO, trace: PageTrace) -> None:
    pa, parquet = _pyarrow("pyarrow", trace.source), _pyarrow("pyarrow.parquet", trace.source)
    table = pa.table({name: np.ascontiguousarray(column) for name, column in _columns(trace).items()})
    parquet.write_table(table, out, compression="zstd")


def _write_oracle(out: BinaryIO, trace: PageTrace) -> None:
    n = trace.nr_events
    records = np.zeros(n, ORACLE)
    records["page"] = trace.addresses[trace.pages]
    records["size"] = PAGE_SIZE
    if trace.times_ns is not None:
        records["time"] = (trace.times_ns // np.uint64(10**9)).astype(np.uint32)
    order = np.argsort(trace.pages, kind="stable")
    follows = trace.pages[order[1:]] == trace.pages[order[:-1]]
    following = np.full(n, -1, np.int64)
    following[order[:-1][follows]] = order[1:][follows]
    records["next"] = following  # when the page is asked for again; -1: never
    out.write(records.tobytes())


_WRITERS: dict[str, Callable[[BinaryIO, PageTrace], None]] = {
    "epctrace": _write_packed,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "oraclegeneral": _write_oracle,
}
