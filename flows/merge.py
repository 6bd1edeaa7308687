"""The merge: partials of all partitions to rows of the view, in partition order.

``ViewMerge`` takes deltas, keeps the partials of groups that are not final, and says at a commit which rows, partials,
late events and dead letters have changed. The outcome at a cut depends on that cut alone: partials are absolute, they
merge in (category, partition) order with absent ones skipped, and a row is final iff the watermark of *every* partition
has passed its window's end by the allowed lateness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.changes import Changes
from connectors.manifest import TableSpec
from flows.fold import DEAD_LETTERS, LATE, Delta
from flows.groups import GroupTable
from flows.partials import GROUP, Partials, partial_fields, without
from flows.progress import NO_WATERMARK, Progress
from flows.projection import Projection
from schemas.canonical import decode, encode
from schemas.errors import StoreError
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Place = tuple[str, int]
"""(category, partition)"""


def table_specs(projection: Projection) -> list[TableSpec]:
    """The tables of a view. Partials are checkpointed state and never shown to readers."""
    place = [pa.field("category", pa.string(), nullable=False), pa.field("partition", pa.int32(), nullable=False)]
    partials = pa.schema([GROUP, *place, *partial_fields(projection)])
    return [
        TableSpec("rows", projection.schema, projection.primary_key),
        TableSpec("partials", partials, ("group", "category", "partition")),
        TableSpec("late", LATE, ("category", "partition", "offset", "window_start")),
        TableSpec("dead_letters", DEAD_LETTERS, ("category", "partition", "offset")),
    ]


def split_partials(projection: Projection, table: pa.Table) -> dict[Place, pa.RecordBatch]:
    """The stored partials by place, in the schema that ``Partials.put`` takes."""
    schema = pa.schema([GROUP, *partial_fields(projection)])
    found: dict[Place, pa.RecordBatch] = {}
    places = table.select(["category", "partition"]).group_by(["category", "partition"]).aggregate([])
    for place in places.to_pylist():
        here = pc.and_(pc.equal(table["category"], place["category"]), pc.equal(table["partition"], place["partition"]))
        picked = table.filter(here).select(schema.names).cast(schema).combine_chunks()
        found[(place["category"], place["partition"])] = picked.to_batches()[0]
    return found


class ViewMerge:
    """``progress``: where the view stands, every place it reads, in (category, partition) order."""

    def __init__(self, projection: Projection, progress: Mapping[Place, Progress], partials: pa.Table | None) -> None:
        self.projection = projection
        self.progress = {place: facts.copy() for place, facts in progress.items()}
        self._partials = {place: Partials(projection) for place in self.progress}
        if partials is not None:
            for place, batch in split_partials(projection, partials).items():
                self._partials[place].put(batch)
        self._forget_changes()

    def _forget_changes(self) -> None:
        self._dirty: dict[Place, list[pa.BinaryArray]] = {place: [] for place in self.progress}
        self._late: list[pa.Table] = []
        self._dead: list[pa.Table] = []
        self.moved = False

    def add(self, delta: Delta) -> None:
        place = (delta.category, delta.partition)
        if delta.start != self.progress[place].next_offset:
            msg = f"view {delta.view} stands at {self.progress[place].next_offset:,}, and got changes from {delta.start:,}"
            raise StoreError(
                msg,
                where=f"{delta.category}/{delta.partition}",
                why="another run committed in between",
                do="start the run again",
            )
        self.moved |= delta.progress.next_offset > delta.start
        self.progress[place] = delta.progress
        self._partials[place].put(delta.groups)
        if delta.groups.num_rows:
            self._dirty[place].append(delta.groups.column("group"))
        self._late.append(delta.late)
        self._dead.append(delta.dead_letters)

    def changes(self) -> dict[str, Changes]:
        """What has changed since the last call, for a commit at the present cut. Final groups are forgotten."""
        for (category, partition), facts in self.progress.items():
            facts.check_conservation(f"{self.projection.title}, {category}/{partition}")
        final = self._final_groups()
        dirty = [array for arrays in self._dirty.values() for array in arrays]
        groups = _distinct([*dirty, *final.values()])
        changes = {
            "rows": Changes(self._rows(groups), None),
            "partials": self._partial_changes(final),
            "late": Changes(pa.concat_tables([LATE.empty_table(), *self._late]), None),
            "dead_letters": Changes(pa.concat_tables([DEAD_LETTERS.empty_table(), *self._dead]), None),
        }
        for place, arrays in final.items():
            self._partials[place].drop(self._partials[place].table.find(arrays))
        self._forget_changes()
        return changes

    def final_until_us(self) -> int | None:
        """Windows that end at or before this instant (microseconds) are final; None: no window is."""
        lowest = min(facts.watermark for facts in self.progress.values())
        return None if lowest == NO_WATERMARK else lowest - self.projection.allowed_lateness_us

    def _final_groups(self) -> dict[Place, pa.BinaryArray]:
        window, until = self.projection.window, self.final_until_us()
        if window is None or until is None:
            return {}
        found = {}
        for place, partials in self._partials.items():
            ids = partials.before(until - window.size_us)
            if len(ids):
                found[place] = partials.table.keys(ids)
        return found

    def _rows(self, groups: pa.BinaryArray) -> pa.Table:
        projection = self.projection
        merged: list[dict[str, npt.NDArray[Any]]] | None = None
        for partials in self._partials.values():
            states = partials.rows(partials.table.find(groups))
            if merged is None:
                merged = states
                continue
            for acc, into, other in zip(projection.accumulators, merged, states, strict=True):
                acc.merge(into, other)
        assert merged is not None
        key_types = [*([TIMESTAMP] if projection.window else []), *projection.key_types]
        keys = decode(groups, key_types) if key_types else []
        values = [acc.finish(state) for acc, state in zip(projection.accumulators, merged, strict=True)]
        return pa.Table.from_arrays(self._with_window(keys, values), schema=projection.schema)

    def _with_window(self, keys: list[pa.Array], values: list[pa.Array]) -> list[pa.Array]:
        window = self.projection.window
        if window is None:
            return [*keys, *values]
        starts = np.asarray(keys[0].cast(pa.int64()))
        until = self.final_until_us()
        is_final = np.zeros(len(starts), np.bool_) if until is None else starts + window.size_us <= until
        ends = pa.array(starts + window.size_us).cast(TIMESTAMP)
        return [keys[0], ends, *keys[1:], *values, pa.array(is_final)]

    def _partial_changes(self, final: Mapping[Place, pa.BinaryArray]) -> Changes:
        spec = table_specs(self.projection)[1]
        upserts, deletes = [spec.schema.empty_table()], []
        for (category, partition), partials in self._partials.items():
            gone = final.get((category, partition))
            ids = partials.table.find(_distinct(self._dirty[(category, partition)]))
            if gone is not None:
                ids = without(ids, partials.table.find(gone), len(partials))
                deletes.append(encode([gone, *_place_columns(category, partition, len(gone))]))
            batch = partials.get(ids)
            columns = [batch.column(0), *_place_columns(category, partition, len(ids)), *batch.columns[1:]]
            upserts.append(pa.Table.from_arrays(columns, schema=spec.schema))
        return Changes(pa.concat_tables(upserts), pa.concat_arrays(deletes) if deletes else None)


def _place_columns(category: str, partition: int, n: int) -> list[pa.Array]:
    return [pa.array([category] * n, pa.string()), pa.array([partition] * n, pa.int32())]


def _distinct(groups: list[pa.BinaryArray]) -> pa.BinaryArray:
    table = GroupTable()
    for array in groups:
        table.intern(array)
    return table.keys(np.arange(len(table)))
