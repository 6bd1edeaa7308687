"""``diff``: what differs between two versions of a view at one cut, or between two moments of one version.

Two versions are hardly ever at the same cut while they live. So both are brought to one, in a scratch place beside the views: from a
fork of the newest snapshot, so that only the events in between are folded. Nobody's lock is taken and nobody waits.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from connectors.comparing import ADDED, CHANGED, REMOVED, Columns, differing_rows
from connectors.forking import fork
from connectors.generation import reached
from connectors.history import find
from connectors.log import Log
from connectors.manifest import ROWS, Cut, Manifest, Table
from connectors.points import AtCut, Point
from connectors.reading import load_chunk
from connectors.table import open_writer
from connectors.view import View, at_point, open_view
from flows.column_order import in_committed_order
from flows.committer import Pace
from flows.engine import execute
from flows.facts import check_definition
from flows.job import Job
from flows.merge import table_specs
from flows.projection import Projection
from flows.running import Watch, WriterTarget, log_opener, store_path
from flows.scratch import own_place
from schemas.errors import UnknownView, UsageError

SCRATCH = ".diff"


@dataclass(frozen=True, slots=True)
class Diff:
    """``before`` and ``after``: titles; the cuts are the same, or those of two moments of one version.

    ``keys``: the key columns of each; where they differ no row of one is a row of the other, and none is compared (``rows`` is None).
    ``rows``: all that differ (see ``connectors.comparing``). ``counts``: rows of both sides.
    """

    before: str
    after: str
    cuts: tuple[Cut, Cut]
    keys: tuple[tuple[str, ...], tuple[str, ...]]
    columns: Columns
    counts: tuple[int, int]
    rows: pa.Table | None

    @property
    def added(self) -> int:
        return self._number(ADDED, self.counts[1])

    @property
    def removed(self) -> int:
        return self._number(REMOVED, self.counts[0])

    @property
    def changed(self) -> int:
        return self._number(CHANGED, 0)

    def _number(self, change: str, otherwise: int) -> int:
        if self.rows is None:
            return otherwise
        return int(pc.sum(pc.equal(self.rows["change"], change)).as_py() or 0)

    @property
    def differs(self) -> bool:
        columns = self.columns
        return self.rows is None or bool(self.rows.num_rows or columns.added or columns.removed or columns.retyped)


@dataclass(frozen=True, slots=True)
class How:
    """Where from and with how many workers to fold what lies between two cuts, until when, watched by whom."""

    log: Log | str | None = None
    workers: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Watch | None = None


@dataclass(frozen=True, slots=True)
class _Side:
    store: Path
    manifest: Manifest

    @property
    def table(self) -> Table:
        return self.manifest.tables[ROWS]


def diff(
    name: str,
    before: int,
    after: int,
    *,
    projections: tuple[Projection | None, Projection | None] = (None, None),
    store: str | Path | None = None,
    how: How | None = None,
) -> Diff | None:
    """Two versions of a view at one cut: the greatest that either has reached, or that of a version which nobody can fold on.

    ``projections``: their definitions, as far as the code has them. None when it was stopped. Raises ``UnknownView``, ``UsageError``
    (neither can be brought to the other's cut), what folding raises.
    """
    place, how = store_path(store), how or How()
    views = (open_view(place, name, before), open_view(place, name, after))
    with ExitStack() as held:
        cuts = _meeting(views, projections)
        sides = []
        for view, cut, projection in zip(views, cuts, projections, strict=True):
            side = held.enter_context(_at(view, cut, projection, place, how))
            if side is None:
                return None
            sides.append(side)
        return _compared((f"{name}@{before}", f"{name}@{after}"), sides[0], sides[1])


def diff_moments(
    name: str, version: int | None, before: Point, after: Point | None, *, store: str | Path | None = None
) -> Diff:
    """One version at two retained snapshots; ``after`` None: the newest. Raises ``UnknownView`` when one is not kept."""
    place = store_path(store)
    newest = open_view(place, name, version)
    views = (at_point(newest, before), newest if after is None else at_point(newest, after))
    titles = tuple(f"{name}@{view.version} at commit {view.seq:,}" for view in views)
    return _compared((titles[0], titles[1]), *(_Side(place, view.manifest) for view in views))


def _compared(titles: tuple[str, str], before: _Side, after: _Side) -> Diff:
    ours, theirs = before.table, after.table
    same_key = ours.primary_key == theirs.primary_key and all(
        ours.schema.field(name).type == theirs.schema.field(name).type for name in ours.primary_key
    )
    key = ours.primary_key if same_key else ()
    rows = None
    if same_key:
        load = [load_chunk(side.store, side.manifest, ROWS) for side in (before, after)]
        rows = differing_rows(ours, theirs, *load)
    return Diff(
        *titles,
        (before.manifest.cut, after.manifest.cut),
        (ours.primary_key, theirs.primary_key),
        Columns.of(ours.schema, theirs.schema, key),
        (ours.rows, theirs.rows),
        rows,
    )


# -- one cut


def _meeting(views: tuple[View, View], projections: tuple[Projection | None, Projection | None]) -> tuple[Cut, Cut]:
    """The cut to bring each to: the same in every category that both read."""
    ours, theirs = views[0].cut, views[1].cut
    shared = [name for name in ours if name in theirs]
    if all(ours[name] == theirs[name] for name in shared):
        return ours, theirs
    fixed = next((view.cut for view, projection in zip(views, projections, strict=True) if projection is None), None)
    at = {name: fixed[name] if fixed else _greatest(ours[name], theirs[name]) for name in shared}
    return {**ours, **at}, {**theirs, **at}


def _greatest(one: list[int], other: list[int]) -> list[int]:
    if len(one) != len(other):
        raise UsageError(
            f"one version was folded from {len(one)} partitions, the other from {len(other)}",
            why="the topic has got more since; a cut of one is none of the other",
            do="rebuild the older version, then compare them",
        )
    return [max(pair) for pair in zip(one, other, strict=True)]


@contextlib.contextmanager
def _at(view: View, cut: Cut, projection: Projection | None, store: Path, how: How) -> Iterator[_Side | None]:
    """A version at a cut: a snapshot that is kept, or one that is folded now and goes away with the block."""
    manifest = view.manifest
    if manifest.cut != cut:
        with contextlib.suppress(UnknownView):
            manifest = find(view.generation.version, AtCut(cut)).manifest
    if manifest.cut == cut:
        yield _Side(store, manifest)
        return
    if projection is None:
        raise UsageError(
            f"{view.name}@{view.version} is not at the cut to compare at, and its definition is not in the code",
            do="name the module that has it:  --flows MODULE; or run it on to the other's cut",
        )
    with own_place(store / SCRATCH, projection.title) as place:
        try:
            yield _folded_to(cut, view.manifest, projection, store, place, how)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _folded_to(
    cut: Cut, manifest: Manifest, projection: Projection, store: Path, place: Path, how: How
) -> _Side | None:
    check_definition(projection, manifest.facts)
    projection = in_committed_order(projection, manifest.facts)
    shutil.rmtree(place, ignore_errors=True)  # what a killed one left is of another cut
    if reached(cut, manifest.cut):
        fork(store, manifest, place)
    with open_writer(place, projection.name, projection.version, table_specs(projection)) as writer:
        target = WriterTarget(projection, writer)
        job = Job(
            [target], log_opener(how.log), cut, manifest.facts["origin"], Pace(allow_dead_letters=True), stop=how.stop
        )
        if how.watch:
            how.watch(job)
        execute(job, workers=how.workers)
        if writer.manifest is None or writer.manifest.cut != cut:
            return None
        return _Side(place, writer.manifest)
