"""Kafka record batches (format v2) as they are on the wire, to Arrow.

``split`` finds the batches in fetched bytes, ``read_header`` checks and reads what stands before the records, a
``Decoder`` turns the records of many batches into one ``RECORDS`` batch.

Promises: a batch is decoded whole and exactly, or there is a ``LogError`` that names it; no bytes, however wrong, are
read beyond their end or give a record that is not there. Must not know: brokers, transactions, what is in a value.

Source: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crc32c import crc32c

from connectors import record_kernels as kernels
from connectors.codecs import Workspace
from connectors.log import RECORDS
from connectors.pages import Pages
from schemas.errors import LogError

HEADER = struct.Struct(">qiibIhiqqqhii")
FRAME = struct.Struct(">qi")  # base offset, bytes that follow
_MAGIC_AT = 16
CHECKED_AT = 21  # the checksum covers all from the attributes on
_OFFSET_MAX = np.iinfo(np.int64).max - 1  # so that the next offset exists

CODEC_BITS, LOG_APPEND_TIME_BIT, TRANSACTIONAL_BIT, CONTROL_BIT = 0x07, 0x08, 0x10, 0x20


class Header(NamedTuple):
    """What stands before the records of a batch, in wire order. Timestamps are milliseconds since the epoch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    checksum: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_BITS

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME_BIT)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL_BIT)

    @property
    def is_control_batch(self) -> bool:
        return bool(self.attributes & CONTROL_BIT)


def split(fetched: memoryview) -> Iterator[memoryview]:
    """The whole batches in ``fetched``; a last one that is cut off (brokers do that) is left out.

    Raises ``LogError`` when a length cannot be true.
    """
    at = 0
    while len(fetched) - at > _MAGIC_AT:
        base_offset, length = FRAME.unpack_from(fetched, at)
        if length <= _MAGIC_AT - FRAME.size:
            raise _damaged(base_offset, "its length is too small for a batch")
        end = at + FRAME.size + length
        if end > len(fetched):
            return
        yield fetched[at:end]
        at = end


def magic_of(batch: memoryview) -> int:
    """Format of a batch from ``split``: 2, or 0 and 1 for those of old."""
    return batch[_MAGIC_AT]


def read_header(batch: memoryview) -> Header:
    """The header of one whole batch, its checksum compared. Raises ``LogError`` when it cannot be true."""
    if len(batch) < HEADER.size:
        raise LogError("a record batch is damaged: it is shorter than its header")
    header = Header(*HEADER.unpack_from(batch))
    if header.magic != 2:
        raise _damaged(header.base_offset, f"its format is {header.magic}, not 2")
    if header.length != len(batch) - FRAME.size:
        raise _damaged(header.base_offset, "its length is not that of its bytes")
    if crc32c(batch[CHECKED_AT:]) != header.checksum:
        raise _damaged(header.base_offset, "its checksum does not match")
    if header.base_offset < 0 or header.last_offset_delta < 0 or header.last_offset > _OFFSET_MAX:
        raise _damaged(header.base_offset, "its offsets are out of range")
    if not 0 <= header.record_count <= header.last_offset_delta + 1:
        raise _damaged(header.base_offset, "it claims more records than offsets")
    return header


SPARE_BYTES = 64
"""Behind the bytes of a column, so that whoever scans them may load several at once without copying them first."""


