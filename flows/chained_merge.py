"""The merge of a projection of another projection: rows of groups, folded again from the upstream's rows that fall into them.

The view folds its upstream's definition itself, with the merge that this has, and takes what a commit changes in the upstream's rows: the
groups that a row left, entered or changed in are *touched*. A touched group is folded from nothing, all of its rows in order of
the upstream's primary key. So what it says is a function of the upstream's table at the cut, whatever changes led there and
however they were divided into commits. Nothing is asked of another view.

A row is final when no row of the upstream that starts before the end of its window can change any more, or come. That is asked of
the upstream's merge (``settled``), which says it of all its rows, shown or not: a row that a condition leaves out today may be
shown tomorrow, and one may change its group. Rows of final groups are let go.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.changes import Changes, Parts
from connectors.chunks import contiguous
from connectors.sorting import sorted_order
from flows import merge
from flows.chains import EVENT_TIME
from flows.delta import Delta
from flows.evaluation import compute, truth
from flows.finishing import row_changes
from flows.fold import PartitionFold
from flows.merge import Place, ViewMerge
from flows.partials import Partials
from flows.progress import Progress
from flows.projection import Projection
from flows.touched import Touched
from flows.upstream_rows import UpstreamRows, upstream_spec
from schemas.canonical import decode, encode
from schemas.decode import LIVE, Decoded
from schemas.dictionary import plain
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
TOGETHER: Place = ("", 0)
"""Where groups are while they are made: their partials are not kept."""
_NONE = np.empty(0, np.int64)


class ChainedMerge(ViewMerge):
    """``inner``: the merge of the upstream's definition; ``stored``: reads a table of the newest commit."""

    def __init__(self, projection: Projection, inner: ViewMerge, stored: Callable[[str], pa.Table] | None) -> None:
        super().__init__(projection, {}, None)
        self.progress, self._inner = inner.progress, inner
        self._spec = upstream_spec(projection)
        self._reads = [name for name in projection.reads if name not in projection.built_in]
        self._held = UpstreamRows(projection.window)
        if stored:
            table = stored(self._spec.name)
            self._held.put(*(contiguous(table.column(name)) for name in ("key", "group", "row")))

    def add(self, delta: Delta) -> None:
        self._inner.add(delta)
        self.moved, self.changed_groups = self._inner.moved, self._inner.changed_groups
        self.kept_bytes = self._inner.kept_bytes

    def final_groups(self) -> int:
        return self._inner.final_groups()

    def settled(self, instants: Ints) -> Mask:
        window = self.projection.window
        assert window is not None
        return self._inner.settled(window.ends(window.starts(instants - 1)))

    def changes(self) -> dict[str, Changes | Parts]:
        found = self._inner.changes()
        self._forget_changes()
        return {**found, **self._taken_on(_whole(found["rows"]))}

    # -- from changes of the upstream's rows to changes of ours

    def _taken_on(self, changes: Changes) -> dict[str, Changes]:
        rows = changes.upserts
        keys = encode([contiguous(rows.column(name)) for name in self._upstream.primary_key])
        gone = self._held.find(keys if changes.deletes is None else pa.concat_arrays([changes.deletes, keys]))
        deletes = [self._stored_keys(gone)]
        touched = [self._held.remove(gone)]
        counts, groups, values = self._read(rows)
        touched.append(self._held.put(keys.filter(pa.array(counts)), groups, values))
        final = self._settled_groups()
        made = self._made(np.unique(np.concatenate([*touched, final])))
        members = self._held.members(final)
        deletes.append(self._stored_keys(members))
        self._held.remove(members)
        kept = self._held.find(keys)
        stored = [self._held.group_keys(kept), self._held.keys.keys(kept), self._held.rows(kept)]
        self._held.tidy()
        return {
            "rows": made,
            self._spec.name: Changes(pa.table(stored, schema=self._spec.schema), pa.concat_arrays(deletes)),
        }

    @property
    def _upstream(self) -> Projection:
        assert self.projection.upstream is not None
        return self.projection.upstream

    def _stored_keys(self, ids: Ints) -> pa.BinaryArray:
        """Primary keys of rows in the table."""
        return encode([self._held.group_keys(ids), self._held.keys.keys(ids)])

    def _settled_groups(self) -> Ints:
        if self.projection.window is None:
            return _NONE
        groups, ends = self._held.ends()
        return groups[self._are_final(ends)]

    def _are_final(self, ends: Ints) -> Mask:
        return self._inner.settled(ends)

    def _read(self, rows: pa.Table) -> tuple[Mask, pa.BinaryArray, pa.BinaryArray]:
        """Which rows count, and of those the group and the values that are read."""
        projection, n = self.projection, len(rows)
        time = self._times(rows)
        given = {name: contiguous(rows.column(name)) for name in self._reads}
        values = encode([time, *given.values()])
        if EVENT_TIME in projection.reads and EVENT_TIME in projection.built_in:
            given[EVENT_TIME] = time
        wanted = {f"key:{name}": expression for name, expression in projection.key.items()}
        if projection.where is not None:
            wanted["where"] = projection.where
        found = compute(given, n, projection.derive, wanted) if wanted else {}
        counts = truth(found["where"]) if projection.where is not None else np.ones(n, np.bool_)
        keys = [plain(found[f"key:{name}"]).cast(projection.types[f"key:{name}"]) for name in projection.key]
        if projection.window:
            starts = projection.window.starts(np.asarray(time.cast(pa.int64())))
            keys = [pa.array(starts).cast(TIMESTAMP), *keys]
        return counts, encode(keys).filter(pa.array(counts)), values.filter(pa.array(counts))

    def _times(self, rows: pa.Table) -> pa.Array:
        if self._upstream.window:
            return contiguous(rows.column("window_start"))
        return pa.array(np.zeros(len(rows), np.int64)).cast(TIMESTAMP)

    # -- groups, made anew of their rows

    def _made(self, groups: Ints) -> Changes:
        tables = [self.projection.folded_schema.empty_table()]
        for first in range(0, len(groups), merge.BLOCK_GROUPS):
            tables.append(self._folded(self._held.members(groups[first : first + merge.BLOCK_GROUPS])))
        found = pa.concat_tables(tables).combine_chunks()
        changes = row_changes(self.projection, found)
        empty = self._held.groups.keys(groups[self._held.is_empty(groups)])
        return Changes(
            changes.upserts, pa.concat_arrays([empty] if changes.deletes is None else [empty, changes.deletes])
        )

    def _folded(self, members: Ints) -> pa.Table:
        """Rows of the groups of these rows: a left fold in order of their primary key."""
        ordered = members[sorted_order(self._held.keys.keys(members))]
        fold = PartitionFold(self.projection, *TOGETHER, Progress(0), None)
        fold.fold_in_order(self._decoded(self._held.rows(ordered)), [], [])
        partials, delta = Partials(self.projection), fold.delta()
        ids = partials.put(delta.groups, delta.told)
        touched = Touched.of([partials], [ids], [True])
        return self._table(touched.groups, partials.rows(touched.ids[0]))

    def _decoded(self, rows: pa.BinaryArray) -> Decoded:
        types = [self.projection.fields[name].type for name in self._reads]
        time, *values = decode(rows, [TIMESTAMP, *types])
        n = len(rows)
        times = np.asarray(time.cast(pa.int64()))
        decoded = Decoded((), np.full(n, LIVE, np.uint8), times, np.full(n, -1, np.int32), {})
        for name, kind, value in zip(self._reads, types, values, strict=True):
            decoded.columns[(name, kind)] = value
            decoded.invalid[(name, kind)] = np.zeros(n, np.bool_)
        return decoded


def _whole(changes: Changes | Parts) -> Changes:
    """Changes that are made in parts, all at once: a group may have rows in any of them."""
    if isinstance(changes, Changes):
        return changes
    made = [make() for make in changes.makers]
    deletes = [part.deletes for part in made if part.deletes is not None]
    return Changes(pa.concat_tables([part.upserts for part in made]), pa.concat_arrays(deletes) if deletes else None)
