"""Blobs: the state of aggregations that keep more than a number, as ordered entries in one string of bytes a group.

An entry is a key and a payload, each behind its length (seven bits a byte, the least first, the top bit says that more
follow). Entries stand in the order of their keys as bytes, and of equal keys the earlier one first. So the same entries
are the same bytes, whatever was put together when: that is all there is to being lawful.

``Blobs`` is an array of them, one a group. Nothing here knows what keys and payloads mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.sorting import sorted_order
from schemas.compiled import inlined, kernel, maker
from schemas.errors import DataError
from schemas.hashing import binary_buffers

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Blobs = npt.NDArray[Any]
"""Objects: ``bytes``, or None where there is none."""

BYTES_MAX = 2**31 - 1
ALL = 2**62
"""A limit that limits nothing."""
NO_TIES = -1
"""``ties``: entries beyond the limit stay, too, as long as their keys differ from the last one within it in so many last bytes only."""


def packed(
    groups: Ints,
    count: int,
    keys: pa.BinaryArray,
    payloads: pa.BinaryArray,
    limit: int,
    unique: bool,
    ties: int = NO_TIES,
) -> Blobs:
    """A blob for each of ``count`` groups, of rows in offset order: the first ``limit`` entries by key, and of equal keys all,
    or only the first (``unique``)."""
    order = sorted_order(keys)
    order = order[np.argsort(groups[order], kind="stable")]
    return _blobs(*_pack(groups, order, count, *binary_buffers(keys), *binary_buffers(payloads), limit, unique, ties))


def joined(some: Blobs, later: Blobs, limit: int, unique: bool, ties: int = NO_TIES) -> Blobs:
    """The entries of both, blob by blob; of equal keys those of ``some`` come first, or alone (``unique``)."""
    data, offsets = _join(*_buffers(some), *_buffers(later), limit, unique, ties)
    if len(offsets) == 0:
        msg = "a stored partial is no list of entries"
        raise DataError(msg, do="rebuild the view")
    return _blobs(data, offsets)


def counted(blobs: Blobs) -> Ints:
    """How many entries each blob has."""
    return _count(*_buffers(blobs))[0]


def keys_at(blobs: Blobs, number: int) -> Blobs:
    """The key of this entry of each blob, counted from 1; None where there are fewer."""
    data, offsets = _buffers(blobs)
    starts, ends = _key_at(data, offsets, number)
    found = np.full(len(blobs), None, object)
    there = np.flatnonzero(ends > 0)
    sizes = np.concatenate([[0], np.cumsum((ends - starts)[there])])
    found[there] = _blobs(_gathered(data, starts[there], sizes), sizes)
    return found


def payloads(blobs: Blobs) -> tuple[Ints, pa.BinaryArray]:
    """How many entries each blob has, and the payloads of all of them in order."""
    data, offsets = _buffers(blobs)
    counts, size = _count(data, offsets)
    found, ends = _payloads(data, offsets, int(counts.sum()), size)
    return counts, _binary(found, ends)


def _buffers(blobs: Blobs) -> tuple[Bytes, Ints]:
    return binary_buffers(as_binary(blobs))


def as_binary(blobs: Blobs) -> pa.BinaryArray:
    array = pa.array(blobs, pa.binary(), from_pandas=False)
    if isinstance(array, pa.ChunkedArray):
        msg = f"what is kept for {len(blobs):,} groups is more than 2 GiB"
        raise DataError(
            msg, do="lower the limit of agg.collect or agg.top, or count what is distinct in narrower groups"
        )
    return array


def _blobs(data: Bytes, offsets: Ints) -> Blobs:
    return _binary(data, offsets).to_numpy(zero_copy_only=False)


def _binary(data: Bytes, offsets: Ints) -> pa.BinaryArray:
    if offsets[-1] > BYTES_MAX:
        msg = f"what is kept for {len(offsets) - 1:,} groups is more than 2 GiB"
        raise DataError(
            msg, do="lower the limit of agg.collect or agg.top, or count what is distinct in narrower groups"
        )
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    )


@inlined
def _length_size(length: int) -> int:
    size = 1
    while length >= 128:
        length >>= 7
        size += 1
    return size


@inlined
def _put_length(out: Bytes, at: int, length: int) -> int:
    while length >= 128:
        out[at] = np.uint8((length & 127) | 128)
        length >>= 7
        at += 1
    out[at] = np.uint8(length)
    return at + 1


@kernel
def _take_length(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """A length and what is behind it; (0, end + 1) where there is none."""
    length, shift = 0, 0
    while at < end and shift < 35:
        byte = np.int64(data[at])
        length |= int(byte & 127) << shift
        at += 1
        if byte < 128:
            return length, at
        shift += 7
    return 0, end + 1


@kernel
def _entry(data: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """Where the key, the payload and the next entry begin; the last is -1 where the bytes are no entry."""
    key_size, at = _take_length(data, at, end)
    size, at = _take_length(data, at, end)
    if at > end or at + key_size + size > end:
        return 0, 0, -1
    return at, at + key_size, at + key_size + size


@kernel
def _order(a: Bytes, a_start: int, a_end: int, b: Bytes, b_start: int, b_end: int) -> int:
    size = min(a_end - a_start, b_end - b_start)
    for k in range(size):
        x, y = a[a_start + k], b[b_start + k]
        if x != y:
            return -1 if x < y else 1
    return (a_end - a_start > b_end - b_start) - (a_end - a_start < b_end - b_start)


@kernel
def _ties(a: Bytes, a_start: int, a_end: int, b: Bytes, b_start: int, b_end: int, ties: int) -> bool:
    return _order(a, a_start, a_end - ties, b, b_start, b_end - ties) == 0


@kernel
def _copy(data: Bytes, start: int, end: int, out: Bytes, at: int) -> int:
    for k in range(end - start):
        out[at + k] = data[start + k]
    return at + end - start


@maker
def _pack(
    groups: Ints,
    order: Ints,
    count: int,
    keys: Bytes,
    key_at: Ints,
    data: Bytes,
    at: Ints,
    limit: int,
    unique: bool,
    ties: int,
) -> tuple[Bytes, Ints]:
    """``order``: of the rows, by group and key."""
    size = np.int64(0)
    for row in range(len(groups)):
        key, payload = key_at[row + 1] - key_at[row], at[row + 1] - at[row]
        size += _length_size(key) + _length_size(payload) + key + payload
    out, offsets, end = np.empty(size, np.uint8), np.zeros(count + 1, np.int64), 0
    taken, before, last = 0, -1, -1
    for row in order:
        group = groups[row]
        if group != before:
            for g in range(before + 1, group + 1):
                offsets[g] = end
            taken, before, last = 0, group, -1
        again = (
            last >= 0
            and unique
            and _order(keys, key_at[last], key_at[last + 1], keys, key_at[row], key_at[row + 1]) == 0
        )
        is_in = taken < limit or (
            ties >= 0 and _ties(keys, key_at[last], key_at[last + 1], keys, key_at[row], key_at[row + 1], ties)
        )
        if is_in and not again:
            end = _put_length(out, end, key_at[row + 1] - key_at[row])
            end = _put_length(out, end, at[row + 1] - at[row])
            end = _copy(keys, key_at[row], key_at[row + 1], out, end)
            end = _copy(data, at[row], at[row + 1], out, end)
            taken, last = taken + 1, row
    for g in range(before + 1, count + 1):
        offsets[g] = end
    return out[:end], offsets


@maker
def _join(a: Bytes, a_at: Ints, b: Bytes, b_at: Ints, limit: int, unique: bool, ties: int) -> tuple[Bytes, Ints]:
    """No offsets at all where the bytes are no entries."""
    n = len(a_at) - 1
    out, offsets, end = np.empty(a_at[n] - a_at[0] + b_at[n] - b_at[0], np.uint8), np.zeros(n + 1, np.int64), 0
    for i in range(n):
        p, p_end, q, q_end, taken = a_at[i], a_at[i + 1], b_at[i], b_at[i + 1], 0
        p_key = p_payload = p_next = q_key = q_payload = q_next = np.int64(0)
        if p < p_end:
            p_key, p_payload, p_next = _entry(a, p, p_end)
        if q < q_end:
            q_key, q_payload, q_next = _entry(b, q, q_end)
        last, last_end = np.int64(0), np.int64(0)  # the key that was put last
        while (p < p_end or q < q_end) and (taken < limit or ties >= 0):
            if p_next < 0 or q_next < 0:
                return out[:0], offsets[:0]
            order = 1 if p == p_end else -1
            if p < p_end and q < q_end:
                order = _order(a, p_key, p_payload, b, q_key, q_payload)
            if taken >= limit:
                if order <= 0 and not _ties(out, last, last_end, a, p_key, p_payload, ties):
                    break
                if order > 0 and not _ties(out, last, last_end, b, q_key, q_payload, ties):
                    break
            last, last_end = (p_key - p, p_payload - p) if order <= 0 else (q_key - q, q_payload - q)
            last, last_end = end + last, end + last_end
            if order <= 0:
                end = _copy(a, p, p_next, out, end)
                p = p_next
                if p < p_end:
                    p_key, p_payload, p_next = _entry(a, p, p_end)
            else:
                end = _copy(b, q, q_next, out, end)
            if order > 0 or (order == 0 and unique):
                q = q_next
                if q < q_end:
                    q_key, q_payload, q_next = _entry(b, q, q_end)
            taken += 1
        offsets[i + 1] = end
    return out[:end], offsets


@maker
def _count(data: Bytes, offsets: Ints) -> tuple[Ints, int]:
    """Entries of each blob, and the bytes of all payloads together. What is no entry ends its blob."""
    counts, size = np.zeros(len(offsets) - 1, np.int64), 0
    for i in range(len(counts)):
        at = offsets[i]
        while 0 <= at < offsets[i + 1]:
            _, payload, at = _entry(data, at, offsets[i + 1])
            if at >= 0:
                size += at - payload
                counts[i] += 1
    return counts, size


@maker
def _key_at(data: Bytes, offsets: Ints, number: int) -> tuple[Ints, Ints]:
    """Where the key of this entry of each blob begins and ends; 0, 0 where there are fewer."""
    starts, ends = np.zeros(len(offsets) - 1, np.int64), np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(starts)):
        at, left = offsets[i], number
        while 0 <= at < offsets[i + 1] and left > 0:
            key, payload, at = _entry(data, at, offsets[i + 1])
            left -= 1
            if left == 0 and at >= 0:
                starts[i], ends[i] = key, payload
    return starts, ends


@maker
def _gathered(data: Bytes, starts: Ints, offsets: Ints) -> Bytes:
    out = np.empty(offsets[-1], np.uint8)
    for i in range(len(starts)):
        _copy(data, starts[i], starts[i] + offsets[i + 1] - offsets[i], out, offsets[i])
    return out


@maker
def _payloads(data: Bytes, offsets: Ints, count: int, size: int) -> tuple[Bytes, Ints]:
    out, ends, entry, end = np.empty(size, np.uint8), np.zeros(count + 1, np.int64), 0, 0
    for i in range(len(offsets) - 1):
        at = offsets[i]
        while 0 <= at < offsets[i + 1]:
            _, payload, at = _entry(data, at, offsets[i + 1])
            if at >= 0:
                end = _copy(data, payload, at, out, end)
                entry += 1
                ends[entry] = end
    return out, ends
