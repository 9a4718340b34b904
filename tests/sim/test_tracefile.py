"""Traces of page accesses: every form read to the same events, and the fault of a bad file in one line."""

import gzip
import io
import lzma
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.sim import tracefile
from epcgroup.sim.tracefile import PageTrace, check_writable, read_trace, trace_of, write_trace

SAMPLES = Path(__file__).parents[1] / "samples" / "traces"


def events(trace: PageTrace) -> list[tuple[int, int]]:
    """(page number, accesses) of each event."""
    counts = [1] * trace.nr_events if trace.counts is None else trace.counts.tolist()
    return list(zip(trace.addresses[trace.pages].tolist(), counts, strict=True))


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def joined_by_hand(accesses: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rule over (stream, page) in plain Python: an access that repeats its stream's last page joins."""
    last: dict[int, tuple[int, int]] = {}
    out: list[list[int]] = []
    for stream, page in accesses:
        if stream in last and last[stream][0] == page:
            out[last[stream][1]][1] += 1
        else:
            last[stream] = (page, len(out))
            out.append([page, 1])
    return [(page, count) for page, count in out]


# ---- lackey


def test_lackey_text_becomes_page_events_with_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.txt",
        "==71== Lackey, an example Valgrind tool\n"
        "I  00401000,3\n"
        " S 1fff000778,8\n"
        "I  00401003,5\n"  # same code page: joins
        " L 1fff000770,8\n"  # same data page: joins
        " M 00402ff8,8\n"
        "I  00402000,1\n"  # a page the data stream is on, but the fetches were not
        "\n"
        "==71== Exit code:       0\n",
    )
    trace = read_trace(path)
    assert events(trace) == [(0x401, 2), (0x1FFF000, 2), (0x402, 1), (0x402, 1)]
    assert trace.pages.tolist() == [0, 1, 2, 2]
    assert trace.accesses == 6
    assert trace.touch_ns == pytest.approx(tracefile.LACKEY_ACCESS_NS * 6 / 4)


def test_lackey_access_over_a_page_boundary_touches_both_pages(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "t.txt", " L 00001ffc,8\n L 00003ff8,8\nI  00007fff,2832\n"))
    assert events(trace) == [(1, 1), (2, 1), (3, 1), (7, 1), (8, 1)]


def test_lackey_of_a_real_program_has_the_pages_an_independent_reading_finds() -> None:
    path = SAMPLES / "true.lackey.xz"
    accesses = []
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        if match := re.fullmatch(r"(I | [LSM]) ([0-9a-f]+),(\d+)", line):
            address, size = int(match[2], 16), int(match[3])
            stream = int(match[1] == "I ")
            pages = dict.fromkeys([address >> 12, (address + size - 1) >> 12])
            accesses += [(stream, page) for page in pages]
    trace = read_trace(path)
    assert len(accesses) > 5000
    assert events(trace) == joined_by_hand(accesses)


def test_lackey_may_end_without_a_newline_and_have_crlf(tmp_path: Path) -> None:
    assert events(read_trace(write(tmp_path / "t.txt", "I  00401000,3\r\n S 00402000,16"))) == [
        (0x401, 1),
        (0x402, 1),
    ]


# ---- csv


def test_csv_of_pages_gets_dense_ids_in_order_of_first_appearance() -> None:
    trace = read_trace(SAMPLES / "loop.csv")
    assert trace.pages.tolist() == [0, 1, 2, 0]
    assert trace.addresses.tolist() == [7, 3, 5]
    assert trace.counts is not None and trace.counts.tolist() == [2, 1, 1, 1]


def test_csv_of_addresses_joins_accesses_of_each_thread_apart_and_knows_its_pace() -> None:
    trace = read_trace(SAMPLES / "threads.csv")
    assert trace.pages.tolist() == [0, 1, 2, 0]
    assert trace.addresses.tolist() == [0x7F0000001, 0x7F0000002, 0x7F0000003]
    assert trace.threads is not None and trace.threads.tolist() == [1, 2, 1, 2]
    assert trace.times_ns is not None and trace.times_ns.tolist() == [0, 200, 500, 800]
    assert trace.touch_ns == pytest.approx(800 / 3)


def test_one_thread_of_a_trace_keeps_the_page_ids_of_the_whole() -> None:
    one = read_trace(SAMPLES / "threads.csv").of_thread(2)
    assert one.pages.tolist() == [1, 0] and one.nr_pages == 3 and one.touch_ns == 600
    with pytest.raises(InputError, match=r"thread: no thread 9 in it; it has 1, 2$"):
        read_trace(SAMPLES / "threads.csv").of_thread(9)
    with pytest.raises(InputError, match=r"loop.csv, thread: the trace has no thread column$"):
        read_trace(SAMPLES / "loop.csv").of_thread(1)


