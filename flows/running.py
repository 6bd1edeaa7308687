"""``run`` and ``rebuild``: from a log to a view.

run(projections, log=..., store=..., until="end")     follow the log; the newest commit is where it goes on
rebuild(projection, log=..., store=...)                fold from the origin into a new generation, then take over
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from connectors.copies import mend
from connectors.generation import Version, reached
from connectors.history import find
from connectors.log import Log, open_log
from connectors.manifest import Manifest
from connectors.points import AtCut, Point
from connectors.reading import newest_manifest, read_table
from connectors.table import Writer, open_writer
from connectors.throttle import Governor, Rate, Throttle
from connectors.view import View, open_view
from flows.cluster import leave
from flows.column_order import in_committed_order
from flows.committer import Pace
from flows.engine import build, execute
from flows.facts import Cut
from flows.job import END, Job
from flows.merge import table_specs
from flows.projection import SEMANTICS, Projection
from schemas.errors import LogChanged, LogGap, StoreDamaged, Superseded, UsageError

DEFAULT_LOG = "data/log"
DEFAULT_STORE = "data/store"

Watch = Callable[[Job], None]
"""Called with a job before it starts, to show its progress."""


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """The live generation of a view in a store."""

    projection: Projection
    store: Path

    def settled(self) -> LiveTarget:
        mend(self.store, self.projection.name, self.projection.version)
        manifest = newest_manifest(self.store, self.projection.name, self.projection.version)
        return replace(self, projection=in_committed_order(self.projection, manifest.facts if manifest else None))

    def load(self) -> tuple[Mapping[str, Any], pa.Table] | None:
        manifest = newest_manifest(self.store, self.projection.name, self.projection.version)
        if manifest is None:
            return None
        return manifest.facts, read_table(self.store, manifest, "partials")

    def open(self) -> Writer:
        projection = self.projection
        return open_writer(self.store, projection.name, projection.version, table_specs(projection))

    def close(self, writer: Writer) -> None:
        writer.close()


@dataclass(frozen=True, slots=True)
class WriterTarget:
    """A writer that is open already and outlives the job."""

    projection: Projection
    writer: Writer

    def settled(self) -> WriterTarget:
        return self

    def load(self) -> tuple[Mapping[str, Any], pa.Table] | None:
        manifest = self.writer.manifest
        return None if manifest is None else (manifest.facts, self.writer.read("partials"))

    def open(self) -> Writer:
        return self.writer

    def close(self, writer: Writer) -> None:
        """Whoever opened it closes it."""


def run(
    projections: Sequence[Projection],
    *,
    log: Log | str | None = None,
    store: str | Path | None = None,
    until: str | Cut | None = None,
    workers: int | None = None,
    process: int | None = None,
    addresses: Sequence[str] = (),
    origin: str | Cut | None = None,
    pace: Pace | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> None:
    """Follow the log, or go on until its present end (``until="end"``) or a cut.

    ``log``: a Log, or a URL or path (default: REFOLD_LOG, then data/log); ``store`` likewise (REFOLD_STORE, data/store).
    ``workers``: threads (default: one a core, at most four); they change nothing but the time it takes.
    When a rebuild takes over a view, the run drops what it had not committed and goes on from the new generation.
    ``process`` and ``addresses``: this is one process of a cluster; should its part fail, the process ends at once.
    """
    stop = stop or threading.Event()
    while True:
        job = _job(projections, log, store, until, origin, pace or Pace(), stop)
        job.on_error = leave if process is not None else None
        if watch:
            watch(job)
        try:
            return execute(job, workers=workers, process=process, addresses=addresses)
        except Superseded:
            if stop.is_set():
                return None


def dataflow(*projections: Projection) -> Any:
    """A Bytewax ``Dataflow`` of these projections, for ``python -m bytewax.run MODULE:flow``.

    Log, store and end come from REFOLD_LOG, REFOLD_STORE and REFOLD_UNTIL when the flow starts; building it opens nothing.
    """
    job = _job(projections, None, None, os.environ.get("REFOLD_UNTIL") or None, None, Pace(), threading.Event())
    job.on_error = _raise  # nobody asks the job for its error
    return build(job)


def _raise(error: Exception) -> NoReturn:
    raise error


def _job(
    projections: Sequence[Projection],
    log: Log | str | None,
    store: str | Path | None,
    until: str | Cut | None,
    origin: str | Cut | None,
    pace: Pace,
    stop: threading.Event,
) -> Job:
    place = store_path(store)
    targets = [LiveTarget(projection, place) for projection in projections]
    return Job(targets, log_opener(log), until=until, origin=origin, pace=pace, stop=stop)


def store_path(store: str | Path | None) -> Path:
    return Path(store or os.environ.get("REFOLD_STORE") or DEFAULT_STORE)


def log_url(log: str | None) -> str:
    return log or os.environ.get("REFOLD_LOG") or DEFAULT_LOG


def log_opener(log: Log | str | None) -> Callable[[], Log]:
    """What opens the log when it is needed; one that the caller has open is left open.

    A log given by its URL or path, or by REFOLD_LOG, is read together with the archive in REFOLD_ARCHIVE, if that is set.
    """
    if log is None or isinstance(log, str):
        return lambda: open_log(log_url(log), os.environ.get("REFOLD_ARCHIVE") or None)
    return lambda: _Borrowed(log)


class _Borrowed:
    """A log that the caller opened and will close."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def close(self) -> None:
        return


