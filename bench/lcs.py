"""CLOCK of PyPI's libcachesim on the same arrays, in its C loop over an oracleGeneral file."""

import tempfile
from pathlib import Path

import numpy as np

from bench.arrays import U32
from bench.compiler import NotThere
from epcgroup.sim.tracefile import PageTrace, write_trace


class Clock:
    """A cache of `limit` objects over one array of page numbers; `hashpower` None is its default."""

    def __init__(self, pages: U32, limit: int, hashpower: int | None = None) -> None:
        try:
            import libcachesim
        except ImportError:
            raise NotThere("libcachesim is not installed (pip install libcachesim)") from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pages.oraclegeneral"
            numbers = np.arange(int(pages.max()) + 1, dtype=np.uint64)
            write_trace(path, PageTrace(pages, numbers, str(path)))
            options = libcachesim.ReaderInitParam(ignore_obj_size=True)
            # The reader maps the file: it stays readable when its name is gone.
            self._reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
        self._cache = libcachesim.Clock(limit, **({} if hashpower is None else {"hashpower": hashpower}))

    def touch(self) -> float:
        """Runs over the array; its miss ratio."""
        self._reader.reset()
        ratio: float = self._cache.process_trace(self._reader)[0]
        return ratio
