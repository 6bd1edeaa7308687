"""The canonical encoding of rows: one byte string a row, equal exactly when the rows are, ordered as the rows are.

Comparing two encodings byte by byte compares the rows column by column, nulls first. Every value delimits itself, so
that encodings may be put one after the other and still stand for one sequence of rows only. Keys are compared, chunks
are cut, and digests are taken over these bytes: they are part of the format of a store.

Each value is 0x00 (null), or 0x01 and then

    bool                                one byte, 0 or 1
    int8..int64, date32, timestamp      8 bytes big-endian, sign bit flipped (a timestamp: microseconds, UTC)
    uint8..uint32                       the same; uint64: 8 bytes big-endian as it is
    float64                             8 bytes, IEEE 754 total order: -inf < -0.0 < +0.0 < +inf < NaN; all NaN are one
    decimal128                          16 bytes big-endian of the unscaled number, sign bit flipped
    string, binary                      its bytes with 0x00 written 0x00 0xFF, then 0x00 0x00
    list                                each item as 0x01 and its encoding (with the byte for null), then 0x00
    struct                              the encodings of its fields, one after the other

This is the "memcomparable" form of MyRocks, TiDB and CockroachDB. ``decode`` is the exact inverse and refuses any bytes
that ``encode`` would not have written. Nothing here knows of keys, tables or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import canonical_kernels as kernels
from schemas.canonical_kernels import Bytes, Ints, Mask, Words
from schemas.errors import DataError, UsageError
from schemas.hashing import binary_buffers

SIGN = np.uint64(1 << 63)
NAN = np.uint64(0x7FF8 << 48)
BYTES_MAX = 2**31 - 1
"""An Arrow binary array holds no more."""

SUPPORTED = (
    "bool, an integer, float64, decimal128, string, binary, date32, timestamp[us, UTC], or a list or struct of them"
)

INT64_STORED = (pa.int64(), pa.timestamp("us", "UTC"))
NARROW = (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.date32())


def check_type(kind: pa.DataType) -> None:
    """Raise ``UsageError`` unless values of this type have a canonical encoding."""
    if kind in (pa.bool_(), pa.uint64(), pa.float64(), *INT64_STORED, *NARROW) or _is_text(kind):
        return
    if pa.types.is_list(kind) or (pa.types.is_struct(kind) and kind.num_fields):
        for below in range(kind.num_fields):
            check_type(kind.field(below).type)
        return
    if not pa.types.is_decimal128(kind):
        msg = f"a column of type {kind} has no canonical form"
        raise UsageError(msg, do=f"cast it to one of: {SUPPORTED}")


def encode(columns: Sequence[pa.Array]) -> pa.BinaryArray:
    """The canonical encoding of each row of ``columns`` (at least one; equal lengths; sliced arrays are fine).

    Raises ``UsageError`` for a type without a canonical form and where the rows exceed 2 GiB.
    """
    offsets, data = encode_buffers(columns)
    if offsets[-1] > BYTES_MAX:
        msg = f"{len(offsets) - 1:,} rows are {offsets[-1]:,} bytes: more than one array of encoded rows can hold"
        raise UsageError(msg, do="pass fewer rows at a time")
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    )


def encode_buffers(columns: Sequence[pa.Array]) -> tuple[Ints, Bytes]:
    """The same as ``len + 1`` int64 offsets and the bytes, of any size."""
    offsets = np.zeros(len(columns[0]) + 1, np.int64)
    for column in columns:
        check_type(column.type)
        assert len(column) == len(columns[0]), "columns of one row set have one length"
        _add_sizes(column, offsets)
    np.cumsum(offsets, out=offsets)
    data, cursor = np.empty(offsets[-1], np.uint8), offsets[:-1].copy()
    for column in columns:
        _put(column, data, cursor)
    return offsets, data


def decode(rows: pa.BinaryArray, types: Sequence[pa.DataType]) -> list[pa.Array]:
    """The columns of which ``rows`` are the encoding. Raises ``DataError`` for bytes that are no such encoding."""
    data, offsets = binary_buffers(rows)
    cursor, ends = offsets[:-1].copy(), offsets[1:]
    columns = []
    for kind in types:
        check_type(kind)
        columns.append(_take(kind, data, cursor, ends))
    _require(bool((cursor == ends).all()) and rows.null_count == 0)
    return columns


def canonical_floats(column: pa.Array) -> pa.Array:
    """A float64 column with every NaN replaced by the one canonical NaN; nulls and all other values as they are."""
    values = np.asarray(_storage(column, np.float64))
    if not np.isnan(values).any():
        return column
    bits = np.where(np.isnan(values), NAN, values.view(np.uint64))
    return _fixed_array(pa.float64(), bits, _valid(column))


def canonical_nested(column: pa.Array) -> pa.Array:
    """A list or struct column with one canonical NaN at any depth, and nothing left under what is null."""
    if column.type == pa.float64():
        return canonical_floats(column)
    if pa.types.is_list(column.type):
        return _list_of(column.type, *_parts(column), _every_valid(column))
    if pa.types.is_struct(column.type):
        return _struct_of(column.type, _fields(column), _every_valid(column))
    return column


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.binary())


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_struct(kind)


def _parts(column: pa.ListArray) -> tuple[Ints, pa.Array]:
    """How many items each list has (none: null), and all items."""
    return np.asarray(pc.list_value_length(column).fill_null(0)).astype(np.int64), column.flatten()


def _fields(column: pa.StructArray) -> list[pa.Array]:
    """The fields of those structs that are there."""
    return (column.filter(column.is_valid()) if column.null_count else column).flatten()


def _list_of(kind: pa.DataType, lengths: Ints, items: pa.Array, valid: Mask) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    _require(offsets[-1] == len(items) <= BYTES_MAX)
    buffers = [_bitmap(valid), pa.py_buffer(offsets.astype(np.int32))]
    return pa.Array.from_buffers(kind, len(lengths), buffers, children=[canonical_nested(items)])


def _struct_of(kind: pa.DataType, fields: Sequence[pa.Array], valid: Mask) -> pa.Array:
    """``fields``: of those that are there."""
    at = pa.array(np.where(valid, np.cumsum(valid) - 1, 0), mask=~valid)
    children = [canonical_nested(field).take(at) for field in fields]
    return pa.Array.from_buffers(kind, len(valid), [_bitmap(valid)], children=children)


def _every_valid(column: pa.Array) -> Mask:
    return np.asarray(column.is_valid())


def _valid(column: pa.Array) -> Mask:
    """Which values are there; an empty mask means all of them."""
    if column.null_count == 0:
        return np.empty(0, np.bool_)
    return np.asarray(column.is_valid())


def _storage(column: pa.Array, kind: type[np.generic]) -> npt.NDArray[Any]:
    """The stored values of a fixed-width column, whatever lies under a null."""
    width = np.dtype(kind).itemsize
    buffer = column.buffers()[1]
    if len(column) == 0 or buffer is None:
        return np.empty(0, kind)
    return np.frombuffer(buffer, kind, count=len(column), offset=column.offset * width)


def _words(column: pa.Array) -> Words:
    """A fixed-width column as rows of 64-bit words that order as the values do; shape (rows, 1 or 2)."""
    kind = column.type
    if pa.types.is_decimal128(kind):
        both = np.frombuffer(_decimal_bytes(column), np.uint64).reshape(len(column), 2)
        return np.ascontiguousarray(np.stack([both[:, 1] ^ SIGN, both[:, 0]], axis=1))
    if kind == pa.uint64():
        return _storage(column, np.uint64).reshape(-1, 1)
    if kind == pa.float64():
        bits = _storage(column, np.uint64)
        bits = np.where(np.isnan(bits.view(np.float64)), NAN, bits)
        return np.where(bits & SIGN, ~bits, bits ^ SIGN).reshape(-1, 1)
    return (_integers(column).view(np.uint64) ^ SIGN).reshape(-1, 1)


def _integers(column: pa.Array) -> Ints:
    if column.type in INT64_STORED:
        return _storage(column, np.int64)
    native = np.int32 if column.type == pa.date32() else column.type.to_pandas_dtype()
    return _storage(column, native).astype(np.int64)


def _decimal_bytes(column: pa.Array) -> memoryview:
    if len(column) == 0:
        return memoryview(b"")
    return memoryview(column.buffers()[1])[column.offset * 16 : (column.offset + len(column)) * 16]


def _add_sizes(column: pa.Array, offsets: Ints) -> None:
    """Add the encoded size of row ``i``'s value to ``offsets[i + 1]``."""
    valid = _valid(column)
    if _is_nested(column.type):
        offsets[1:] += _nested_sizes(column)
        return
    if _is_text(column.type):
        data, starts = binary_buffers(column)
        if not kernels.add_text_sizes(data, starts, valid, offsets):
            msg = "a column with offsets outside its data"
            raise ValueError(msg)
        return
    width = 1 if column.type == pa.bool_() else 16 if pa.types.is_decimal128(column.type) else 8
    offsets[1:] += 1 + width if len(valid) == 0 else np.where(valid, 1 + width, 1)