class Decoder:
    """Collects batches (``add``), then gives all their records as one Arrow batch (``take``). For one thread."""

    def __init__(self) -> None:
        self._workspace, self._pages = Workspace(), Pages()
        self._batches: list[tuple[int, int, Header]] = []

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of the records collected so far."""
        return self._workspace.used

    def add(self, batch: memoryview, header: Header) -> None:
        """Unpack the records of ``batch``. Raises ``LogError`` when its compressed data are damaged."""
        try:
            first, end = self._workspace.unpack(batch[HEADER.size :], header.codec)
        except ValueError as error:
            raise _damaged(header.base_offset, str(error)) from error
        if header.record_count * kernels.RECORD_BYTES_MIN > end - first:
            self._workspace.used = first
            raise _damaged(header.base_offset, "it is too small for the records it claims")
        self._batches.append((first, end, header))

    def take(self) -> pa.RecordBatch:
        """Records of the batches added since the last ``take``, schema ``RECORDS``, in order. Raises ``LogError``."""
        try:
            return self._decoded()
        finally:
            self._batches.clear()
            self._workspace.clear()

    def _decoded(self) -> pa.RecordBatch:
        rows = sum(header.record_count for _, _, header in self._batches)
        data = self._workspace.data[: self._workspace.used]
        offsets, timestamps = np.empty(rows, np.int64), np.empty(rows, np.int64)
        spans = np.empty((kernels.SPAN_ROWS, rows), np.int32)
        code, number = kernels.walk(data, self._table(), offsets, timestamps, spans)
        if code != kernels.OK:
            raise _damaged(self._batches[number][2].base_offset, kernels.DAMAGE[code])
        columns = [
            pa.array(offsets),
            pa.array(timestamps),
            pa.array(self._timestamp_types(rows)),
            _binary(data, spans[kernels.KEY_AT], spans[kernels.KEY_SIZE], self._pages),
            _binary(data, spans[kernels.VALUE_AT], spans[kernels.VALUE_SIZE], self._pages),
            _binary(data, spans[kernels.HEADERS_AT], spans[kernels.HEADERS_SIZE], self._pages),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=RECORDS)

    def _table(self) -> npt.NDArray[np.int64]:
        table = np.empty((len(self._batches), kernels.BATCH_COLUMNS), np.int64)
        for number, (first, end, header) in enumerate(self._batches):
            offsets = (header.base_offset, header.last_offset_delta)
            moments = (header.base_timestamp, header.is_log_append_time, header.max_timestamp)
            table[number] = (first, end, *offsets, *moments, header.record_count)
        return table

    def _timestamp_types(self, rows: int) -> npt.NDArray[np.int8]:
        if not any(header.is_log_append_time for _, _, header in self._batches):
            return np.zeros(rows, np.int8)
        kinds = [header.is_log_append_time for _, _, header in self._batches]
        return np.repeat(np.array(kinds, np.int8), [header.record_count for _, _, header in self._batches])


def decode(batch: memoryview | bytes) -> pa.RecordBatch:
    """The records of one whole batch, schema ``RECORDS``. Raises ``LogError``."""
    view = memoryview(batch)
    decoder = Decoder()
    decoder.add(view, read_header(view))
    return decoder.take()


def from_rows(rows: Sequence[tuple[int, int, int, bytes | None, bytes | None]]) -> pa.RecordBatch:
    """``RECORDS`` without headers from at least one (offset, timestamp, timestamp type, key, value), in that order."""
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), RECORDS, strict=False)]
    return pa.RecordBatch.from_arrays([*columns, pa.nulls(len(rows), pa.binary())], schema=RECORDS)


def _binary(
    data: npt.NDArray[np.uint8], begins: npt.NDArray[np.int32], sizes: npt.NDArray[np.int32], pages: Pages
) -> pa.Array:
    """One binary column gathered from ``data``; size -1 is a null."""
    if not sizes.size or sizes.max() < 0:
        return pa.nulls(sizes.size, pa.binary())
    ends, nulls = kernels.ends_of(sizes)
    out = pages.take(int(ends[-1]) + SPARE_BYTES)
    fits = kernels.gather(data, begins, ends, out)
    assert fits, "walk checked every length"
    validity = pa.py_buffer(np.packbits(sizes >= 0, bitorder="little")) if nulls else None
    return pa.Array.from_buffers(pa.binary(), sizes.size, [validity, pa.py_buffer(ends), pa.py_buffer(out)], nulls)


def _damaged(base_offset: int, why: str) -> LogError:
    return LogError(f"a record batch is damaged: {why}", where=f"batch at offset {base_offset:,}")
