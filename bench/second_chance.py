"""The comparator in C of one cgroup (second_chance.c)."""

import ctypes
from pathlib import Path

from bench.arrays import U32
from bench.compiler import built

SOURCE = Path(__file__).with_name("second_chance.c")
FLAGS = ["-O3", "-march=native", "-shared", "-fPIC"]


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(built(SOURCE, FLAGS, ".so")))
    library.clock_new.restype = ctypes.c_void_p
    library.clock_new.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
    library.clock_free.argtypes = [ctypes.c_void_p]
    library.clock_touch.restype = ctypes.c_uint64
    library.clock_touch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
    return library


class SecondChance:
    """`limit` of `pages` pages are resident; a page that has just been loaded counts as accessed if `young`."""

    def __init__(self, pages: int, limit: int, young: bool = False) -> None:
        self._library = _library()
        self._clock = self._library.clock_new(pages, limit, young)

    def __del__(self) -> None:
        if hasattr(self, "_clock"):
            self._library.clock_free(self._clock)

    def touch(self, pages: U32) -> int:
        """Misses."""
        return int(self._library.clock_touch(self._clock, pages.ctypes.data, len(pages)))
