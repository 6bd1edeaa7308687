"""What happens to a row after the fold: the *finish* step, and which rows there are.

    finish={"per_mile": pl.col("fare") / pl.col("miles")}     further columns, element-wise over the row
    having=pl.col("departures") >= 10                         rows for which this is not true are not in the view

Both see the key, the columns, and the window's bounds; ``having`` and later columns of ``finish`` see the earlier ones of ``finish``.
A column whose name begins with ``_`` is there for them alone and is not shown.

A row is a function of the group's partials, so it appears and vanishes with them: nothing is remembered here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from connectors.changes import Changes
from connectors.chunks import contiguous
from flows.evaluation import compute, truth
from flows.projection import Projection
from schemas.canonical import encode

HAVING = "having="
"""No column of that name can be said."""
PRESENT = "present="
"""Nor of that: with a Python fold it says of which groups there is an entity, and so a row."""


def row_changes(projection: Projection, folded: pa.Table) -> Changes:
    """Changes of the view's rows: from ``folded`` (schema ``projection.folded_schema``, in order of the primary key; with a
    Python fold ``PRESENT``, too)."""
    there = np.ones(len(folded), np.bool_)
    if projection.fold:
        there, folded = truth(contiguous(folded.column(PRESENT))), folded.drop_columns([PRESENT])
    if not projection.finish and projection.having is None:
        rows = folded if folded.schema == projection.schema else folded.select(projection.schema.names)
        return _those(projection, rows, there)
    wanted = {name: pl.col(name) for name in projection.finish}
    if projection.having is not None:
        wanted[HAVING] = projection.having
    given = {name: contiguous(folded.column(name)) for name in folded.schema.names}
    computed = compute(given, len(folded), projection.finish, wanted)
    columns = [
        computed[field.name].cast(field.type) if field.name in projection.finish else folded.column(field.name)
        for field in projection.schema
    ]
    rows = pa.table(columns, schema=projection.schema)
    return _those(projection, rows, there if projection.having is None else there & truth(computed[HAVING]))


def _those(projection: Projection, rows: pa.Table, there: npt.NDArray[np.bool_]) -> Changes:
    """The rows that are there; the others are removed, if they were."""
    if there.all():
        return Changes(rows)
    gone = rows.filter(pa.array(~there))
    keys = encode([contiguous(gone.column(name)) for name in projection.primary_key])
    return Changes(rows.filter(pa.array(there)), keys)
