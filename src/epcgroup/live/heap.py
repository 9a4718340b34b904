"""A heap that numpy can be given (NEP 49): malloc, calloc, realloc and free over one region of memory, compiled.

Blocks are whole units of 64 bytes, so every array begins at a cache line. What is known of them stands outside of the
region, three numbers a unit: free memory is never touched, and a page is not paged in to learn that it is free. A free
block is merged with its neighbours and kept in a list by the power of two of its size; what was freed last is given
out first, because its pages are the likeliest to be in the pool. Pages are not given back when a block is freed.

Compiled, because these functions are called from within numpy: a Python callback could be interrupted by a signal or
by the garbage collector in the middle of a change, and could not be called any more while the interpreter ends.
The GIL is the heap's lock. What is not of the region (arrays made before) goes to the C library.
"""

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numba

UNIT: Final = 64  # bytes
# The heap's numbers: where the region is, its length, where it has never been used yet (units), no longer to be used.
BASE: Final = 0
UNITS: Final = 1
FRESH: Final = 2
ENDED: Final = 3
# The first free block of each power of two, -1 for none.
LISTS: Final = 4
NR_LISTS: Final = 40
# Of each unit: SIZE of the block of which it is the first or last one, in units, negative when it is free; the next
# and the previous free block when it is the first of one.
SIZE: Final = LISTS + NR_LISTS
NEXT: Final = SIZE + 1
PREVIOUS: Final = SIZE + 2
STEP: Final = 3
_MAP_NORESERVE = 0x4000

Numbers = ctypes.Array[ctypes.c_int64]
Function = TypeVar("Function", bound=Callable[..., Any])
_numba: Any = numba  # it has types for a part only
types = _numba.types
int32, int64 = types.int32, types.int64
_HEAP = types.CPointer(int64)
_malloc: Callable[[int], int] = types.ExternalFunction("malloc", int64(int64))
_calloc: Callable[[int, int], int] = types.ExternalFunction("calloc", int64(int64, int64))
_realloc: Callable[[int, int], int] = types.ExternalFunction("realloc", int64(int64, int64))
_free: Callable[[int], None] = types.ExternalFunction("free", types.void(int64))
_memcpy: Callable[[int, int, int], int] = types.ExternalFunction("memcpy", int64(int64, int64, int64))
_memset: Callable[[int, int, int], int] = types.ExternalFunction("memset", int64(int64, int32, int64))


def _helper(function: Function) -> Function:
    compiled: Function = _numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return compiled


@_helper
def _list_of(units: int) -> int:
    k = 0
    while units > 1:
        units >>= 1
        k += 1
    return LISTS + k


@_helper
def _mark(h: Numbers, at: int, units: int, size: int) -> None:
    h[SIZE + STEP * at] = size
    h[SIZE + STEP * (at + units - 1)] = size


@_helper
def _link(h: Numbers, at: int, units: int) -> None:
    """Make it a free block."""
    _mark(h, at, units, -units)
    k = _list_of(units)
    first = h[k]
    h[NEXT + STEP * at] = first
    h[PREVIOUS + STEP * at] = -1
    if first >= 0:
        h[PREVIOUS + STEP * first] = at
    h[k] = at


@_helper
def _unlink(h: Numbers, at: int) -> None:
    after, before = h[NEXT + STEP * at], h[PREVIOUS + STEP * at]
    if before >= 0:
        h[NEXT + STEP * before] = after
    else:
        h[_list_of(-h[SIZE + STEP * at])] = after
    if after >= 0:
        h[PREVIOUS + STEP * after] = before


@_helper
def _use(h: Numbers, at: int, have: int, units: int) -> None:
    """Of a block in no list the first `units` become a used one, the rest a free one."""
    _mark(h, at, units, units)
    if have > units:
        _link(h, at + units, have - units)
    h[FRESH] = max(h[FRESH], at + units)


