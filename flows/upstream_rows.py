"""The rows that a projection of another projection is folded from, by the group that each falls into.

A row is three byte strings: its group, its primary key, and the values that are read of it. They are checkpointed: the table *upstream*
of the view holds, at a cut, those rows of the upstream at this cut that count and whose group may still change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.manifest import TableSpec
from flows.entries import as_binary
from flows.groups import GroupTable
from flows.partials import GROUP, decode_prefix, extended
from flows.projection import Projection
from flows.windows import Window
from schemas.compiled import kernel, maker

Ints = npt.NDArray[np.int64]
NONE = -1
SPARE = 1024
"""Numbers of rows that are no more which are not worth a new table."""
_NONE = np.empty(0, np.int64)


def upstream_spec(projection: Projection) -> TableSpec:
    """The table of a projection of a projection; each one of a chain has its own."""
    depth, below = 1, projection.upstream
    while below is not None and below.upstream is not None:
        depth, below = depth + 1, below.upstream
    fields = [GROUP, pa.field("key", pa.binary(), nullable=False), pa.field("row", pa.binary(), nullable=False)]
    return TableSpec("upstream" if depth == 1 else f"upstream_{depth}", pa.schema(fields), ("group", "key"))


class UpstreamRows:
    """Rows have numbers, found by primary key; those of a group are a list, linked both ways so that a row can leave it."""

    def __init__(self, window: Window | None) -> None:
        self._window = window
        self._clear()

    def _clear(self) -> None:
        self.keys, self.groups = GroupTable(), GroupTable()
        self._group, self._next, self._previous = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        self._row = np.empty(0, object)
        self._head, self._ends = np.empty(0, np.int64), np.empty(0, np.int64)
        self._there = 0

    def __len__(self) -> int:
        return self._there

    def put(self, keys: pa.BinaryArray, groups: pa.BinaryArray, rows: pa.BinaryArray) -> Ints:
        """Rows that are not there: their groups."""
        ids, into = self.keys.intern(keys), self._intern(groups)
        self._make_room()
        self._row[ids] = rows.to_numpy(zero_copy_only=False)
        _link(ids, into, self._group, self._head, self._next, self._previous)
        self._there += len(ids)
        return into

    def find(self, keys: pa.BinaryArray) -> Ints:
        """The numbers of the rows with these primary keys, as far as they are there."""
        ids = self.keys.find(keys)
        ids = np.unique(ids[ids >= 0])
        return ids[self._group[ids] >= 0]

    def remove(self, ids: Ints) -> Ints:
        """Rows that are there: their groups."""
        left = self._group[ids]
        _unlink(ids, self._group, self._head, self._next, self._previous)
        self._row[ids] = None
        self._there -= len(ids)
        return left

    def members(self, groups: Ints) -> Ints:
        """The rows of groups, in no order that means anything."""
        return _members(groups, self._head, self._next, self._there)

    def is_empty(self, groups: Ints) -> npt.NDArray[np.bool_]:
        return self._head[groups] < 0

    def rows(self, ids: Ints) -> pa.BinaryArray:
        return as_binary(self._row[ids])

    def group_keys(self, ids: Ints) -> pa.BinaryArray:
        """The groups of rows."""
        return self.groups.keys(self._group[ids])

    def ends(self) -> tuple[Ints, Ints]:
        """The groups that have rows, and where their windows end."""
        there = np.flatnonzero(self._head[: len(self.groups)] >= 0)
        return there, self._ends[there]

    def tidy(self) -> None:
        """Forget rows and groups that are no more, when most are: numbers change."""
        if len(self.keys) <= 2 * self._there + SPARE and len(self.groups) <= 2 * self._there + SPARE:
            return
        ids = np.flatnonzero(self._group[: len(self.keys)] >= 0)
        keys, groups, rows = self.keys.keys(ids), self.group_keys(ids), self.rows(ids)
        self._clear()
        self.put(keys, groups, rows)

    def _intern(self, groups: pa.BinaryArray) -> Ints:
        known = len(self.groups)
        ids = self.groups.intern(groups)
        self._head, self._ends = (_with_room(a, len(self.groups)) for a in (self._head, self._ends))
        if self._window and len(self.groups) > known:
            fresh = np.arange(known, len(self.groups))
            (starts,) = decode_prefix(self.groups.keys(fresh))
            self._ends[fresh] = self._window.ends(starts)
        return ids

    def _make_room(self) -> None:
        count = len(self.keys)
        self._group, self._next, self._previous = (
            _with_room(array, count) for array in (self._group, self._next, self._previous)
        )
        if len(self._row) < len(self._group):
            self._row = extended(self._row, len(self._group))


def _with_room(array: Ints, count: int) -> Ints:
    if len(array) >= count:
        return array
    larger = np.full(max(1024, 2 * count), NONE, np.int64)
    larger[: len(array)] = array
    return larger


@kernel
def _link(ids: Ints, into: Ints, group: Ints, head: Ints, following: Ints, previous: Ints) -> None:
    for i in range(len(ids)):
        row, first = ids[i], head[into[i]]
        group[row], following[row], previous[row] = into[i], first, NONE
        if first >= 0:
            previous[first] = row
        head[into[i]] = row


@kernel
def _unlink(ids: Ints, group: Ints, head: Ints, following: Ints, previous: Ints) -> None:
    for i in range(len(ids)):
        row = ids[i]
        if previous[row] >= 0:
            following[previous[row]] = following[row]
        else:
            head[group[row]] = following[row]
        if following[row] >= 0:
            previous[following[row]] = previous[row]
        group[row] = NONE


@maker
def _members(groups: Ints, head: Ints, following: Ints, most: int) -> Ints:
    found, count = np.empty(most, np.int64), 0
    for i in range(len(groups)):
        row = head[groups[i]]
        while row >= 0:
            found[count] = row
            count += 1
            row = following[row]
    return found[:count]