def test_csv_columns_may_come_in_any_order_with_blanks_and_others_between(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "op, thread, page\r\nread, 1, 5\r\n\r\nwrite,2, 6\r\n")
    trace = read_trace(path)
    assert events(trace) == [(5, 1), (6, 1)]
    assert trace.threads is not None and trace.threads.tolist() == [1, 2]


def test_csv_with_counts_is_not_joined_again(tmp_path: Path) -> None:
    assert events(read_trace(write(tmp_path / "t.csv", "page,count\n4,3\n4,2\n"))) == [(4, 3), (4, 2)]


@settings(max_examples=60)
@given(
    accesses=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60),
    block=st.integers(24, 80),
    table=st.sampled_from([1, 3, 5]),
)
def test_events_are_the_same_however_the_text_falls_into_blocks(
    tmp_path_factory: pytest.TempPathFactory, accesses: list[tuple[int, int]], block: int, table: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write(path, "thread,page\n" + "".join(f"{thread},{page}\n" for thread, page in accesses))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracefile, "BLOCK_BYTES", block)
        patch.setattr(tracefile, "TABLE_PAGES", table)
        trace = read_trace(path)
    assert events(trace) == joined_by_hand(accesses)
    first_seen = list(dict.fromkeys(page for _, page in accesses))
    assert trace.addresses.tolist() == first_seen


@settings(max_examples=60)
@given(
    lines=st.lists(
        st.tuples(st.sampled_from("ILSM"), st.integers(0, 0x6FFF), st.integers(1, 64)),
        min_size=1,
        max_size=60,
    ),
    block=st.integers(24, 80),
)
def test_lackey_is_the_same_however_the_text_falls_into_blocks(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int, int]], block: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.txt"
    text, accesses = "", []
    for kind, address, size in lines:
        text += f"{'I ' if kind == 'I' else ' ' + kind} {address:08x},{size}\n"
        for page in dict.fromkeys([address >> 12, (address + size - 1) >> 12]):
            accesses.append((int(kind == "I"), page))
    write(path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracefile, "BLOCK_BYTES", block)
        assert events(read_trace(path)) == joined_by_hand(accesses)


# ---- writing and reading back


@st.composite
def traces(draw: st.DrawFn) -> PageTrace:
    ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=40))
    first = list(dict.fromkeys(ids))
    pages = np.array([first.index(i) for i in ids], np.uint32)
    numbers = draw(st.lists(st.integers(0, 2**50), min_size=len(first), max_size=len(first), unique=True))
    n = len(ids)

    def column(least: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(least, most), min_size=n, max_size=n))

    counts = np.array(column(1, 2**32 - 1), np.uint32) if draw(st.booleans()) else None
    if counts is not None and (counts == 1).all():
        counts = None
    threads = np.array(column(0, 2**32 - 1), np.uint32) if draw(st.booleans()) else None
    times = np.array(sorted(column(0, 2**60)), np.uint64) if draw(st.booleans()) else None
    span = 0 if times is None else int(times[-1]) - int(times[0])
    return PageTrace(
        pages, np.array(numbers, np.uint64), "x", counts, threads, times, span / (n - 1) if span else None
    )


