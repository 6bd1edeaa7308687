"""The merge of sessions: those of all partitions that overlap are one row.

Each partition says which sessions of a key it has, and where one moved or was bridged, which groups are no more. A row is made
of the sessions of a key, in all partitions, that overlap (one that begins when another ends does not); their states merge in
order of (partition, start). It is final when the watermark of every partition has passed its end by the gap and the allowed
lateness: an event that is in time may be that far behind, and touch it. All sessions of a row are kept until then.

A row may begin earlier than it did, or take in another. Its old start was that of a session that is no more, or of one that is
not the first of its row: these are removed from the view, whether they were there or not, so that nothing has to be
remembered of commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.changes import Changes
from flows.accumulators import State
from flows.changed import union
from flows.delta import Delta
from flows.finishing import row_changes
from flows.groups import GroupTable
from flows.merge import Place, ViewMerge, by_parts, place_columns, table_specs
from flows.partials import NO_GROUPS, key_part
from flows.progress import Progress
from flows.projection import Projection
from schemas.canonical import encode
from schemas.compiled import maker

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Sessions by row, and in a row by (place, start). ``row``: its number, from ``first`` on; ``place`` and ``id``: where the session is;
    ``leads``: of each row, the place and the id of the session that starts it; ``end``: of each row."""

    first: int
    row: Ints
    place: Ints
    id: Ints
    leads: Ints
    end: Ints

    def parts(self, count: int) -> Iterator[Rows]:
        """The same, so many rows at a time; at least one part."""
        for first in range(0, max(len(self.end), 1), count):
            here = slice(*np.searchsorted(self.row, [first, first + count]))
            some = slice(first, first + count)
            yield Rows(first, self.row[here], self.place[here], self.id[here], self.leads[some], self.end[some])


