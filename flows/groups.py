"""A hash table from canonical keys (byte strings) to dense group ids: 0, 1, 2, ... in order of first appearance.

Group ids are private to one table: they never order anything that leaves it.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.key_list import AHEAD, KeyList, is_same
from flows.room import with_room
from schemas.compiled import kernel, maker
from schemas.hashing import hash_binary, hash_values
from schemas.json_scan import buffers
from schemas.wide import prefetch

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int32]


class GroupTable:
    """Open addressing with linear probing; the keys are a list beside it."""

    def __init__(self) -> None:
        self._list = KeyList()
        self._slots = _no_groups(1024)
        self._hashes = np.zeros(512, np.uint64)
        self._indexed = 0  # groups whose hashes and slots are there
        self._indexing = threading.Lock()

    def __len__(self) -> int:
        return len(self._list)

    def intern(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key; keys not seen before get the next ids."""
        self._index()
        known, (data, offsets) = self._list, buffers(keys)
        hashes, ids = hash_binary(keys), np.empty(len(keys), np.int64)
        known.make_room(len(keys), int(offsets[-1] - offsets[0]))
        self._hashes = with_room(self._hashes, len(known) + len(keys))
        at = 0
        while True:
            at, known.count = _intern(
                data, offsets, hashes, at, ids, self._slots, self._hashes, known.ends, known.arena, known.count
            )
            self._indexed = known.count
            if at == len(keys):
                return ids
            self._slots = _rehashed(self._hashes, known.count, 2 * len(self._slots))

    def follow(self, keys: pa.BinaryArray, ids: Ints) -> bool:
        """Take over keys with the (ascending) ids that another table gave them, without looking one up.

        False, and nothing done, where that cannot be: a known id has another key here, or a new one is not the next.
        """
        (data, offsets), count = buffers(keys), len(self._list)
        known = int(np.searchsorted(ids, count))
        if not self._list.have(data, offsets, ids[:known]) or (np.diff(ids[known:], prepend=count - 1) != 1).any():
            return False
        self._list.append(data, offsets[known:])
        return True

    def share(self, keys: KeyList) -> bool:
        """Take over the whole list of another table, in which ids are what they are here. False, and nothing done, where they are not."""
        if not keys.begins_with(self._list):
            return False
        self._list = keys
        return True

    def shared(self) -> KeyList:
        """The keys of today, for another table to ``share``."""
        return self._list.shared()

    def find(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key, -1 where it is not there."""
        self._index()
        data, offsets = buffers(keys)
        return _find(data, offsets, hash_binary(keys), self._slots, self._hashes, self._list.ends, self._list.arena)

    def keys(self, ids: Ints) -> pa.BinaryArray:
        return self._list.keys(ids)

    def dealt(self, ids: Ints, bounds: pa.BinaryArray) -> list[Ints]:
        """See ``KeyList.dealt``."""
        return self._list.dealt(ids, bounds)

    def keep(self, ids: Ints) -> GroupTable:
        """A new table of these keys alone; key ``ids[i]`` gets id ``i``."""
        table = GroupTable()
        table.intern(self.keys(ids))
        return table

    def _index(self) -> None:
        """Make up for keys that nobody has looked for so far."""
        with self._indexing:
            known, count = self._list, len(self._list)
            if self._indexed == count:
                return
            size = len(self._slots)
            while 2 * (count + 1) > size:
                size *= 2
            self._hashes = with_room(self._hashes, count)
            self._hashes[self._indexed : count] = hash_values(known.arena, known.ends[self._indexed : count + 1])
            self._slots = _rehashed(self._hashes, count, size)
            self._indexed = count


def _no_groups(size: int) -> Slots:
    """Slots, all free. (Made here and not by a kernel: of so large an array NumPy asks the system to have large pages.)"""
    return np.full(size, -1, np.int32)


def _rehashed(hashes: Hashes, count: int, size: int) -> Slots:
    slots = _no_groups(size)
    _put_all(hashes, count, slots)
    return slots


@kernel
def _intern(
    data: Bytes, offsets: Ints, hashes: Hashes, at: int, ids: Ints,
    slots: Slots, known: Hashes, ends: Ints, arena: Bytes, count: int,
) -> tuple[int, int]:  # fmt: skip
    """Works until half the slots are taken; returns how far it came, and the number of groups. For all else there is room."""
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
                    if 2 * (count + 1) > len(slots):
                        return i, count
                    for k in range(size):
                        arena[ends[count] + k] = data[start + k]
                    ends[count + 1] = ends[count] + size
                    known[count] = hashes[i]
                    slots[j] = count
                    ids[i] = count
                    count += 1
                    break
                if (
                    known[g] == hashes[i]
                    and ends[g + 1] - ends[g] == size
                    and is_same(data, start, arena, ends[g], size)
                ):
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
                if (
                    known[g] == hashes[i]
                    and ends[g + 1] - ends[g] == size
                    and is_same(data, start, arena, ends[g], size)
                ):
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


@kernel
def _put_all(hashes: Hashes, count: int, slots: Slots) -> None:
    """So many groups into slots that are free."""
    mask = len(slots) - 1
    for first in range(0, count, AHEAD):
        last = min(first + AHEAD, count)
        for g in range(first, last):
            prefetch(slots, np.int64(hashes[g] & np.uint64(mask)))
        for g in range(first, last):
            j = np.int64(hashes[g] & np.uint64(mask))
            while slots[j] >= 0:
                j = (j + 1) & mask
            slots[j] = g