def same(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    return a == b if isinstance(a, float | int) else bool(np.array_equal(np.asarray(a), np.asarray(b)))


FIELDS = ("pages", "addresses", "counts", "threads", "times_ns", "touch_ns")


@settings(max_examples=50)
@given(trace=traces(), suffix=st.sampled_from(["epctrace", "epctrace.xz", "csv", "csv.gz"]))
def test_a_trace_read_back_is_the_trace_written(
    tmp_path_factory: pytest.TempPathFactory, trace: PageTrace, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("t") / f"t.{suffix}"
    write_trace(path, trace)
    again = read_trace(path)
    assert [f for f in FIELDS if not same(getattr(trace, f), getattr(again, f))] == []
    assert again.source == str(path)


@settings(max_examples=25)
@given(trace=traces())
def test_parquet_read_back_is_the_trace_written(
    tmp_path_factory: pytest.TempPathFactory, trace: PageTrace
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    write_trace(path, trace)
    again = read_trace(path)
    assert [f for f in FIELDS if not same(getattr(trace, f), getattr(again, f))] == []


def test_the_stored_binary_samples_are_the_csv_sample() -> None:
    want = read_trace(SAMPLES / "loop.csv")
    assert events(read_trace(SAMPLES / "loop.epctrace")) == events(want)
    assert read_trace(SAMPLES / "loop.oracleGeneral").pages.tolist() == want.pages.tolist()


def test_oracle_general_says_when_each_page_is_asked_for_again() -> None:
    records = list(struct.iter_unpack("<IQIq", (SAMPLES / "loop.oracleGeneral").read_bytes()))
    assert records == [(0, 7, 4096, 3), (0, 3, 4096, -1), (0, 5, 4096, -1), (0, 7, 4096, -1)]


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    trace = read_trace(SAMPLES / "threads.csv")
    for name in ("a.epctrace.gz", "b.epctrace.gz"):
        write_trace(tmp_path / name, trace)
    assert (tmp_path / "a.epctrace.gz").read_bytes() == (tmp_path / "b.epctrace.gz").read_bytes()


def test_a_trace_comes_from_standard_input_packed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = (SAMPLES / "loop.csv").read_bytes()
    for data in (plain, gzip.compress(plain), (SAMPLES / "loop.epctrace").read_bytes()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        trace = read_trace("-")
        assert events(trace) == [(7, 2), (3, 1), (5, 1), (7, 1)]
        assert trace.source == "standard input"


# ---- bad input

PACKED = (SAMPLES / "loop.epctrace").read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.txt", b"", "t.txt: the file is empty"),
        ("t.txt", b"==1== Lackey\n==1== \n", "t.txt: no page accesses in it"),
        ("t.csv", b"page\n", "t.csv: no page accesses in it"),
        (
            "t.txt",
            b"==1== x\nI  00401000,3\nhello world\n",
            "t.txt, line 3: 'hello world' is no line of lackey (cut short, or the program's own output:"
            " --log-file or --log-fd keeps the two apart)",
        ),
        ("t.txt", b"I  00401000,3\n S 1fff00", "t.txt, line 2: ' S 1fff00' is no line of lackey"),
        ("t.txt", b"I  00401000,3\n S 1fff00,", "t.txt, line 2: ' S 1fff00,' is no line of lackey"),
        (
            "t.txt",
            b"I  00401000,3\n S \xff\xfe00,8\n",
            r"t.txt, line 2: ' S \\xff\\xfe00,8' is no line of lackey",
        ),
        (
            "t.csv",
            b"pages,time\n1,2\n",
            "t.csv, line 1: 'pages,time' is not the header of a page trace; it needs a column page or"
            " address, may have time_ns, thread, count",
        ),
        ("t.csv", b"page,page\n1,2\n", "t.csv, line 1: a column stands twice in 'page,page'"),
        ("t.csv", b"\xff\xfepage\n1\n", "t.csv, line 1: not text (byte 0)"),
        ("t.csv", b"page\n1\n2\nx\n", "t.csv, line 4: page 'x' is not a whole number >= 0 that fits"),
        ("t.csv", b"page\n1\n\n-2\n", "t.csv, line 4: page '-2' is not a whole number >= 0 that fits"),
        ("t.csv", b"page\n1\n2.5\n", "t.csv, line 3: page '2.5' is not a whole number >= 0 that fits"),
        ("t.csv", b"page\n1\n\xff\n", r"t.csv, line 3: page '\\xff' is not a whole number >= 0 that fits"),
        ("t.csv", b"address\n0x\n", "t.csv, line 2: address '0x' is not a whole number >= 0 that fits"),
        ("t.csv", b"page,thread\n1,2\n1\n", "t.csv, line 3: 1 fields in '1'; the header has 2"),
        (
            "t.csv",
            b"page\n4294967295\n4294967296\n",
            "t.csv, line 3: page 4294967296 is beyond 2^32 - 1; a column address takes byte addresses",
        ),
        ("t.csv", b"page,count\n1,0\n", "t.csv, line 2: count 0; an event stands for at least one access"),
        (
            "t.csv",
            b"page,time_ns\n1,5\n2,4\n",
            "t.csv, line 3: time_ns 4 is before 5, the time of the access before it",
        ),
        (
            "t.bin",
            b"\x01\x00\x02",
            "t.bin: byte 1: not a page trace; formats: lackey, csv, epctrace, parquet,",
        ),
        ("t.zst", b"\x28\xb5\x2f\xfd1234", "t.zst: zstd is not read here; unpack it first (zstd -d)"),
        ("t.xz", lzma.compress(b"page\n1\n" * 99)[:-9], "t.xz: the compressed file is truncated or damaged"),
        ("t.gz", gzip.compress(b"page\n1\n", mtime=0)[:-9], "t.gz: the compressed file is truncated or damaged"),
        ("t.gz", b"\x1f\x8bnot gzip", "t.gz: cannot be read (Unknown compression method)"),
        ("t.epctrace", PACKED[:20], "t.epctrace: cut short: 20 bytes, the header alone has 40"),
        ("t.epctrace", PACKED[:-2], "t.epctrace: cut short: 94 bytes, its header says 96"),
        ("t.epctrace", PACKED + b"\0", "t.epctrace: too long: 97 bytes, its header says 96"),
        (
            "t.epctrace",
            PACKED[:68] + b"\x09\0\0\0" + PACKED[72:],
            "t.epctrace: byte 68: event 1 is page 9 of 3",
        ),
        (
            "t.epctrace",
            PACKED[:8] + b"\x02\0\0\0" + PACKED[12:],
            "t.epctrace: not an epctrace of version 1 (version 2, flags 1)",
        ),
        (
            "t.epctrace",
            PACKED[:24] + bytes(8) + PACKED[32:],
            "t.epctrace: byte 16: 3 pages and 0 events in its header",
        ),
        (
            "t.oracleGeneral",
            bytes(40),
            "t.oracleGeneral: byte 40: cut short, an oracleGeneral record has 24 bytes",
        ),
    ],
)
def test_bad_file_is_answered_in_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/{message}") and "\n" not in text


def test_missing_file_directory_and_unknown_format_are_answered_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.csv: cannot be read \(No such file or directory\)$"):
        read_trace(tmp_path / "no.csv")
    with pytest.raises(InputError, match=r": cannot be read \(Is a directory\)$"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match=r"unknown trace format 'lacky'; did you mean \"lackey\"\?$"):
        read_trace(SAMPLES / "loop.csv", "lacky")


def test_text_without_line_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracefile, "BLOCK_BYTES", 16)
    with pytest.raises(InputError, match=r"t\.csv, line 2: longer than a mebibyte: not text$"):
        read_trace(write(tmp_path / "t.csv", "page\n" + "1" * 200))


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        InputError, match=r"t\.parquet: Parquet needs pyarrow: pip install 'epcgroup\[parquet\]'$"
    ):
        read_trace(write(tmp_path / "t.parquet", b"PAR1....PAR1"))


