"""A hash table from canonical keys (byte strings) to dense group ids: 0, 1, 2, ... in order of first appearance.

Group ids are private to one table: they never order anything that leaves it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.sorting import WORD, heads
from schemas.canonical import BYTES_MAX
from schemas.compiled import kernel, maker
from schemas.errors import UsageError
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
        self._indexed = 0  # groups whose hashes and slots are there
        self._indexing = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def intern(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key; keys not seen before get the next ids."""
        self._index()
        data, offsets = buffers(keys)
        hashes = hash_binary(keys)
        ids = np.empty(len(keys), np.int64)
        at = 0
        while True:
            at, self._count = _intern(
                data, offsets, hashes, at, ids, self._slots, self._hashes, self._ends, self._arena, self._count
            )
            self._indexed = self._count
            if at == len(keys):
                return ids
            self._grow(int(offsets[at + 1] - offsets[at]))

    def follow(self, keys: pa.BinaryArray, ids: Ints) -> bool:
        """Take over keys with the (ascending) ids that another table gave them, without looking one up.

        False, and nothing done, where that cannot be: a known id has another key here, or a new one is not the next.
        """
        data, offsets = buffers(keys)
        known, used = int(np.searchsorted(ids, self._count)), int(self._ends[self._count])
        if (
            not _agree(data, offsets, ids[:known], self._ends, self._arena)
            or (np.diff(ids[known:], prepend=self._count - 1) != 1).any()
        ):
            return False
        count, size = self._count + len(ids) - known, used + int(offsets[-1] - offsets[known])
        if count >= len(self._ends):
            self._ends = _resized(self._ends, 2 * count)
        if size > len(self._arena):
            self._arena = _resized(self._arena, 2 * size)
        self._arena[used:size] = data[offsets[known] : offsets[-1]]
        self._ends[self._count + 1 : count + 1] = used + offsets[known + 1 :] - offsets[known]
        self._count = count
        return True

    def find(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key, -1 where it is not there."""
        self._index()
        data, offsets = buffers(keys)
        return _find(data, offsets, hash_binary(keys), self._slots, self._hashes, self._ends, self._arena)

    def keys(self, ids: Ints) -> pa.BinaryArray:
        offsets = _sizes(self._ends, ids)
        np.cumsum(offsets, out=offsets)
        if offsets[-1] > BYTES_MAX:
            msg = f"the keys of {len(ids):,} groups are {offsets[-1]:,} bytes: more than one array can hold"
            raise UsageError(msg, do="use shorter keys, or fewer")
        data = _gathered(self._ends, self._arena, ids, offsets)
        return pa.Array.from_buffers(
            pa.binary(), len(ids), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        )

    def dealt(self, ids: Ints, bounds: pa.BinaryArray) -> list[Ints]:
        """``ids`` by where their keys lie among ``bounds`` (ascending, at least one): before the first, ..., from the last on."""
        data, offsets = buffers(bounds)
        return np.split(*_dealt(self._ends, self._arena, ids, data, offsets, *heads(bounds)))

    def keep(self, ids: Ints) -> GroupTable:
        """A new table of these keys alone; key ``ids[i]`` gets id ``i``."""
        table = GroupTable()
        table.intern(self.keys(ids))
        return table

    def _grow(self, key_bytes: int) -> None:
        if 2 * (self._count + 1) > len(self._slots):
            self._resize(2 * len(self._slots))
        used = int(self._ends[self._count])
        if used + key_bytes > len(self._arena):
            self._arena = _resized(self._arena, 2 * (used + key_bytes))

    def _index(self) -> None:
        """Make up for keys that nobody has looked for so far."""
        with self._indexing:
            if self._indexed == self._count:
                return
            size = len(self._slots)
            while 2 * (self._count + 1) > size:
                size *= 2
            hashes = hash_binary(self.keys(np.arange(self._indexed, self._count)))
            self._hashes = _resized(self._hashes, max(size // 2, len(self._hashes)))
            self._hashes[self._indexed : self._count] = hashes
            self._resize(size)
            self._indexed = self._count

    def _resize(self, slots: int) -> None:
        self._slots = _rehash(self._hashes, self._count, slots)
        self._hashes = _resized(self._hashes, max(slots // 2, len(self._hashes)))
        self._ends = _resized(self._ends, max(slots // 2 + 1, len(self._ends)))


def _resized(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    if size == len(array):
        return array
    larger = np.zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger


@maker
def _sizes(ends: Ints, ids: Ints) -> Ints:
    """The size of each key, behind a zero."""
    sizes = np.zeros(len(ids) + 1, np.int64)
    for i in range(len(ids)):
        sizes[i + 1] = ends[ids[i] + 1] - ends[ids[i]]
    return sizes


@maker
def _gathered(ends: Ints, arena: Bytes, ids: Ints, offsets: Ints) -> Bytes:
    data = np.empty(offsets[-1], np.uint8)
    for first in range(0, len(ids), AHEAD):
        last = min(first + AHEAD, len(ids))
        for i in range(first, last):
            prefetch(arena, ends[ids[i]])
        for i in range(first, last):
            at = ends[ids[i]]
            for j in range(offsets[i], offsets[i + 1]):
                data[j] = arena[at]
                at += 1
    return data


@maker
def _dealt(
    ends: Ints, arena: Bytes, ids: Ints, bounds: Bytes, offsets: Ints, at: int, words: Hashes
) -> tuple[Ints, Ints]:
    """The ids, those of one block together and otherwise in their order; where each block but the first begins."""
    blocks, starts = np.empty(len(ids), np.int32), np.zeros(len(offsets) + 1, np.int64)
    for i in range(len(ids)):
        start, end = ends[ids[i]], ends[ids[i] + 1]
        block = _block_by_words(arena, start, end, bounds[offsets[0] : offsets[0] + at], words)
        blocks[i] = block if block >= 0 else _block(arena, start, end, bounds, offsets)
        starts[blocks[i] + 1] += 1
    starts = np.cumsum(starts)
    dealt, to = np.empty(len(ids), np.int64), starts.copy()
    for i in range(len(ids)):
        dealt[to[blocks[i]]] = ids[i]
        to[blocks[i]] += 1
    return dealt, starts[1:-1]


@kernel
def _block_by_words(arena: Bytes, start: int, end: int, prefix: Bytes, words: Hashes) -> int:
    """The same as ``_block`` where the 8 bytes behind the prefix of all bounds tell, and -1 where they do not."""
    first = np.uint64(start)
    if end - start < len(prefix) + WORD:
        return -1
    for j in range(len(prefix)):
        if arena[first + np.uint64(j)] != prefix[j]:
            return -1
    first += np.uint64(len(prefix))
    word = np.uint64(0)
    for j in range(WORD):
        word = (word << np.uint64(8)) | np.uint64(arena[first + np.uint64(j)])
    low, size = 0, len(words)
    while size > 0:
        half = size // 2
        if words[low + half] < word:
            low, size = low + half + 1, size - half - 1
        else:
            size = half
    return low if low == len(words) or words[low] != word else -1


@kernel
def _block(arena: Bytes, start: int, end: int, bounds: Bytes, offsets: Ints) -> int:
    """How many bounds are not beyond a key."""
    low, high = 0, len(offsets) - 1
    while low < high:
        middle = (low + high) // 2
        first, last = offsets[middle], offsets[middle + 1]
        j = 0
        while start + j < end and first + j < last and arena[start + j] == bounds[first + j]:
            j += 1
        beyond = first + j < last and (start + j == end or arena[start + j] < bounds[first + j])
        if beyond:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def _agree(data: Bytes, offsets: Ints, ids: Ints, ends: Ints, arena: Bytes) -> bool:
    """Whether each id is that of its key."""
    for first in range(0, len(ids), AHEAD):
        last = min(first + AHEAD, len(ids))
        for i in range(first, last):
            prefetch(arena, ends[ids[i]])
        for i in range(first, last):
            start, at, size = offsets[i], ends[ids[i]], offsets[i + 1] - offsets[i]
            if ends[ids[i] + 1] - at != size or not _same(data, start, arena, at, size):
                return False
    return True


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
