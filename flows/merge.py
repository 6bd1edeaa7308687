"""The merge: partials of all partitions to rows of the view, in partition order.

``ViewMerge`` takes deltas, keeps the partials of groups that are not final, and says at a commit which rows, partials,
late events and dead letters have changed. The outcome at a cut depends on that cut alone: partials are absolute, they
merge in (category, partition) order with absent ones skipped, and a row is final iff the watermark of *every* partition
has passed its window's end by the allowed lateness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.changes import Changes
from connectors.manifest import TableSpec
from flows.accumulators import State
from flows.finishing import PRESENT, row_changes
from flows.fold import DEAD_LETTERS, LATE, Delta
from flows.one_partition import check_one_partition
from flows.partials import GROUP, Partials, partial_fields
from flows.progress import NO_WATERMARK, Progress
from flows.projection import Projection
from flows.touched import Touched
from flows.waiting import pending_spec
from schemas.canonical import decode, encode
from schemas.errors import StoreError
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BLOCK_GROUPS = 1 << 17
"""Groups whose rows are made together: few enough that what is needed in between stays small."""
MAKERS = 2
"""Threads that make rows beside each other, where there are many."""
FEW = 64
"""One in so many groups is few: quicker to sort than to tick off among all."""
_NONE = np.empty(0, np.int64)
Place = tuple[str, int]
"""(category, partition)"""


def table_specs(projection: Projection) -> list[TableSpec]:
    """The tables of a view. Partials are checkpointed state and never shown to readers."""
    place = [pa.field("category", pa.string(), nullable=False), pa.field("partition", pa.int32(), nullable=False)]
    partials = pa.schema([GROUP, *place, *partial_fields(projection)])
    specs = [
        TableSpec("rows", projection.schema, projection.primary_key),
        TableSpec("partials", partials, ("group", "category", "partition")),
        TableSpec("late", LATE, ("category", "partition", "offset", "window_start")),
        TableSpec("dead_letters", DEAD_LETTERS, ("category", "partition", "offset")),
    ]
    return specs + [pending_spec(projection)] * (projection.source is not None)


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
        self._changed: dict[Place, list[Ints]] = {place: [] for place in self.progress}  # ids of groups
        self._late: list[pa.Table] = []
        self._dead: list[pa.Table] = []
        self.moved = False
        self.changed_groups = 0

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
        if delta.groups.num_rows:
            self._take(place, delta.groups)
        self._late.append(delta.late)
        self._dead.append(delta.dead_letters)

    def _take(self, place: Place, groups: pa.RecordBatch) -> None:
        self._changed[place].append(self._partials[place].put(groups))
        self.changed_groups += groups.num_rows

    def changes(self) -> dict[str, Changes]:
        """What has changed since the last call, for a commit at the present cut. Final groups are forgotten."""
        for (category, partition), facts in self.progress.items():
            facts.check_conservation(f"{self.projection.title}, {category}/{partition}")
        changes = {
            **self._tables(),
            "late": Changes(pa.concat_tables([LATE.empty_table(), *self._late]).combine_chunks(), None),
            "dead_letters": Changes(pa.concat_tables([DEAD_LETTERS.empty_table(), *self._dead]).combine_chunks(), None),
        }
        self._forget_changes()
        return changes

    def _tables(self) -> dict[str, Changes]:
        """Changes of the rows and of the partials."""
        final, changed = self._final(), self._changed_ids()
        touched = Touched.of(
            list(self._partials.values()),
            [union(changed[place], ids, len(self._partials[place])) for place, ids in final.items()],
        )
        changes = {
            "rows": row_changes(self.projection, by_parts(touched, self._rows)),
            "partials": self._partial_changes(touched, changed, final),
        }
        for place, ids in final.items():
            self._partials[place].drop(ids)
        return changes

    def final_until_us(self) -> int | None:
        """Windows that end at or before this instant (microseconds) are final; None: no window is."""
        lowest = min(facts.watermark for facts in self.progress.values())
        return None if lowest == NO_WATERMARK else lowest - self.projection.held_us

    def final_groups(self) -> int:
        """Partials of final groups, which the next commit lets go of."""
        return sum(len(ids) for ids in self._final().values())

    def _final(self) -> dict[Place, Ints]:
        """Ids of the groups that have become final, by place."""
        until = self.final_until_us()
        if self.projection.window is None or until is None:
            return dict.fromkeys(self._partials, _NONE)
        return {place: partials.ended(until) for place, partials in self._partials.items()}

    def _changed_ids(self) -> dict[Place, Ints]:
        return {
            place: union(np.concatenate([_NONE, *ids]), _NONE, len(self._partials[place]))
            for place, ids in self._changed.items()
        }

    def _rows(self, touched: Touched) -> pa.Table:
        if self.projection.fold:
            check_one_partition(self.projection, touched, list(self._partials))
        merged: list[State] | None = None
        for partials, ids in zip(self._partials.values(), touched.ids, strict=True):
            states = partials.rows(ids)
            if merged is None:
                merged = states
                continue
            for acc, into, other in zip(self.projection.accumulators, merged, states, strict=True):
                acc.merge(into, other)
        assert merged is not None
        return self._table(touched.groups, merged)

    def _table(self, groups: pa.BinaryArray, merged: list[State], ends: Ints | None = None) -> pa.Table:
        """The rows of groups with these states. ``ends``: of their windows, where they do not follow from the starts."""
        projection = self.projection
        key_types = [*([TIMESTAMP] if projection.window else []), *projection.key_types]
        keys = decode(groups, key_types) if key_types else []
        both = zip(projection.accumulators, merged, strict=True)
        values = [value for acc, state in both for value in acc.finish_all(state)]
        rows = pa.Table.from_arrays(self._with_window(keys, values, ends), schema=projection.folded_schema)
        return rows.append_column(PRESENT, pa.array(merged[0]["present"] != 0)) if projection.fold else rows

    def _with_window(self, keys: list[pa.Array], values: list[pa.Array], ends: Ints | None) -> list[pa.Array]:
        window = self.projection.window
        if window is None:
            return [*keys, *values]
        if ends is None:
            ends = window.ends(np.asarray(keys[0].cast(pa.int64())))
        until = self.final_until_us()
        is_final = np.zeros(len(ends), np.bool_) if until is None else ends <= until
        return [keys[0], pa.array(ends).cast(TIMESTAMP), *keys[1:], *values, pa.array(is_final)]

    def _partial_changes(self, touched: Touched, changed: Mapping[Place, Ints], final: Mapping[Place, Ints]) -> Changes:
        """Partials to store, in order of (group, category, partition), and keys of those to remove."""
        stored = {place: np.zeros(len(partials) + 1, np.bool_) for place, partials in self._partials.items()}
        deletes = []
        for place, gone in final.items():
            stored[place][changed[place]] = True  # the last one, for -1 (not there), stays False
            stored[place][gone] = False
            if len(gone):
                keys = self._partials[place].table.keys(gone)
                deletes.append(encode([keys, *place_columns(*place, len(gone))]))
        upserts = by_parts(touched, lambda part: self._stored(part, stored))
        return Changes(upserts, pa.concat_arrays(deletes) if deletes else None)

    def _stored(self, touched: Touched, stored: Mapping[Place, Mask]) -> pa.Table:
        """The ``stored`` partials of the touched groups, as rows of their table."""
        schema = table_specs(self.projection)[1].schema
        tables, numbers = [schema.empty_table()], [_NONE]
        for ids, (place, partials) in zip(touched.ids, self._partials.items(), strict=True):
            here = np.flatnonzero(stored[place][ids])
            batch = partials.get(ids[here])
            columns = [batch.column(0), *place_columns(*place, len(batch)), *batch.columns[1:]]
            tables.append(pa.Table.from_arrays(columns, schema=schema))
            numbers.append(here)
        order = np.argsort(np.concatenate(numbers), kind="stable")  # by group, and then by place
        return pa.concat_tables(tables).combine_chunks().take(pa.array(order))


def union(some: Ints, others: Ints, count: int) -> Ints:
    """The distinct ids among these, ascending, of ``count`` that there are."""
    if FEW * (len(some) + len(others)) < count:
        return np.unique(np.concatenate([some, others]))  # a small commit does not look through all groups
    there = np.zeros(count, np.bool_)
    there[some] = True
    there[others] = True
    return np.flatnonzero(there)


class Parted(Protocol):
    """What a commit must look at, and can look at part by part."""

    def parts(self, count: int) -> Iterator[Self]: ...


Whole = TypeVar("Whole", bound=Parted)


def by_parts(touched: Whole, make: Callable[[Whole], pa.Table]) -> pa.Table:
    """What is made of all parts, one after the other."""
    parts = list(touched.parts(BLOCK_GROUPS))
    if len(parts) == 1:
        return make(parts[0])
    with ThreadPoolExecutor(MAKERS) as pool:
        return pa.concat_tables(list(pool.map(make, parts)))


def place_columns(category: str, partition: int, n: int) -> list[pa.Array]:
    return [pa.repeat(pa.scalar(category, pa.string()), n), pa.array(np.full(n, partition, np.int32))]
