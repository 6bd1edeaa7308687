"""The compiled loops that read the records inside Kafka record batches (format v2, uncompressed bytes).

``walk`` finds where everything is and checks every length; ``gather`` copies the bytes of one column together.

Promises: no byte outside ``data`` is ever read, whatever the bytes say; a length that lies gives a code from
``DAMAGE``, never a record. Must not know: checksums, compression, Arrow, brokers.

Source: https://kafka.apache.org/documentation/#record (varints are zig-zag, as in Protocol Buffers).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.compiled import inlined, kernel, maker
from schemas.wide import copy

BATCH_COLUMNS = 8
START, END, BASE_OFFSET, LAST_DELTA, BASE_TIMESTAMP, BY_LOG, LOG_TIMESTAMP, COUNT = range(BATCH_COLUMNS)
"""Columns of ``walk``'s batch table (int64): first and last+1 byte of the records in ``data``, the header's fields,
whether the log set the timestamps (1) or producers did (0), and the one timestamp of all records if the log did."""

_INT64_MIN, _INT64_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max

SPAN_ROWS = 6
KEY_AT, KEY_SIZE, VALUE_AT, VALUE_SIZE, HEADERS_AT, HEADERS_SIZE = range(SPAN_ROWS)
"""Rows of ``walk``'s spans (int32): where each part begins in ``data`` and its bytes (size -1: null)."""

RECORD_BYTES_MIN = 7
"""Length, attributes, timestamp, offset, key length, value length, header count: a byte each."""

OK, BAD_RANGE, CUT_SHORT, BAD_LENGTH, BAD_OFFSET, BAD_TIMESTAMP, BAD_HEADERS, LEFT_OVER = range(8)
DAMAGE = {
    BAD_RANGE: "its records lie outside the batch",
    CUT_SHORT: "a number in a record is cut short or too long",
    BAD_LENGTH: "a length in a record points beyond the record",
    BAD_OFFSET: "the offsets of its records are out of order or out of range",
    BAD_TIMESTAMP: "the timestamp of a record overflows",
    BAD_HEADERS: "the headers of a record do not end where the record ends",
    LEFT_OVER: "bytes are left over after its last record",
}


@inlined
def varint(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int]:
    """The zig-zag number at ``at`` and the position after it; position -1 when it does not fit 64 bits or ``end``."""
    if 0 <= at < min(end, data.size):
        first = data[np.uint64(at)]  # an unsigned index: a signed one may count from the end, which is asked each time
        if first < 0x80:  # nearly all of them
            return np.int64(first >> 1) ^ -np.int64(first & 1), at + 1
    return _long_varint(data, at, end)


@kernel
def _long_varint(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int]:
    bits = np.uint64(0)
    for index in range(10):
        if not 0 <= at < min(end, data.size):
            break
        byte = np.uint64(data[at])
        at += 1
        if index == 9 and byte > np.uint64(1):
            break
        bits |= (byte & np.uint64(0x7F)) << np.uint64(7 * index)
        if byte < np.uint64(0x80):
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
    return np.int64(0), -1


