"""Workloads: what is written is what is touched; the same seed gives the same touches; bad specs get one line."""

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.sim.workload import (
    BLOCK,
    DEFAULT_TOUCH_NS,
    MAX_TABLE,
    Batch,
    Bursts,
    Grow,
    HotScan,
    Loop,
    Phases,
    TraceReplay,
    Uniform,
    Workload,
    Zipf,
    _alias_table,
    from_table,
    parse_workload,
)

SAMPLES = Path(__file__).parents[1] / "samples" / "traces"
TEXTS = [
    "uniform",
    "zipf",
    "zipf:1.2",
    "hot+scan",
    "hot+scan:0.3,share=0.5",
    "loop",
    "phases",
    "phases:3000@0-0.5=loop,2ms@0.25-1=zipf:0.8,500=(hot+scan:hot=0.2,touch_ns=50),repeat=no",
    "bursts",
    "bursts:zipf:1.2,on=2ms,off=5ms,after=1ms",
    "grow:2Gi,begin=0.1,shrink_at=0.9,shrink_to=0.5",
    "grow:16Mi",
    f"trace:{SAMPLES / 'loop.csv'}",
    f"trace:{SAMPLES / 'true.lackey.xz'},speed=0.5",
]


def chance(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def start(text: str, nr_pages: int, *seed: int) -> Workload:
    return parse_workload(text).start(nr_pages, chance(*seed or (1,)))


def batches(workload: Workload, touches: int, at_most: int = BLOCK) -> Iterator[Batch]:
    """Batches up to the one that ends at or past so many touches."""
    while touches > 0 and not workload.finished:
        batch = workload.next(at_most)
        touches -= len(batch.pages)
        yield batch


def touched(workload: Workload, touches: int, at_most: int = BLOCK) -> list[int]:
    pages = np.concatenate([b.pages for b in batches(workload, touches, at_most)])
    return [int(p) for p in pages[:touches]]


# ---- what holds for all


@settings(max_examples=120, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    nr_pages=st.one_of(st.integers(140, 600), st.just(BLOCK + 3)),
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=6),
)
def test_pages_are_in_the_heap_and_batches_within_what_was_asked(
    text: str, nr_pages: int, seed: int, sizes: list[int]
) -> None:
    workload = start(text, nr_pages, seed)
    for size in sizes * 3:
        promised = workload.touch_ns
        batch = workload.next(size)
        assert batch.pages.dtype == np.uint32 and batch.pages.flags.c_contiguous
        assert len(batch.pages) <= size
        assert len(batch.pages) == 0 or int(batch.pages.max()) < nr_pages
        assert len(batch.pages) or batch.idle_ns > 0
        assert batch.touch_ns == promised > 0 and batch.idle_ns >= 0
        if batch.release:
            first, count = batch.release
            assert first > 0 and count > 0 and first + count <= nr_pages


@settings(max_examples=80, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    seed=st.integers(0, 2**32),
    at_most=st.sampled_from([7, 100, 4096, BLOCK, 10**6]),
)
def test_same_seed_gives_the_same_touches_however_they_are_asked_for(text: str, seed: int, at_most: int) -> None:
    assert touched(start(text, 300, seed), 20_000) == touched(start(text, 300, seed), 20_000, at_most)


@pytest.mark.parametrize("text", ["uniform", "zipf", "hot+scan", "loop", "phases", "grow"])
def test_threads_with_other_seeds_touch_other_pages(text: str) -> None:
    assert touched(start(text, 5000, 1, 0, 0), 100) != touched(start(text, 5000, 1, 0, 1), 100)


@pytest.mark.parametrize("text", TEXTS[:-2])
def test_a_heap_of_one_page_is_enough(text: str) -> None:
    assert set(touched(start(text, 1), 2000)) == {0}


@pytest.mark.parametrize("text", ["uniform", "zipf", "hot+scan", "loop", "grow:64Gi"])
def test_every_page_of_the_heap_is_touched_in_time(text: str) -> None:
    assert set(touched(start(text, 50), 50_000)) == set(range(50))


# ---- each kind


