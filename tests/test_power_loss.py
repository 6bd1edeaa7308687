"""Power may fail, and a process be killed, before any step on disk, also while what the last time left is cleared up.

What was promised is there afterwards; readers see one committed snapshot or none; going on gives what an undisturbed
work gives, to the byte. ``disk.py`` says what may be found when the power comes back.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pipelines
import polars as pl
import pyarrow as pa
import pytest
from interrupting import Acknowledge, Effort, Rig, Work
from table_model import TABLES, Model, applied, canonical, changes_of, expected, facts, shown_rows

from connectors import fs, local_writer, open_log, open_view
from connectors.changes import Changes
from connectors.collect import collect
from connectors.generation import Generation, Version
from connectors.local import LocalLog
from connectors.log import APPENDS
from connectors.table import Writer, open_writer
from connectors.view import View, check_files
from flows import rebuild, repair, run
from flows.committer import Pace
from flows.flights import departures_by_hour
from schemas.errors import RefoldError, StoreDamaged, UnknownCategory, UnknownView


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable is what the model says: the real disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def interrupted(job: Work, scratch: Path, effort: Effort) -> None:
    rig = Rig(job, scratch)
    rig.interrupt_everywhere(effort)
    assert rig.tried > 10


def efforts(few: Effort, many: Effort) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "effort", [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]
    )


# -- the table store

UPSERTS: list[Model] = [
    {(n, "k"): (float(n), None) for n in range(12)},
    {(n, "k"): (float(-n), b"x") for n in range(0, 20, 3)},
    {},
]
DELETES = [set(), {(n, "k") for n in range(4, 9)}, {(n, "k") for n in range(10, 20)}]
MODELS = list(itertools.accumulate(zip(UPSERTS, DELETES, strict=True), lambda m, c: applied(m, *c), initial={}))
"""The rows after so many commits."""


def commit_next(writer: Writer) -> int:
    """The commit that follows; returns how many there are then."""
    done = commits_of(writer)
    partials = Changes(pa.table({"n": range(done, done + 5)}))
    writer.commit({"rows": changes_of(UPSERTS[done], DELETES[done]), "partials": partials}, facts(done + 1))
    return done + 1


def commits_of(writer: Writer) -> int:
    return int(writer.manifest.cut["orders"][0]) if writer.manifest else 0


def commits_up_to(store: Path, last: int, acknowledge: Acknowledge = lambda _: None) -> None:
    with open_writer(store, "view", 1, TABLES) as writer:
        acknowledge(commits_of(writer))  # a run that finds nothing to do reports what it found
        while commits_of(writer) < last:
            acknowledge(commit_next(writer))


def seen(store: Path) -> int:
    """How many commits are in what readers see; it is all of that, by every way of reading."""
    view = shown_view(store, "view")
    if view is None:
        return 0
    commits = view.cut["orders"][0]
    rows = expected(MODELS[commits])
    assert canonical(view.scan().collect().to_arrow()) == rows
    assert shown_rows(store) == rows
    return commits


def shown_view(store: Path, name: str) -> View | None:
    """What readers are led to. None before the first commit, and when that was interrupted before it had led them."""
    try:
        return open_view(store, name)
    except (UnknownView, StoreDamaged) as error:
        assert isinstance(error, UnknownView) or "the link to the newest snapshot" in str(error)
        assert not (store / name / "current").exists()
        return None


def collected(store: Path) -> Any:
    """All files but locks, when what is of no use is gone."""
    collect(store, "view", 1, grace_s=0)
    return pipelines.contents(store)


class Commits(Work):
    """The first commit of a view and those that follow."""

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        promised = shown_by_latest(place / "store")
        commits_up_to(place / "store", len(UPSERTS), lambda n: acknowledge(kept(promised, n)))

    def look(self, place: Path, acknowledged: int) -> None:
        assert acknowledged <= seen(place / "store") <= acknowledged + 1

    def outcome(self, place: Path) -> Any:
        assert seen(place / "store") == len(UPSERTS)
        return collected(place / "store")


def shown_by_latest(store: Path) -> int:
    """Number of the commit that readers are led to."""
    latest = store / "view/v1/latest"
    return int(latest.readlink().name) if latest.is_symlink() else 0


def kept(promised: int, commits: int) -> int:
    assert commits >= promised, "what was seen is not taken back"
    return commits


@efforts(Effort(mixtures=1, again=1), Effort(mixtures=20, again=100, later=30))
def test_commits(effort: Effort, tmp_path: Path) -> None:
    interrupted(Commits(), tmp_path, effort)


class Rebuilding(Work):
    """A rebuild beside a live view: made, committed to twice, and taking over."""

    def prepare(self, place: Path) -> None:
        commits_up_to(place / "store", 2)

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        store = place / "store"
        if live_generation(store).number > 1:
            with open_writer(store, "view", 1, TABLES) as writer:
                acknowledge(writer.generation.number)
            return
        with open_writer(store, "view", 1, TABLES, building=True, resume=True) as writer:
            while commits_of(writer) < 2:
                commit_next(writer)
            assert writer.take_over() is None
        acknowledge(live_generation(store).number)

    def look(self, place: Path, acknowledged: int) -> None:
        assert seen(place / "store") == 2, "the old view or the new one, and they are the same"
        assert live_generation(place / "store").number >= acknowledged

    def outcome(self, place: Path) -> Any:
        """The number of the generation depends on how many were begun; all else is the same."""
        assert seen(place / "store") == 2
        collect(place / "store", "view", 1, grace_s=0)
        [generation] = Version.of(place / "store", "view", 1).generations()
        manifest = generation.newest()
        assert manifest is not None
        return manifest.tables, sorted(p.name for p in generation.version.data.iterdir())


def live_generation(store: Path) -> Generation:
    live = Version.of(store, "view", 1).live()
    assert live is not None
    return live


@efforts(Effort(mixtures=1, again=2), Effort(mixtures=20, again=60, later=30))
def test_a_rebuild(effort: Effort, tmp_path: Path) -> None:
    interrupted(Rebuilding(), tmp_path, effort)


class Collecting(Work):
    """Removing all that is of no use: superseded snapshots, a superseded and an abandoned generation, files nobody names."""

    def prepare(self, place: Path) -> None:
        store = place / "store"
        commits_up_to(store, 2)
        for take_over in (True, False):
            with open_writer(store, "view", 1, TABLES, building=True) as writer:
                commit_next(writer), commit_next(writer)
                if take_over:
                    writer.take_over()
        commits_up_to(store, 3)
        (store / "view/v1/data/nobody-names-this.parquet").write_bytes(b"")

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        collect(place / "store", "view", 1, grace_s=0)

    def look(self, place: Path, acknowledged: int) -> None:
        assert seen(place / "store") == 3
        with open_writer(place / "store", "view", 1, TABLES) as writer:
            assert canonical(writer.read("rows")) == expected(MODELS[3])

    def outcome(self, place: Path) -> Any:
        assert seen(place / "store") == 3
        return pipelines.contents(place / "store")


@efforts(Effort(mixtures=1, again=2), Effort(mixtures=40, again=40, later=30))
def test_collection(effort: Effort, tmp_path: Path) -> None:
    interrupted(Collecting(), tmp_path, effort)


class CommittingAndCollecting(Work):
    """A writer and a collection in turns: what is removed must not be what a loss of power leads back to."""

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        for commits in range(1, len(UPSERTS) + 1):
            commits_up_to(place / "store", commits, acknowledge)
            collect(place / "store", "view", 1, grace_s=0)

    def look(self, place: Path, acknowledged: int) -> None:
        collect(place / "store", "view", 1, grace_s=0)
        assert acknowledged <= seen(place / "store") <= acknowledged + 1

    def outcome(self, place: Path) -> Any:
        assert seen(place / "store") == len(UPSERTS)
        return collected(place / "store")


@efforts(Effort(mixtures=1, again=1, every=6), Effort(mixtures=10, again=60, later=30))
def test_commits_and_collections_in_turns(effort: Effort, tmp_path: Path) -> None:
    interrupted(CommittingAndCollecting(), tmp_path, effort)


# -- a whole run of a view of flights


@functools.cache
def some_flights() -> Path:
    """A log of 400 events: one log, since its identity is part of what is compared."""
    directory = tempfile.mkdtemp(prefix="refold-test-log-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    pipelines.append(directory, pipelines.events().slice(0, 400))
    return Path(directory)


class Flights(Work):
    """A view of flights, folded by the real pipeline in small commits."""

    def prepare(self, place: Path) -> None:
        shutil.copytree(some_flights(), place / "log")

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        with open_log(str(place / "log")) as log:
            chopped = pipelines.Chopped(log, seed=0, records_max=200)
            how = {"log": chopped, "store": place / "store", "workers": 1}
            run([departures_by_hour], until="end", pace=Pace(interval_s=0.0), **how)
        acknowledge(400)

    def look(self, place: Path, acknowledged: int) -> None:
        assert records_seen(place / "store") >= acknowledged

    def outcome(self, place: Path) -> Any:
        assert records_seen(place / "store") == 400
        return outcome_of_flights(place / "store")


def records_seen(store: Path) -> int:
    """How many records are in what readers see; their number and the counts in the rows are the same."""
    view = shown_view(store, departures_by_hour.name)
    if view is None:
        return 0
    counts = pipelines.counted(view.manifest)
    departures = view.scan().select(pl.col("departures").sum()).collect().item()
    assert departures == counts["folded"], "rows of one commit, and the manifest of another"
    assert pl.read_parquet(f"{store}/{view.name}/current/*.parquet").height == view.manifest.tables["rows"].rows
    return counts["read"]


def outcome_of_flights(store: Path) -> Any:
    manifest = open_view(store, departures_by_hour.name).manifest
    data = store / departures_by_hour.name / "v1/data"
    return manifest.facts, manifest.tables, {c.file: (data / c.file).read_bytes() for c in all_chunks(manifest)}


def all_chunks(manifest: Any) -> list[Any]:
    return [chunk for table in manifest.tables.values() for chunk in table.chunks]


@efforts(Effort(mixtures=1, again=1, later=3, every=5), Effort(mixtures=6, again=20, later=20))
def test_a_run(effort: Effort, tmp_path: Path) -> None:
    interrupted(Flights(), tmp_path, effort)


class RebuildingFlights(Flights):
    """The same view, folded again beside the live one."""

    def prepare(self, place: Path) -> None:
        super().prepare(place)
        super().work(place, lambda _: None)

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        assert rebuild(departures_by_hour, log=str(place / "log"), store=place / "store", workers=1) is not None
        acknowledge(400)

    def look(self, place: Path, acknowledged: int) -> None:
        assert records_seen(place / "store") == 400


@efforts(Effort(mixtures=1, again=0, every=6), Effort(mixtures=6, again=10, later=20))
def test_a_rebuild_of_flights(effort: Effort, tmp_path: Path) -> None:
    interrupted(RebuildingFlights(), tmp_path, effort)


class Repairing(Flights):
    """Three damaged files of the view of flights: one changed, one gone, one gone from the snapshot alone."""

    def prepare(self, place: Path) -> None:
        super().prepare(place)
        super().work(place, lambda _: None)
        manifest = open_view(place / "store", departures_by_hour.name).manifest
        home = place / "store" / departures_by_hour.name / "v1"
        changed, gone = (home / "data" / chunk.file for chunk in all_chunks(manifest)[:2])
        data = changed.read_bytes()
        changed.unlink()
        changed.write_bytes(data[:-1])
        gone.unlink()
        next((home / "latest").resolve().glob("*.parquet")).unlink()
        assert len(check_files(place / "store", departures_by_hour.name, 1)) >= 2

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        assert repair(departures_by_hour, log=str(place / "log"), store=place / "store", workers=1) is not None
        acknowledge(1)

    def look(self, place: Path, acknowledged: int) -> None:
        damaged = check_files(place / "store", departures_by_hour.name, 1)
        assert not (acknowledged and damaged)
        kept = [path for path in (place / "store").rglob("*") if ".damaged" in path.name]
        assert kept or damaged, "what was damaged is kept"

    def outcome(self, place: Path) -> Any:
        assert check_files(place / "store", departures_by_hour.name, 1) == []
        assert records_seen(place / "store") == 400
        return outcome_of_flights(place / "store")


@efforts(Effort(mixtures=1, again=0, every=3), Effort(mixtures=6, again=10, later=20))
def test_a_repair(effort: Effort, tmp_path: Path) -> None:
    interrupted(Repairing(), tmp_path, effort)


# -- the embedded log

COUNTS = (2, 1, 3, 1, 9, 2, 20, 1, 1)
"""Appends that, with small tails, are sealed after a while, and two that go straight to segments."""


class Appends(Work):
    """A category made by its first append, and appends up to a number of records."""

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        with LocalLog(place / "log") as log:
            with suppress(UnknownCategory):
                log.describe("orders")
                [end] = log.append_batch("orders", numbers(0, 0))
                acknowledge(end)
            if "orders" not in log.categories():
                log.create("orders", 1)
            for end in itertools.accumulate(COUNTS):
                [there] = log.append_batch("orders", numbers(0, 0))
                if there < end:
                    acknowledge(*log.append_batch("orders", numbers(there, end - there)))

    def look(self, place: Path, acknowledged: int) -> None:
        found = logged(place / "log")
        assert found == list(range(len(found))), "whole records, in order"
        assert acknowledged <= len(found)

    def outcome(self, place: Path) -> Any:
        names = sorted(path.suffix for path in (place / "log/orders/0").iterdir())
        return logged(place / "log"), names.count(".tail"), names.count(".tmp")


def numbers(first: int, count: int) -> pa.Table:
    columns = [pa.nulls(count, pa.binary()), [b"%d" % n for n in range(first, first + count)], [0] * count, [0] * count]
    return pa.table(columns, schema=APPENDS)


def logged(path: Path) -> list[int]:
    """The numbers of all records that a reader gets."""
    with LocalLog(path) as log:
        try:
            [end] = log.describe("orders").ends
        except UnknownCategory:
            return []
        reader = log.reader("orders", {0: 0}, {0: end})
        found = [value for piece in iter(reader.read, []) for value in piece[0].records["value"].to_pylist()]
        reader.close()
    return [int(value) for value in found]


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_writer, "TAIL_FRAMES", 3)
    monkeypatch.setattr(local_writer, "TAIL_RECORDS", 8)
    monkeypatch.setattr(local_writer, "SETTLED_RECORDS", 5)
    monkeypatch.setattr(local_writer, "SEGMENT_GROUPS", 1)


@efforts(Effort(mixtures=3, again=5), Effort(mixtures=60, again=100, later=30))
@pytest.mark.usefixtures("small_tails")
def test_appends(effort: Effort, tmp_path: Path) -> None:
    interrupted(Appends(), tmp_path, effort)


# -- the rig itself


@pytest.mark.parametrize("left_out", ["fsync", "fsync_dir"])
@pytest.mark.parametrize("job", [Commits(), Appends()])
def test_a_sync_that_is_left_out_is_found(
    job: Work, left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs, left_out, lambda *_, **__: None)
    with pytest.raises((AssertionError, RefoldError, OSError, pl.exceptions.PolarsError)) as found:
        interrupted(job, tmp_path, Effort(mixtures=1, again=0))
    assert "interrupted before" in "".join(found.value.__notes__)


# -- after a kill, to the end

WORKS = [Commits, Rebuilding, Collecting, CommittingAndCollecting, Flights, RebuildingFlights, Repairing, Appends]


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.usefixtures("small_tails")
def test_what_is_promised_at_the_end_does_not_lean_on_one_that_was_killed(kind: type[Work], tmp_path: Path) -> None:
    rig = Rig(kind(), tmp_path)
    rig.finish_after_kills()
    assert rig.tried > 1
