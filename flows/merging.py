"""Which merge a view has, by the kind of its projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from connectors.changes import Changes
from flows.chained_merge import ChainedMerge
from flows.delta import Delta
from flows.merge import Place, ViewMerge, table_specs
from flows.ordered_merge import OrderedMerge
from flows.progress import Progress
from flows.projection import Projection
from flows.session_merge import SessionMerge
from flows.windows import Session

Stored = Callable[[str], pa.Table]
"""Reads a table of the newest commit, by its name."""


def merge_of(projection: Projection, progress: Mapping[Place, Progress], stored: Stored | None) -> ViewMerge:
    """``progress``: every place the view reads, in order; ``stored``: None before the first commit."""
    if projection.upstream is not None:
        return ChainedMerge(projection, merge_of(projection.upstream, progress, stored), stored)
    if projection.source is not None:
        return OrderedMerge(projection, progress, stored, _merge_of_groups)
    return _merge_of_groups(projection, progress, stored("partials") if stored else None)


def _merge_of_groups(
    projection: Projection, progress: Mapping[Place, Progress], partials: pa.Table | None
) -> ViewMerge:
    if isinstance(projection.window, Session):
        return SessionMerge(projection, progress, partials)
    kind = EventTableMerge if projection.select else ViewMerge
    return kind(projection, progress, partials)


class EventTableMerge(ViewMerge):
    """Rows of events, as they come from each partition: there is nothing to merge and nothing to remember."""

    def _forget_changes(self) -> None:
        super()._forget_changes()
        self._rows_of: dict[Place, list[pa.RecordBatch]] = {place: [] for place in self.progress}

    def _take(self, place: Place, delta: Delta) -> None:
        self._rows_of[place].append(delta.groups)
        self.changed_groups += delta.groups.num_rows
        self.kept_bytes += delta.groups.nbytes

    def _tables(self) -> dict[str, Changes]:
        rows, partials, *_ = table_specs(self.projection)
        batches = [batch for place in sorted(self._rows_of) for batch in self._rows_of[place]]
        added = pa.Table.from_batches(batches, rows.schema)
        return {"rows": Changes(added), "partials": Changes(partials.schema.empty_table())}
