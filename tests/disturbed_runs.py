"""Runs of real jobs that are disturbed in every way there is, and what the view must be after each.

``disturbed`` is one run whose circumstances are drawn: number of workers, moments of commits, when it is stopped, where
reading fails, at which step on disk. ``check`` compares the newest commit of a view, wherever its cut is, with the
reference fold of the log up to that cut; ``fresh`` is the undisturbed fold whose digests every other one must have.
"""

from __future__ import annotations

import datetime as dt
import errno
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import reference
import reference_chain
from memory_log import MemoryLog, Partitions, records_before
from random_projection import Pair, things

from connectors import fs
from connectors.manifest import Manifest
from connectors.reading import newest_manifest, read_table
from flows import Projection, run
from flows.committer import Pace
from schemas.errors import DataError, LogUnreachable, RefoldError

PACE = Pace(interval_s=1.0, allow_dead_letters=True)


# -- what a view must be at its cut


def outcome(pair: Pair, log: Partitions, cut: Sequence[int], origin: Sequence[int] | None) -> reference.Outcome:
    records = records_before(log, cut)
    if origin is not None:
        records = [[r for r in part if r[0] >= first] for part, first in zip(records, origin, strict=True)]
    return reference_chain.fold(records, pair.spec)


def check(store: Path, pair: Pair, log: Partitions, origin: Sequence[int] | None = None) -> Manifest | None:
    """The newest commit of a view, if there is one, against the reference fold of the log up to its cut."""
    manifest = newest_manifest(store, pair.projection.name, 1)
    if manifest is None:
        return None
    expected = outcome(pair, log, manifest.cut[things.name], origin)
    assert rows_of(store, manifest, pair.projection) == plain_rows(expected, pair)
    late, dead = (read_table(store, manifest, name) for name in ("late", "dead_letters"))
    assert {
        (*place(row), row["window_start"]): (row["event_time"], row["watermark"]) for row in plain(late)
    } == expected.late
    assert {place(row) for row in plain(dead)} == expected.dead
    for facts, fates, watermark, lost in zip(
        manifest.facts["log"][things.name]["partitions"],
        expected.counts,
        expected.watermarks,
        expected.lost,
        strict=True,
    ):
        assert {name: n for name, n in facts["counts"].items() if n and name != "read"} == fates
        assert facts["counts"]["read"] == sum(fates.values())
        assert facts["watermark_us"] == watermark
        assert facts.get("lost_contributions", 0) == lost
    return manifest


def rows_of(store: Path, manifest: Manifest, projection: Projection) -> dict[Any, dict[str, Any]]:
    found = {}
    for row in plain(read_table(store, manifest, "rows")):
        if projection.select:
            key: Any = (row.pop("partition"), row.pop("offset"))
        else:
            key = (row.pop("window_start", None), *(reference.identity(row.pop(name)) for name in projection.key))
        found[key] = {name: exactly(value) for name, value in row.items()}
    return found


def plain_rows(expected: reference.Outcome, pair: Pair) -> dict[Any, dict[str, Any]]:
    return {key: {name: exactly(value) for name, value in row.items()} for key, row in expected.rows.items()}