def test_uniform_touches_all_pages_alike() -> None:
    counts = np.bincount(touched(start("uniform", 100), 200_000), minlength=100)
    assert counts.min() > 1700 and counts.max() < 2300  # 2000 each; 300 is more than six deviations


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2, 3.0])
def test_zipf_frequencies_follow_the_law(exponent: float) -> None:
    n, touches = 1000, 400_000
    counts = np.bincount(touched(Zipf(exponent=exponent).start(n, chance(7)), touches), minlength=n)
    law = np.arange(1, n + 1) ** -exponent
    law *= touches / law.sum()
    ranked = np.sort(counts)[::-1]
    assert np.abs(ranked[:20] / law[:20] - 1)[law[:20] > 1000].max() < 0.1
    # The head, and the shares of ranges of ranks that are too cold to compare one by one.
    for first, last in ((0, 1), (0, 10), (10, 100), (100, 1000)):
        share, expected = ranked[first:last].sum() / touches, law[first:last].sum() / touches
        assert share == pytest.approx(expected, abs=0.006)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_alias_table_gives_every_slot_its_weight(weights: list[float]) -> None:
    table = _alias_table(np.array(weights))
    keep, alias = (table >> np.uint64(32)) / 2.0**32, (table & np.uint64(2**32 - 1)).astype(int)
    n = len(weights)
    got = keep / n + np.bincount(alias, (1 - keep) / n, n)
    assert got == pytest.approx(np.array(weights) / sum(weights), abs=1e-8)


def test_hot_pages_of_zipf_are_scattered_and_shared_by_threads_of_a_layout() -> None:
    def hottest(layout: int, seed: int) -> list[int]:
        workload = Zipf(exponent=1.2).start(4096, chance(seed), layout)
        counts = np.bincount(touched(workload, 200_000), minlength=4096)
        return [int(p) for p in np.argsort(-counts, kind="stable")[:5]]

    assert hottest(3, 1) == hottest(3, 2) != hottest(4, 1)
    assert min(np.diff(sorted(hottest(3, 1)))) > 10


def test_zipf_over_a_heap_too_large_for_a_table_follows_the_same_law() -> None:
    n, touches = 3 * MAX_TABLE + 17, 400_000
    pages = np.array(touched(Zipf(exponent=1.0).start(n, chance(7)), touches))
    assert int(pages.max()) < n
    harmonic = math.log(n) + 0.5772156649
    values, counts = np.unique(pages, return_counts=True)
    ranked = np.sort(counts)[::-1]
    p = 1 / (np.arange(1, n + 1) * harmonic)
    for ranks in (1, 10, 1000):
        assert ranked[:ranks].sum() / touches == pytest.approx(p[:ranks].sum(), rel=0.03)
    # Expected number of different pages: the sum over ranks of 1 - (1 - p) ** touches.
    assert len(values) == pytest.approx(np.sum(-np.expm1(touches * np.log1p(-p))), rel=0.01)
    hot = np.sort(values[np.argsort(-counts, kind="stable")[:5]])
    assert np.diff(hot).min() > 1000


def test_hot_set_gets_its_share_and_the_scan_walks_the_rest_in_order() -> None:
    pages = np.array(touched(HotScan(hot=0.2, share=0.75).start(1000, chance(1)), 100_000))
    assert (pages < 200).mean() == pytest.approx(0.75, abs=0.01)
    walk = pages[pages >= 200]
    steps = np.diff(walk)
    assert set(steps.tolist()) == {1, -799}
    hot = np.bincount(pages[pages < 200], minlength=200)
    assert hot.min() > 250  # 375 each


def test_hot_set_with_all_of_the_touches_never_scans() -> None:
    assert max(touched(HotScan(hot=0.2, share=1.0).start(1000, chance(1)), 50_000)) == 199