def _sizes(column: pa.Array) -> Ints:
    offsets = np.zeros(len(column) + 1, np.int64)
    _add_sizes(column, offsets)
    return offsets[1:]


def _nested_sizes(column: pa.Array) -> Ints:
    sizes = np.ones(len(column), np.int64)
    if pa.types.is_struct(column.type):
        sizes[_every_valid(column)] += sum(_sizes(field) for field in _fields(column))
        return sizes
    lengths, items = _parts(column)
    ends = np.concatenate([[0], np.cumsum(_sizes(items) + 1)])
    stops = np.cumsum(lengths)
    return sizes + np.where(_every_valid(column), ends[stops] - ends[stops - lengths] + 1, 0)


def _put_nested(column: pa.Array, out: Bytes, cursor: Ints) -> None:
    valid = _every_valid(column)
    if pa.types.is_list(column.type):
        lengths, items = _parts(column)
        inner = np.empty(len(items), np.int64)
        kernels.put_lists(lengths, valid, _sizes(items), out, cursor, inner)
        _put(items, out, inner)
        return
    out[cursor] = valid
    cursor += 1
    inner = cursor[valid]
    for field in _fields(column):
        _put(field, out, inner)
    cursor[valid] = inner


def _put(column: pa.Array, out: Bytes, cursor: Ints) -> None:
    valid = _valid(column)
    if _is_nested(column.type):
        _put_nested(column, out, cursor)
    elif _is_text(column.type):
        kernels.put_text(*binary_buffers(column), valid, out, cursor)
    elif column.type == pa.bool_():
        bits = np.asarray(column.fill_null(False)).astype(np.uint8)
        kernels.put_bools(bits, valid, out, cursor)
    else:
        kernels.put_words(_words(column), valid, out, cursor)


