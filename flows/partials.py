"""Partial results of the groups of one projection in one partition: a group table and the accumulators' arrays.

The same class serves the fold (which changes groups row by row) and the merge (which takes over whole partials). A
group's canonical key begins with its window start, so that windows can be dropped without decoding keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import ARROW, State
from flows.entries import as_binary
from flows.groups import GroupTable
from flows.projection import Projection
from flows.room import room_for
from flows.told import GroupsHere, GroupsSent, Told
from flows.windows import Session
from schemas.canonical import decode
from schemas.compiled import maker
from schemas.errors import StoreError
from schemas.event import TIMESTAMP
from schemas.hashing import binary_buffers

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

GROUP = pa.field("group", pa.binary(), nullable=False)
"""Canonical encoding of (window start, key columns): orders as the view's primary key does."""


WINDOW_END = pa.field("window_end", TIMESTAMP, nullable=False)
"""Stored where it does not follow from the start: of sessions."""
WINDOW_BYTES = 9
"""Of a group, the encoding of its window's start."""
ITEM_BYTES = 8
"""Of a field of a partial."""
NO_GROUPS = pa.array([], pa.binary())
NO_FIELDS = pa.record_batch([], schema=pa.schema([]))


def partial_fields(projection: Projection) -> list[pa.Field]:
    """Arrow fields of a partial, beside the group: ``<column>.<field>`` for each field of each accumulator; first of all the
    window's end, where that is stored."""
    return [WINDOW_END] * isinstance(projection.window, Session) + [
        pa.field(f"{acc.name}.{field}", pa.binary() if kind is bytes else ARROW[np.dtype(kind)])
        for acc in projection.accumulators
        for field, kind in acc.fields.items()
    ]


def no_states(projection: Projection) -> list[State]:
    """The arrays of each accumulator, of no group."""
    return [
        {field: np.empty(0, object if kind is bytes else kind) for field, kind in acc.fields.items()}
        for acc in projection.accumulators
    ]


