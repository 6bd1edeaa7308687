"""One row of a view by its key: only the chunk that can hold it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.chunks import key_of
from connectors.manifest import Chunk, Table
from connectors.reading import read_bytes
from schemas.canonical import encode
from schemas.errors import UsageError


def key_values(table: Table, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the primary key, from values in their order or by name. Raises ``UsageError`` for others, fewer or more."""
    key = dict(zip(table.primary_key, given, strict=False)) | dict(named)
    if len(given) > len(table.primary_key) or set(key) != set(table.primary_key) or len(given) + len(named) != len(key):
        asked = [*(repr(value) for value in given), *(f"{name}={value!r}" for name, value in named.items())]
        msg = f"no key of this view: {', '.join(asked) or 'nothing'}"
        raise UsageError(msg, do=f"give a value for each of {', '.join(table.primary_key)}")
    return key


def find_row(table: Table, data: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row with this key, by column; None when there is none. ``data``: the directory of the view's files.

    Raises ``UsageError`` (a value of another type), ``StoreDamaged``.
    """
    schema = table.schema
    wanted = _encoded(schema, table.primary_key, key)
    chunk = _chunk_of(table.chunks, wanted.hex())
    if chunk is None:
        return None
    rows = _near(read_bytes(data, chunk), schema, {name: key[name] for name in table.primary_key})
    at = pc.index(key_of(rows, table.primary_key), pa.scalar(wanted, pa.binary())).as_py()
    return None if at < 0 else dict(rows.slice(at, 1).to_pylist()[0])


def _near(file: bytes, schema: pa.Schema, key: Mapping[str, Any]) -> pa.Table:
    """The rows that may have the key: Polars leaves out row groups by their statistics, and reads other columns only of what it finds.

    Floats are not asked for: statistics say nothing of NaN.
    """
    types = pl.DataFrame(schema.empty_table()).schema
    asked = [
        pl.col(name).eq_missing(pl.lit(pl.Series(pa.array([value], schema.field(name).type)).item(), types[name]))
        for name, value in key.items()
        if not pa.types.is_floating(schema.field(name).type)
    ]
    found = pl.scan_parquet(BytesIO(file)).filter(pl.lit(value=True), *asked).collect()
    return found.to_arrow().select(schema.names).cast(schema)


def _encoded(schema: pa.Schema, names: Sequence[str], key: Mapping[str, Any]) -> bytes:
    columns = []
    for name in names:
        kind = schema.field(name).type
        try:
            columns.append(pa.array([key[name]], kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            msg = f"{key[name]!r} is no value of key column `{name}`"
            raise UsageError(msg, do=f"give a value of type {kind}") from error
    found: bytes = encode(columns)[0].as_py()
    return found


def _chunk_of(chunks: Sequence[Chunk], wanted: str) -> Chunk | None:
    """Chunks are in order of key, and say the first and last that they hold."""
    low, high = 0, len(chunks)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if chunks[middle].last < wanted else (low, middle)
    return chunks[low] if low < len(chunks) and chunks[low].rows and chunks[low].first <= wanted else None
