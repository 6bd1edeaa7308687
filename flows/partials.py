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
from flows.groups import GroupTable
from flows.projection import Projection
from schemas.canonical import decode
from schemas.errors import StoreError
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

GROUP = pa.field("group", pa.binary(), nullable=False)
"""Canonical encoding of (window start, key columns): orders as the view's primary key does."""


def partial_fields(projection: Projection) -> list[pa.Field]:
    """Arrow fields of a partial, beside the group: ``<column>.<field>`` for each field of each accumulator."""
    return [
        pa.field(f"{acc.name}.{field}", ARROW[np.dtype(kind)])
        for acc in projection.accumulators
        for field, kind in acc.fields.items()
    ]


class Partials:
    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.schema = pa.schema([GROUP, *partial_fields(projection)])
        self._clear()

    def _clear(self) -> None:
        self.table = GroupTable()
        self._room = 0
        self.window_start = np.empty(0, np.int64)  # empty where there are no windows
        self.states: list[State] = [
            {field: np.empty(0, kind) for field, kind in acc.fields.items()} for acc in self.projection.accumulators
        ]

    def __len__(self) -> int:
        return len(self.table)

    def intern(self, groups: pa.BinaryArray) -> Ints:
        """Ids of groups, made where they are new; arrays have room for all of them afterwards."""
        known = len(self.table)
        ids = self.table.intern(groups)
        self._make_room(known)
        return ids

    def _make_room(self, known: int) -> None:
        """For the groups that are new since so many were known."""
        if len(self.table) > self._room:
            self._extend(max(1024, 2 * len(self.table)))
        if self.projection.window and len(self.table) > known:
            fresh = np.arange(known, len(self.table))
            (starts,) = decode_prefix(self.table.keys(fresh))
            self.window_start[fresh] = starts

    def _extend(self, larger: int) -> None:
        self._room = larger
        if self.projection.window:
            self.window_start = _extended(self.window_start, larger)
        self.states = [{field: _extended(a, larger) for field, a in state.items()} for state in self.states]

    def put(self, batch: pa.RecordBatch, ids: Ints | None = None) -> Ints:
        """Take over whole partials (schema ``self.schema``), replacing what was there; returns their ids.

        ``ids``: those that the groups have where they come from, if groups have the same ids there as here.
        """
        ids = self.intern(batch.column("group")) if ids is None else self._follow(batch.column("group"), ids)
        at = 1
        for state in self.states:
            for array in state.values():
                array[ids] = batch.column(at).to_numpy(zero_copy_only=False)
                at += 1
        return ids

    def _follow(self, groups: pa.BinaryArray, ids: Ints) -> Ints:
        known = len(self.table)
        if not self.table.follow(groups, ids):
            msg = f"projection {self.projection.title}: groups whose numbers are not those of their partition's fold"
            raise StoreError(msg, do="start the run again: it goes on from the last commit")
        self._make_room(known)
        return ids

    def get(self, ids: Ints) -> pa.RecordBatch:
        """Partials of groups, schema ``self.schema``."""
        columns = [self.table.keys(ids)]
        for state in self.states:
            columns += [pa.array(array[ids], ARROW[array.dtype], from_pandas=False) for array in state.values()]
        return pa.record_batch(columns, schema=self.schema)

    def rows(self, ids: Ints) -> list[State]:
        """Copies of the states of groups."""
        return [{field: array[ids] for field, array in state.items()} for state in self.states]

    def before(self, window_start: int) -> Ints:
        """Ids of the groups whose window (if there are any) starts at or before ``window_start``."""
        return np.flatnonzero(self.window_start[: len(self.table)] <= window_start)

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
        self.window_start = self.window_start[keep]
        self.states = [{field: array[keep] for field, array in state.items()} for state in self.states]


def decode_prefix(groups: pa.BinaryArray) -> list[Ints]:
    """The window starts of canonical group keys."""
    from pyarrow import compute as pc

    (starts,) = decode(pc.binary_slice(groups, 0, 9), [TIMESTAMP])
    return [np.asarray(starts.cast(pa.int64()))]


def zeros(size: int, kind: Any) -> npt.NDArray[Any]:
    """A field of partials that are absent."""
    return np.full(size, None, object) if kind is object else np.zeros(size, kind)


def _extended(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    larger = zeros(size, object if array.dtype == object else array.dtype)
    larger[: len(array)] = array
    return larger


def without(ids: Ints, others: Ints, count: int) -> Ints:
    """The ``ids`` (of ``count`` that there are) that are not among ``others``, in their order."""
    wanted = np.ones(count, np.bool_)
    wanted[others] = False
    return ids[wanted[ids]]
