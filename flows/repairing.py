"""``repair``: restore exactly those files of a view that are damaged, from a fold of its log.

A repair is allowed only where the view is right: the fresh fold must come to the same tables, so that what it writes under
a damaged file's name is what was there. A view that differs from its log is not repaired but rebuilt.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from connectors.log import Log
from connectors.manifest import Manifest
from connectors.restoring import make_durable, restore
from connectors.table import Writer
from connectors.view import Damaged, check_files
from flows.column_order import in_committed_order
from flows.projection import Projection
from flows.running import Watch, store_path
from flows.verification import SCRATCH, Refold, committed_manifest, compare_logs, refolded
from schemas.errors import LogChanged, StoreDamaged

DATA = "data/"


@dataclass(frozen=True, slots=True)
class Repair:
    """``damaged``: what was found. ``aside``: the names that damaged files are kept under. ``digest``: of the rows, proved."""

    view: str
    digest: str
    damaged: tuple[Damaged, ...]
    aside: tuple[str, ...]


def repair(
    projection: Projection,
    *,
    log: Log | str | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> Repair | None:
    """Find the damaged files of a view's newest snapshot and restore them; keep the damaged ones aside.

    The log is read only where the bytes of a data file are lost. None when it was stopped before anything was written.
    Raises ``StoreDamaged`` (the manifest is damaged, or the view is not what its log gives), ``LogChanged``, ``LogGap``:
    nothing was written then.
    """
    place = store_path(store)
    manifest = committed_manifest(place, projection)
    projection = in_committed_order(projection, manifest.facts)
    damaged = check_files(place, projection.name, projection.version)
    lost = sorted({found.file.removeprefix(DATA) for found in damaged if found.file.startswith(DATA)})
    aside: list[str] = []
    if lost:
        how = Refold(log, workers, stop or threading.Event(), watch)
        with refolded(projection, manifest, place / SCRATCH, how) as writer:
            if writer is None:
                return None
            aside = restore(place, projection.name, projection.version, _bytes_of(projection, manifest, writer, lost))
    elif damaged:
        aside = restore(place, projection.name, projection.version, {})
    _check_again(place, projection)
    make_durable(place, projection.name, projection.version)
    return Repair(projection.title, manifest.digest, tuple(damaged), tuple(aside))


def _bytes_of(projection: Projection, manifest: Manifest, writer: Writer, lost: Sequence[str]) -> dict[str, bytes]:
    """What the lost files held, from a fold that came to the same tables."""
    fresh = writer.manifest
    assert fresh is not None
    again = f"refold rebuild {projection.title}"
    changes, _ = compare_logs(manifest, fresh)
    if changes:
        msg = f"the log is not the one that view {projection.title} was folded from: nothing was repaired"
        raise LogChanged(msg, where="\n".join(changes), do=again)
    different = [name for name in manifest.tables if manifest.tables[name].digest != fresh.tables[name].digest]
    if different:
        msg = f"view {projection.title} is not what its log gives: nothing was repaired"
        raise StoreDamaged(
            msg, where=f"tables {', '.join(different)}", do=f"{again}\n(see what differs:  refold verify)"
        )
    made = {chunk.file for table in fresh.tables.values() for chunk in table.chunks}
    if unknown := [name for name in lost if name not in made]:
        msg = "the same rows make other files now: nothing was repaired"
        raise StoreDamaged(msg, where=", ".join(unknown), why="another Parquet writer than the one before", do=again)
    return {name: fs.read_file(writer.generation.version.data / name) for name in lost}


def _check_again(store: Path, projection: Projection) -> None:
    left = check_files(store, projection.name, projection.version)
    if left:
        msg = f"view {projection.title} is still damaged after its repair"
        why = "a commit came in between, or the disk does not keep what is written to it"
        raise StoreDamaged(msg, where=", ".join(found.file for found in left), why=why, do="repair it again")
