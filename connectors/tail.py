"""The tail of a partition: the newest records, as checksummed frames one after the other.

A frame holds the records of one append. It is a header and a payload (an Arrow IPC record batch of schema
``RECORDS``, without its schema)::

    magic 4 bytes | payload length u32 | offsets u32 | first offset i64 | CRC32C u32 | payload

little-endian, the checksum over everything between magic and checksum, then the payload. A frame of magic ``rfT1`` has
a record at every offset. One of ``rfT2``, in an archive, may have fewer, and its payload begins with::

    leader epoch i32 | records u32 | whether offsets without a record were removed by compaction u8 | 7 zeros

Promises: ``walk`` yields whole, undamaged frames in order without a gap, and stops before anything else. A frame is
written only after the one before it is safely on disk, so a crash can leave at most one frame unfinished, and only as
the last one: everything else that is wrong is damage. Pure functions over bytes: knows no files, no locks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
from crc32c import crc32c

from connectors.coverage import Run
from connectors.log import RECORDS

MAGIC, ARCHIVED = b"rfT1", b"rfT2"
_FAMILY = MAGIC[:3]
_HEADER = struct.Struct("<4sIIqI")
_CHECKED = struct.Struct("<IIq")
_KNOWN = struct.Struct("<iIB7x")  # as long as keeps Arrow's buffers aligned
OFFSETS_MAX = 2**32 - 1
"""A frame covers at most so many offsets."""
_BLOCK_BYTES = 512
"""Storage writes at least this much at once: a block of a torn frame is there, or it is zeros."""


class Frame(NamedTuple):
    """Records of ``[first_offset, next_offset)``, held by bytes ``[start, end)`` of the tail; ``record_count`` of them."""

    start: int
    end: int
    first_offset: int
    next_offset: int
    payload: memoryview
    record_count: int
    run: Run

    def records(self) -> pa.RecordBatch:
        """The records (schema ``RECORDS``), without copying them."""
        return pa.ipc.read_record_batch(pa.py_buffer(self.payload), RECORDS)


def encode_frame(first_offset: int, records: pa.RecordBatch, run: Run | None = None) -> bytes:
    """The bytes of a frame with a record at every offset, or of an archive's, which reaches to the end of ``run``."""
    payload = records.serialize()
    if run is None:
        return _encoded(MAGIC, first_offset, len(records), payload)
    known = _KNOWN.pack(run.leader_epoch, len(records), run.removed)
    return _encoded(ARCHIVED, first_offset, run.next_offset - first_offset, known + payload.to_pybytes())


def _encoded(magic: bytes, first_offset: int, offsets: int, payload: pa.Buffer | bytes) -> bytes:
    checked = _CHECKED.pack(len(payload), offsets, first_offset)
    checksum = crc32c(payload, crc32c(checked))
    return b"".join((magic, checked, checksum.to_bytes(4, "little"), payload))


def walk(tail: memoryview, next_offset: int, start: int = 0) -> Iterator[Frame]:
    """Frames from byte ``start`` on, the first one beginning with ``next_offset``."""
    while (frame := _frame_at(tail, start)) and frame.first_offset == next_offset:
        yield frame
        start, next_offset = frame.end, frame.next_offset


def _frame_at(tail: memoryview, start: int) -> Frame | None:
    """The frame at ``start`` if it is all there and its checksum is right."""
    if start + _HEADER.size > len(tail):
        return None
    magic, length, offsets, first, checksum = _HEADER.unpack_from(tail, start)
    end = start + _HEADER.size + length
    payload = tail[start + _HEADER.size : end]
    if magic not in (MAGIC, ARCHIVED) or len(payload) < length:
        return None
    if crc32c(payload, crc32c(_CHECKED.pack(length, offsets, first))) != checksum:
        return None
    if magic == MAGIC:
        return Frame(start, end, first, first + offsets, payload, offsets, Run(first + offsets))
    if length < _KNOWN.size:
        return None
    epoch, count, removed = _KNOWN.unpack_from(payload)
    run = Run(first + offsets, epoch, bool(removed))
    return Frame(start, end, first, first + offsets, payload[_KNOWN.size :], count, run)


def is_followed(tail: memoryview, start: int, next_offset: int) -> bool:
    """Whether an undamaged frame with records from beyond ``next_offset`` comes after byte ``start``."""
    content = bytes(tail[start:])
    at = content.find(_FAMILY, 1)
    while at >= 0:
        frame = _frame_at(memoryview(content), at)
        if frame and frame.first_offset > next_offset:
            return True
        at = content.find(_FAMILY, at + 1)
    return False


def is_torn(tail: memoryview, start: int, next_offset: int) -> bool:
    """Whether what is at ``start`` can be the frame that a crash left unfinished, rather than a damaged one.

    It is if it goes on beyond the end of the tail, or if a whole block of it was never written; and nothing may
    come after it.
    """
    if is_followed(tail, start, next_offset):
        return False
    return _is_cut_short(tail, start) or _has_unwritten_block(tail, start)


def _is_cut_short(tail: memoryview, start: int) -> bool:
    if start + _HEADER.size > len(tail):
        return True
    magic, length, _, _, _ = _HEADER.unpack_from(tail, start)
    return bool(magic in (MAGIC, ARCHIVED) and start + _HEADER.size + length > len(tail))


def _has_unwritten_block(tail: memoryview, start: int) -> bool:
    edges = [start, *range(start - start % _BLOCK_BYTES + _BLOCK_BYTES, len(tail), _BLOCK_BYTES), len(tail)]
    return any(not any(tail[first:end]) for first, end in pairwise(edges))