@pytest.mark.parametrize("nr_pages", [1, 10, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_loop_goes_through_the_heap_in_order_again_and_again(nr_pages: int) -> None:
    pages = touched(Loop(start_at=0.5).start(nr_pages, chance(1)), 2 * nr_pages + 5)
    first = nr_pages // 2
    assert pages == [(first + i) % nr_pages for i in range(2 * nr_pages + 5)]


def test_loop_over_a_small_heap_still_comes_in_large_batches() -> None:
    assert len(start("loop", 10).next(10**6).pages) >= 4096


def test_phases_take_their_turns_on_their_parts_of_the_heap() -> None:
    workload = start("phases:30@0-0.1=uniform,20us@0.5-1=(loop:start_at=0,touch_ns=1000)", 100)
    pages, paces = [], []
    for batch in batches(workload, 100):
        pages += batch.pages.tolist()
        paces += [batch.touch_ns] * len(batch.pages)
    assert max(pages[:30]) < 10 and pages[30:50] == list(range(50, 70)) and max(pages[50:80]) < 10
    assert pages[80:100] == list(range(70, 90))  # goes on where it left off
    assert paces[:100] == ([DEFAULT_TOUCH_NS] * 30 + [1000.0] * 20) * 2


def test_last_phase_lasts_for_ever_when_they_do_not_repeat() -> None:
    pages = touched(start("phases:10@0-0.5=uniform,10@0.5-1=uniform,repeat=no", 100), 5000)
    assert max(pages[:10]) < 50 <= min(pages[10:])


def test_bursts_pause_after_so_much_touch_time_and_before_the_first() -> None:
    workload = start("bursts:loop,on=1ms,off=3ms,after=2ms,touch_ns=100", 50)
    told, count = [], 0
    for batch in batches(workload, 30_000):
        count += len(batch.pages)
        if batch.idle_ns:
            told.append((count, batch.idle_ns))
            count = 0
    assert told == [(0, 2e6), (10_000, 3e6), (10_000, 3e6), (10_000, 3e6)]


def test_leak_touches_only_what_it_has_and_takes_pages_in_order_at_its_rate() -> None:
    rate = 4096 * 1000  # 1000 pages a second, at 200 ns a touch one page in 5000 touches
    pages = np.array(touched(Grow(rate=rate, begin=0.1).start(100, chance(1)), 600_000))
    first_touch = {int(page): int(at) for page, at in zip(*np.unique(pages, return_index=True), strict=True)}
    assert [first_touch[p] for p in range(10, 100)] == [5000 * (p - 9) - 1 for p in range(10, 100)]
    assert set(pages[550_000:].tolist()) == set(range(100))


def test_shrinking_gives_back_what_was_grown_and_does_not_touch_it_before_it_grows_again() -> None:
    workload = Grow(rate=4096e6, begin=0.2, shrink_at=0.8, shrink_to=0.3).start(1000, chance(1))
    releases, has = [], 200
    for batch in batches(workload, 20_000):
        for page in batch.pages.tolist():
            assert page <= has
            has = max(has, page + 1)
        if batch.release:
            assert has == 800
            releases.append(batch.release)
            has = 300
    assert len(releases) > 3 and set(releases) == {(300, 500)}


def test_trace_is_replayed_in_order_and_from_the_start_again() -> None:
    path = SAMPLES / "loop.csv"
    assert touched(start(f"trace:{path}", 3), 10) == [0, 1, 2, 0, 0, 1, 2, 0, 0, 1]


def test_trace_that_is_not_wrapped_ends() -> None:
    workload = start(f"trace:{SAMPLES / 'loop.csv'},wrap=no", 3)
    assert workload.next(3).pages.tolist() == [0, 1, 2] and not workload.finished
    assert workload.next(3).pages.tolist() == [0] and workload.finished
    assert len(workload.next(3).pages) == 0


def test_trace_pace_comes_from_touch_ns_or_from_the_file_and_speed_divides_it() -> None:
    timed, untimed = SAMPLES / "threads.csv", SAMPLES / "loop.csv"
    assert start(f"trace:{untimed}", 9).touch_ns == DEFAULT_TOUCH_NS
    assert start(f"trace:{untimed},speed=4", 9).touch_ns == 50
    assert start(f"trace:{timed}", 9).touch_ns == pytest.approx(800 / 3)
    assert start(f"trace:{timed},touch_ns=30,speed=3", 9).touch_ns == 10
    one = start(f"trace:{timed},thread=2", 9)
    assert one.touch_ns == 600 and touched(one, 4) == [1, 0, 1, 0]


def test_trace_with_slow_and_fast_stretches_keeps_them_apart(tmp_path: Path) -> None:
    times = [10 * i for i in range(BLOCK)] + [10 * BLOCK + 500 * i for i in range(BLOCK)]
    path = tmp_path / "t.csv"
    path.write_text("page,time_ns\n" + "".join(f"{i % 7},{t}\n" for i, t in enumerate(times)))
    paces = [batch.touch_ns for batch in batches(start(f"trace:{path}", 7), 2 * BLOCK)]
    assert paces == [10.0, 500.0]


def test_finished_traces_end_the_bursts_and_phases_made_of_them() -> None:
    once = f"(trace:{SAMPLES / 'loop.csv'},wrap=no)"
    burst = start(f"bursts:{once}", 3)
    assert burst.next(100).pages.tolist() == [0, 1, 2, 0] and burst.finished
    phases = start(f"phases:3={once},2=(loop:start_at=0)", 3)
    assert touched(phases, 10) == [0, 1, 2, 0, 1, 0, 2, 0, 1, 2] and not phases.finished
    last = start(f"phases:2=(loop:start_at=0),1={once},repeat=no", 3)
    assert touched(last, 10) == [0, 1, 0, 1, 2, 0] and last.finished
    assert len(last.next(10).pages) == 0


# ---- reading and describing


def test_texts_and_tables_make_the_same_specs() -> None:
    table = tomllib.loads("""
        a = { workload = "zipf", exponent = 1.2, touch_ns = 500 }
        b = { workload = "bursts", of = "loop", on = "2s", off = 0.5 }
        c = { workload = "phases", repeat = false, phases = [
              { of = "loop", seconds = 2, end = 0.5 }, { of = { workload = "zipf" }, touches = 1000 } ] }
        d = { workload = "grow", rate = "64Mi", shrink_at = 0.9 }
    """)
    assert from_table(table["a"]) == parse_workload("zipf:1.2,touch_ns=500") == Zipf(500.0, 1.2)
    assert from_table(table["b"]) == parse_workload("bursts:loop,on=2s,off=500ms") == Bursts(None, Loop(), 2.0, 0.5)
    assert from_table(table["c"]) == parse_workload("phases:2s@0-0.5=loop,1000=zipf,repeat=no")
    assert from_table(table["d"]) == parse_workload("grow:64Mi/s,shrink_at=0.9") == Grow(rate=2**26, shrink_at=0.9)


def test_trace_file_names_start_from_the_directory_of_the_scenario() -> None:
    spec = parse_workload("trace:loop.csv,speed=2", base=SAMPLES)
    assert isinstance(spec, TraceReplay) and spec.file == str(SAMPLES / "loop.csv")
    assert spec.min_pages() == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("uniform", "uniform over 96 MiB"),
        ("zipf", "zipf 1.0 over 96 MiB"),
        ("zipf:0.95,touch_ns=500", "zipf 0.95 over 96 MiB, 500 ns a touch"),
        ("hot+scan", "hot set of 0.1 with 0.9 of the touches, and a scan over 96 MiB"),
        ("loop", "sequential loop over 96 MiB"),
        ("bursts:zipf:1.2,on=2s,off=500ms", "bursts (2 s on, 0.5 s off) of zipf 1.2 over 96 MiB"),
        (
            "phases:2s@0-0.5=loop,9=uniform",
            "phases (2 s of sequential loop in 0-0.5; 9 touches of uniform) over 96 MiB",
        ),
        ("grow:64Mi,shrink_at=0.9", "grows 64 MiB/s from 0.1, at 0.9 back to 0.1 over 96 MiB"),
        (f"trace:{SAMPLES / 'loop.csv'},speed=2,wrap=no", "trace loop.csv at 2x, once over 96 MiB"),
    ],
)
def test_description_is_one_line_for_people(text: str, told: str) -> None:
    assert start(text, 96 * 256).describe() == told


