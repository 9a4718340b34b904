"""The hole that the documents name: a page that somebody else holds by its frame is not followed by eviction.

vmsplice stands for all direct I/O: it takes a reference to the frame, as O_DIRECT and io_uring do while a transfer
lasts. As long as the page stays it is the same memory; once it was written out it is not, without any error.
"""

from collections.abc import Callable
from typing import Any

import pytest

Boot = Callable[..., Any]

PINS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
enclave = Enclave(16 * PAGE)
m = enclave.memory
m[0:5] = b"first"
read, write = os.pipe()
vector = (ctypes.c_size_t * 2)(enclave.address, 5)
assert libc.vmsplice(write, vector, ctypes.c_size_t(1), 0) == 5
say("pinned")
hear()
m[0:5] = b"later"
say(os.read(read, 5).decode(), bytes(m[0:5]).decode())
"""


@pytest.mark.parametrize("evicted", [False, True], ids=["while the page stays", "after it was written out"])
def test_a_pinned_page_is_detached_by_write_out(live: Boot, evicted: bool) -> None:
    """What goes through the pipe is the frame of the time of vmsplice; the enclave itself is right in both cases."""
    node = live(64)
    client = node.client(PINS)
    assert client.line() == "pinned"
    (area,) = node.pager.areas.values()
    if evicted:
        node.pager.write_out(area, [0])
        node.pager.load(area, 0)
    client.tell()
    assert client.line() == ("first later" if evicted else "later later")
    assert client.ended() == 0


RECEIVES = """
# A pool page that io_uring holds is written by a later read, whatever has become of it meanwhile.
import ctypes, mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def syscall(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(a) for a in arguments))
    if result < 0:
        say("refused", os.strerror(ctypes.get_errno()))
        sys.exit()
    return result

enclave = Enclave(16 * PAGE)
m = enclave.memory
m[0:5] = b"first"
parameters = ctypes.create_string_buffer(120)
ring = syscall(425, 1, ctypes.addressof(parameters))
sq_array = struct.unpack_from("10I", parameters, 40)[6]
sq_tail = struct.unpack_from("10I", parameters, 40)[1]
queue = mmap.mmap(ring, PAGE, offset=0)
entries = mmap.mmap(ring, PAGE, offset=0x10000000)
vector = (ctypes.c_size_t * 2)(enclave.address, PAGE)
syscall(427, ring, 0, ctypes.addressof(vector), 1)  # IORING_REGISTER_BUFFERS pins the page
say("pinned")
hear()
read, write = os.pipe()
os.write(write, b"later")
# IORING_OP_READ_FIXED: 5 bytes of the pipe to the buffer
struct.pack_into("=BBHiQQIIQHHiQQ", entries, 0, 4, 0, 0, read, 0, enclave.address, 5, 0, 0, 0, 0, 0, 0, 0)
struct.pack_into("=I", queue, sq_array, 0)
struct.pack_into("=I", queue, sq_tail, 1)
assert syscall(426, ring, 1, 1, 1, 0, 0) == 1
say(bytes(m[0:5]).decode())
"""


@pytest.mark.parametrize("evicted", [False, True], ids=["while the page stays", "after it was written out"])
def test_what_direct_io_brings_after_write_out_is_lost(live: Boot, evicted: bool) -> None:
    node = live(64)
    client = node.client(RECEIVES)
    line = client.line()
    if line.startswith("refused"):
        assert client.ended() == 0
        pytest.skip(f"io_uring: {line}")
    assert line == "pinned"
    (area,) = node.pager.areas.values()
    if evicted:
        node.pager.write_out(area, [0])
        node.pager.load(area, 0)
    client.tell()
    assert client.line() == ("first" if evicted else "later")
    assert client.ended() == 0
