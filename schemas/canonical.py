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

This is the "memcomparable" form of MyRocks, TiDB and CockroachDB. ``decode`` is the exact inverse and refuses any bytes
that ``encode`` would not have written. Nothing here knows of keys, tables or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import canonical_kernels as kernels
from schemas.canonical_kernels import Bytes, Ints, Mask, Words
from schemas.errors import DataError, UsageError
from schemas.hashing import binary_buffers

SIGN = np.uint64(1 << 63)
NAN = np.uint64(0x7FF8 << 48)
BYTES_MAX = 2**31 - 1
"""An Arrow binary array holds no more."""

SUPPORTED = "bool, an integer, float64, decimal128, string, binary, date32, timestamp[us, UTC]"

INT64_STORED = (pa.int64(), pa.timestamp("us", "UTC"))
NARROW = (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.date32())


def check_type(kind: pa.DataType) -> None:
    """Raise ``UsageError`` unless values of this type have a canonical encoding."""
    if kind in (pa.bool_(), pa.uint64(), pa.float64(), *INT64_STORED, *NARROW) or _is_text(kind):
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


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.binary())


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
    if _is_text(column.type):
        data, starts = binary_buffers(column)
        if not kernels.add_text_sizes(data, starts, valid, offsets):
            msg = "a column with offsets outside its data"
            raise ValueError(msg)
        return
    width = 1 if column.type == pa.bool_() else 16 if pa.types.is_decimal128(column.type) else 8
    offsets[1:] += 1 + width if len(valid) == 0 else np.where(valid, 1 + width, 1)


def _put(column: pa.Array, out: Bytes, cursor: Ints) -> None:
    valid = _valid(column)
    if _is_text(column.type):
        kernels.put_text(*binary_buffers(column), valid, out, cursor)
    elif column.type == pa.bool_():
        bits = np.asarray(column.fill_null(False)).astype(np.uint8)
        kernels.put_bools(bits, valid, out, cursor)
    else:
        kernels.put_words(_words(column), valid, out, cursor)


def _take(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    if _is_text(kind):
        return _take_text(kind, data, cursor, ends)
    if kind == pa.bool_():
        bits, valid, ok = kernels.take_bools(data, cursor, ends)
        _require(ok)
        return pa.array(bits, mask=None if valid.all() else ~valid)
    words, valid, ok = kernels.take_words(data, cursor, ends, 2 if pa.types.is_decimal128(kind) else 1)
    _require(ok)
    return _from_words(kind, words, valid)


def _take_text(kind: pa.DataType, data: Bytes, cursor: Ints, ends: Ints) -> pa.Array:
    offsets, valid, ok = kernels.text_sizes(data, cursor, ends)
    np.cumsum(offsets, out=offsets)
    _require(ok and offsets[-1] <= BYTES_MAX)
    text = kernels.take_text(data, cursor, valid, offsets)
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