def test_bad_parquet_is_answered_in_one_line(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"

    def message(columns: dict[str, list[object]]) -> str:
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(InputError) as caught:
            read_trace(path)
        return str(caught.value).removeprefix(f"{path}, ").removeprefix(f"{path}: ")

    assert message({"pages": [1]}) == "no column page or address; it has 'pages'"
    assert message({"page": ["a"]}) == "column page: holds string; whole numbers are wanted"
    assert message({"page": [1, None]}) == "column page: has empty cells; whole numbers are wanted"
    assert message({"page": [1, -1]}) == "row 2: page -1 is not a whole number >= 0 that fits"
    assert message({"page": [1, 2**32]}).startswith("row 2: page 4294967296 is beyond 2^32 - 1")
    with pytest.raises(InputError, match=r"t\.parquet: not a Parquet file "):
        read_trace(write(path, path.read_bytes()[:-5]))


def test_writing_to_an_unknown_suffix_or_a_missing_directory_is_answered_in_one_line(tmp_path: Path) -> None:
    trace = read_trace(SAMPLES / "loop.csv")
    with pytest.raises(InputError, match=r"no trace is written with suffix '\.txt'; allowed: epctrace, csv,"):
        write_trace(tmp_path / "t.txt", trace)
    with pytest.raises(InputError, match=r"no/t\.csv: cannot be written \(No such file or directory\)$"):
        write_trace(tmp_path / "no" / "t.csv", trace)


def test_what_cannot_be_written_is_known_before_there_is_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "t.csv.xz")
    for name, what in (("t.txt", "no trace is written with suffix"), ("no/t.csv", "cannot be written")):
        with pytest.raises(InputError, match=what):
            check_writable(tmp_path / name)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"d\.csv: cannot be written$"):
        check_writable(tmp_path / "d.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


def test_a_trace_of_page_numbers_in_memory_joins_consecutive_ones_of_a_thread(tmp_path: Path) -> None:
    pages = np.array([7, 7, 9, 7, 9, 9], np.uint64)
    assert events(trace_of(pages, "memory")) == [(7, 2), (9, 1), (7, 1), (9, 2)]
    threads = np.array([0, 0, 1, 0, 1, 1], np.uint64)
    trace = trace_of(pages, "memory", threads)
    assert events(trace) == [(7, 3), (9, 3)]
    assert trace.threads is not None and trace.threads.tolist() == [0, 1]
    write_trace(tmp_path / "t.csv", trace)
    assert events(read_trace(tmp_path / "t.csv")) == events(trace)
