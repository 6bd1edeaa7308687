"""Two tables compared as wholes: every row that one has and the other has not, or that is another, as one Arrow table.

Columns of the result: the primary key; ``change`` (string: added, removed, changed); ``changed_columns`` (list of strings);
``<column>_before`` and ``<column>_after`` for every column that a side has. Values are compared by their canonical encodings: null
equals null, NaN equals NaN, 0.0 and -0.0 differ. A column that both have with different types is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.chunks import contiguous, key_of
from connectors.manifest import Chunk, Table
from schemas.canonical import encode

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
Load = Callable[[Chunk], pa.Table]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of two tables besides their keys. ``retyped``: those that both have, with different types."""

    common: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[str, ...]

    @classmethod
    def of(cls, before: pa.Schema, after: pa.Schema, key: Sequence[str]) -> Columns:
        both = [name for name in before.names if name in after.names and name not in key]
        same = [name for name in both if before.field(name).type == after.field(name).type]
        return cls(
            tuple(same),
            tuple(name for name in after.names if name not in before.names and name not in key),
            tuple(name for name in before.names if name not in after.names and name not in key),
            tuple(name for name in both if name not in same),
        )


def differing_rows(before: Table, after: Table, load_before: Load, load_after: Load) -> pa.Table:
    """All rows that differ between tables with one primary key, in order of key: first those that ``before`` has.

    Raises what the load functions raise (``StoreDamaged`` for a file that is not what was written).
    """
    alike = before.columns == after.columns and before.chunk_rows == after.chunk_rows
    left = _rows(before, load_before, {chunk.digest for chunk in after.chunks} if alike else set())
    right = _rows(after, load_after, {chunk.digest for chunk in before.chunks} if alike else set())
    return compared(left, right, before.primary_key)


def _rows(table: Table, load: Load, shared: set[str]) -> pa.Table:
    """The rows of the chunks that are not shared: equal chunks hold equal rows, so nothing of the others can differ."""
    chunks = [load(chunk) for chunk in table.chunks if chunk.digest not in shared]
    return pa.concat_tables([table.schema.empty_table(), *chunks])


def compared(left: pa.Table, right: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """The same, of rows that are there."""
    columns = Columns.of(left.schema, right.schema, key)
    left_keys, right_keys = key_of(left, key), key_of(right, key)
    at_right = np.asarray(pc.fill_null(pc.index_in(left_keys, right_keys), -1), np.int64)
    common = np.flatnonzero(at_right >= 0)
    differs = {name: _differs(left, right, name, common, at_right[common]) for name in columns.common}
    changed = np.logical_or.reduce([np.zeros(len(common), bool), *differs.values()])
    removed = np.flatnonzero(at_right < 0)
    added = np.flatnonzero(~np.asarray(pc.is_in(right_keys, left_keys)))
    rows_before, rows_after = common[changed], at_right[common][changed]
    parts = [
        _part(left, right, key, columns, CHANGED, rows_before, rows_after, _names(differs, changed)),
        _part(left, right, key, columns, REMOVED, removed, None, None),
        _part(left, right, key, columns, ADDED, None, added, None),
    ]
    keys = pa.concat_arrays(
        [left_keys.take(pa.array(np.concatenate([rows_before, removed]))), right_keys.take(pa.array(added))]
    )
    return pa.concat_tables(parts).take(pc.sort_indices(keys))


def _differs(left: pa.Table, right: pa.Table, name: str, at_left: Rows, at_right: Rows) -> npt.NDArray[np.bool_]:
    if not len(at_left):
        return np.zeros(0, bool)
    ours = contiguous(left.column(name)).take(pa.array(at_left))
    theirs = contiguous(right.column(name)).take(pa.array(at_right))
    return np.asarray(pc.not_equal(encode([ours]), encode([theirs])))


def _names(differs: dict[str, npt.NDArray[np.bool_]], changed: npt.NDArray[np.bool_]) -> pa.Array:
    """For each changed row the names of the columns that changed."""
    rows = np.flatnonzero(changed).tolist()
    return pa.array([[name for name, found in differs.items() if found[row]] for row in rows], pa.list_(pa.string()))


def _part(
    left: pa.Table,
    right: pa.Table,
    key: tuple[str, ...],
    columns: Columns,
    change: str,
    before: Rows | None,
    after: Rows | None,
    names: pa.Array | None,
) -> pa.Table:
    """Rows with one kind of change; a side that has none of them is null."""
    rows = before if before is not None else after
    assert rows is not None
    side = left if before is not None else right
    made = {name: side.column(name).take(pa.array(rows)) for name in key}
    made["change"] = pa.array([change] * len(rows), pa.string())
    made["changed_columns"] = names if names is not None else pa.array([[]] * len(rows), pa.list_(pa.string()))
    for name in (*columns.common, *columns.retyped, *columns.removed):
        made[f"{name}_before"] = _taken(left, name, before, len(rows))
    for name in (*columns.common, *columns.retyped, *columns.added):
        made[f"{name}_after"] = _taken(right, name, after, len(rows))
    return pa.table(made)


def _taken(table: pa.Table, name: str, rows: Rows | None, count: int) -> pa.ChunkedArray | pa.Array:
    return pa.nulls(count, table.schema.field(name).type) if rows is None else table.column(name).take(pa.array(rows))
