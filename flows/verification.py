"""``verify``: fold a view again to its committed cut in a scratch place, and say what differs, if anything does.

Three answers are told apart: a stored file is not what was written (*damaged*), the log is not the one that was folded
(*the log changed*), and the log is the same but gives other rows (*the view is wrong*). Nothing of the view is touched,
and nobody has to stop.

A verification that was stopped or killed leaves what it folded; the next one of the same view goes on from there.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from connectors.diff import Difference, changed_chunks, differences
from connectors.generation import reached
from connectors.log import Log
from connectors.manifest import Manifest
from connectors.reading import load_chunk, newest_manifest
from connectors.table import Writer, open_writer
from connectors.view import Damaged, check_files
from flows.column_order import in_committed_order
from flows.committer import Pace
from flows.engine import execute
from flows.facts import Cut
from flows.job import Job
from flows.merge import table_specs
from flows.projection import Projection
from flows.refolding import elsewhere
from flows.running import Watch, WriterTarget, log_opener, same_definition, store_path
from flows.scratch import own_place
from schemas.errors import LogChanged, LogGap, StoreDamaged, StoreError, UnknownView

SCRATCH = ".verify"
COMPARED = ("rows", "late", "dead_letters", "partials")
"""The tables that every view has, in the order in which they are told; others follow. All are functions of the log up to the cut."""
IMPURE = "the view has a Python fold: if a rebuild differs again, the fold is not a function of its state and its event alone"
SHOWN = 10
"""Differences of a table that are told, the first in order of primary key."""


@dataclass(frozen=True, slots=True)
class TableDifference:
    """A table that is not what its log gives. ``first``: the first differences, left the view and right its log.

    ``chunks``: how many chunks of the view hold other rows, of how many. ``files``: theirs, relative to the version's
    directory. ``unread``: a file that is needed to say more, and is damaged.
    """

    table: str
    rows: int
    refolded_rows: int
    chunks: tuple[int, int]
    files: tuple[str, ...]
    first: tuple[Difference, ...]
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """``digest`` is the committed one, ``refolded`` that of the fresh fold (None: the log could not be folded to the cut).

    ``damaged``: files that are not what was written. ``log_changes``: in words, per partition, how the log is not the one
    that was folded. ``tables``: the tables that differ. ``ok``: none of these. ``notes``: what is worth knowing all the same.
    """

    view: str
    cut: Cut
    digest: str
    refolded: str | None
    damaged: tuple[Damaged, ...] = ()
    log_changes: tuple[str, ...] = ()
    tables: tuple[TableDifference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.log_changes or self.tables)

    @property
    def first_difference(self) -> Difference | None:
        """The first row or value that differs, left the view and right its log."""
        return next((difference for table in self.tables for difference in table.first), None)


@dataclass(frozen=True, slots=True)
class Refold:
    """How to fold again: from where, with how many workers, until when, watched by whom, and whether from raw records alone.

    ``notes``: gets what is worth knowing of how it was done.
    """

    log: Log | str | None = None
    workers: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Watch | None = None
    raw: bool = False
    notes: list[str] = field(default_factory=list)


def verify(
    projection: Projection,
    *,
    log: Log | str | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    scratch: str | Path | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
    raw: bool = False,
) -> Verification | None:
    """Fold to the committed cut in a scratch place (default: beside the views) and compare tables; check every stored file.

    ``raw``: decode every record again, whatever columns an embedded log or an archive keeps beside them.

    None when it was stopped before it could compare; called again, it goes on from there. Raises ``UnknownView``,
    ``DefinitionChanged``, ``LogGap`` (the log has lost events that the view was folded from), ``StoreDamaged`` (the manifest).
    """
    place = store_path(store)
    manifest = committed_manifest(place, projection)
    projection = in_committed_order(projection, manifest.facts)
    damaged = tuple(check_files(place, projection.name, projection.version))
    facts = (projection.title, manifest.cut, manifest.digest)
    try:
        how = Refold(log, workers, stop or threading.Event(), watch, raw)
        with refolded(projection, manifest, Path(scratch or place / SCRATCH), how) as writer:
            if writer is None:
                return None
            assert writer.manifest is not None
            changes, notes = compare_logs(manifest, writer.manifest)
            tables = tuple(_compare_tables(place, manifest, writer))
            if projection.fold and tables:
                notes += (IMPURE,)
            return Verification(*facts, writer.manifest.digest, damaged, changes, tables, (*notes, *how.notes))
    except LogChanged as error:
        words = (f"{error.what} ({error.where})",)
        return Verification(*facts, None, damaged, words)


def committed_manifest(store: Path, projection: Projection) -> Manifest:
    """The newest commit of a view. Raises ``UnknownView``, ``StoreDamaged``."""
    manifest = newest_manifest(store, projection.name, projection.version)
    if manifest is None:
        msg = f"view {projection.title} has never been committed"
        raise UnknownView(msg, where=str(store), do=f"refold run {projection.title}")
    return manifest


# -- the fold


@contextlib.contextmanager
def refolded(projection: Projection, manifest: Manifest, scratch: Path, how: Refold) -> Iterator[Writer | None]:
    """A writer of a scratch store that stands at the manifest's cut; None when it was stopped on the way.

    What was folded goes away with the block, unless the fold was not finished. Raises ``LogChanged``, ``LogGap``.
    """
    with own_place(scratch, projection.title) as place:
        if projection.fold:
            if why := elsewhere(projection, manifest, place, how):
                how.notes.append(f"the Python fold ran in this process, where an impure one may not show: {why}")
            else:
                how = replace(how, watch=None)  # all has been shown
        writer = fold_in(projection, manifest, place, how)
        done = writer.manifest is not None and writer.manifest.cut == manifest.cut
        try:
            with writer:
                yield writer if done else None
        finally:
            if done:
                shutil.rmtree(place, ignore_errors=True)


def fold_in(projection: Projection, manifest: Manifest, place: Path, how: Refold) -> Writer:
    """Go on from what an earlier verification left in this place, if that is a beginning of the same; or else anew."""
    for _ in range(2):
        writer = _open_scratch(place, projection)
        begun = writer.manifest
        if begun is None or _is_beginning(projection, begun, manifest):
            try:
                _execute(projection, manifest, writer, how)
                return writer
            except (LogChanged, LogGap, StoreDamaged):
                writer.close()
                if begun is None:
                    raise
            except BaseException:
                writer.close()
                raise
        writer.close()
        shutil.rmtree(place)
    raise AssertionError("an empty place has nothing to go on from")


def _open_scratch(place: Path, projection: Projection) -> Writer:
    specs = table_specs(projection)
    try:
        return open_writer(place, projection.name, projection.version, specs)
    except StoreError:
        shutil.rmtree(place, ignore_errors=True)
        return open_writer(place, projection.name, projection.version, specs)


def _is_beginning(projection: Projection, begun: Manifest, manifest: Manifest) -> bool:
    same = begun.facts["origin"] == manifest.facts["origin"] and same_definition(projection, begun)
    return same and reached(manifest.cut, begun.cut)


def _execute(projection: Projection, manifest: Manifest, writer: Writer, how: Refold) -> None:
    target, origin = WriterTarget(projection, writer), manifest.facts["origin"]
    # Whether so many dead letters are right was asked when the view was made; here it is only whether they are the same.
    pace = Pace(allow_dead_letters=True)
    job = Job([target], log_opener(how.log), manifest.cut, origin, pace, stop=how.stop, raw=how.raw)
    job.must_match = {projection.title: manifest.facts}
    if how.watch:
        how.watch(job)
    execute(job, workers=how.workers)


# -- the comparison


def compare_logs(committed: Manifest, fresh: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In words, per partition: how the log is another one than was folded; and what differs without a consequence."""
    changes, notes = [], []
    for category, partition, old, new in _places(committed.facts["log"], fresh.facts["log"]):
        where = f"{category}/{partition} before offset {old['next_offset']:,}"
        epochs = f"leader epoch of the last record: {old['leader_epoch']} then, {new['leader_epoch']} now"
        if old["log_digest"] != new["log_digest"]:
            records = f"{old['counts']['read']:,} records then, {new['counts']['read']:,} now"
            changes.append(f"{where}: other records than those that were folded ({records}; {epochs})")
        elif old["leader_epoch"] != new["leader_epoch"]:
            notes.append(f"{where}: the same records, written again ({epochs})")
    return tuple(changes), tuple(notes)


