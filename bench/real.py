"""Real programs' page accesses (bench/data), in a cgroup that holds a part of what they touch."""

from bench.arrays import real
from bench.measure import Effort, Row, best_in_turn, geometric_mean
from bench.onecgroup import Enclave

PERCENTS = (10, 25, 50)  # limits, of the pages the program touches


def rows(effort: Effort) -> list[Row]:
    figures = {}
    for name, pages in real().items():
        footprint = int(pages.max()) + 1
        size = 1 << (footprint - 1).bit_length()
        runners = {
            percent: Enclave(size, -(-footprint * percent // 100) + size // 512 + 2, only_hits=True)
            for percent in PERCENTS
        }
        for runner in runners.values():
            runner.touch(pages)
        best = best_in_turn({str(p): lambda r=r, x=pages: r.touch(x) for p, r in runners.items()}, effort.turns)  # type: ignore[misc]
        figures |= {f"{name}, {percent} %": seconds / len(pages) * 1e9 for percent, seconds in best.items()}
    mean, worst = geometric_mean(figures.values()), max(figures, key=lambda name: figures[name])
    measured = f"{mean:.2f} ns a touch, most {figures[worst]:.2f} ({worst})"
    return [Row("page traces of real programs", measured, "<= 1.5 ns", figures[worst] <= 1.5, figures)]
