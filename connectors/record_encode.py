"""Records in Arrow arrays to Kafka record batches (format v2), the inverse of connectors/record_batch.py.

Promises: the bytes are what a Kafka producer would send (offsets from 0, which the broker replaces), compressed with
zstd when that makes them smaller. Must not know: brokers, partitions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crc32c import crc32c

from connectors import codecs, record_kernels
from connectors.record_batch import CHECKED_AT, FRAME, HEADER
from schemas.compiled import kernel
from schemas.errors import UsageError

RECORD_OVERHEAD_BYTES_MAX = 41
"""Length 5, attributes 1, timestamp 10, offset 5, three more lengths of 5, and 5 to spare."""

_ZSTD = pa.Codec("zstd", compression_level=1)


class Sender(NamedTuple):
    """Who sends a batch, for the broker to recognise it when it comes twice."""

    producer_id: int
    producer_epoch: int
    sequence: int


class Column(NamedTuple):
    """One binary column as a kernel reads it: part ``row`` is ``data[bounds[row]:bounds[row + 1]]`` if ``present``."""

    data: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int32]
    present: npt.NDArray[np.bool_]


def column(array: pa.BinaryArray) -> Column:
    """``array`` (binary) without copying its bytes."""
    _, offsets, data = array.buffers()
    bounds = np.zeros(1, np.int32)
    if offsets is not None and len(array):
        bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    content = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return Column(content, bounds, array.is_valid().to_numpy(zero_copy_only=False))


def sizes(columns: tuple[Column, ...]) -> npt.NDArray[np.int64]:
    """An upper bound of the bytes that each row takes in a batch."""
    parts = [np.where(part.present, np.diff(part.bounds.astype(np.int64)), 0) for part in columns]
    return np.sum(parts, axis=0) + RECORD_OVERHEAD_BYTES_MAX


def encode(
    columns: tuple[Column, Column, Column],
    timestamps: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    size_max: int,
    sender: Sender,
) -> bytes:
    """One batch of ``rows`` (at least one) of key, value and headers, which take at most ``size_max`` bytes.

    Raises ``UsageError`` when headers are not in wire form.
    """
    out = np.empty(size_max, np.uint8)
    moments = timestamps[rows]
    used = _pack(*columns[0], *columns[1], *columns[2], moments, rows, out)
    if used < 0:
        msg = "headers to append are not in the wire form of a Kafka record's headers"
        raise UsageError(msg)
    body, codec = _compressed(out[:used])
    return _sealed(body, codec, len(rows), int(moments[0]), int(moments.max()), sender)


def _compressed(body: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    packed = _ZSTD.compress(pa.py_buffer(body), asbytes=True)
    return (packed, codecs.ZSTD) if len(packed) < body.size else (body.tobytes(), codecs.NONE)


def _sealed(body: bytes, codec: int, count: int, first: int, latest: int, sender: Sender) -> bytes:
    length = HEADER.size - FRAME.size + len(body)
    fields = (codec, count - 1, first, latest, *sender, count)
    unchecked = HEADER.pack(0, length, -1, 2, 0, *fields)
    checksum = crc32c(body, crc32c(unchecked[CHECKED_AT:]))
    return HEADER.pack(0, length, -1, 2, checksum, *fields) + body


@kernel
def _put_varint(out: npt.NDArray[np.uint8], at: int, value: np.int64) -> int:
    """Write the zig-zag form of ``value``; position after it, or -1 when ``out`` is full."""
    bits = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
    while 0 <= at < out.size:
        low = bits & np.uint64(0x7F)
        bits >>= np.uint64(7)
        out[at] = low | np.uint64(0x80) if bits else low
        at += 1
        if not bits:
            return at
    return -1


@kernel
def _varint_bytes(value: np.int64) -> int:
    bits = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
    count = 1
    while bits >= np.uint64(0x80):
        bits >>= np.uint64(7)
        count += 1
    return count


@kernel
def _put_bytes(out: npt.NDArray[np.uint8], at: int, data: npt.NDArray[np.uint8], first: int, end: int) -> int:
    """Copy ``data[first:end]``; position after it, or -1 when it does not fit."""
    size = end - first
    if at < 0 or not 0 <= first <= end <= data.size or size > out.size - at:
        return -1
    for index in range(size):
        out[at + index] = data[first + index]
    return at + size


@kernel
def _put_part(out: npt.NDArray[np.uint8], at: int, data: npt.NDArray[np.uint8], first: int, size: int) -> int:
    """Write a length (-1: null) and that many bytes."""
    at = _put_varint(out, at, np.int64(size))
    return at if size < 0 else _put_bytes(out, at, data, first, first + size)


@kernel
def _span(bounds: npt.NDArray[np.int32], present: npt.NDArray[np.bool_], row: int) -> tuple[int, int]:
    """Where part ``row`` begins and its size (-1: null)."""
    if not 0 <= row < min(present.size, bounds.size - 1) or not present[row]:
        return 0, -1
    return bounds[row], bounds[row + 1] - bounds[row]


@kernel
def _pack(  # type: ignore[no-untyped-def]
    key_data, key_bounds, key_present, value_data, value_bounds, value_present,
    header_data, header_bounds, header_present, timestamps, rows, out,
):  # fmt: skip
    """Write the records of ``rows``: bytes used, or -1 when a row's headers are not in wire form."""
    at = 0
    for number in range(rows.size):
        row = rows[number]
        key_first, key_size = _span(key_bounds, key_present, row)
        value_first, value_size = _span(value_bounds, value_present, row)
        header_first, header_size = _span(header_bounds, header_present, row)
        delta = timestamps[number] - timestamps[0]
        size = 1 + _varint_bytes(delta) + _varint_bytes(number)
        size += _varint_bytes(key_size) + max(key_size, 0) + _varint_bytes(value_size) + max(value_size, 0)
        at = _put_varint(out, at, size + max(header_size, 1))
        if not 0 <= at < out.size:
            return -1
        out[at] = 0  # attributes: all unused
        at = _put_varint(out, _put_varint(out, at + 1, delta), np.int64(number))
        at = _put_part(out, at, key_data, key_first, key_size)
        at = _put_part(out, at, value_data, value_first, value_size)
        if header_size < 0:
            at = _put_varint(out, at, np.int64(0))
        else:
            end = header_first + header_size
            if record_kernels.headers_in(header_data, header_first, end)[1] != record_kernels.OK:
                return -1
            at = _put_bytes(out, at, header_data, header_first, end)
        if at < 0:
            return -1
    return at