def exactly(value: Any) -> Any:
    """Comparable: -0.0 is not 0.0, NaN is NaN, 1 is neither 1.0 nor true."""
    if isinstance(value, dt.datetime):
        return exactly((value - reference.EPOCH) // dt.timedelta(microseconds=1))
    if isinstance(value, list):
        return [exactly(item) for item in value]
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    return type(value).__name__, reference.identity(value)


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values; instants as microseconds."""
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names).to_pylist()


def place(row: dict[str, Any]) -> tuple[int, int]:
    return row["partition"], row["offset"]


def digests(manifest: Manifest) -> dict[str, str]:
    return {name: table.digest for name, table in manifest.tables.items()}


@contextmanager
def new_store() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="refold-law-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def fresh(pair: Pair, log: Partitions, cut: Sequence[int], origin: Sequence[int] | None = None) -> Manifest:
    """An undisturbed fold to a cut: alone, one worker, one slice a partition, one commit."""
    with new_store() as store, clock(lambda: 0.0):
        fold([pair], MemoryLog(things.name, log), store, until=list(cut), workers=1, origin=origin)
        manifest = newest_manifest(store, pair.projection.name, 1)
    assert manifest is not None
    return manifest


# -- a fold, and what may happen to it


def fold(views: Sequence[Pair], log: MemoryLog, store: Path, **how: Any) -> None:
    for name in ("until", "origin"):
        if isinstance(how.get(name), list):
            how[name] = {things.name: how[name]}
    run([pair.projection for pair in views], log=log, store=store, pace=PACE, **how)  # type: ignore[arg-type]


@contextmanager
def clock(now: Callable[[], float]) -> Iterator[None]:
    """What the committer and the job take for the time: when commits are due, and changes are sent on."""
    with ExitStack() as stack:
        for module in ("committer", "commits_ahead", "job"):
            stack.enter_context(mock.patch(f"flows.{module}.monotonic", now))
        yield


class Clock:
    """Goes on by chance, and so makes commits come at any moment: always, never, or now and then."""

    def __init__(self, lots: random.Random) -> None:
        self._lots, self._share, self._now = lots, lots.choice([0.0, 0.1, 0.5, 1.0]), 0.0

    def __call__(self) -> float:
        if self._lots.random() < self._share:
            self._now += 100.0
        return self._now


class Injected(Exception):
    """A failure that the test has caused."""


class Fault:
    """Something that happens at one of the next occasions, or to all from it on."""

    def __init__(self, at: int, act: Callable[[], object], *, once: bool = True) -> None:
        self._left, self._act, self._once, self.happened = at, act, once, False

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0 or (self._left < 0 and not self._once):
            self.happened = True
            self._act()


def fail(error: Callable[[], Exception]) -> Callable[[], object]:
    def act() -> None:
        raise error()

    return act


def disk_error() -> OSError:
    return OSError(errno.EIO, "injected")


def draw_fault(log: MemoryLog, stop: threading.Event, lots: random.Random) -> tuple[str, Fault, bool]:
    """What will happen, in words and as a fault, and whether it happens at a step on disk."""
    kind = lots.choice(["nothing", "nothing", "stop", "reading", "disk", "disk for a moment", "bug", "bug at once"])
    at = lots.randint(1, 12) if kind in ("stop", "reading") else lots.randint(1, 120)
    acts = {"nothing": lambda: None, "stop": stop.set, "reading": fail(lambda: LogUnreachable("injected"))}
    error = disk_error if kind.startswith("disk") else Injected
    fault = Fault(at, acts.get(kind, fail(error)), once=kind not in ("disk", "bug"))
    log.on_read = fault if kind in ("stop", "reading") else None
    return f"{kind} at {at}", fault, kind not in ("nothing", "stop", "reading")


def disturbed(log: MemoryLog, lots: random.Random, work: Callable[[threading.Event, int], object]) -> str:
    """Some work with drawn circumstances, that may end early; says what happened.

    ``work`` gets an event that may be set and a number of workers.
    """
    stop = threading.Event()
    said, fault, on_disk = draw_fault(log, stop, lots)
    with ExitStack() as stack:
        stack.enter_context(clock(Clock(lots)))
        stack.enter_context(mock.patch("flows.job.CHANGED_GROUPS_MAX", lots.choice([1, 5, 50_000])))
        stack.enter_context(mock.patch("flows.committer.GRACE_S", lots.choice([0.0, 900.0])))
        if on_disk:
            stack.enter_context(mock.patch.object(fs, "on_step", fault))
        try:
            work(stop, lots.randint(1, 3))
        except (RefoldError, OSError, Injected) as error:
            if not (fault.happened or does_not_fit(error)):
                raise
            return f"{said}: {error}"
        finally:
            log.on_read = None
    return f"{said}: not noticed" if fault.happened else "undisturbed"


def does_not_fit(error: Exception) -> bool:
    return isinstance(error, DataError) and "does not fit int64" in str(error)