def _take(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    if pa.types.is_list(kind):
        return _take_lists(kind, data, cursor, ends)
    if pa.types.is_struct(kind):
        return _take_structs(kind, data, cursor, ends)
    if _is_text(kind):
        return _take_text(kind, data, cursor, ends)
    if kind == pa.bool_():
        bits, valid, ok = kernels.take_bools(data, cursor, ends)
        _require(ok)
        return pa.array(bits, mask=None if valid.all() else ~valid)
    words, valid, ok = kernels.take_words(data, cursor, ends, 2 if pa.types.is_decimal128(kind) else 1)
    _require(ok)
    return _from_words(kind, words, valid)


def _take_marks(data: Bytes, cursor: Ints, ends: Ints, rows: Ints) -> Mask:
    """Step over a byte of these rows that is 0 or 1: which it is."""
    at = cursor[rows]
    _require(bool(((at >= 0) & (at < ends[rows]) & (ends[rows] <= len(data))).all()))
    marks = data[at]
    _require(bool((marks <= 1).all()))
    cursor[rows] = at + 1
    return marks == 1


def _take_lists(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    """The first items of all lists, then the second ones, and so on, put into order at last."""
    every = np.arange(len(cursor))
    valid = _take_marks(data, cursor, ends, every)
    rows, lengths = every[valid], np.zeros(len(cursor), np.int64)
    items, owners = [pa.array([], kind.value_type)], [np.empty(0, np.int64)]
    while len(rows := rows[_take_marks(data, cursor, ends, rows)]):
        inner = cursor[rows]
        items.append(_take(kind.value_type, data, inner, ends[rows]))
        cursor[rows] = inner
        owners.append(rows)
        lengths[rows] += 1
    order = np.argsort(np.concatenate(owners), kind="stable")
    return _list_of(kind, lengths, pa.concat_arrays(items).take(pa.array(order)), valid)


def _take_structs(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    valid = _take_marks(data, cursor, ends, np.arange(len(cursor)))
    inner, fields = cursor[valid], []
    for number in range(kind.num_fields):
        fields.append(_take(kind.field(number).type, data, inner, ends[valid]))
    cursor[valid] = inner
    return _struct_of(kind, fields, valid)


def _take_text(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    offsets, valid, is_plain, ok = kernels.text_sizes(data, cursor, ends)
    np.cumsum(offsets, out=offsets)
    _require(ok and offsets[-1] <= BYTES_MAX)
    text = kernels.take_text(data, cursor, valid, offsets, is_plain)
    buffers = [_bitmap(valid), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text)]
    array = pa.Array.from_buffers(kind, len(valid), buffers)
    _validate(array)
    return array


def _from_words(kind: pa.DataType, words: Words, valid: Mask) -> pa.Array:
    if pa.types.is_decimal128(kind):
        array = _fixed_array(kind, np.stack([words[:, 1], words[:, 0] ^ SIGN], axis=1), valid)
        _validate(array)
        return array
    bits = words[:, 0]
    if kind == pa.uint64():
        return _fixed_array(kind, bits, valid)
    if kind == pa.float64():
        bits = np.where(bits & SIGN, bits ^ SIGN, ~bits)
        _require(not (np.isnan(bits.view(np.float64)) & (bits != NAN) & valid).any())
        return _fixed_array(kind, bits, valid)
    return _from_integers(kind, (bits ^ SIGN).view(np.int64), valid)


def _from_integers(kind: pa.DataType, values: Ints, valid: Mask) -> pa.Array:
    if kind in INT64_STORED:
        return _fixed_array(kind, values, valid)
    native = np.dtype(np.int32 if kind == pa.date32() else kind.to_pandas_dtype())
    values = np.where(valid, values, 0)
    _require(bool((values.astype(native) == values).all()))
    return _fixed_array(kind, values.astype(native), valid)


def _fixed_array(kind: pa.DataType, values: npt.NDArray[Any], valid: Mask) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [_bitmap(valid), pa.py_buffer(np.ascontiguousarray(values))])


def _bitmap(valid: Mask) -> pa.Buffer | None:
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _validate(array: pa.Array) -> None:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        _require(False)


def _require(ok: bool) -> None:
    if not ok:
        msg = "bytes that are no canonical encoding of rows of these types"
        raise DataError(msg)
