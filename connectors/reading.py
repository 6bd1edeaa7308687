"""Reading what is committed without writing, locking or repairing anything: for whoever starts beside a writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from connectors import chunks
from connectors.generation import Version, read_file
from connectors.manifest import Chunk, Manifest
from schemas.errors import StoreDamaged


def newest_manifest(store: Path, view: str, version: int) -> Manifest | None:
    """The newest commit of the live generation; None when nothing was committed. Raises ``StoreDamaged``."""
    live = Version.of(store, view, version).live()
    return live.newest() if live else None


def load_chunk(store: Path, manifest: Manifest, name: str) -> Callable[[Chunk], pa.Table]:
    """A function that gives the rows of a chunk of a table. It raises ``StoreDamaged`` naming the file."""
    schema = manifest.tables[name].schema
    data = Version.of(store, manifest.view, manifest.version).data

    return lambda chunk: read_chunk(data, chunk, schema)


def read_chunk(data: Path, chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """The rows of a chunk whose file lies in ``data``. Raises ``StoreDamaged`` naming the file."""
    return chunks.parse(_content(data / chunk.file), chunk, schema, str(data / chunk.file))


def read_bytes(data: Path, chunk: Chunk) -> bytes:
    """The file of a chunk, whole and checked. Raises ``StoreDamaged`` naming it."""
    path = data / chunk.file
    content = _content(path)
    chunks.check_bytes(content, chunk, str(path))
    return content


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        msg = "a file of the view is missing"
        raise StoreDamaged(msg, where=str(path), do="rebuild the view") from error


def read_table(store: Path, manifest: Manifest, name: str) -> pa.Table:
    """All rows of a table of a snapshot, in order of primary key. Raises ``StoreDamaged`` naming the file."""
    table, load = manifest.tables[name], load_chunk(store, manifest, name)
    return pa.concat_tables([table.schema.empty_table(), *(load(chunk) for chunk in table.chunks)])
