"""64 leaf cgroups under eight levels, an enclave each, touched in turn: against one cgroup with the same touches."""

import numpy as np

from bench.arrays import PAGES, U32
from bench.measure import Effort, Row, best_in_turn, geometric_mean
from bench.onecgroup import OVERHEAD, RETRY, Enclave, cases, nanoseconds
from epcgroup.machine import Batch, Machine, Section
from epcgroup.units import PAGE_SIZE

LEAVES = 64
OWN = PAGES // LEAVES  # pages of an enclave
OWN_OVERHEAD = OWN // 512 + 2
SEGMENT = 2048  # touches of an enclave before the next one's turn, on average


class Tree:
    """64 leaves, two to a parent up to the root's only child; `leaf` pages fit into each, `epc` pages into the EPC."""

    def __init__(self, leaf: int, epc: int, inner: int | None = None) -> None:
        self.machine = m = Machine([Section(0, epc)], enclave_pages=PAGES, ledger=False)
        paths = ["/kubepods"]
        m.mkdir(paths[0])
        for level in range(6):
            paths = [f"{path}/{side}{level}" for path in paths for side in "ab"]
            for path in paths:
                m.mkdir(path)
        self.tasks = np.empty(LEAVES, np.uint32)
        for i, path in enumerate(paths):
            m.mkdir(f"{path}/leaf")
            m.set_limit(f"{path}/leaf", leaf * PAGE_SIZE)
            m.enclave_create(f"e{i}", f"{path}/leaf", OWN)
            m.add_pages(f"e{i}", 0, OWN)
            m.init(f"e{i}")
            m.ksgxd()
            self.tasks[i] = m.task_row(f"e{i}")
        if inner is not None:
            for path in paths:
                m.set_limit(path.rpartition("/")[0], inner * PAGE_SIZE)

    def touch(self, segments: U32, pages: U32) -> Batch:
        rows = np.column_stack([self.tasks[segments[:, 0]], segments[:, 1]])
        batch = self.machine.touch_segments(rows, pages, retry=RETRY, only_hits=True)
        assert batch.stop is None, batch
        return batch


def in_turn(pages: U32) -> tuple[U32, U32, U32]:
    """The same touches leaf by leaf in stretches: rows (leaf, touches), page numbers in the leaf, and in the whole."""
    leaves, numbers = pages // OWN, []
    segments = []
    for at in range(0, len(pages), SEGMENT * LEAVES):
        leaf = leaves[at : at + SEGMENT * LEAVES]
        order = np.argsort(leaf, kind="stable")
        numbers.append(pages[at : at + SEGMENT * LEAVES][order])
        present, touches = np.unique(leaf, return_counts=True)
        segments.append(np.column_stack([present, touches]).astype(np.uint32))
    whole = np.concatenate(numbers)
    return np.concatenate(segments), whole % OWN, whole


def rows(effort: Effort) -> list[Row]:
    figures: dict[str, dict[str, float]] = {}
    for name, pages, limit in cases(effort):
        share = limit // LEAVES
        segments, own, whole = in_turn(pages)
        leaves = Tree(share + OWN_OVERHEAD, 2 * PAGES)
        epc = Tree(2 * share + OWN_OVERHEAD, limit + LEAVES * OWN_OVERHEAD + 64)
        one = Enclave(PAGES, limit + OVERHEAD, only_hits=True)
        runners = {
            "one": one.touch,
            "leaves": lambda _, t=leaves, s=segments, x=own: t.touch(s, x),
            "EPC": lambda _, t=epc, s=segments, x=own: t.touch(s, x),
        }
        figures[name] = nanoseconds(runners, whole, effort.turns)
    leaf_mean = geometric_mean(f["leaves"] / f["one"] for f in figures.values())
    root_mean = geometric_mean(f["EPC"] / f["one"] for f in figures.values())
    what = "64 leaf cgroups under 8 levels against one cgroup"
    return [
        Row(f"{what}, leaf limits bind", f"{leaf_mean:.2f}x", "<= 2x", leaf_mean <= 2, figures),
        Row("  the root binds: limits are twice the EPC", f"{root_mean:.2f}x", "<= 3x", root_mean <= 3),
        _refused(),
    ]


def _refused() -> Row:
    """An inner limit, its children oversubscribed: v17 refuses the faults until somebody frees pages."""
    share = PAGES // 10 // LEAVES
    tree = Tree(2 * share, 2 * PAGES, inner=2 * share)
    m = tree.machine
    page = np.arange(OWN, dtype=np.uint32)
    for i in range(LEAVES):
        m.touch(f"e{i}", page, retry=0)
    repeats = 100_000

    def spin() -> None:
        batch = m.touch("e0", page, retry=repeats)
        assert batch.stop == "EBUSY" and batch.retries >= repeats, batch

    best = best_in_turn({"spin": spin}, 3)
    each = best["spin"] / repeats * 1e9
    return Row("  an inner limit binds: v17 refuses for ever (kernel.md E1)", f"{each:.0f} ns a refused fault")
