"""A digest of the log itself: a sum (mod 2**64) of one hash per record.

A sum composes over slices, segments and batches whatever their boundaries, so it can be kept while folding and
computed again from an archive. The hash covers offset, timestamp, timestamp type, key, value and headers, and tells a
null from an empty value. It finds accidents and rewritten history; it is no defence against somebody who forges.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import inlined, maker
from schemas.hashing import hash_binary

Hashes = npt.NDArray[np.uint64]


def record_hashes(records: pa.RecordBatch) -> Hashes:
    """One 64-bit hash per record. ``records``: schema ``RECORDS``."""
    columns = [records.column(name) for name in ("key", "value", "headers")]
    parts = [_hashes(column, seed) for seed, column in enumerate(columns, 1)]
    flags = np.asarray(records.column("timestamp_type")).astype(np.uint64)
    for place, column in enumerate(columns):
        flags |= _nulls(column) << np.uint64(8 + place)
    return _combine(np.asarray(records.column("offset")), np.asarray(records.column("timestamp")), flags, *parts)


def _hashes(column: pa.BinaryArray, seed: int) -> Hashes:
    if column.null_count < len(column):
        return hash_binary(column, seed)
    return np.full(len(column), hash_binary(pa.array([b""]), seed)[0])  # most records have no headers


def _nulls(column: pa.BinaryArray) -> Hashes | np.uint64:
    """1 where there is a null; one number for all where they are alike."""
    if column.null_count in (0, len(column)):
        return np.uint64(column.null_count > 0)
    return np.asarray(column.is_null()).astype(np.uint64)


def digest(batches: Iterable[pa.RecordBatch]) -> int:
    """The digest of some records, in any portions (schema ``RECORDS``)."""
    return sum(int(record_hashes(batch).sum()) for batch in batches) % 2**64


@maker
def _combine(
    offsets: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    flags: Hashes,
    keys: Hashes,
    values: Hashes,
    headers: Hashes,
) -> Hashes:
    out = np.empty(len(offsets), np.uint64)
    for i in range(len(offsets)):
        h = _mix(np.uint64(offsets[i]))
        h = _mix(h ^ np.uint64(times[i]))
        h = _mix(h ^ flags[i])
        h = _mix(h ^ keys[i])
        h = _mix(h ^ values[i])
        out[i] = _mix(h ^ headers[i])
    return out


@inlined
def _mix(h: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    h += np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))