def rebuild(
    projection: Projection,
    *,
    log: Log | str | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    origin: str | Cut | None = None,
    pace: Pace | None = None,
    rate: Rate | None = None,
    governed: bool = True,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> Manifest | None:
    """Fold again from the origin into a fresh generation, catch up with the live view, and take over in one step.

    The view keeps serving, and may keep running, meanwhile; no file of it is trusted or touched. Returns the manifest
    that took over, or None when it was stopped before (the live view is as it was). A rebuild that was stopped goes on
    where it stood, if definition, origin and log are still the same.

    ``rate``: read no faster than that. ``governed``: where it reads from a broker, back off when its fetches take longer than they do
    unhurried, so that others are not disturbed.
    """
    stop = stop or threading.Event()
    throttle = Throttle(stop, rate, Governor() if governed else None)
    projection = in_committed_order(projection, _live_facts(store_path(store), projection))
    specs = table_specs(projection)

    def job_for(writer: Writer, until: str | Cut) -> Job:
        target = WriterTarget(projection, writer)
        return Job([target], log_opener(log), until, origin, pace or Pace(), stop, throttle=throttle)

    for resume in (True, False):
        with open_writer(
            store_path(store), projection.name, projection.version, specs, building=True, resume=resume
        ) as writer:
            begun = writer.manifest
            if begun is not None and not _may_resume(projection, begun, origin):
                continue
            try:
                return _fold_and_take_over(writer, job_for, store_path(store), workers, watch)
            except (LogChanged, LogGap):
                if begun is None:
                    raise  # not for what had been begun: the log itself does not allow it
    raise AssertionError("a fresh generation has nothing to go on from")


def _live_facts(store: Path, projection: Projection) -> Mapping[str, Any] | None:
    """Facts of the newest commit that can be read, if any can."""
    live = Version.of(store, projection.name, projection.version).live()
    manifest = live.newest_readable() if live else None
    return manifest.facts if manifest else None


def _may_resume(projection: Projection, begun: Manifest, origin: str | Cut | None) -> bool:
    return same_definition(projection, begun) and origin is None and begun.facts["hopeful"] is None


def same_definition(projection: Projection, begun: Manifest) -> bool:
    """Whether what was begun may be gone on with: folded by the same rules from the same definition."""
    return (begun.facts["semantics"], begun.facts["fingerprint"]) == (SEMANTICS, projection.fingerprint)


def _fold_and_take_over(
    writer: Writer, job_for: Callable[[Writer, str | Cut], Job], store: Path, workers: int | None, watch: Watch | None
) -> Manifest | None:
    until: str | Cut = END
    while True:
        job = job_for(writer, until)
        if watch:
            watch(job)
        execute(job, workers=workers)
        if job.stop.is_set():
            return None
        ahead = writer.take_over(from_another_log=_is_of_another_log(store, writer, job.open_log))
        if ahead is None:
            return writer.manifest
        until = ahead


def _is_of_another_log(store: Path, writer: Writer, opener: Callable[[], Log]) -> bool:
    """Whether the live view was folded from streams that are no more: recreated, with other partitions, or cut shorter."""
    fresh = writer.manifest
    assert fresh is not None
    try:
        live = newest_manifest(store, fresh.view, fresh.version)
    except StoreDamaged:
        return False  # taking over falls back to the newest manifest that can be read
    if live is None or _streams(live) != _streams(fresh):
        return live is not None
    log = opener()
    try:
        ends = {name: list(log.describe(name).ends) for name in live.cut}
    finally:
        log.close()
    return not reached(ends, live.cut)


def _streams(manifest: Manifest) -> dict[str, tuple[str, int]]:
    return {name: (log["identity"], len(log["partitions"])) for name, log in manifest.facts["log"].items()}


def rebuild_past(
    projection: Projection,
    point: Point,
    into: Path,
    *,
    log: Log | str | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    origin: str | Cut | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> View | None:
    """Fold from the origin to a point of the past, into a store of its own; what was begun there is gone on with.

    ``point``: a cut; or a commit or event time, whose cut is that of a snapshot which is kept. The origin is that of the committed view, if
    there is one. None when it was stopped. Raises ``UsageError`` (the place is the store itself, or holds a later cut; the log has no such
    cut), ``UnknownView`` (no such snapshot is kept).
    """
    place, stop = store_path(store), stop or threading.Event()
    if into.resolve() == place.resolve():
        raise UsageError("a view of the past needs a store of its own", where=str(into), do="name another directory")
    begun = newest_manifest(into, projection.name, projection.version)
    known = _live_facts(place, projection)
    cut = (
        point.cut
        if isinstance(point, AtCut)
        else find(Version.of(place, projection.name, projection.version), point).manifest.cut
    )
    _check_cut(projection, cut, log)
    if begun is not None and not reached(cut, begun.cut):
        raise UsageError(
            "this store holds the view at a later cut already", where=str(into), do="name another directory"
        )
    run(
        [in_committed_order(projection, known)], log=log, store=into, until=cut, workers=workers, stop=stop, watch=watch,
        origin=origin or (known["origin"] if known else None), pace=Pace(allow_dead_letters=True),
    )  # fmt: skip
    return None if stop.is_set() else open_view(into, projection.name, projection.version)


def _check_cut(projection: Projection, cut: Cut, log: Log | str | None) -> None:
    """Raises ``UsageError`` for a cut that the log does not have."""
    opened = log_opener(log)()
    try:
        ends = {category.name: opened.describe(category.name).ends for category in projection.categories}
    finally:
        opened.close()
    if {name: len(offsets) for name, offsets in cut.items()} != {name: len(offsets) for name, offsets in ends.items()}:
        known = ", ".join(f"the {len(offsets)} partitions of {name}" for name, offsets in ends.items())
        raise UsageError(f"a cut of {projection.title} names {known}", do="give one next offset for each partition")
    for name, offsets in cut.items():
        for partition, (asked, end) in enumerate(zip(offsets, ends[name], strict=True)):
            if asked > end:
                raise UsageError(
                    f"{name}/{partition} ends at {end:,}, before offset {asked:,}",
                    do="give a cut that the log has reached",
                )