class SessionMerge(ViewMerge):
    """``ViewMerge`` of sessions."""

    def __init__(self, projection: Projection, progress: Mapping[Place, Progress], partials: pa.Table | None) -> None:
        super().__init__(projection, progress, partials)
        self._keys = GroupTable()
        self._key: dict[Place, Ints] = dict.fromkeys(self.progress, _NONE)  # of each session, its key's number

    def _forget_changes(self) -> None:
        super()._forget_changes()
        self._gone: dict[Place, list[Ints]] = {place: [] for place in self.progress}

    def add(self, delta: Delta) -> None:
        super().add(delta)
        if len(delta.gone):
            place = (delta.category, delta.partition)
            ids = self._partials[place].table.find(delta.gone)
            self._gone[place].append(ids[ids >= 0])  # what came and went since the last commit may never have been here

    def settled(self, instants: Ints) -> Mask:
        """What comes starts behind where windows are final to, or in a session that is open: such a one may grow, and become shown."""
        starts = [partials.window_start[: len(partials)] for partials in self._partials.values()]
        earliest = np.concatenate([_NONE, *starts]).min(initial=np.iinfo(np.int64).max)
        return self._are_final(instants) & (instants <= earliest)

    def _tables(self) -> dict[str, Changes]:
        gone = {place: np.concatenate([_NONE, *ids]) for place, ids in self._gone.items()}
        changed, until = self._take_changed(), self.final_until_us()
        rows, members = self._united(self._touched(gone, changed))
        final = np.zeros(len(rows.end), np.bool_) if until is None else rows.end <= until
        closed = {
            place: np.concatenate([gone[place], rows.id[(rows.place == number) & final[rows.row]]])
            for number, place in enumerate(self._partials)
        }
        changes = {
            "rows": self._row_changes(rows, members, gone),
            "partials": self._session_changes(changed, closed),
        }
        self._drop(closed)
        return changes

    def _touched(self, gone: Mapping[Place, Ints], changed: Mapping[Place, Ints]) -> dict[Place, Ints]:
        """All sessions of the keys of which a session has changed, is no more, or may be final; without those that are no more."""
        final = self._final()
        self._number_keys()
        keys = np.zeros(len(self._keys), np.bool_)
        for place, known in self._key.items():
            for ids in (gone[place], changed[place], final[place]):
                keys[known[ids]] = True
        found = {}
        for place, known in self._key.items():
            there = keys[known]
            there[gone[place]] = False
            found[place] = np.flatnonzero(there)
        return found

    def _number_keys(self) -> None:
        """Of sessions that are new."""
        for place, partials in self._partials.items():
            fresh = np.arange(len(self._key[place]), len(partials))
            if len(fresh):
                groups = key_part(partials.table.keys(fresh))
                self._key[place] = np.concatenate([self._key[place], self._keys.intern(groups)])

    def _united(self, touched: Mapping[Place, Ints]) -> tuple[Rows, tuple[Ints, Ints]]:
        """The rows that these sessions make, and (place, id) of the sessions that do not start one."""
        places = [np.full(len(ids), number) for number, ids in enumerate(touched.values())]
        place, id_ = np.concatenate([_NONE, *places]), np.concatenate([_NONE, *touched.values()])

        def of(arrays: list[Ints]) -> Ints:
            return np.concatenate([_NONE, *(a[ids] for a, ids in zip(arrays, touched.values(), strict=True))])

        key = of(list(self._key.values()))
        start = of([partials.window_start for partials in self._partials.values()])
        end = of([partials.window_end for partials in self._partials.values()])
        order = np.lexsort((place, start, key))
        place, id_, start = place[order], id_[order], start[order]
        row, ends = _rows(key[order], start, end[order])
        is_first = np.ones(len(row), np.bool_)
        is_first[1:] = row[1:] != row[:-1]
        leads = np.stack([place[is_first], id_[is_first]], axis=1)
        others = (place[~is_first], id_[~is_first])
        inner = np.lexsort((start, place, row))
        return Rows(0, row[inner], place[inner], id_[inner], leads, ends), others

    def _row_changes(self, rows: Rows, others: tuple[Ints, Ints], gone: Mapping[Place, Ints]) -> Changes:
        removed = [self._groups(*others)]
        removed += [self._partials[place].table.keys(ids) for place, ids in gone.items() if len(ids)]
        made = row_changes(self.projection, by_parts(rows, self._session_rows))
        keys = pa.concat_arrays([*removed, *([] if made.deletes is None else [made.deletes])])
        return Changes(made.upserts, keys if len(keys) else None)

    def _session_rows(self, rows: Rows) -> pa.Table:
        """Rows of the view (schema ``projection.folded_schema``): the first session of each, and the others into it one by one."""
        row = rows.row - rows.first
        first = np.searchsorted(row, np.arange(len(rows.end)))
        rank = np.arange(len(row)) - first[row]
        merged = self._states(rows.place[first], rows.id[first])
        for further in range(1, int(rank.max(initial=0)) + 1):
            here = np.flatnonzero(rank == further)
            states = self._states(rows.place[here], rows.id[here])
            for acc, whole, other in zip(self.projection.accumulators, merged, states, strict=True):
                into = {field: array[row[here]] for field, array in whole.items()}
                acc.merge(into, other)
                for field, array in into.items():
                    whole[field][row[here]] = array
        return self._table(self._groups(rows.leads[:, 0], rows.leads[:, 1]), merged, rows.end)

    def _states(self, place: Ints, ids: Ints) -> list[State]:
        """Copies of the states of sessions of several places."""
        found = [
            {f: np.empty(len(ids), a.dtype) for f, a in s.items()} for s in next(iter(self._partials.values())).states
        ]
        for number, partials in enumerate(self._partials.values()):
            here = np.flatnonzero(place == number)
            for state, into in zip(partials.states, found, strict=True):
                for field, array in state.items():
                    into[field][here] = array[ids[here]]
        return found

    def _groups(self, place: Ints, ids: Ints) -> pa.BinaryArray:
        """The groups of sessions of several places, in their order."""
        parts, numbers = [NO_GROUPS], [_NONE]
        for number, partials in enumerate(self._partials.values()):
            here = np.flatnonzero(place == number)
            parts.append(partials.table.keys(ids[here]))
            numbers.append(here)
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(numbers))))

    def _session_changes(self, changed: Mapping[Place, Ints], closed: Mapping[Place, Ints]) -> Changes:
        """Partials to store, and keys of those to remove: of sessions that are final or no more."""
        schema = table_specs(self.projection)[1].schema
        tables, deletes = [schema.empty_table()], []
        for place, partials in self._partials.items():
            stay = np.zeros(len(partials), np.bool_)
            stay[changed[place]] = True
            stay[closed[place]] = False
            batch = partials.get(np.flatnonzero(stay))
            columns = [batch.column(0), *place_columns(*place, len(batch)), *batch.columns[1:]]
            tables.append(pa.Table.from_arrays(columns, schema=schema))
            if len(closed[place]):
                keys = partials.table.keys(closed[place])
                deletes.append(encode([keys, *place_columns(*place, len(keys))]))
        return Changes(pa.concat_tables(tables).combine_chunks(), pa.concat_arrays(deletes) if deletes else None)

    def _drop(self, closed: Mapping[Place, Ints]) -> None:
        for place, ids in closed.items():
            partials, there = self._partials[place], np.ones(len(self._partials[place]), np.bool_)
            there[ids] = False
            partials.drop(union(ids, _NONE, len(partials)))
            self._key[place] = self._key[place][there]
        left = sum(len(known) for known in self._key.values())
        if len(self._keys) > 2 * left + 1024:  # most keys have no session any more: number the others anew
            self._keys, self._key = GroupTable(), dict.fromkeys(self._key, _NONE)


@maker
def _rows(key: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Sessions by key and start: the number of the row of each, and the end of each row."""
    row, ends = np.empty(len(key), np.int64), np.empty(len(key), np.int64)
    count = 0
    for i in range(len(key)):
        if i == 0 or key[i] != key[i - 1] or start[i] >= ends[count - 1]:
            ends[count] = end[i]
            count += 1
        row[i] = count - 1
        ends[count - 1] = max(ends[count - 1], end[i])
    return row, ends[:count]
