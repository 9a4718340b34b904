"""How the ring is compiled: one decorator, and the type through which compiled code sees the machine's tables.

`Kernel` is the machine's memory: numpy tables behind one header of addresses. Compiled functions get the
header's address and read `k.cgroups[c].usage` straight from memory: no array objects, hence no reference counts
(docs/decisions/0002). Uncompiled (NUMBA_DISABLE_JIT=1, and the rare paths) the same expressions work on numpy
record arrays, with bounds checks. Numba's disk cache does not see that a callee changed, so its folder is named
by a hash of the ring's sources.
"""

import ctypes
import hashlib
import operator
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_setattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    overload,
    register_model,
    typeof_impl,
    unbox,
)

from epcgroup.kernel.structs import SCALARS, TABLES


def _cache_dir() -> Path:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    text = b"".join(path.name.encode() + path.read_bytes() for path in sources) + numba.__version__.encode()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "epcgroup" / f"ring-{hashlib.sha256(text).hexdigest()[:16]}"


CACHE_DIR = Path(os.environ.get("NUMBA_CACHE_DIR") or _cache_dir())
numba.config.CACHE_DIR = str(CACHE_DIR)

_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def kernel(function):
    """A function of the ring: compiled, called only by other functions of the ring."""
    return numba.njit(no_cfunc_wrapper=True, no_cpython_wrapper=True, **_OPTIONS)(function)


def operation(function):
    """A function of the ring behind the operations table: takes (k, a, b, c), all but k integers, returns an integer.

    A plain Python function: `install` compiles it where it is chosen.
    """
    return function


def inline(function):
    """A leaf of the ring that is always inlined by LLVM."""
    return numba.njit(no_cfunc_wrapper=True, no_cpython_wrapper=True, forceinline=True, **_OPTIONS)(function)


def syscall(function):
    """A function of the ring that machine.py calls: its first argument is the Kernel, all others are integers.

    Only these are kept in the disk cache, whole with what they call.
    """
    return numba.njit(cache=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


_INDEX = {name: i for i, (name, _) in enumerate(TABLES)}


class Row:
    """One record, field by field, as Python integers. Reads and writes the table itself."""

    __slots__ = ("_record",)

    def __init__(self, record):
        object.__setattr__(self, "_record", record)

    def __getattr__(self, field):
        return int(self._record[field])

    def __setattr__(self, field, value):
        self._record[field] = value


class Table:
    """A table as Python code sees it: `t[i]` is a Row or an int, `t[a:b]` and `t["field"]` are numpy views."""

    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array

    def __getitem__(self, index):
        if isinstance(index, slice | str):
            return self.array[index]
        assert index >= 0
        item = self.array[index]
        return Row(item) if self.array.dtype.names else int(item)

    def __setitem__(self, index, value):
        self.array[index] = value

    def __len__(self):
        return len(self.array)


class Kernel:
    """The machine's memory: one table an attribute (kernel/structs.py says what each holds).

    `k.g` is the single record of globals. Tables may be replaced by larger ones between ring calls (`grow`), never
    during one.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, sizes: dict[str, int]) -> None:
        self._header = np.zeros(len(TABLES), np.uint64)
        self.address = self._header.ctypes.data
        self.python_ops: dict[int, Any] = {}
        for name, dtype in TABLES:
            self._set(name, np.zeros(sizes[name], dtype))

    def _set(self, name, array):
        self._header[_INDEX[name]] = array.ctypes.data
        table = Table(array)
        setattr(self, name, table[0] if name in SCALARS else table)

    def grow(self, name: str, size: int) -> None:
        """Make a table at least `size` rows long; contents stay, new rows are zero."""
        old = getattr(self, name).array
        if len(old) < size:
            new = np.zeros(size, old.dtype)
            new[: len(old)] = old
            self._set(name, new)


class KernelType(types.Type):
    def __init__(self):
        super().__init__(name="Kernel")


class RowType(types.Type):
    """A pointer to one record. Fields of any width read and write as int64: one type, one compilation of a function."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Row({dtype})")


