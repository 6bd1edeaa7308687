"""Rows of a side of an ordered projection that are kept: those whose turn has not come, and those that others may still meet.

They are checkpointed: the table *pending* of the view holds exactly these rows at the cut, whatever was released when.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.chunks import contiguous
from connectors.manifest import TableSpec
from flows.projection import Projection
from schemas.canonical import encode

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
CHUNKS_MAX = 32
_KEY = ("category", "partition", "offset")
NOT_STORED, WAITING, SEEN = 0, 1, 2
"""What the table knows of a row."""


class Held:
    """Rows in an order, schema of the side; ``stored``: what the table has of each."""

    def __init__(self, schema: pa.Schema) -> None:
        self.table, self.stored = schema.empty_table(), np.empty(0, np.int8)

    def __len__(self) -> int:
        return len(self.stored)

    def append(self, rows: pa.Table, stored: npt.NDArray[np.int8] | None = None) -> None:
        self.table = pa.concat_tables([self.table, rows])
        if self.table.num_columns and self.table.column(0).num_chunks > CHUNKS_MAX:
            self.table = self.table.combine_chunks()
        self.stored = np.concatenate([self.stored, np.zeros(len(rows), np.int8) if stored is None else stored])

    def keep(self, mask: Mask) -> None:
        self.table, self.stored = self.table.filter(pa.array(mask)), self.stored[mask]

    def times(self) -> Ints:
        return ints_of(self.table, "event_time")


def ints_of(table: pa.Table, name: str) -> Ints:
    """A column without nulls as int64; instants as microseconds."""
    return np.asarray(contiguous(table.column(name)).cast(pa.int64()))


def in_order(table: pa.Table) -> Ints:
    """The order of (event time, partition, offset)."""
    return np.lexsort([ints_of(table, name) for name in ("offset", "partition", "event_time")])


def pending_spec(projection: Projection) -> TableSpec:
    """The table of waiting and remembered rows: of every row its place, whether it was seen, and what its side reads."""
    fields = [
        pa.field("category", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("is_seen", pa.bool_(), nullable=False),
    ]
    for number, side in enumerate(projection.sides.values()):
        fields += [pa.field(f"{number}:{field.name}", field.type) for field in _own(side)]
    return TableSpec("pending", pa.schema(fields), _KEY)


def as_pending(projection: Projection, category: str, rows: pa.Table, is_seen: bool) -> pa.Table:
    """Rows of a side as rows of the table."""
    columns: list[pa.Array | pa.ChunkedArray] = [
        pa.repeat(pa.scalar(category, pa.string()), len(rows)),
        rows.column("partition"),
        rows.column("offset"),
        pa.repeat(pa.scalar(is_seen), len(rows)),
    ]
    for name, side in projection.sides.items():
        columns += [
            rows.column(field.name) if name == category else pa.nulls(len(rows), field.type) for field in _own(side)
        ]
    return pa.Table.from_arrays(columns, schema=pending_spec(projection).schema)


def of_pending(projection: Projection, category: str, pending: pa.Table, is_seen: bool) -> pa.Table:
    """The inverse: the rows of a side in their order."""
    number = list(projection.sides).index(category)
    schema = projection.sides[category].folded_schema
    here = np.asarray(contiguous(pending.column("category")).to_numpy(zero_copy_only=False)) == category
    here &= np.asarray(contiguous(pending.column("is_seen"))) == is_seen
    found = pending.filter(pa.array(here, pa.bool_()))
    places = [found.column(name) for name in ("partition", "offset")]
    own = [found.column(f"{number}:{field.name}") for field in _own(projection.sides[category])]
    table = pa.Table.from_arrays([*places, *own], schema=schema)
    return table.take(pa.array(in_order(table)))


def keys_of(category: str, rows: pa.Table) -> pa.BinaryArray:
    """Encoded primary keys of rows of a side."""
    name = pa.repeat(pa.scalar(category, pa.string()), len(rows))
    return encode([name, contiguous(rows.column("partition")), contiguous(rows.column("offset"))])


def _own(side: Projection) -> Sequence[pa.Field]:
    return [field for field in side.folded_schema if field.name not in side.place]