def test_touch_time_given_from_outside_reaches_every_part_that_has_none() -> None:
    spec = parse_workload("phases:5=uniform,5=(loop:touch_ns=70),5=(bursts:zipf)").with_touch_ns(30)
    workload = spec.start(10, chance(1))
    assert [batch.touch_ns for batch in batches(workload, 15)] == [30, 70, 30]
    assert parse_workload("uniform:touch_ns=7").with_touch_ns(30) == Uniform(7.0)
    whole = parse_workload("phases:5=uniform,touch_ns=40")
    assert whole.start(10, chance(1)).touch_ns == whole.with_touch_ns(30).start(10, chance(1)).touch_ns == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no workload ''; allowed: uniform, zipf, hot+scan, loop, phases, bursts, grow, trace"),
        ("zpif", "no workload 'zpif'; did you mean \"zipf\"?"),
        ("zipf:x", ".exponent: 'x' is not a number"),
        ("zipf:0", ".exponent: 0 is out of range; above 0 to 8 is allowed"),
        ("zipf:-1", ".exponent: -1 is out of range; above 0 to 8 is allowed"),
        ("zipf:nan", ".exponent: nan is not a number"),
        ("zipf:", "'' is not KEY=VALUE; keys: exponent, touch_ns"),
        ("zipf:exponant=2", '.exponant: no such key; did you mean "exponent"?'),
        ("zipf:1,exponent=2", ".exponent: given twice"),
        ("uniform:3", "'3' is not KEY=VALUE; keys: touch_ns"),
        ("uniform:touch_ns=0", ".touch_ns: 0 is out of range; above 0 to 1e+09 is allowed"),
        ("hot+scan:2", ".hot: 2 is out of range; above 0 to 1 is allowed"),
        ("grow:0", ".rate: 0 is no growth; more than 0 bytes a second is allowed"),
        ("grow:16Mo", ".rate: '16Mo': unknown unit 'Mo'; did you mean"),
        ("grow:shrink_at=0.05", "shrink_at 0.05 is not above 0.1, where growth begins"),
        ("grow:shrink_to=0.05", "shrink_to without shrink_at"),
        ("bursts:on=0s", ".on: '0s' is no time; more than 0 is allowed"),
        ("bursts:off=5y", ".off: '5y': unknown unit 'y'"),
        ("bursts:zipf:x", ".of.exponent: 'x' is not a number"),
        ("bursts:(zipf:1.2", "brackets do not match in '(zipf:1.2'"),
        ("bursts:" * 500 + "loop", "too many workloads within workloads"),
        ("phases:0=loop", ".phases[1].touches: 0 is out of range; 1 to 1000000000000000 is allowed"),
        ("phases:2.5=loop", ".phases[1].touches: 2.5 is not a whole number"),
        ("phases:2s@0.5=loop", ".phase 1: '0.5' is no part of the heap, as in 0-0.5"),
        ("phases:2s@0.5-0.5=loop", ".phases[1]: part 0.5-0.5 of the heap is empty"),
        ("phases:2s@0-2=loop", ".phases[1].end: 2 is out of range; above 0 to 1 is allowed"),
        ("phases:1s=loop,1s=lop", ".phases[2].of: no workload 'lop'; did you mean \"loop\"?"),
        ("phases:repeat=maybe", ".repeat: 'maybe' is neither yes nor no"),
        ("trace", "a trace needs a file: trace:FILE"),
        ("trace:no.csv", ".file: no such file 'no.csv'"),
    ],
)
def test_bad_text_is_answered_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_workload(text, where="s.toml", key="pods.web.use")
    told = str(caught.value)
    assert told.startswith("s.toml, pods.web.use") and message in told and "\n" not in told
    assert len(told) < 250


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "s.toml, use: no workload is named; allowed: uniform, zipf,"),
        ({"workload": 3}, "s.toml, use.workload: 3 is not a text"),
        ({"workload": "zipf", "exponent": "1.2"}, "s.toml, use.exponent: '1.2' is not a number"),
        ({"workload": "zipf", "exponent": True}, "s.toml, use.exponent: True is not a number"),
        ({"workload": "zipf:1.2", "exponent": 1.2}, "s.toml, use.exponent: given twice, in the text and as a key"),
        ({"workload": "bursts", "of": 3}, "s.toml, use.of: 3 is no workload; a text or a table is wanted"),
        ({"workload": "bursts", "on": -1}, "s.toml, use.on: -1 is negative; 0 or more is allowed"),
        ({"workload": "phases", "phases": []}, "s.toml, use.phases: a list of phases, at least one, is wanted"),
        ({"workload": "phases", "phases": [{"of": "loop"}]}, "s.toml, use.phases[1]: a phase has either seconds or"),
        (
            {"workload": "phases", "phases": [{"of": "loop", "second": 1}]},
            's.toml, use.phases[1].second: no such key; did you mean "seconds"?',
        ),
        ({"workload": "phases", "phases": [3]}, "s.toml, use.phases[1]: 3 is no phase; a table with of,"),
        ({"workload": "trace", "file": 3}, "s.toml, use.file: 3 is no file name"),
    ],
)
def test_bad_table_is_answered_in_one_line(table: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_table(table, where="s.toml", key="use")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_heap_that_cannot_hold_the_workload_is_answered_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^trace loop\.csv: touches 12 KiB, the heap has 8 KiB$"):
        start(f"trace:{SAMPLES / 'loop.csv'}", 2)
    with pytest.raises(InputError, match=r"touches 24 KiB, the heap has 20 KiB$"):
        start(f"phases:1s@0-0.5=trace:{SAMPLES / 'loop.csv'}", 5)
    with pytest.raises(InputError, match=r"^uniform: a heap of 0 pages; 1 to "):
        start("uniform", 0)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("zipfloughrase:=,()@-0.15", max_size=30).map(lambda t: "phases:" + t)))
def test_any_text_is_a_workload_or_one_line(text: str) -> None:
    try:
        spec = parse_workload(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(spec.describe(), str)


def test_phases_without_any_move_from_one_half_of_the_heap_to_the_other() -> None:
    workload = Phases().start(100, chance(1))
    a_second = round(1e9 / DEFAULT_TOUCH_NS)
    pages = np.concatenate([b.pages for b in batches(workload, 2 * a_second, 10**6)])
    assert len(pages) == 2 * a_second
    assert int(pages[:a_second].max()) < 50 <= int(pages[a_second:].min())