class TableType(types.Type):
    """A pointer to rows of one dtype: records are handed out by reference, numbers as int64."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.row = RowType(dtype) if dtype.names else types.int64
        super().__init__(name=f"Table({dtype})")


kernel_type = KernelType()
Kernel._numba_type_ = kernel_type  # numba looks here first: a call costs 0.9 us instead of 2.6
_TYPES = {name: TableType(np.dtype(dtype)) for name, dtype in TABLES}
_BYTES = ir.IntType(8).as_pointer()
_I64 = ir.IntType(64)


@typeof_impl.register(Kernel)
def _typeof_kernel(value, context):
    return kernel_type


@register_model(KernelType)
class _KernelModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _I64.as_pointer())


@register_model(RowType)
@register_model(TableType)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _BYTES)


@unbox(KernelType)
def _unbox_kernel(typ, obj, c):
    number = c.pyapi.object_getattr_string(obj, "address")
    value = c.pyapi.long_as_ulonglong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(value, _I64.as_pointer()))


@infer_getattr
class _KernelAttribute(AttributeTemplate):
    key = KernelType

    def generic_resolve(self, typ, attr):
        if attr in SCALARS:
            return _TYPES[attr].row
        return _TYPES.get(attr)


@lower_getattr_generic(KernelType)
def _lower_kernel_attribute(context, builder, typ, value, attr):
    address = builder.load(builder.gep(value, [ir.Constant(_I64, _INDEX[attr])]))
    # Addresses change only between ring calls: let LLVM keep them in registers over stores.
    address.set_metadata("invariant.load", builder.module.add_metadata([]))
    return builder.inttoptr(address, _BYTES)


@infer_getattr
class _RowAttribute(AttributeTemplate):
    key = RowType

    def generic_resolve(self, typ, attr):
        return types.int64 if attr in typ.dtype.names else None


def _load(builder, pointer, dtype):
    """A number of any width at a byte pointer, as int64."""
    width = ir.IntType(8 * dtype.itemsize)
    value = builder.load(builder.bitcast(pointer, width.as_pointer()), align=1)
    if dtype.itemsize == 8:
        return value
    return builder.zext(value, _I64) if dtype.kind == "u" else builder.sext(value, _I64)


def _store(builder, value, pointer, dtype):
    width = ir.IntType(8 * dtype.itemsize)
    narrow = value if dtype.itemsize == 8 else builder.trunc(value, width)
    builder.store(narrow, builder.bitcast(pointer, width.as_pointer()), align=1)


def _field(builder, row_type, row, attr):
    dtype, offset = row_type.dtype.fields[attr][:2]
    return builder.gep(row, [ir.Constant(_I64, offset)]), dtype


@lower_getattr_generic(RowType)
def _lower_row_get(context, builder, typ, value, attr):
    return _load(builder, *_field(builder, typ, value, attr))


@lower_setattr_generic(RowType)
def _lower_row_set(context, builder, sig, args, attr):
    pointer, dtype = _field(builder, sig.args[0], args[0], attr)
    _store(builder, context.cast(builder, args[1], sig.args[1], types.int64), pointer, dtype)


def _row_pointer(context, builder, table_type, table, index_type, index):
    index = context.cast(builder, index, index_type, types.int64)
    return builder.gep(table, [builder.mul(index, ir.Constant(_I64, table_type.dtype.itemsize))])


@infer_global(operator.getitem)
class _TableGet(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], TableType) and isinstance(args[1], types.Integer):
            return signature(args[0].row, args[0], args[1])
        return None


@lower_builtin(operator.getitem, TableType, types.Integer)
def _table_get(context, builder, sig, args):
    pointer = _row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
    dtype = sig.args[0].dtype
    return pointer if dtype.names else _load(builder, pointer, dtype)


@infer_global(operator.setitem)
class _TableSet(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 3 and isinstance(args[0], TableType) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], args[1], args[2])
        return None


@lower_builtin(operator.setitem, TableType, types.Integer, types.Integer)
@lower_builtin(operator.setitem, TableType, types.Integer, types.Boolean)
def _table_set(context, builder, sig, args):
    table_type, index_type, value_type = sig.args
    pointer = _row_pointer(context, builder, table_type, args[0], index_type, args[1])
    _store(builder, context.cast(builder, args[2], value_type, types.int64), pointer, table_type.dtype)
    return context.get_dummy_value()


# ---- operations -----------------------------------------------------------------------------------
# Calls that go through a table of function addresses, as a kernel calls through a struct of function pointers. What a
# series does differently is chosen there at boot, and each operation is compiled once instead of into every caller.

_OPERATION = types.int64(kernel_type, types.int64, types.int64, types.int64)


def install(k, slot, function):
    """Put a ring function of (k, a, b, c) into the operations table."""
    k.python_ops[slot] = function
    if not numba.config.DISABLE_JIT:
        k.ops[slot] = numba.cfunc(_OPERATION, cache=True, **_OPTIONS)(function).address


def call(k, slot, a, b, c):
    """Call the operation in a slot."""
    return k.python_ops[slot](k, a, b, c)


@intrinsic
def _call(typingctx, k, slot, a, b, c):
    def codegen(context, builder, sig, args):
        kernel, slot, *numbers = args
        table = _lower_kernel_attribute(context, builder, kernel_type, kernel, "ops")
        address = _load(builder, builder.gep(table, [builder.mul(slot, ir.Constant(_I64, 8))]), np.dtype("i8"))
        function = ir.FunctionType(_I64, [_I64.as_pointer(), _I64, _I64, _I64])
        return builder.call(builder.inttoptr(address, function.as_pointer()), [kernel, *numbers])

    return types.int64(k, types.int64, types.int64, types.int64, types.int64), codegen


@overload(call)
def _overload_call(k, slot, a, b, c):
    return lambda k, slot, a, b, c: _call(k, slot, a, b, c)


_U32 = TableType(np.dtype(np.uint32))


def u32_at(address):
    """The caller's array of uint32 at an address, as a table."""
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_uint32))


def prefetch(table, index):
    """Hint that a row of a table is read and written soon."""


@intrinsic
def _u32_at(typingctx, address):
    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], _BYTES)

    return _U32(types.int64), codegen


@intrinsic
def _prefetch(typingctx, table, index):
    def codegen(context, builder, sig, args):
        pointer = _row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        i32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]),
            "llvm.prefetch.p0i8",
        )
        builder.call(function, [pointer, ir.Constant(i32, 1), ir.Constant(i32, 3), ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return types.void(table, index), codegen


@overload(u32_at)
def _overload_u32_at(address):
    return lambda address: _u32_at(address)


@overload(prefetch)
def _overload_prefetch(table, index):
    return lambda table, index: _prefetch(table, index)