def _places(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    for category, logged in old.items():
        pairs = zip(logged["partitions"], new[category]["partitions"], strict=True)
        yield from ((category, partition, *pair) for partition, pair in enumerate(pairs))


def _compare_tables(store: Path, committed: Manifest, writer: Writer) -> Iterator[TableDifference]:
    fresh, scratch = writer.manifest, writer.generation.version.path.parents[1]
    assert fresh is not None
    for name in [*COMPARED, *(name for name in sorted(fresh.tables) if name not in COMPARED)]:
        ours, theirs = committed.tables[name], fresh.tables[name]
        if ours.digest == theirs.digest:
            continue
        changed = changed_chunks(ours, theirs)
        files = tuple(f"data/{chunk.file}" for chunk in changed)
        sides = differences(ours, theirs, load_chunk(store, committed, name), load_chunk(scratch, fresh, name))
        first, unread = _first(sides)
        yield TableDifference(
            name, ours.rows, theirs.rows, (len(changed), len(ours.chunks)), files, tuple(first), unread
        )


def _first(found: Iterator[Difference]) -> tuple[list[Difference], str | None]:
    """The first differences, and the damaged file that kept more from being found."""
    first: list[Difference] = []
    try:
        first.extend(islice(found, SHOWN))
    except StoreDamaged as error:
        return first, error.where
    return first, None
