"""Reading what is committed without writing, locking or repairing anything: for whoever starts beside a writer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from connectors import chunks, fs
from connectors.generation import Version
from connectors.manifest import Manifest
from schemas.errors import StoreDamaged


def newest_manifest(store: Path, view: str, version: int) -> Manifest | None:
    """The newest commit of the live generation; None when nothing was committed. Raises ``StoreDamaged``."""
    live = Version.of(store, view, version).live()
    return live.newest() if live else None


def read_table(store: Path, manifest: Manifest, name: str) -> pa.Table:
    """All rows of a table of a snapshot, in order of primary key. Raises ``StoreDamaged`` naming the file."""
    table = manifest.tables[name]
    data = Version.of(store, manifest.view, manifest.version).data
    parts = [table.schema.empty_table()]
    for chunk in table.chunks:
        path = data / chunk.file
        try:
            parts.append(chunks.parse(fs.read_file(path), chunk, table.schema, str(path)))
        except FileNotFoundError as error:
            msg = "a file of the view is missing"
            raise StoreDamaged(msg, where=str(path), do="rebuild the view") from error
    return pa.concat_tables(parts)
