"""The merge: partials of all partitions to rows of the view, in partition order.

``ViewMerge`` takes deltas, keeps the partials of groups that are not final, and says at a commit which rows, partials,
late events and dead letters have changed. The outcome at a cut depends on that cut alone: partials are absolute, they
merge in (category, partition) order with absent ones skipped, and a row is final iff the watermark of *every* partition
has passed its window's end by the allowed lateness.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.changes import Changes, Parts
from connectors.manifest import TableSpec
from flows.accumulators import State
from flows.alone import Alone, found_alone
from flows.changed import ChangedGroups, union
from flows.delta import DEAD_LETTERS, LATE, Delta
from flows.finishing import PRESENT, row_changes
from flows.one_partition import check_one_partition
from flows.partials import GROUP, Partials, arrow_of, partial_fields, zeros
from flows.progress import NO_WATERMARK, Progress
from flows.projection import Projection
from flows.touched import Touched, blocks
from flows.upstream_rows import upstream_spec
from flows.waiting import pending_spec
from schemas.canonical import decode, encode
from schemas.errors import StoreError
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BLOCK_GROUPS = 1 << 16
"""Groups whose rows are made together: few enough that what is needed in between stays small."""
MAKERS = 2
"""Threads that make rows of sessions beside each other, where there are many."""
_NONE = np.empty(0, np.int64)
Place = tuple[str, int]
"""(category, partition)"""


def table_specs(projection: Projection) -> list[TableSpec]:
    """The tables of a view. Partials are checkpointed state and never shown to readers."""
    if projection.upstream:
        rows = TableSpec("rows", projection.schema, projection.primary_key)
        return [rows, *table_specs(projection.upstream)[1:], upstream_spec(projection)]
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
                self._partials[place].load(batch)
        self._in_store = self._counts()  # so many partials of each place, those with the lowest ids, are in the table
        self._changed = {place: ChangedGroups() for place in self.progress}
        self._done: dict[Place, Ints] = {}  # ids of final groups that are in the last changes
        self._forget_changes()

    def _forget_changes(self) -> None:
        self._late: list[pa.Table] = []
        self._dead: list[pa.Table] = []
        self.moved = False
        self.changed_groups = 0
        self.kept_bytes = 0  # of what is only gathered until the next commit

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
        self._let_go()
        self.moved |= delta.progress.next_offset > delta.start
        self.progress[place] = delta.progress
        if delta.changed_groups:
            self._take(place, delta)
        self._late.append(delta.late)
        self._dead.append(delta.dead_letters)
        self.kept_bytes += delta.late.nbytes + delta.dead_letters.nbytes

    def _take(self, place: Place, delta: Delta) -> None:
        ids = self._partials[place].put(delta.groups, delta.told)
        self._changed[place].mark(ids, len(self._partials[place]))
        self.changed_groups += delta.changed_groups

    def changes(self) -> dict[str, Changes | Parts]:
        """What has changed since the last call, for a commit at the present cut. Final groups are forgotten.

        Of many groups the parts are made when they are wanted: before anything else is asked of this merge.
        """
        self._let_go()
        for (category, partition), facts in self.progress.items():
            facts.check_conservation(f"{self.projection.title}, {category}/{partition}")
        changes: dict[str, Changes | Parts] = {
            **self._tables(),
            "late": Changes(pa.concat_tables([LATE.empty_table(), *self._late]).combine_chunks(), None),
            "dead_letters": Changes(pa.concat_tables([DEAD_LETTERS.empty_table(), *self._dead]).combine_chunks(), None),
        }
        self._forget_changes()
        return changes

    def _tables(self) -> Mapping[str, Changes | Parts]:
        """Changes of the rows and of the partials."""
        final, changed = self._final(), self._take_changed()
        places = list(self._partials.values())
        given = [
            union(changed[place], ids, len(self._partials[place])) if len(ids) else changed[place]
            for place, ids in final.items()
        ]
        is_all = [len(ids) == len(part) for ids, part in zip(given, places, strict=True)]
        parts = [_Part(places, block, is_all) for block in blocks(places, given, BLOCK_GROUPS)]
        stored = self._stored(changed, final)
        changes = {
            "rows": _in_parts([partial(self._rows, part) for part in parts]),
            "partials": _in_parts([partial(self._partial_changes, part, stored, final) for part in parts]),
        }
        self._done = final
        return changes

    def _let_go(self) -> None:
        """Forget the final groups that were in the last changes."""
        for place, ids in self._done.items():
            self._partials[place].drop(ids)
        if self._done:
            self._in_store, self._done = self._counts(), {}

    def _counts(self) -> dict[Place, int]:
        return {place: len(partials) for place, partials in self._partials.items()}

    def final_until_us(self) -> int | None:
        """Windows that end at or before this instant (microseconds) are final; None: no window is."""
        lowest = min(facts.watermark for facts in self.progress.values())
        return None if lowest == NO_WATERMARK else lowest - self.projection.held_us

    def settled(self, instants: Ints) -> Mask:
        """The instants before which no row starts that can still change, or come. Asked after ``changes``, of views with windows."""
        window = self.projection.window
        assert window is not None
        return self._are_final(window.ends(window.starts(instants - 1)))  # of the last window that starts before

    def final_groups(self) -> int:
        """Partials of final groups, which the next commit lets go of."""
        self._let_go()
        return sum(len(ids) for ids in self._final().values())

    def _final(self) -> dict[Place, Ints]:
        """Ids of the groups that have become final, by place."""
        until = self.final_until_us()
        if self.projection.window is None or until is None:
            return dict.fromkeys(self._partials, _NONE)
        return {place: partials.ended(until) for place, partials in self._partials.items()}

    def _take_changed(self) -> dict[Place, Ints]:
        """Ids of the groups that changed since this was last asked."""
        return {place: changed.take(len(self._partials[place])) for place, changed in self._changed.items()}

    def _rows(self, part: _Part) -> Changes:
        touched, alone = part.look()
        if self.projection.fold:
            check_one_partition(self.projection, touched, list(self._partials))
        states = self._merged(touched) if alone is None else alone.states
        changes = row_changes(self.projection, self._table(touched.groups, states))
        is_each = len(changes.upserts) == len(touched.groups)
        return replace(changes, keys=touched.groups) if is_each else changes  # a group is its row's encoded primary key

    def _merged(self, touched: Touched) -> list[State]:
        """The state of each group, of all places in their order."""
        n, accumulators = len(touched.groups), self.projection.accumulators
        merged = [{field: zeros(n, kind) for field, kind in acc.fields.items()} for acc in accumulators]
        there = np.zeros(n, np.bool_)  # in a place before
        for partials, ids in zip(self._partials.values(), touched.ids, strict=True):
            at = np.flatnonzero(ids >= 0)
            if not len(at):
                continue
            is_first = not there[at].any()
            for acc, into, other in zip(accumulators, merged, partials.rows(ids[at]), strict=True):
                if not is_first:
                    mine = {field: array[at] for field, array in into.items()}
                    acc.merge(mine, other)
                    other = mine
                for field, array in other.items():
                    into[field][at] = array
            there[at] = True
        return merged

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
        return [keys[0], pa.array(ends).cast(TIMESTAMP), *keys[1:], *values, pa.array(self._are_final(ends))]

    def _are_final(self, ends: Ints) -> Mask:
        """Of windows that end there."""
        until = self.final_until_us()
        return np.zeros(len(ends), np.bool_) if until is None else ends <= until

    def _stored(self, changed: Mapping[Place, Ints], final: Mapping[Place, Ints]) -> list[Mask]:
        """By place, which partials are to be stored. There is one more, for the id -1 (not there): it is not."""
        found = []
        for place, gone in final.items():
            stored = np.zeros(len(self._partials[place]) + 1, np.bool_)
            stored[changed[place]] = True
            stored[gone] = False
            found.append(stored)
        return found

    def _partial_changes(self, part: _Part, stored: Sequence[Mask], final: Mapping[Place, Ints]) -> Changes:
        """Partials to store, in order of (group, category, partition), and keys of those to remove."""
        touched, alone = part.look()
        here = [np.flatnonzero(mask[ids]) for mask, ids in zip(stored, touched.ids, strict=True)]
        if alone is not None and sum(map(len, here)) == len(touched.groups):
            upserts = self._partials_table(touched.groups, alone.places, alone.states)
        else:
            upserts = self._several(touched, here)
        return Changes(upserts, self._removed(touched, final))

    def _several(self, touched: Touched, here: Sequence[Ints]) -> pa.Table:
        """The partials of groups that may have some in several places; ``here``: numbers of the groups, by place."""
        numbers = np.concatenate([_NONE, *here])
        order = np.argsort(numbers, kind="stable")  # by group, and then by place
        at = np.repeat(np.arange(len(here)), [len(found) for found in here])[order]
        each = zip(self._partials.values(), touched.ids, here, strict=True)
        states = [partials.rows(ids[found]) for partials, ids, found in each]
        together = [
            {field: np.concatenate([state[number][field] for state in states])[order] for field in acc.fields}
            for number, acc in enumerate(self.projection.accumulators)
        ]
        return self._partials_table(touched.groups.take(pa.array(numbers[order])), at, together)

    def _partials_table(self, groups: pa.BinaryArray, at: Ints, states: Sequence[State]) -> pa.Table:
        """``at``: the number of the place of each partial."""
        schema = table_specs(self.projection)[1].schema
        columns = [groups, *self._place_columns(at)]
        for values in (values for state in states for values in state.values()):
            columns.append(arrow_of(values, schema.field(len(columns)).type))
        return pa.Table.from_arrays(columns, schema=schema)

    def _removed(self, touched: Touched, final: Mapping[Place, Ints]) -> pa.BinaryArray | None:
        """The keys of the stored partials of final groups among these. (In a replay most windows end before any commit.)"""
        keys = []
        for number, ((place, ids_of_final), ids) in enumerate(zip(final.items(), touched.ids, strict=True)):
            gone = ids_of_final[ids_of_final < self._in_store[place]]
            if not len(gone):
                continue
            is_gone = np.zeros(len(self._partials[place]) + 1, np.bool_)
            is_gone[gone] = True
            rows = np.flatnonzero(is_gone[ids])
            keys.append(encode([touched.groups.take(pa.array(rows)), *self._place_columns(np.full(len(rows), number))]))
        return pa.concat_arrays(keys) if keys else None

    def _place_columns(self, at: Ints) -> list[pa.Array]:
        """Category and partition of the places with these numbers."""
        categories, partitions = zip(*self._partials, strict=True)
        return [
            pa.array(categories, pa.string()).take(pa.array(at)),
            pa.array(np.asarray(partitions, np.int32)[at]),
        ]


class _Part:
    """Some of the groups that a commit must look at, put into order for the first who asks, and kept for the second."""

    def __init__(self, places: Sequence[Partials], given: Sequence[Ints], is_all: Sequence[bool]) -> None:
        self._asked = (places, given, is_all)
        self._kept: tuple[Touched, Alone | None] | None = None
        self._lock = threading.Lock()

    def look(self) -> tuple[Touched, Alone | None]:
        """The groups; and their states, where each is in one place alone."""
        with self._lock:
            found, self._kept = self._kept, None
            if found is None:
                touched = Touched.of(*self._asked)
                found = self._kept = (touched, found_alone(touched, self._asked[0]))
            return found


def _in_parts(makers: Sequence[Callable[[], Changes]]) -> Changes | Parts:
    return makers[0]() if len(makers) == 1 else Parts(makers)


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
