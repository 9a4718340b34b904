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


CACHE_DIR = _cache_dir()
if "NUMBA_CACHE_DIR" not in os.environ:
    numba.config.CACHE_DIR = str(CACHE_DIR)

_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def kernel(function):
    """A function of the ring: compiled, called only by other functions of the ring."""
    return numba.njit(cache=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


def inline(function):
    """A leaf of the ring that is always inlined by LLVM."""
    return numba.njit(cache=True, no_cfunc_wrapper=True, forceinline=True, **_OPTIONS)(function)


def syscall(function):
    """A function of the ring that machine.py calls: its first argument is the Kernel, all others are integers."""
    return numba.njit(cache=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


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


class TableType(types.Type):
    """A pointer to rows of one dtype: records are handed out by reference, scalars by value."""

    def __init__(self, dtype):
        self.row = numba.from_dtype(dtype)
        super().__init__(name=f"Table({self.row})")


kernel_type = KernelType()
_TYPES = {name: TableType(np.dtype(dtype)) for name, dtype in TABLES}
_INDEX = {name: i for i, (name, _) in enumerate(TABLES)}


@typeof_impl.register(Kernel)
def _typeof_kernel(value, context):
    return kernel_type


@register_model(KernelType)
class _KernelModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.IntType(64).as_pointer())


@register_model(TableType)
class _TableModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.IntType(8).as_pointer())


@unbox(KernelType)
def _unbox_kernel(typ, obj, c):
    number = c.pyapi.object_getattr_string(obj, "address")
    value = c.pyapi.long_as_ulonglong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(value, ir.IntType(64).as_pointer()))


@infer_getattr
class _KernelAttribute(AttributeTemplate):
    key = KernelType

    def generic_resolve(self, typ, attr):
        if attr in SCALARS:
            return _TYPES[attr].row
        return _TYPES.get(attr)


@lower_getattr_generic(KernelType)
def _lower_kernel_attribute(context, builder, typ, value, attr):
    slot = builder.gep(value, [ir.Constant(ir.IntType(64), _INDEX[attr])])
    address = builder.load(slot)
    # Addresses change only between ring calls: let LLVM keep them in registers over stores.
    address.set_metadata("invariant.load", builder.module.add_metadata([]))
    if attr in SCALARS:
        return builder.inttoptr(address, context.get_value_type(_TYPES[attr].row))
    return builder.inttoptr(address, ir.IntType(8).as_pointer())


def _row_pointer(context, builder, table_type, table, index_type, index):
    index = context.cast(builder, index, index_type, types.int64)
    row = table_type.row
    if isinstance(row, types.Record):
        offset = builder.mul(index, ir.Constant(ir.IntType(64), row.size))
        return builder.bitcast(builder.gep(table, [offset]), context.get_value_type(row))
    pointer = builder.bitcast(table, context.get_data_type(row).as_pointer())
    return builder.gep(pointer, [index])


@infer_global(operator.getitem)
class _TableGet(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], TableType) and isinstance(args[1], types.Integer):
            return signature(args[0].row, args[0], args[1])
        return None


@lower_builtin(operator.getitem, TableType, types.Integer)
def _table_get(context, builder, sig, args):
    pointer = _row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
    return pointer if isinstance(sig.args[0].row, types.Record) else builder.load(pointer)


@infer_global(operator.setitem)
class _TableSet(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 3 and isinstance(args[0], TableType) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], args[1], args[2])
        return None


@lower_builtin(operator.setitem, TableType, types.Integer, types.Number)
@lower_builtin(operator.setitem, TableType, types.Integer, types.Boolean)
def _table_set(context, builder, sig, args):
    table_type, index_type, value_type = sig.args
    pointer = _row_pointer(context, builder, table_type, args[0], index_type, args[1])
    builder.store(context.cast(builder, args[2], value_type, table_type.row), pointer)
    return context.get_dummy_value()


_U32 = TableType(np.dtype(np.uint32))


def u32_at(address):
    """The caller's array of uint32 at an address, as a table."""
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_uint32))


def prefetch(table, index):
    """Hint that a row of a table is read and written soon."""


@intrinsic
def _u32_at(typingctx, address):
    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return _U32(types.int64), codegen


@intrinsic
def _prefetch(typingctx, table, index):
    def codegen(context, builder, sig, args):
        pointer = _row_pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
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
