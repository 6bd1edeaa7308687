"""Event tables: one row an event, keyed by its place in the log. No state, no partials; rows are only ever added.

``EventRows`` gathers the rows of one partition; ``flows.merging`` hands them to the commit in the order of the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.chunks import contiguous
from flows.projection import Projection

Ints = npt.NDArray[np.int64]


class EventRows:
    """The rows that a partition has to add, schema ``projection.folded_schema``."""

    def __init__(self, projection: Projection) -> None:
        self._schema, self._selected = projection.folded_schema, list(projection.select)
        self._batches: list[pa.RecordBatch] = []

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def add(self, places: Sequence[pa.Array], rows: Ints | None, values: Mapping[str, pa.Array]) -> None:
        """The events at ``rows`` (None: all). ``places``: the columns of the key, of all; ``values``: of these rows, of all expressions."""
        here = [place if rows is None else place.take(pa.array(rows)) for place in places]
        selected = [values[f"select:{name}"] for name in self._selected]
        self._batches.append(pa.record_batch([*here, *selected], schema=self._schema))

    def take(self) -> pa.RecordBatch:
        """Everything since the last call."""
        rows = pa.Table.from_batches(self._batches, self._schema)
        self._batches = []
        return one_batch(rows)


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """A table as one record batch, be it empty."""
    return pa.record_batch([contiguous(column) for column in rows.columns], schema=rows.schema)
