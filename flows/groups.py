"""A hash table from canonical keys (byte strings) to dense group ids: 0, 1, 2, ... in order of first appearance.

Group ids are private to one table: they never order anything that leaves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import kernel, maker
from schemas.hashing import hash_binary
from schemas.json_scan import buffers
from schemas.wide import prefetch

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int32]


AHEAD = 64
"""Lookups whose memory is called up together."""


class GroupTable:
    """Open addressing with linear probing; keys lie one behind the other in an arena."""

    def __init__(self) -> None:
        self._count = 0
        self._slots = np.full(1024, -1, np.int32)
        self._hashes = np.zeros(512, np.uint64)
        self._ends = np.zeros(513, np.int64)  # key g is arena[ends[g]:ends[g + 1]]
        self._arena = np.zeros(1 << 14, np.uint8)

    def __len__(self) -> int:
        return self._count

    def intern(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key; keys not seen before get the next ids."""
        data, offsets = buffers(keys)
        hashes = hash_binary(keys)
        ids = np.empty(len(keys), np.int64)
        at = 0
        while True:
            at, self._count = _intern(
                data, offsets, hashes, at, ids, self._slots, self._hashes, self._ends, self._arena, self._count
            )
            if at == len(keys):
                return ids
            self._grow(int(offsets[at + 1] - offsets[at]))

    def find(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key, -1 where it is not there."""
        data, offsets = buffers(keys)
        return _find(data, offsets, hash_binary(keys), self._slots, self._hashes, self._ends, self._arena)

    def keys(self, ids: Ints) -> pa.BinaryArray:
        everything = pa.Array.from_buffers(
            pa.large_binary(),
            self._count,
            [None, pa.py_buffer(self._ends[: self._count + 1]), pa.py_buffer(self._arena)],
        )
        return everything.take(pa.array(ids)).cast(pa.binary())

    def keep(self, ids: Ints) -> GroupTable:
        """A new table of these keys alone; key ``ids[i]`` gets id ``i``."""
        table = GroupTable()
        table.intern(self.keys(ids))
        return table

    def _grow(self, key_bytes: int) -> None:
        if 2 * (self._count + 1) > len(self._slots):
            self._slots = _rehash(self._hashes, self._count, 2 * len(self._slots))
            self._hashes = _resized(self._hashes, len(self._slots) // 2)
            self._ends = _resized(self._ends, len(self._slots) // 2 + 1)
        used = int(self._ends[self._count])
        if used + key_bytes > len(self._arena):
            self._arena = _resized(self._arena, 2 * (used + key_bytes))


def _resized(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    larger = np.zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger


@kernel
def _same(data: Bytes, start: int, arena: Bytes, at: int, size: int) -> bool:
    for j in range(size):
        if data[start + j] != arena[at + j]:
            return False
    return True


@kernel
def _intern(
    data: Bytes, offsets: Ints, hashes: Hashes, at: int, ids: Ints,
    slots: Slots, known: Hashes, ends: Ints, arena: Bytes, count: int,
) -> tuple[int, int]:  # fmt: skip
    """Works until a key does not fit; returns how far it came, and the number of groups."""
    mask = len(slots) - 1
    for first in range(at, len(ids), AHEAD):
        last = min(first + AHEAD, len(ids))
        _call_up(hashes, first, last, slots, known, ends, arena)
        for i in range(first, last):
            start, size = offsets[i], offsets[i + 1] - offsets[i]
            j = np.int64(hashes[i] & np.uint64(mask))
            while True:
                g = slots[j]
                if g < 0:
                    if 2 * (count + 1) > len(slots) or ends[count] + size > len(arena):
                        return i, count
                    for k in range(size):
                        arena[ends[count] + k] = data[start + k]
                    ends[count + 1] = ends[count] + size
                    known[count] = hashes[i]
                    slots[j] = count
                    ids[i] = count
                    count += 1
                    break
                if known[g] == hashes[i] and ends[g + 1] - ends[g] == size and _same(data, start, arena, ends[g], size):
                    ids[i] = g
                    break
                j = (j + 1) & mask
    return len(ids), count


@maker
def _find(data: Bytes, offsets: Ints, hashes: Hashes, slots: Slots, known: Hashes, ends: Ints, arena: Bytes) -> Ints:
    mask = len(slots) - 1
    ids = np.full(len(hashes), -1, np.int64)
    for first in range(0, len(hashes), AHEAD):
        last = min(first + AHEAD, len(hashes))
        _call_up(hashes, first, last, slots, known, ends, arena)
        for i in range(first, last):
            start, size = offsets[i], offsets[i + 1] - offsets[i]
            j = np.int64(hashes[i] & np.uint64(mask))
            while slots[j] >= 0:
                g = slots[j]
                if known[g] == hashes[i] and ends[g + 1] - ends[g] == size and _same(data, start, arena, ends[g], size):
                    ids[i] = g
                    break
                j = (j + 1) & mask
    return ids


@kernel
def _call_up(hashes: Hashes, first: int, last: int, slots: Slots, known: Hashes, ends: Ints, arena: Bytes) -> None:
    """Load what the lookups of these rows will want, all at once: a large table lies in no cache, and each would wait thrice."""
    mask = np.uint64(len(slots) - 1)
    for i in range(first, last):
        prefetch(slots, np.int64(hashes[i] & mask))
    for i in range(first, last):
        g = slots[np.int64(hashes[i] & mask)]
        if g >= 0:
            prefetch(known, g)
            prefetch(ends, g)
    for i in range(first, last):
        g = slots[np.int64(hashes[i] & mask)]
        if g >= 0 and known[g] == hashes[i]:
            prefetch(arena, ends[g])


@maker
def _rehash(hashes: Hashes, count: int, size: int) -> Slots:
    slots = np.full(size, -1, np.int32)
    mask = size - 1
    for first in range(0, count, AHEAD):
        last = min(first + AHEAD, count)
        for g in range(first, last):
            prefetch(slots, np.int64(hashes[g] & np.uint64(mask)))
        for g in range(first, last):
            j = np.int64(hashes[g] & np.uint64(mask))
            while slots[j] >= 0:
                j = (j + 1) & mask
            slots[j] = g
    return slots