class Partials:
    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.schema = pa.schema([GROUP, *partial_fields(projection)])
        self._clear()

    def _clear(self) -> None:
        self.table = GroupTable()
        self._room = 0
        self.window_start, self.window_end = (
            np.empty(0, np.int64),
            np.empty(0, np.int64),
        )  # empty where there are no windows
        self.states = no_states(self.projection)

    def __len__(self) -> int:
        return len(self.table)

    def intern(self, groups: pa.BinaryArray, starts: Ints | None = None) -> Ints:
        """Ids of groups, made where they are new; arrays have room for all of them afterwards. ``starts``: of their windows, where they
        are at hand."""
        known = len(self.table)
        ids = self.table.intern(groups)
        if starts is None:
            self._make_room(known)
        else:
            is_new = ids >= known
            self._extend_to(len(self.table))
            self._set_bounds(ids[is_new], starts[is_new])
        return ids

    def _make_room(self, known: int) -> None:
        """For the groups that are new since so many were known."""
        self._extend_to(len(self.table))
        if self.projection.window and len(self.table) > known:
            fresh = np.arange(known, len(self.table))
            self._set_bounds(fresh, *decode_prefix(self.table.keys(fresh)))

    def _set_bounds(self, ids: Ints, starts: Ints) -> None:
        assert self.projection.window is not None
        self.window_start[ids], self.window_end[ids] = starts, self.projection.window.ends(starts)

    def _extend_to(self, count: int) -> None:
        if count > self._room:
            self._extend(max(1024, self._room_for(count)))

    def _room_for(self, count: int) -> int:
        has_objects = any(array.dtype == object for state in self.states for array in state.values())
        return 2 * count if has_objects else room_for(count, ITEM_BYTES)  # each place of those is written to: None

    def _extend(self, larger: int) -> None:
        self._room = larger
        if self.projection.window:
            self.window_start, self.window_end = (extended(a, larger) for a in (self.window_start, self.window_end))
        self.states = [{field: extended(a, larger) for field, a in state.items()} for state in self.states]

    def put(self, batch: pa.RecordBatch, told: GroupsHere | GroupsSent | None = None) -> Ints:
        """Take over whole partials (schema ``self.schema``), replacing what was there; returns their ids.

        ``told``: which groups they are of, if groups have the same ids where they come from as here; ``batch`` has no keys then, and
        nothing at all where ``told`` has all partials.
        """
        if told is None:
            groups = batch.column(0)
            return self._put(self.intern(groups, *(decode_prefix(groups) if self.projection.window else ())), batch, 1)
        known = self._follow(told)
        if isinstance(told, GroupsHere) and told.all is not None:
            self._room, self.states = told.all._room, told.all.states
            return told.ids
        self._make_room(known)
        return self._put(told.ids, batch, 0)

    def _put(self, ids: Ints, batch: pa.RecordBatch, at: int) -> Ints:
        """The fields of partials, which begin with column ``at``."""
        if WINDOW_END.name in batch.schema.names:
            self.window_end[ids] = np.asarray(batch.column(at).cast(pa.int64()))
            at += 1
        for state in self.states:
            for array in state.values():
                array[ids] = batch.column(at).to_numpy(zero_copy_only=False)
                at += 1
        return ids

    def load(self, batch: pa.RecordBatch) -> None:
        """Take over stored partials, of groups that are all new and none twice: they get their ids in this order, and are only looked
        up by who comes to look for one."""
        groups = GroupsSent(np.arange(len(batch)), batch.column(0))
        self._make_room(self._follow(groups))
        self._put(groups.ids, batch, 1)

    def _follow(self, told: GroupsHere | GroupsSent) -> int:
        """Take over groups; returns how many were known before."""
        known = len(self.table)
        if not told.are_taken_over_by(self.table):
            msg = f"projection {self.projection.title}: groups whose numbers are not those of their partition's fold"
            raise StoreError(msg, do="start the run again: it goes on from the last commit")
        return known

    def get(self, ids: Ints) -> pa.RecordBatch:
        """Partials of groups, schema ``self.schema``."""
        return pa.record_batch([self.table.keys(ids), *self._fields(ids)], schema=self.schema)

    def _fields(self, ids: Ints) -> list[pa.Array]:
        """What a partial has beside its group."""
        columns: list[pa.Array] = []
        if WINDOW_END.name in self.schema.names:
            columns.append(pa.array(self.window_end[ids]).cast(TIMESTAMP))
        for array in (array for state in self.states for array in state.values()):
            columns.append(arrow_of(array[ids], self.schema.field(len(columns) + 1).type))
        return columns

    def told(self, ids: Ints) -> Told:
        """What a view is told of the groups (ascending) that changed: their partials, which groups are no more (none: bounds are known
        ahead), and which they are of where ids stay, as no group is forgotten; the partials have no keys then."""
        if not self._ids_stay:
            return self.get(ids), NO_GROUPS, None
        fields = pa.schema(list(self.schema)[1:])
        return pa.record_batch(self._fields(ids), schema=fields), NO_GROUPS, GroupsHere(ids, self.table.shared())

    def handed_over(self, ids: Ints) -> Told:
        """The same, when nothing is folded any more and the view is in this process: it has these partials themselves from now on."""
        if not self._ids_stay:
            return self.told(ids)
        return NO_FIELDS, NO_GROUPS, GroupsHere(ids, self.table.shared(), self)

    @property
    def _ids_stay(self) -> bool:
        """Whether a view gives groups the same ids: none is ever forgotten, and it is told of all."""
        return not (self.projection.window or self.projection.fold)

    def rows(self, ids: Ints) -> list[State]:
        """Copies of the states of groups."""
        return [{field: array[ids] for field, array in state.items()} for state in self.states]

    def ended(self, until: int) -> Ints:
        """Ids of the groups whose window ends at or before ``until``."""
        return np.flatnonzero(self.window_end[: len(self.table)] <= until)

    def drop(self, ids: Ints) -> None:
        """Forget groups. Ids change."""
        if not len(ids):
            return
        if len(ids) == len(self.table):
            self._clear()
            return
        keep = without(np.arange(len(self.table)), ids, len(self.table))
        self.table = self.table.keep(keep)
        self._room = len(keep)
        if self.projection.window:
            self.window_start, self.window_end = self.window_start[keep], self.window_end[keep]
        self.states = [{field: array[keep] for field, array in state.items()} for state in self.states]


def arrow_of(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A field of partials, as it is stored."""
    return as_binary(values) if kind == pa.binary() else pa.array(values, kind, from_pandas=False)


def decode_prefix(groups: pa.BinaryArray) -> list[Ints]:
    """The window starts of canonical group keys."""
    from pyarrow import compute as pc

    (starts,) = decode(pc.binary_slice(groups, 0, WINDOW_BYTES), [TIMESTAMP])
    return [np.asarray(starts.cast(pa.int64()))]


def key_part(groups: pa.BinaryArray) -> pa.BinaryArray:
    """The canonical keys of groups without the window's start."""
    ends, data = _behind(*binary_buffers(groups), WINDOW_BYTES)
    return pa.Array.from_buffers(pa.binary(), len(groups), [None, pa.py_buffer(ends), pa.py_buffer(data)])


@maker
def _behind(
    data: npt.NDArray[np.uint8], offsets: Ints, skipped: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Arrow's own slicing fails where no end is given and lengths differ."""
    n = len(offsets) - 1
    ends, found = np.zeros(n + 1, np.int32), np.empty(offsets[n] - offsets[0] - n * skipped, np.uint8)
    at = 0
    for i in range(n):
        for j in range(offsets[i] + skipped, offsets[i + 1]):
            found[at] = data[j]
            at += 1
        ends[i + 1] = at
    return ends, found


def zeros(size: int, kind: Any) -> npt.NDArray[Any]:
    """A field of partials that are absent."""
    return np.full(size, None, object) if kind in (object, bytes) or kind == np.dtype(object) else np.zeros(size, kind)


def extended(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    larger = zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger


def without(ids: Ints, others: Ints, count: int) -> Ints:
    """The ``ids`` (of ``count`` that there are) that are not among ``others``, in their order."""
    wanted = np.ones(count, np.bool_)
    wanted[others] = False
    return ids[wanted[ids]]