@_helper
def _take(h: Numbers, size: int) -> int:
    """The first unit of a used block of `size` bytes; -1 when there is no room."""
    if size < 0 or size > h[UNITS] * UNIT:
        return -1
    units = max(1, (size + UNIT - 1) // UNIT)
    for k in range(_list_of(units), LISTS + NR_LISTS):
        at = h[k]
        while at >= 0:
            have = -h[SIZE + STEP * at]
            if have >= units:
                _unlink(h, at)
                _use(h, at, have, units)
                return at
            at = h[NEXT + STEP * at]
    return -1


@_helper
def _release(h: Numbers, at: int) -> None:
    """Free a used block, and merge it with what is free beside it."""
    units = h[SIZE + STEP * at]
    if at + units < h[UNITS]:
        after = h[SIZE + STEP * (at + units)]
        if after < 0:
            _unlink(h, at + units)
            units -= after
    if at > 0:
        before = h[SIZE + STEP * (at - 1)]
        if before < 0:
            at += before
            _unlink(h, at)
            units -= before
    _link(h, at, units)


@_helper
def _is_mine(h: Numbers, address: int) -> bool:
    return h[BASE] <= address < h[BASE] + h[UNITS] * UNIT


def malloc(h: Numbers, size: int) -> int:
    if h[ENDED]:
        return _malloc(size)
    at = _take(h, size)
    return h[BASE] + at * UNIT if at >= 0 else 0


def calloc(h: Numbers, count: int, each: int) -> int:
    if h[ENDED]:
        return _calloc(count, each)
    if count < 0 or each < 0 or (each > 0 and count > h[UNITS] * UNIT // each):
        return 0
    fresh = h[FRESH]
    at = _take(h, count * each)
    if at < 0:
        return 0
    # Memory never used is zero: not touched, it needs no page.
    used_before = min(at + h[SIZE + STEP * at], fresh) - at
    if used_before > 0:
        _memset(h[BASE] + at * UNIT, 0, used_before * UNIT)
    return h[BASE] + at * UNIT


def realloc(h: Numbers, address: int, size: int) -> int:
    if not _is_mine(h, address):
        if address == 0 and not h[ENDED]:
            at = _take(h, size)
            return h[BASE] + at * UNIT if at >= 0 else 0
        return _realloc(address, size)
    at = (address - h[BASE]) // UNIT
    have = h[SIZE + STEP * at]
    if size < 0 or size > h[UNITS] * UNIT:
        return 0
    units = max(1, (size + UNIT - 1) // UNIT)
    if units <= have:
        if units < have:
            _mark(h, at, units, units)
            _mark(h, at + units, have - units, have - units)
            _release(h, at + units)
        return address
    if at + have < h[UNITS]:
        after = -h[SIZE + STEP * (at + have)]
        if after >= units - have:
            _unlink(h, at + have)
            _use(h, at, have + after, units)
            return address
    if h[ENDED]:
        new = _malloc(size)
    else:
        to = _take(h, size)
        new = h[BASE] + to * UNIT if to >= 0 else 0
    if new != 0:
        _memcpy(new, address, have * UNIT)
        _release(h, at)
    return new


def free(h: Numbers, address: int, size: int) -> None:
    if _is_mine(h, address):
        _release(h, (address - h[BASE]) // UNIT)
    else:
        _free(address)


def _compiled() -> dict[str, Any]:
    """The four functions as C functions that take (heap, ...) as NEP 49 wants them."""
    signatures = {
        malloc: int64(_HEAP, int64),
        calloc: int64(_HEAP, int64, int64),
        realloc: int64(_HEAP, int64, int64),
        free: types.void(_HEAP, int64, int64),
    }
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    before = _numba.config.CACHE_DIR
    _numba.config.CACHE_DIR = os.environ.get("NUMBA_CACHE_DIR") or str(home / "epcgroup" / "heap")
    try:
        return {
            function.__name__: _numba.cfunc(signature, cache=True, error_model="numpy")(function)
            for function, signature in signatures.items()
        }
    finally:
        _numba.config.CACHE_DIR = before  # the program's own functions are not ours


FUNCTIONS: Final = _compiled()


def keep_for_ever(thing: object) -> None:
    """An array may be freed when the interpreter has already cleared its modules: what that needs is never freed."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


keep_for_ever(FUNCTIONS)


class Heap:
    """The heap over `size` bytes of zeros at `address`. Its memory is the caller's; the heap itself is never freed."""

    def __init__(self, address: int, size: int) -> None:
        units = size // UNIT
        if units < 1 or address % UNIT:
            raise ValueError(f"{size} bytes at {address:#x} are not whole units of {UNIT}")
        table = mmap.mmap(-1, 8 * (SIZE + STEP * units), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._numbers = (ctypes.c_int64 * (SIZE + STEP * units)).from_buffer(table)
        keep_for_ever(self._numbers)
        self.table = ctypes.addressof(self._numbers)  # what the functions take as their first argument
        self._numbers[BASE], self._numbers[UNITS] = address, units
        for k in range(LISTS, LISTS + NR_LISTS):
            self._numbers[k] = -1
        # One free block.
        self._numbers[SIZE] = self._numbers[SIZE + STEP * (units - 1)] = -units
        self._numbers[NEXT] = self._numbers[PREVIOUS] = -1
        self._numbers[LISTS + units.bit_length() - 1] = 0

    def end(self) -> None:
        """From now on new memory is the C library's; what was given out can still be given back."""
        self._numbers[ENDED] = 1

    def blocks(self) -> list[tuple[int, int]]:
        """Offset and size in bytes of every block in order, the size negative when it is free."""
        found, at = [], 0
        while at < self._numbers[UNITS]:
            units = self._numbers[SIZE + STEP * at]
            found.append((at * UNIT, units * UNIT))
            at += abs(units)
        return found
