"""The heap that numpy's arrays are given: compared with what a heap is, after every operation, over ordinary memory."""

import ctypes
import itertools
import mmap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epcgroup.live.heap import FUNCTIONS, UNIT, Heap

SIZE = 1 << 16
MALLOC, CALLOC, REALLOC, FREE = (
    ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_size_t] * nr_arguments)(FUNCTIONS[name].address)
    for name, nr_arguments in (("malloc", 2), ("calloc", 3), ("realloc", 3), ("free", 3))
)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_size_t
libc.malloc.argtypes = (ctypes.c_size_t,)


class Checked:
    """A heap, and what is known of every block that is in use: its size and the byte it is filled with."""

    def __init__(self) -> None:
        self.region = mmap.mmap(-1, SIZE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.region))
        self.heap = Heap(self.base, SIZE)
        self.used: dict[int, tuple[int, int]] = {}
        self.fill = 0

    def malloc(self, size: int) -> int:
        return self._given(MALLOC(self.heap.table, size), size)

    def calloc(self, count: int, each: int) -> int:
        address = CALLOC(self.heap.table, count, each)
        if address:
            assert ctypes.string_at(address, count * each) == bytes(count * each)
        return self._given(address, count * each)

    def realloc(self, address: int, size: int) -> int:
        new = REALLOC(self.heap.table, address, size)
        if new or not address:
            before, byte = self.used.pop(address, (0, 0))
            assert ctypes.string_at(new, min(before, size)) == bytes([byte]) * min(before, size)
            return self._given(new, size)
        assert self.largest() < size
        return 0

    def free(self, address: int) -> None:
        size, byte = self.used.pop(address)
        assert ctypes.string_at(address, size) == bytes([byte]) * size
        FREE(self.heap.table, address, size)

    def _given(self, address: int, size: int) -> int:
        if address:
            assert address % UNIT == 0 and address not in self.used
            self.fill = self.fill % 255 + 1
            ctypes.memset(address, self.fill, size)
            self.used[address] = size, self.fill
        else:
            assert self.largest() < max(size, 1), "refused, and there was room"
        return address

    def largest(self) -> int:
        return max((-size for _, size in self.heap.blocks() if size < 0), default=0)

    def check(self) -> None:
        blocks = self.heap.blocks()
        assert sum(abs(size) for _, size in blocks) == SIZE
        assert all(a > 0 or b > 0 for (_, a), (_, b) in itertools.pairwise(blocks)), "not merged"
        in_use = {self.base + offset: size for offset, size in blocks if size > 0}
        assert in_use.keys() == self.used.keys()
        for address, (size, byte) in self.used.items():
            assert size <= in_use[address] < max(size, 1) + UNIT
            assert ctypes.string_at(address, size) == bytes([byte]) * size


sizes = st.one_of(st.integers(0, 300), st.integers(0, 5000), st.sampled_from([SIZE, SIZE + 1, 1 << 40, (1 << 63) - 1]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), sizes),
        st.tuples(st.just("calloc"), st.integers(0, 700), st.sampled_from([0, 1, 8, 1 << 55])),
        st.tuples(st.just("realloc"), st.integers(0, 50), sizes),
        st.tuples(st.just("free"), st.integers(0, 50)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_blocks_keep_their_bytes_never_overlap_and_merge_when_freed(todo: list[tuple[Any, ...]]) -> None:
    checked = Checked()
    for name, *arguments in todo:
        if name in ("realloc", "free"):
            addresses = sorted(checked.used)
            if not addresses:
                continue
            arguments[0] = addresses[arguments[0] % len(addresses)]
        getattr(checked, name)(*arguments)
        checked.check()
    for address in list(checked.used):
        checked.free(address)
    assert checked.heap.blocks() == [(0, -SIZE)]


def test_memory_that_was_used_before_is_zero_again_after_calloc() -> None:
    checked = Checked()
    first = checked.malloc(1000)
    checked.free(first)
    assert checked.calloc(125, 8) == first  # its bytes are looked at in Checked


def test_calloc_does_not_touch_memory_that_was_never_used() -> None:
    """So numpy.zeros of a large array adds no page."""
    checked = Checked()
    ctypes.memset(checked.base, 0xAA, SIZE)  # what no heap over an enclave would find: it shows who wrote
    address = CALLOC(checked.heap.table, SIZE // 8, 8)
    assert ctypes.string_at(address, SIZE) == b"\xaa" * SIZE


@pytest.mark.parametrize("size", [0, 1, UNIT])
def test_no_bytes_are_a_block_of_their_own_too(size: int) -> None:
    checked = Checked()
    assert 0 != checked.malloc(size) != checked.malloc(size) != 0
    checked.check()


def test_a_block_grows_in_its_place_when_there_is_room_behind_it() -> None:
    checked = Checked()
    address = checked.malloc(100)
    assert checked.realloc(address, 10_000) == address
    checked.malloc(1)
    assert checked.realloc(address, 20_000) != address
    checked.check()


@pytest.mark.parametrize("take", [lambda h: MALLOC(h, 5000), lambda h: REALLOC(h, 0, 5000), lambda h: CALLOC(h, 5, 9)])
def test_an_ended_heap_gives_ordinary_memory_and_takes_its_own_back(take: Callable[[int], int]) -> None:
    checked = Checked()
    address = checked.malloc(100)
    checked.heap.end()
    outside = take(checked.heap.table)
    assert outside and not 0 <= outside - checked.base < SIZE
    FREE(checked.heap.table, outside, 5000)
    checked.free(address)
    assert checked.heap.blocks() == [(0, -SIZE)]


def test_memory_of_the_c_library_is_grown_and_freed_where_it_came_from() -> None:
    """Arrays made before numpy was given the heap."""
    checked = Checked()
    address = libc.malloc(100)
    ctypes.memset(address, 7, 100)
    grown = REALLOC(checked.heap.table, address, 100_000)
    assert ctypes.string_at(grown, 100) == b"\x07" * 100
    FREE(checked.heap.table, grown, 100_000)
    assert checked.heap.blocks() == [(0, -SIZE)]
