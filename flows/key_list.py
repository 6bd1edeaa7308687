"""Canonical keys of groups, one behind the other: an array of bytes, and where each key ends in it.

A list is only ever added to. So a fold can share its list with the view it tells of its groups, in the same process: what the
view looks at does not change while the fold adds keys behind it, and neither the time nor the room for a second copy is needed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.sorting import WORD, heads
from flows.room import with_room
from schemas.canonical import BYTES_MAX
from schemas.compiled import kernel, maker
from schemas.errors import UsageError
from schemas.json_scan import buffers
from schemas.wide import byte, prefetch, word

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

AHEAD = 64
"""Lookups whose memory is called up together."""


class KeyList:
    """``count`` keys; key g is ``arena[ends[g]:ends[g + 1]]``. What lies behind the last one is room."""

    def __init__(self) -> None:
        self.count = 0
        self.ends = np.zeros(513, np.int64)
        self.arena = np.zeros(1 << 14, np.uint8)
        self._origin: object = object()  # the same for a list and all that it was shared as
        self._is_shared = False

    def __len__(self) -> int:
        return self.count

    def shared(self) -> KeyList:
        """These keys, and never more, in the same memory. (Who adds to such a list has a copy from then on.)"""
        other = KeyList.__new__(KeyList)
        other.count, other.ends, other.arena, other._origin, other._is_shared = (
            self.count,
            self.ends,
            self.arena,
            self._origin,
            True,
        )
        return other

    def begins_with(self, other: KeyList) -> bool:
        """Whether the first keys here are those of the other list."""
        n = other.count
        if n > self.count:
            return False
        if self._origin is other._origin:
            return True
        size = other.ends[n]
        return np.array_equal(self.ends[: n + 1], other.ends[: n + 1]) and np.array_equal(
            self.arena[:size], other.arena[:size]
        )

    def make_room(self, keys: int, size: int) -> None:
        """For so many more keys, of so many bytes together."""
        if self._is_shared:
            # The keys alone: what lies behind them may be addresses without memory.
            used = int(self.ends[self.count])
            self.ends, self.arena = self.ends[: self.count + 1].copy(), self.arena[:used].copy()
            self._origin, self._is_shared = object(), False
        self.ends = with_room(self.ends, self.count + keys + 1)
        self.arena = with_room(self.arena, int(self.ends[self.count]) + size)

    def append(self, data: Bytes, offsets: Ints) -> None:
        """More keys: ``data[offsets[i]:offsets[i + 1]]``."""
        used, count = int(self.ends[self.count]), self.count + len(offsets) - 1
        size = int(offsets[-1] - offsets[0])
        self.make_room(len(offsets) - 1, size)
        self.arena[used : used + size] = data[offsets[0] : offsets[-1]]
        self.ends[self.count + 1 : count + 1] = used + offsets[1:] - offsets[0]
        self.count = count

    def have(self, data: Bytes, offsets: Ints, ids: Ints) -> bool:
        """Whether each id is that of its key."""
        return bool(_agree(data, offsets, ids, self.ends, self.arena))

    def keys(self, ids: Ints) -> pa.BinaryArray:
        offsets = _sizes(self.ends, ids)
        np.cumsum(offsets, out=offsets)
        if offsets[-1] > BYTES_MAX:
            msg = f"the keys of {len(ids):,} groups are {offsets[-1]:,} bytes: more than one array can hold"
            raise UsageError(msg, do="use shorter keys, or fewer")
        data = _gathered(self.ends, self.arena, ids, offsets)
        return pa.Array.from_buffers(
            pa.binary(), len(ids), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        )

    def dealt(self, ids: Ints, bounds: pa.BinaryArray) -> list[Ints]:
        """``ids`` by where their keys lie among ``bounds`` (ascending, at least one): before the first, ..., from the last on."""
        data, offsets = buffers(bounds)
        return np.split(*_dealt(self.ends, self.arena, ids, data, offsets, *heads(bounds)))


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
            if ends[ids[i] + 1] - at != size or not is_same(data, start, arena, at, size):
                return False
    return True


@kernel
def is_same(data: Bytes, start: int, arena: Bytes, at: int, size: int) -> bool:
    one, other = data.ctypes.data + start, arena.ctypes.data + at
    if size < WORD:
        for j in range(size):
            if byte(one + j) != byte(other + j):
                return False
        return True
    last = size - WORD
    for j in range(0, last, WORD):
        if word(one + j) != word(other + j):
            return False
    return word(one + last) == word(other + last)
