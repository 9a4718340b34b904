"""The comparator in C (second_chance.c), built with the machine's compiler into a cache folder."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from bench.arrays import U32

SOURCE = Path(__file__).with_name("second_chance.c")
FLAGS = ["-O3", "-march=native", "-shared", "-fPIC"]


class NotThere(Exception):
    """Why a comparator cannot be used here."""


def _library() -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotThere("no C compiler")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epcgroup"
    built = home / f"second_chance-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not built.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = subprocess.run([compiler, *FLAGS, "-o", built, SOURCE], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise NotThere(f"{compiler} failed: {made.stderr.strip().splitlines()[-1]}")
    library = ctypes.CDLL(str(built))
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
