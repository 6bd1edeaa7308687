"""Manifests: the committed description of one snapshot, as a file that notices its own damage.

A manifest names everything a snapshot is made of: per table its schema, primary key, chunks and digest, and whatever
facts the caller must find again (first of all the cut). It holds no clock time, host or path: the same rows at the same
cut are described by the same words. The file is one line of JSON with sorted keys and a checksum of everything else;
a file that is not byte for byte what ``to_bytes`` makes of its own content is damaged.

This module reads and writes bytes and knows no directory. It must stay light: readers import it, kernels do not belong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from connectors import nested_types
from schemas.errors import StoreDamaged, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
"""Raised when the layout of a store changes."""

CHUNK_ROWS = 65_536
"""Mean rows of a chunk; a power of two."""

ROWS = "rows"
"""The table that readers see."""

LIVE, BUILDING = "live", "building"

Cut = dict[str, list[int]]
"""Next offsets per partition, by category."""

Column = tuple[str, str, bool]
"""Name, type, whether nulls are allowed."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What a table is: its name, schema, and the columns that identify a row and order the table.

    ``chunk_rows``: the mean rows of a chunk, a power of two. It is part of the table's identity; leave it alone outside
    of tests.
    """

    name: str
    schema: pa.Schema
    primary_key: tuple[str, ...]
    chunk_rows: int = CHUNK_ROWS

    def __post_init__(self) -> None:
        unknown = [name for name in self.primary_key if name not in self.schema.names]
        if unknown or not self.primary_key or len(set(self.schema.names)) != len(self.schema.names):
            msg = f"table {self.name!r}: a primary key names columns of its table, and no column twice"
            raise UsageError(msg, where=f"primary key {list(self.primary_key)}, columns {self.schema.names}")
        assert self.chunk_rows & (self.chunk_rows - 1) == 0 < self.chunk_rows, "chunk_rows is a power of two"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of consecutive rows, and the file that holds them.

    ``file``: name in ``data/``, the BLAKE2b-128 of its bytes. ``digest``: BLAKE2b-256 over the canonical encodings of
    the rows. ``first``, ``last``: hex of the encoded primary keys of its ends, empty when there are no rows.
    """

    file: str
    rows: int
    bytes: int
    digest: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Table:
    """The chunks of one table in order of primary key, at least one (of no rows, when the table is empty)."""

    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    chunk_rows: int
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def schema(self) -> pa.Schema:
        return parse_schema(self.columns)

    @property
    def digest(self) -> str:
        """BLAKE2b-256 over what the table is and the digests of its chunks: equal exactly when the rows are."""
        head = _dump({"columns": self.columns, "primary_key": self.primary_key, "chunk_rows": self.chunk_rows})
        digest = hashlib.blake2b(len(head).to_bytes(8, "big") + head, digest_size=32)
        for chunk in self.chunks:
            digest.update(bytes.fromhex(chunk.digest))
        return digest.hexdigest()

    def is_of(self, spec: TableSpec) -> bool:
        """Whether this table was written by the same specification."""
        return (self.columns, self.primary_key, self.chunk_rows) == (
            render_schema(spec.schema),
            spec.primary_key,
            spec.chunk_rows,
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed snapshot. ``facts["cut"]`` is its cut; the rest of ``facts`` is the caller's (JSON values)."""

    view: str
    version: int
    seq: int
    previous: int | None
    role: str
    facts: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def cut(self) -> Cut:
        cut: Cut = self.facts["cut"]
        return cut

    @property
    def digest(self) -> str:
        """The digest of the table that readers see."""
        return self.tables[ROWS].digest


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they will be read back. Raises ``UsageError`` for what JSON cannot hold."""
    try:
        plain: dict[str, Any] = json.loads(_dump(dict(facts)))
    except (TypeError, ValueError) as error:
        msg = "the facts of a manifest are JSON values with text keys"
        raise UsageError(msg, why=str(error)) from error
    return plain


def to_bytes(manifest: Manifest) -> bytes:
    """The file of a manifest."""
    tables = {
        name: {**asdict(table), "rows": table.rows, "digest": table.digest} for name, table in manifest.tables.items()
    }
    return _seal({**_shallow(manifest), "tables": tables, "digest": manifest.digest, "format": FORMAT})


def from_bytes(data: bytes, where: str) -> Manifest:
    """The manifest in a file. Raises ``StoreDamaged`` (naming ``where``) unless every byte is as it was written."""
    try:
        body = json.loads(data)
        whole = isinstance(body, dict) and _seal({k: v for k, v in body.items() if k != "checksum"}) == data
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        msg = "a manifest is not what was written"
        raise StoreDamaged(msg, where=where, do="rebuild the view: its log has everything to make it again")
    if body["format"] != FORMAT:
        msg = f"a store of format {body['format']}, and this refold reads format {FORMAT}"
        raise StoreDamaged(msg, where=where, do="use the refold that wrote it, or rebuild the view with this one")
    return _parse(body)


def _parse(body: dict[str, Any]) -> Manifest:
    tables = {
        name: Table(
            columns=tuple((str(n), str(t), bool(nullable)) for n, t, nullable in table["columns"]),
            primary_key=tuple(table["primary_key"]),
            chunk_rows=table["chunk_rows"],
            chunks=tuple(Chunk(**chunk) for chunk in table["chunks"]),
        )
        for name, table in body["tables"].items()
    }
    keys = ("view", "version", "seq", "previous", "role", "facts")
    return Manifest(**{key: body[key] for key in keys}, tables=tables)


def _shallow(manifest: Manifest) -> dict[str, Any]:
    keys = ("view", "version", "seq", "previous", "role", "facts")
    return {key: getattr(manifest, key) for key in keys}


def _seal(body: dict[str, Any]) -> bytes:
    checksum = hashlib.blake2b(_dump(body), digest_size=16).hexdigest()
    return _dump({**body, "checksum": checksum}) + b"\n"


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def render_schema(schema: pa.Schema) -> tuple[Column, ...]:
    """A schema in words of our own, the same whatever the library calls its types; metadata is left out."""
    names = {kind: name for name, kind in _named_types().items()}
    return tuple((field.name, names.get(field.type) or _render_other(field), field.nullable) for field in schema)


def parse_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The inverse of ``render_schema``."""
    import pyarrow as pa

    types = _named_types()
    fields = [pa.field(name, types.get(kind) or _parse_other(kind), nullable=null) for name, kind, null in columns]
    return pa.schema(fields)


def _named_types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    integers = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    same = {name: getattr(pa, name)() for name in (*integers, "float64", "string", "binary", "date32")}
    return {"bool": pa.bool_(), "timestamp[us, UTC]": pa.timestamp("us", "UTC"), **same}


def _render_other(column: pa.Field) -> str:
    import pyarrow as pa

    if pa.types.is_decimal128(column.type):
        return f"decimal128({column.type.precision}, {column.type.scale})"
    nested = nested_types.render(column.type, lambda field: render_schema(pa.schema([field]))[0][1])
    if nested is None:
        msg = f"column {column.name!r}: a table cannot hold values of type {column.type}"
        raise UsageError(msg)
    return nested


def _parse_other(text: str) -> pa.DataType:
    import pyarrow as pa

    if not text.startswith("decimal128("):
        return nested_types.parse(text, lambda word: _named_types().get(word) or _parse_other(word))
    precision, scale = text.removeprefix("decimal128(").removesuffix(")").split(", ")
    return pa.decimal128(int(precision), int(scale))
