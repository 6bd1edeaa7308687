"""A hash table from canonical keys (byte strings) to dense group ids: 0, 1, 2, ... in order of first appearance.

Group ids are private to one table: they never order anything that leaves it.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.key_list import AHEAD, KeyList, is_same
from schemas.compiled import inlined, kernel, maker
from schemas.hashing import hash_binary, hash_values
from schemas.json_scan import buffers
from schemas.wide import copy, prefetch

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint64]
"""Each the low half of a key's hash, and in its own low half the key's id and one; 0: free."""

HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
ONE = np.uint64(1)
FULL = 4
"""Of so many slots all but one are taken at most."""


class GroupTable:
    """Open addressing with linear probing; the keys are a list beside it.

    A slot has half the hash, so that neither who looks for a key nor who makes the table larger asks for hashes elsewhere: in a
    large table each look elsewhere waits for memory.
    """

    def __init__(self) -> None:
        self._list = KeyList()
        self._slots: Slots = np.zeros(1024, np.uint64)
        self._indexed = 0  # groups that have a slot
        self._indexing = threading.Lock()

    def __len__(self) -> int:
        return len(self._list)

    def intern(self, keys: pa.BinaryArray) -> Ints:
        """The id of every key; keys not seen before get the next ids."""
        self._index()
        known, (data, offsets) = self._list, buffers(keys)
        hashes, ids = hash_binary(keys), np.empty(len(keys), np.int64)
        known.make_room(len(keys), int(offsets[-1] - offsets[0]))
        at = 0
        while True:
            at, known.count = _intern(data, offsets, hashes, at, ids, self._slots, known.ends, known.arena, known.count)
            self._indexed = known.count
            if at == len(keys):
                return ids
            self._make_slots(known.count + 1)

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
        return _find(data, offsets, hash_binary(keys), self._slots, self._list.ends, self._list.arena)

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
            self._make_slots(count)
            hashes = hash_values(known.arena, known.ends[self._indexed : count + 1])
            _add(hashes, self._indexed, self._slots)
            self._indexed = count

    def _make_slots(self, count: int) -> None:
        """So many that there are enough for ``count`` keys."""
        size = len(self._slots)
        while count > _most.py_func(size):
            size *= 2
        if size > len(self._slots):
            # Made here and not by a kernel: of so large an array NumPy asks the system to have large pages.
            larger = np.zeros(size, np.uint64)
            _move(self._slots, larger)
            self._slots = larger


@inlined
def _most(slots: int) -> int:
    """How many of them may be taken."""
    return slots - slots // FULL


@kernel
def _intern(
    data: Bytes, offsets: Ints, hashes: Hashes, at: int, ids: Ints, slots: Slots, ends: Ints, arena: Bytes, count: int
) -> tuple[int, int]:  # fmt: skip
    """Works until enough slots are taken; returns how far it came, and the number of groups. For all else there is room."""
    mask, most = np.uint64(len(slots) - 1), _most(len(slots))
    for first in range(at, len(ids), AHEAD):
        last = min(first + AHEAD, len(ids))
        _call_up(hashes, first, last, slots, ends, arena)
        for i in range(first, last):
            start, size = offsets[i], offsets[i + 1] - offsets[i]
            half = hashes[i] & LOW
            j = half & mask
            while True:
                slot = slots[j]
                if slot == 0:
                    if count >= most:
                        return i, count
                    copy(arena.ctypes.data + ends[count], data.ctypes.data + start, size)
                    ends[count + 1] = ends[count] + size
                    ids[i] = count
                    count += 1
                    slots[j] = (half << HALF) | np.uint64(count)
                    break
                if slot >> HALF == half:
                    group = np.int64(slot & LOW) - 1
                    if _is_key(data, start, size, ends, arena, group):
                        ids[i] = group
                        break
                j = (j + ONE) & mask
    return len(ids), count


@maker
def _find(data: Bytes, offsets: Ints, hashes: Hashes, slots: Slots, ends: Ints, arena: Bytes) -> Ints:
    mask = np.uint64(len(slots) - 1)
    ids = np.full(len(hashes), -1, np.int64)
    for first in range(0, len(hashes), AHEAD):
        last = min(first + AHEAD, len(hashes))
        _call_up(hashes, first, last, slots, ends, arena)
        for i in range(first, last):
            half = hashes[i] & LOW
            j = half & mask
            while slots[j] != 0:
                if slots[j] >> HALF == half:
                    group = np.int64(slots[j] & LOW) - 1
                    if _is_key(data, offsets[i], offsets[i + 1] - offsets[i], ends, arena, group):
                        ids[i] = group
                        break
                j = (j + ONE) & mask
    return ids


@kernel
def _is_key(data: Bytes, start: int, size: int, ends: Ints, arena: Bytes, group: int) -> bool:
    at = ends[group]
    return ends[group + 1] - at == size and is_same(data, start, arena, at, size)


@kernel
def _call_up(hashes: Hashes, first: int, last: int, slots: Slots, ends: Ints, arena: Bytes) -> None:
    """Load what the lookups of these rows will want, all at once: a large table lies in no cache, and each would wait thrice."""
    mask = np.uint64(len(slots) - 1)
    for i in range(first, last):
        prefetch(slots, np.int64(hashes[i] & LOW & mask))
    for i in range(first, last):
        slot = slots[hashes[i] & LOW & mask]
        if slot >> HALF == hashes[i] & LOW:
            prefetch(ends, np.int64(slot & LOW) - 1)
    for i in range(first, last):
        slot = slots[hashes[i] & LOW & mask]
        if slot != 0 and slot >> HALF == hashes[i] & LOW:
            prefetch(arena, ends[np.int64(slot & LOW) - 1])


@kernel
def _add(hashes: Hashes, first: int, slots: Slots) -> None:
    """Slots for the groups from ``first`` on, of which no key is there yet."""
    mask = np.uint64(len(slots) - 1)
    for start in range(0, len(hashes), AHEAD):
        end = min(start + AHEAD, len(hashes))
        for i in range(start, end):
            prefetch(slots, np.int64(hashes[i] & LOW & mask))
        for i in range(start, end):
            half = hashes[i] & LOW
            _take_slot(slots, half & mask, (half << HALF) | np.uint64(first + i + 1))


@kernel
def _move(slots: Slots, larger: Slots) -> None:
    """All that is in the slots to others, which are free: one after the other, and so nearly in order there, too."""
    mask = np.uint64(len(larger) - 1)
    for j in range(len(slots)):
        if slots[j] != 0:
            _take_slot(larger, (slots[j] >> HALF) & mask, slots[j])


@inlined
def _take_slot(slots: Slots, j: np.uint64, content: np.uint64) -> None:
    mask = np.uint64(len(slots) - 1)
    while slots[j] != 0:
        j = (j + ONE) & mask
    slots[j] = content
