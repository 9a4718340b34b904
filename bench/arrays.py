"""Arrays of page numbers to touch: synthetic ones over a mebi of pages, and the stored samples of real programs."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epcgroup.sim.tracefile import read_trace

U32 = NDArray[np.uint32]
PAGES = 1 << 20  # of the enclave
PERCENTS = (10, 1)  # limits, of PAGES
DATA = Path(__file__).parent / "data"


@cache
def synthetic(touches: int) -> dict[str, U32]:
    """By name: zipf of three exponents with its popular pages scattered, uniform, a loop."""
    rng = np.random.default_rng(1)
    scattered = rng.permutation(PAGES).astype(np.uint32)
    arrays = {}
    for exponent in (0.8, 1.0, 1.2):
        share = np.cumsum(1 / np.arange(1, PAGES + 1) ** exponent)
        arrays[f"zipf {exponent}"] = scattered[np.searchsorted(share / share[-1], rng.random(touches))]
    arrays["uniform"] = rng.integers(0, PAGES, touches, dtype=np.uint32)
    arrays["loop"] = (np.arange(touches) % PAGES).astype(np.uint32)
    return arrays


@cache
def real() -> dict[str, U32]:
    """By name of the program: its page accesses, consecutive ones of one stream to one page taken as one."""
    return {path.name.split(".")[0]: read_trace(path).pages for path in sorted(DATA.glob("*.epctrace.xz"))}