@inlined
def _part(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[int, np.int64, int]:
    """A length and that many bytes: (where they begin, their count or -1 for null, position after them or -code)."""
    size, at = varint(data, at, end)
    if at < 0:
        return 0, np.int64(-1), -CUT_SHORT
    if size < 0:
        return 0, np.int64(-1), at
    if size > end - at:
        return 0, np.int64(-1), -BAD_LENGTH
    return at, size, at + size


@kernel
def headers_in(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int]:
    """Number of headers and ``OK``, or a code."""
    count, at = varint(data, at, end)
    if at < 0:
        return np.int64(0), CUT_SHORT
    if count < 0 or count > end - at:
        return np.int64(0), BAD_HEADERS
    for _ in range(count):
        _, size, at = _part(data, at, end)
        if at < 0:
            return np.int64(0), -at
        if size < 0:
            return np.int64(0), BAD_HEADERS
        _, _, at = _part(data, at, end)
        if at < 0:
            return np.int64(0), -at
    return count, OK if at == end else BAD_HEADERS


@inlined
def _record(
    data: npt.NDArray[np.uint8], at: int, end: int, spans: npt.NDArray[np.int32], row: int
) -> tuple[np.int64, np.int64, int]:
    """One record: (timestamp delta, offset delta, position after it or -code); fills ``spans[:, row]``."""
    none = np.int64(0)
    size, at = varint(data, at, end)
    if at < 0:
        return none, none, -CUT_SHORT
    if size < 1 or size > end - at:
        return none, none, -BAD_LENGTH
    end = at + size
    timestamp, at = varint(data, at + 1, end)  # + 1: a byte of attributes, all unused
    if at < 0:
        return none, none, -CUT_SHORT
    offset, at = varint(data, at, end)
    if at < 0:
        return none, none, -CUT_SHORT
    for part in range(2):
        begin, size, at = _part(data, at, end)
        if at < 0:
            return none, none, at
        spans[2 * part, row], spans[2 * part + 1, row] = begin, size
    headers, code = headers_in(data, at, end)
    if code != OK:
        return none, none, -code
    spans[HEADERS_AT, row] = at
    spans[HEADERS_SIZE, row] = end - at if headers else -1
    return timestamp, offset, end


@kernel
def _batch(
    data: npt.NDArray[np.uint8],
    batch: npt.NDArray[np.int64],
    row: int,
    offsets: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.int64],
    spans: npt.NDArray[np.int32],
) -> int:
    """Walk one batch into the rows from ``row``: ``OK`` or a code."""
    at, end, base = batch[START], batch[END], batch[BASE_TIMESTAMP]
    if not 0 <= at <= end <= data.size or batch[COUNT] > offsets.size - row:
        return BAD_RANGE
    last = np.int64(-1)
    for index in range(row, row + batch[COUNT]):
        delta, offset, at = _record(data, at, end, spans, index)
        if at < 0:
            return -at
        if offset <= last or offset > batch[LAST_DELTA]:
            return BAD_OFFSET
        # Asked before adding: the compiler takes it that a sum of int64 never overflows, and drops a check made after.
        if base > _INT64_MAX - max(delta, 0) or base < _INT64_MIN - min(delta, 0):
            return BAD_TIMESTAMP
        offsets[index] = batch[BASE_OFFSET] + offset
        timestamps[index] = batch[LOG_TIMESTAMP] if batch[BY_LOG] else base + delta
        last = offset
    return OK if at == end else LEFT_OVER


@kernel
def walk(
    data: npt.NDArray[np.uint8],
    batches: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.int64],
    spans: npt.NDArray[np.int32],
) -> tuple[int, int]:
    """Find all records of ``batches`` (n x ``BATCH_COLUMNS``) in ``data``, one row of the outputs a record.

    Returns (``OK`` or a code of ``DAMAGE``, number of the batch that has it).
    """
    row = 0
    for number in range(batches.shape[0]):
        code = _batch(data, batches[number], row, offsets, timestamps, spans)
        if code != OK:
            return code, number
        row += batches[number, COUNT]
    return OK, 0


@maker
def ends_of(sizes: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], int]:
    """Arrow offsets (int32, one more than ``sizes``) of parts laid end to end, and how many are null (size -1)."""
    ends = np.zeros(sizes.size + 1, np.int32)
    nulls = 0
    for row in range(sizes.size):
        nulls += sizes[row] < 0
        ends[row + 1] = ends[row] + max(sizes[row], 0)
    return ends, nulls


@kernel
def gather(
    data: npt.NDArray[np.uint8],
    begins: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int32],
    out: npt.NDArray[np.uint8],
) -> bool:
    """Copy the parts that begin at ``begins`` in ``data`` to their places in ``out``; False when one does not fit."""
    for row in range(min(begins.size, ends.size - 1)):
        begin, first, end = begins[row], ends[row], ends[row + 1]
        size = end - first
        if size > 0:
            if not (0 <= begin <= data.size - size and 0 <= first <= out.size - size):
                return False
            copy(out.ctypes.data + first, data.ctypes.data + begin, size)
    return True
