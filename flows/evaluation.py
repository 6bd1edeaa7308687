"""Computing expressions over rows, so that a row's values depend on that row alone.

An element-wise expression is not enough for that: Polars takes another way where a column is a single row, be it one of several
chunks, or one that it has repeated itself. A column divided by a constant is multiplied by its reciprocal, but one row is divided
(57 / 100 is 0.5700000000000001 among others, and 0.57 alone). So columns are one chunk, and a single row is given twice and taken once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa


def compute(
    columns: Mapping[str, pa.Array], n: int, steps: Mapping[str, pl.Expr], wanted: Mapping[str, pl.Expr]
) -> dict[str, pa.Array]:
    """The ``wanted`` expressions over ``columns`` of ``n`` rows and those that the ``steps`` add, one after the other."""
    frame = _frame(columns, n)
    for name, expression in steps.items():
        frame = frame.with_columns(expression.alias(name))
    found = frame.select(**wanted)
    return {name: _column(found[name], n) for name in wanted}


def truth(found: pa.Array) -> npt.NDArray[np.bool_]:
    """Where a condition is true: neither false nor null."""
    return np.asarray(found.fill_null(False))


def _frame(columns: Mapping[str, pa.Array], n: int) -> pl.DataFrame:
    if not columns:
        return pl.DataFrame({"": np.zeros(max(n, 2), np.int64)})
    twice = {name: pa.concat_arrays([array, array]) if n == 1 else array for name, array in columns.items()}
    return pl.DataFrame([pl.Series(name, array) for name, array in twice.items()])


def _column(found: pl.Series, n: int) -> pa.Array:
    """As one array of ``n`` values: a constant is a single one."""
    array = found.to_arrow()
    return pa.repeat(array[0], n) if len(array) == 1 != n else array.slice(0, n)
