"""Event tables: one row an event, keyed by its place in the log. No state, no partials; rows are only ever added.

``EventRows`` gathers the rows of one partition; ``flows.merging`` hands them to the commit in the order of the key.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.chunks import contiguous
from connectors.log import Slice
from flows.projection import PLACE, Projection

Ints = npt.NDArray[np.int64]


class EventRows:
    """The rows that a partition has to add, schema ``projection.folded_schema``."""

    def __init__(self, projection: Projection, partition: int) -> None:
        self._schema, self._partition = projection.folded_schema, partition
        self._batches: list[pa.RecordBatch] = []

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def add(self, part: Slice, rows: Ints | None, values: Mapping[str, pa.Array]) -> None:
        """The events at ``rows`` of a slice (None: all), with the values of all expressions."""
        offsets = part.records.column("offset")
        offsets = offsets if rows is None else offsets.take(pa.array(rows))
        selected = [values[f"select:{name}"] for name in self._schema.names[len(PLACE) :]]
        place = pa.array(np.full(len(offsets), self._partition, np.int32))
        self._batches.append(pa.record_batch([place, offsets, *selected], schema=self._schema))

    def take(self) -> pa.RecordBatch:
        """Everything since the last call."""
        rows = pa.Table.from_batches(self._batches, self._schema)
        self._batches = []
        return one_batch(rows)


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """A table as one record batch, be it empty."""
    return pa.record_batch([contiguous(column) for column in rows.columns], schema=rows.schema)
