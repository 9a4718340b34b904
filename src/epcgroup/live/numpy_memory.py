"""numpy arrays in enclave memory, by numpy's own means: a data allocator (NEP 49) over an enclave.

    with Enclave(1 << 30) as enclave, arrays_in(enclave):
        a = numpy.zeros(10_000_000)          # each page of it is charged when it is touched

In the enclave is what an array's elements are kept in, from the smallest array on. Not in it: Python's objects, code,
stacks, what C libraries take for themselves (work buffers of BLAS, FFT and sort), numpy.memmap, arrays over somebody
else's buffer, arrays made before. A forked child has none of the memory: its new arrays are ordinary ones, and
touching its parent's is SIGSEGV. No room left in the enclave is MemoryError, as always.
"""

import contextlib
import ctypes
import importlib
import os
from collections.abc import Iterator

import numpy as np

from epcgroup.errors import InputError
from epcgroup.live.client import Enclave
from epcgroup.live.heap import FUNCTIONS, Heap, keep_for_ever

# Of numpy's table of C functions (numpy 1.22 and later), and the struct that they take.
_SET_HANDLER, _DEFAULT_HANDLER = 304, 306
_CAPSULE_NAME = ctypes.create_string_buffer(b"mem_handler")
_VERSION = 1


class _Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("heap", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_SetPointer.argtypes = (ctypes.py_object, ctypes.c_void_p)
keep_for_ever(_CAPSULE_NAME)


def _numpy_functions() -> tuple[int, object]:
    """PyDataMem_SetHandler, and the capsule with the handler that numpy uses wherever none was set; InputError."""
    try:
        capsule = importlib.import_module("numpy._core._multiarray_umath")._ARRAY_API
    except (ImportError, AttributeError):
        raise InputError(f"numpy {np.__version__} has no C-API table where numpy 2 has it; numpy 2 is needed") from None
    table = ctypes.cast(_python.PyCapsule_GetPointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))
    default: object = ctypes.cast(table[_DEFAULT_HANDLER], ctypes.POINTER(ctypes.py_object))[0]
    version = _handler_in(default).version
    if version != _VERSION:
        raise InputError(f"numpy {np.__version__} has data allocators of version {version}, not {_VERSION}")
    return int(table[_SET_HANDLER]), default


def _handler_in(capsule: object) -> _Handler:
    return _Handler.from_address(_python.PyCapsule_GetPointer(capsule, _CAPSULE_NAME.value))


def _new_handler(enclave: Enclave) -> _Handler:
    """A handler over the enclave that, with the enclave, lives as long as the process: every array remembers it."""
    heap = Heap(enclave.address, enclave.memory.nbytes)
    addresses = {name: function.address for name, function in FUNCTIONS.items()}
    handler = _Handler(b"epcgroup", _VERSION, heap.table, **addresses)
    keep_for_ever(handler)
    keep_for_ever(enclave)
    os.register_at_fork(after_in_child=heap.end)
    return handler


@contextlib.contextmanager
def arrays_in(enclave: Enclave) -> Iterator[None]:
    """New arrays of this thread (this context, contextvars) are in the enclave. Its memory is all theirs: use no part
    of it otherwise, nor enter twice. Arrays may outlive the block, but must not be used after the enclave's end."""
    address, _ = _numpy_functions()
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)
    handler = _new_handler(enclave)
    before = set_handler(_python.PyCapsule_New(ctypes.addressof(handler), ctypes.addressof(_CAPSULE_NAME), None))
    try:
        yield
    finally:
        set_handler(before)


def put_all_arrays_in(enclave: Enclave) -> None:
    """New arrays of all threads are in the enclave, from now to the process's end. RuntimeError at a second call."""
    _, default = _numpy_functions()
    if _handler_in(default).name != b"default_allocator":
        raise RuntimeError("numpy's default allocator has been replaced already")
    # What stands in the capsule is what every thread and every array made so far will use: free knows the latter.
    _python.PyCapsule_SetPointer(default, ctypes.addressof(_new_handler(enclave)))
