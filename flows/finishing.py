"""What happens to a row after the fold: the *finish* step, and which rows there are.

    finish={"per_mile": pl.col("fare") / pl.col("miles")}     further columns, element-wise over the row
    having=pl.col("departures") >= 10                         rows for which this is not true are not in the view

Both see the key, the columns, and the window's bounds; ``having`` and later columns of ``finish`` see the earlier ones of ``finish``.
A column whose name begins with ``_`` is there for them alone and is not shown.

A row is a function of the group's partials, so it appears and vanishes with them: nothing is remembered here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from connectors.changes import Changes
from flows.projection import Projection
from schemas.canonical import encode


def row_changes(projection: Projection, folded: pa.Table) -> Changes:
    """Changes of the view's rows: from ``folded`` (schema ``projection.folded_schema``, in order of the primary key)."""
    if not projection.finish and projection.having is None:
        return Changes(folded if folded.schema == projection.schema else folded.select(projection.schema.names))
    frame = pl.from_arrow(folded)
    assert isinstance(frame, pl.DataFrame)
    for name, expression in projection.finish.items():
        frame = frame.with_columns(expression.alias(name))
    computed = frame.select(list(projection.finish)).to_arrow()
    columns = [
        computed.column(field.name).cast(field.type) if field.name in projection.finish else folded.column(field.name)
        for field in projection.schema
    ]
    rows = pa.table(columns, schema=projection.schema)
    return Changes(rows) if projection.having is None else _those(projection, rows, truth(frame, projection.having))


def _those(projection: Projection, rows: pa.Table, there: npt.NDArray[np.bool_]) -> Changes:
    """The rows that are there; the others are removed, if they were."""
    if there.all():
        return Changes(rows)
    gone = rows.filter(pa.array(~there)).select(list(projection.primary_key)).combine_chunks()
    keys = encode([column.chunk(0) for column in gone.columns])
    return Changes(rows.filter(pa.array(there)), keys)


def truth(frame: pl.DataFrame, condition: pl.Expr) -> npt.NDArray[Any]:
    """Where a condition is true: neither false nor null."""
    found = frame.select(condition.fill_null(False).alias("")).to_series().to_numpy()
    return np.resize(found, len(frame)) if len(found) == 1 else found  # a constant is one value for all rows
