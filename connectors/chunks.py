"""One chunk of a table: where it ends, its file, its digest.

A chunk ends behind a row exactly when a hash of the row's encoded primary key says so. There is no minimum and no
maximum size: either would make the cuts depend on what the table held before. So the same rows make the same chunks,
and with the same Parquet writer the same files, in whatever order and batches they came. (Content-defined chunks, as in
the prolly trees of Noms and Dolt.)

Functions of bytes and arrays only; where files lie is not known here.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.manifest import Chunk
from schemas.canonical import encode, encode_buffers
from schemas.errors import StoreDamaged
from schemas.hashing import hash_binary

SEED = 0x7265666F6C64
"""Of the hash that cuts chunks; part of the format."""

ROW_GROUP_ROWS = 131_072
DIGEST_BLOCK_ROWS = 8_192

WRITER = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 1,
    "write_statistics": True,
    "store_schema": False,  # no Arrow schema in the metadata: Parquet's own types say it all
    "row_group_size": ROW_GROUP_ROWS,
}
"""Every setting of the Parquet writer that shapes the bytes, but for the columns with a dictionary: ``dictionary_columns``."""

SAMPLE_RUNS, SAMPLE_RUN_ROWS, REPEATED_MIN = 16, 64, 2
"""A column has a dictionary where each value is there so often, in the mean, in a sample of so many runs of so many rows."""


def ends_chunk(keys: pa.BinaryArray, chunk_rows: int) -> npt.NDArray[np.bool_]:
    """Behind which of these encoded primary keys a chunk ends."""
    return (hash_binary(keys, SEED) & np.uint64(chunk_rows - 1)) == 0


def key_of(rows: pa.Table, primary_key: tuple[str, ...]) -> pa.BinaryArray:
    """The encoded primary key of each row."""
    return encode([contiguous(rows.column(name)) for name in primary_key])


def contiguous(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def build(rows: pa.Table, keys: pa.BinaryArray | pa.ChunkedArray) -> tuple[Chunk, bytes]:
    """Describe sorted ``rows`` (with their encoded primary ``keys``) as a chunk; also the bytes of its file."""
    whole = _whole(rows)
    data = file_bytes(whole)
    ends = (keys[0].as_py().hex(), keys[-1].as_py().hex()) if len(keys) else ("", "")
    return Chunk(file_name(data), rows.num_rows, len(data), row_digest(whole), *ends), data


def _whole(rows: pa.Table) -> pa.Table:
    """The same rows, each column one array."""
    return pa.table([contiguous(column) for column in rows.columns], schema=rows.schema.remove_metadata())


def file_bytes(rows: pa.Table) -> bytes:
    """The Parquet file of these rows: the same rows (and schema) give the same bytes."""
    # Where the writer ends a page can depend on the borders of Arrow chunks (seen with long strings, pyarrow 26): a
    # column must be one array, whatever it was put together from.
    sink = pa.BufferOutputStream()
    whole = _whole(rows)
    pq.write_table(whole, sink, use_dictionary=dictionary_columns(whole) or False, **WRITER)
    return sink.getvalue().to_pybytes()


def dictionary_columns(rows: pa.Table) -> list[str]:
    """The columns whose values repeat: a function of the rows alone, as all that shapes a file.

    A dictionary of values that are all different costs half the time of writing, and makes the file larger.
    """
    some = rows.take(_sample(rows.num_rows))
    return [
        field.name
        for field, column in zip(some.schema, some.columns, strict=True)
        if not pa.types.is_nested(field.type) and len(column.unique()) * REPEATED_MIN <= len(column)
    ]


def _sample(rows: int) -> pa.Array:
    """Runs, since columns of the key are sorted and repeat from row to row."""
    if rows <= SAMPLE_RUNS * SAMPLE_RUN_ROWS:
        return pa.array(range(rows), pa.int64())
    # In whole numbers: no machine rounds otherwise.
    starts = np.arange(SAMPLE_RUNS) * (rows - SAMPLE_RUN_ROWS) // (SAMPLE_RUNS - 1)
    return pa.array((starts[:, None] + np.arange(SAMPLE_RUN_ROWS)).ravel())


def file_name(data: bytes) -> str:
    """The name of a data file: what its bytes hash to."""
    return hashlib.blake2b(data, digest_size=16).hexdigest() + ".parquet"


def row_digest(rows: pa.Table) -> str:
    """BLAKE2b-256 over the canonical encodings of the rows, all columns in order of the schema."""
    digest = hashlib.blake2b(digest_size=32)
    for start in range(0, rows.num_rows, DIGEST_BLOCK_ROWS):
        block = rows.slice(start, DIGEST_BLOCK_ROWS)
        digest.update(encode_buffers([contiguous(column) for column in block.columns])[1].data)
    return digest.hexdigest()


def check_bytes(data: bytes, chunk: Chunk, where: str) -> None:
    """Raises ``StoreDamaged`` (naming ``where``) for bytes that are not those of the chunk's file."""
    if file_name(data) != chunk.file:
        msg = "a file of the view is not what was written"
        raise StoreDamaged(msg, where=where, do="rebuild the view: its log has everything to make it again")


def parse(data: bytes, chunk: Chunk, schema: pa.Schema, where: str) -> pa.Table:
    """The rows in the bytes of a chunk's file. Raises ``StoreDamaged`` (naming ``where``) for others."""
    check_bytes(data, chunk, where)
    rows = pq.ParquetFile(pa.BufferReader(data)).read()
    return pa.table([contiguous(column) for column in rows.columns], schema=schema)
