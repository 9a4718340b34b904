"""One limited cgroup, one enclave of a mebi of pages: touches against the C loop and libcachesim.

The machine keeps 2050 pages more than the comparators: the enclave's SECS and its version-array pages. Figures
without "ledger" are of machines that do not keep which frame a page has (Machine(ledger=False)): as the comparators.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bench.arrays import PAGES, PERCENTS, U32, synthetic
from bench.compiler import NotThere
from bench.lcs import Clock
from bench.measure import Effort, Row, best_in_turn, geometric_mean
from bench.second_chance import SecondChance
from epcgroup.machine import Machine, Section
from epcgroup.units import PAGE_SIZE

OVERHEAD = PAGES // 512 + 2  # SECS and VA pages of the enclave
RETRY = 1000


class Enclave:
    """A machine with one enclave in a limited cgroup, all its pages added."""

    def __init__(self, pages: int, limit: int, *, ledger: bool = False, only_hits: bool = False) -> None:
        self.machine = m = Machine([Section(0, 2 * pages + 4096)], enclave_pages=pages, ledger=ledger)
        self._only_hits = only_hits
        m.mkdir("/pod")
        m.enclave_create("enclave", "/pod", pages)
        m.set_limit("/pod", limit * PAGE_SIZE)
        m.add_pages("enclave", 0, pages)
        m.init("enclave")

    def touch(self, pages: U32) -> None:
        batch = self.machine.touch("enclave", pages, retry=RETRY, only_hits=self._only_hits)
        assert batch.stop is None, batch

    def loads(self) -> int:
        return self.machine.counters()["ELDU"]


def cases(effort: Effort) -> Iterator[tuple[str, U32, int]]:
    """(name, touches, pages that fit)."""
    for name, pages in synthetic(effort.touches).items():
        for percent in PERCENTS:
            yield f"{name}, {percent} %", pages, PAGES * percent // 100


def nanoseconds(runners: Mapping[str, Callable[[U32], object]], pages: U32, turns: int) -> dict[str, float]:
    """A touch of each runner, after it has seen the array once."""
    for touch in runners.values():
        touch(pages)
    best = best_in_turn({key: partial(touch, pages) for key, touch in runners.items()}, turns)
    return {key: seconds / len(pages) * 1e9 for key, seconds in best.items()}


def rows(effort: Effort) -> list[Row]:
    try:
        SecondChance(1, 1)
    except NotThere as why:
        return [Row("one cgroup against a C second-chance loop", f"skipped: {why}", "<= 2.5x")]
    figures: dict[str, dict[str, float]] = {}
    for name, pages, limit in cases(effort):
        runners = {
            "machine": Enclave(PAGES, limit + OVERHEAD, only_hits=True).touch,
            "C": SecondChance(PAGES, limit).touch,
            "machine, young": Enclave(PAGES, limit + OVERHEAD).touch,
            "C, young": SecondChance(PAGES, limit, young=True).touch,
            "ledger": Enclave(PAGES, limit + OVERHEAD, ledger=True, only_hits=True).touch,
        }
        figures[name] = nanoseconds(runners, pages, effort.turns)

    def ratio(what: str, to: str) -> float:
        return geometric_mean(f[what] / f[to] for f in figures.values())

    mean = ratio("machine", "C")
    worst = max(figures, key=lambda name: figures[name]["machine"] / figures[name]["C"])
    times = [f["machine"] for f in figures.values()]
    plain = f"{mean:.2f}x; {geometric_mean(times):.1f} ns a touch, {min(times):.1f} to {max(times):.1f}"
    return [
        Row("one cgroup against a C second-chance loop", plain, "<= 2.5x", mean <= 2.5, figures),
        Row("  its worst case", f"{figures[worst]['machine'] / figures[worst]['C']:.2f}x ({worst})"),
        Row("  loaded pages count as accessed, as a processor has it", f"{ratio('machine, young', 'C, young'):.2f}x"),
        Row("  with the ledger of frames, VA slots and backing pages", f"{ratio('ledger', 'C'):.2f}x"),
    ]


def library_rows(effort: Effort) -> list[Row]:
    what, goal = "one cgroup against libcachesim's CLOCK", ">= 20x faster"
    figures: dict[str, dict[str, float]] = {}
    for name, pages, limit in cases(effort):
        try:
            clock = Clock(pages, limit)
            tuned = Clock(pages, limit, hashpower=limit.bit_length() + 1)
        except NotThere as why:
            return [Row(what, f"skipped: {why}", goal)]
        enclave = Enclave(PAGES, limit + OVERHEAD, only_hits=True)
        runners = {
            "machine": enclave.touch,
            "CLOCK": lambda _, c=clock: c.touch(),
            "tuned": lambda _, c=tuned: c.touch(),
        }
        figures[name] = nanoseconds(runners, pages, effort.turns)
        before = enclave.loads()
        enclave.touch(pages)
        figures[name]["miss ratio"] = (enclave.loads() - before) / len(pages)
        figures[name]["miss ratio, CLOCK"] = clock.touch()
    faster = [f["CLOCK"] / f["machine"] for f in figures.values()]
    tuned_mean = geometric_mean(f["tuned"] / f["machine"] for f in figures.values())
    mean = geometric_mean(faster)
    apart = max(abs(f["miss ratio"] - f["miss ratio, CLOCK"]) for f in figures.values())
    return [
        Row(what, f"{mean:.1f}x, least {min(faster):.1f}x", goal, mean >= 20, figures),
        Row("  with the best size of its hash table instead of its default", f"{tuned_mean:.1f}x"),
        Row("  largest difference of miss ratios", f"{apart:.5f}", "< 0.001", apart < 0.001),
    ]
