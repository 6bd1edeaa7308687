"""The promise as a user would check it: what is folded is what plain Polars computes, however it was folded.

A week of real flights goes through the embedded log and through a broker, with any number of workers, in any slices, at
any commits, with readers looking on, with a rebuild beside it: always the same tables.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import pipelines
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipelines import NAMES, VIEWS, append, digests, digests_of_all, events, facts, flights_log
from polars.testing import assert_frame_equal

from connectors import open_log, open_view
from connectors.view import View
from flows import rebuild, run, verify
from flows.committer import Pace
from flows.flights import aircraft, arrivals_by_day, departures_by_hour
from schemas.errors import RefoldError

EAGER = Pace(interval_s=0.0)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """All views of the whole log, for reading only."""
    with tempfile.TemporaryDirectory(prefix="refold-test-store-") as directory:
        run(VIEWS, log=flights_log(), store=directory, until="end")
        yield directory


# -- what is folded


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_what_polars_computes_from_the_same_facts(store: str, name: str) -> None:
    rows, late = pipelines.EXPECTED[name]()
    view = open_view(store, name)
    found = view.scan().collect()
    rows = rows.select([pl.col(column).cast(kind) for column, kind in found.schema.items()])
    assert_frame_equal(found, rows.sort(view.manifest.tables["rows"].primary_key), check_exact=True)
    assert sorted(ids(view.late().collect())) == sorted(
        late["row"].cast(pl.String) + "-" + late["type"].cast(pl.String)
    )


def ids(kept: pl.DataFrame) -> list[str]:
    return [json.loads(value)["id"] for value in kept["value"]] if kept.height else []


def test_no_departure_is_lost_folded_and_late_ones_are_all_of_them(store: str) -> None:
    view = open_view(store, "departures_by_hour")
    late = view.late().select(data=pl.col("value").cast(pl.String).str.json_path_match("$.data.origin"))
    late_counts = late.group_by(origin="data").agg(n=pl.len().cast(pl.Int64))
    folded = view.scan().group_by("origin").agg(n=pl.col("departures").sum())
    told = pl.concat([folded.collect(), late_counts.collect()]).group_by("origin").agg(pl.col("n").sum()).sort("origin")
    departed = facts().filter(pl.col("type") == "FlightDeparted")
    assert late_counts.collect()["n"].sum() > 0
    assert told.equals(departed.group_by("origin").agg(n=pl.len().cast(pl.Int64)).sort("origin"))


# -- however it is folded


@pytest.fixture(scope="module")
def topic(broker: str) -> tuple[str, str]:
    """URL of a broker, and a topic of 4 partitions with all the events."""
    url, name = f"redpanda://{broker}", f"refold-acceptance-{os.getpid()}"
    append(url, events(), name)
    return url, name


@pytest.mark.broker
@pytest.mark.parametrize("workers", [1, 2])
def test_a_broker_gives_the_same_tables_as_the_embedded_log(
    topic: tuple[str, str], workers: int, tmp_path: Path
) -> None:
    url, name = topic
    run(pipelines.in_topic(name), log=url, store=tmp_path, until="end", workers=workers)
    assert digests(tmp_path) == digests_of_all()


@pytest.mark.broker
def test_a_view_kept_from_a_broker_is_verified_and_rebuilt_from_it(topic: tuple[str, str], tmp_path: Path) -> None:
    url, name = topic
    views = pipelines.in_topic(name)
    run(views, log=url, store=tmp_path, until="end")
    assert verify(views[0], log=url, store=tmp_path).ok
    after = rebuild(views[0], log=url, store=tmp_path)
    assert after is not None
    assert after.digest == digests_of_all()["departures_by_hour"]


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_more_workers_give_the_same_tables(workers: int, tmp_path: Path) -> None:
    run(VIEWS, log=flights_log(), store=tmp_path, until="end", workers=workers)
    assert digests(tmp_path) == digests_of_all()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), records_max=st.sampled_from([200, 400, 2000]), workers=st.sampled_from([1, 2]))
@example(seed=0, records_max=100, workers=1)  # windows become final, and are dropped, in many small commits
def test_small_slices_in_any_order_give_the_same_tables(seed: int, records_max: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as directory, open_log(flights_log()) as log:
        chopped = pipelines.Chopped(log, seed, records_max)
        run(VIEWS, log=chopped, store=directory, until="end", workers=workers, pace=EAGER)
        assert digests(directory) == digests_of_all()


def test_a_projection_alone_gives_the_same_table_as_beside_others(tmp_path: Path) -> None:
    for view in VIEWS:
        run([view], log=flights_log(), store=tmp_path, until="end")
    assert digests(tmp_path) == digests_of_all()


def test_a_projection_that_joins_later_gives_the_same_table(tmp_path: Path) -> None:
    cut = {"flights": [1000, 10, 0, 4000]}
    run([arrivals_by_day], log=flights_log(), store=tmp_path, until=cut)
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    assert digests(tmp_path) == digests_of_all()


def test_a_second_run_to_the_end_does_nothing(tmp_path: Path) -> None:
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    before = pipelines.contents(tmp_path)
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    assert pipelines.contents(tmp_path) == before


@settings(max_examples=4, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_appending_and_running_bit_by_bit_gives_the_same_as_all_at_once(shares: list[float]) -> None:
    whole = events().num_rows
    parts = sorted({1 + int(share * (whole - 2)) for share in shares})
    with tempfile.TemporaryDirectory() as directory:
        log, store = f"{directory}/log", f"{directory}/store"
        for first, after in zip([0, *parts], [*parts, whole], strict=True):
            append(log, events().slice(first, after - first))
            run(VIEWS, log=log, store=store, until="end")
        assert digests(store) == digests_of_all()


@settings(max_examples=4, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_view_at_a_cut_is_the_same_by_whatever_way_it_got_there(shares: list[float]) -> None:
    with open_log(flights_log()) as log:
        ends = log.describe("flights").ends
    cut = {"flights": [round(end * share) for end, share in zip(ends, shares, strict=True)]}
    half = {"flights": [offset // 2 for offset in cut["flights"]]}
    with tempfile.TemporaryDirectory() as straight, tempfile.TemporaryDirectory() as halting:
        run(VIEWS, log=flights_log(), store=straight, until=cut, workers=1)
        run(VIEWS, log=flights_log(), store=halting, until=half, workers=2)
        run(VIEWS, log=flights_log(), store=halting, until=cut, workers=2, pace=EAGER)
        assert digests(straight) == digests(halting)


# -- rebuild


def test_a_rebuild_gives_the_same_table_and_readers_keep_reading(tmp_path: Path) -> None:
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    held = open_view(tmp_path, "departures_by_hour")
    after = rebuild(departures_by_hour, log=flights_log(), store=tmp_path)
    assert after is not None
    assert after.digest == digests_of_all()["departures_by_hour"]
    assert held.scan().collect().equals(open_view(tmp_path, "departures_by_hour").scan().collect())
    assert open_view(tmp_path, "departures_by_hour").path != held.path
    assert digests(tmp_path) == digests_of_all()


def test_a_run_that_follows_goes_on_from_a_rebuild(tmp_path: Path) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    first, second, third = events().slice(0, 8000), events().slice(8000, 5000), events().slice(13000)
    append(log, first)
    with pipelines.following(VIEWS, log=log, store=store, pace=EAGER) as running:
        pipelines.until(lambda: has_read(store, first.num_rows), running)
        assert rebuild(departures_by_hour, log=log, store=store) is not None
        append(log, second)
        pipelines.until(lambda: has_read(store, first.num_rows + second.num_rows), running)
        assert rebuild(aircraft, log=log, store=store) is not None
        append(log, third)
        pipelines.until(lambda: has_read(store, events().num_rows), running)
        assert digests(store) == digests_of_all()
    assert "g2" in str(open_view(store, "departures_by_hour").path)


def has_read(store: Path, records: int) -> bool:
    """Whether every view has committed so many records."""
    try:
        return all(pipelines.counted(open_view(store, name).manifest)["read"] == records for name in NAMES)
    except RefoldError:
        return False


# -- verify


def test_verify_says_ok_of_a_sound_view_and_leaves_no_trace(store: str) -> None:
    before = pipelines.contents(store)
    for view in VIEWS:
        found = verify(view, log=flights_log(), store=store)
        assert found.ok
        assert found.refolded == found.digest == digests_of_all()[view.name]
    assert {name for name in pipelines.contents(store) if not name.startswith(".verify")} == set(before)


def test_a_flipped_byte_is_found_named_put_aside_by_a_rebuild_and_gone(tmp_path: Path) -> None:
    log, store = flights_log(), tmp_path
    run([aircraft], log=log, store=store, until="end")
    broken = flip_a_byte(open_view(store, "aircraft"))
    found = verify(aircraft, log=log, store=store)
    assert not found.ok
    assert any(damaged.file.endswith(broken.name) for damaged in found.damaged)
    assert rebuild(aircraft, log=log, store=store) is not None
    assert list(broken.parent.glob(f"{broken.name}.damaged-*"))
    assert verify(aircraft, log=log, store=store).ok
    assert open_view(store, "aircraft").digest == digests_of_all()["aircraft"]


def flip_a_byte(view: View) -> Path:
    file = view.generation.version.data / view.manifest.tables["rows"].chunks[0].file
    file.chmod(0o644)
    with file.open("r+b") as raw:
        raw.seek(file.stat().st_size // 2)
        byte = raw.read(1)[0]
        raw.seek(-1, os.SEEK_CUR)
        raw.write(bytes([byte ^ 1]))
    return file


# -- nothing is lost


BAD: list[bytes | None] = [b"not json", b'{"specversion":"1.0"}', b"", b'{"type":"FlightDeparted"']


def test_late_events_and_dead_letters_are_kept_as_they_came_with_a_reason(tmp_path: Path) -> None:
    log, store = pipelines.own_log(tmp_path), tmp_path / "store"
    append(log, pipelines.appends(BAD, partition=2, timestamp_ms=1_357_000_000_000))
    run([departures_by_hour], log=log, store=store, until="end")
    view = open_view(store, "departures_by_hour")
    dead, late = view.dead_letters().collect(), view.late().collect()
    assert dead["value"].to_list() == BAD
    assert set(dead["partition"]) == {2}
    assert all(dead["reason"])
    assert all(value in set(events()["value"].to_pylist()) for value in late["value"])
    assert (
        late.height == late.filter(pl.col("watermark") >= pl.col("window_start") + pl.duration(minutes=90)).height > 0
    )
    assert view.digest == digests_of_all()["departures_by_hour"]


def test_every_record_that_was_read_is_accounted_for(tmp_path: Path) -> None:
    log, store = pipelines.own_log(tmp_path), tmp_path / "store"
    append(log, pipelines.appends([*BAD, None, None], timestamp_ms=1_357_000_000_000))
    run(VIEWS, log=log, store=store, until="end")
    told = json.loads(pipelines.here("status", "--json", "--log", log, "--store", store).out)
    assert {view["view"] for view in told} == set(NAMES)
    for counts in (view["events"] for view in told):
        assert counts["read"] == events().num_rows + 6 == sum(n for name, n in counts.items() if name != "read")
        assert (counts["dead_letters"], counts["tombstones"]) == (4, 2)


# -- readers, while a run commits all the time


@dataclass
class Readings:
    """Sums that a reader got, each of one reading, and the names that had vanished before they were opened."""

    sums: list[int] = field(default_factory=list)
    vanished: int = 0
    failed: list[BaseException] = field(default_factory=list)


def sum_by_polars(pattern: str) -> int:
    return int(pl.read_parquet(pattern, columns=["departures"])["departures"].sum())


def sum_by_duckdb(pattern: str) -> int:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT sum(departures) FROM read_parquet('{pattern}')").fetchone()
    return int(found[0] or 0) if found else 0


def sum_by_pyarrow(pattern: str) -> int:
    files = sorted(Path(pattern).parent.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(pattern)
    parts = [pq.read_table(file, columns=["departures"])["departures"].to_pylist() for file in files]
    return sum(map(sum, parts))


READERS = {"polars": sum_by_polars, "duckdb": sum_by_duckdb, "pyarrow": sum_by_pyarrow}
VANISHED = (FileNotFoundError, duckdb.IOException, pl.exceptions.ComputeError, pl.exceptions.PolarsError, OSError)


def read_resolved(store: Path, read: Callable[[str], int], into: Readings) -> None:
    """By the resolved path: what is read must be the snapshot that was opened, always."""
    view = open_view(store, "departures_by_hour")
    into.sums.append(read(f"{view.path}/*.parquet"))
    assert into.sums[-1] == pipelines.folded(view.manifest), "another snapshot than the one that was opened"


def read_current(store: Path, read: Callable[[str], int], into: Readings) -> None:
    """By the moving link: some snapshot, or an error for a name that has vanished."""
    try:
        into.sums.append(read(f"{store}/departures_by_hour/current/*.parquet"))
    except VANISHED:
        into.vanished += 1


@pytest.mark.parametrize("by", [read_resolved, read_current])
def test_readers_see_one_snapshot_whole_while_a_run_commits(
    by: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.pacing.COMMIT_SHARE", 1)  # commit all the time
    log, store, over = str(tmp_path / "log"), tmp_path / "store", threading.Event()
    readings = {name: Readings() for name in READERS}
    append(log, events().slice(0, 1000))
    with pipelines.following([departures_by_hour], log=log, store=store, pace=EAGER) as running:
        pipelines.until(lambda: (store / "departures_by_hour" / "current").exists(), running)
        threads = [
            threading.Thread(target=read_until, args=(over, by, store, READERS[name], into))
            for name, into in readings.items()
        ]
        for thread in threads:
            thread.start()
        try:
            append_in_pieces(log, running, store)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    committed = {pipelines.folded(manifest) for manifest in pipelines.manifests(store, "departures_by_hour")}
    assert len(committed) > 5, "there were snapshots to mix"
    for name, found in readings.items():
        assert found.failed == [], name
        assert set(found.sums) <= committed, f"{name} saw a mix of snapshots"
        assert len(set(found.sums)) > 1, f"{name} saw the view change"


def read_until(
    over: threading.Event, by: Callable[..., None], store: Path, read: Callable[[str], int], into: Readings
) -> None:
    while not over.is_set():
        try:
            by(store, read, into)
        except BaseException as error:
            into.failed.append(error)
            return


def append_in_pieces(log: str, running: threading.Thread, store: Path) -> None:
    """The rest of the events, each piece once the one before is committed."""
    lots, at = random.Random(7), 1000
    while at < events().num_rows:
        piece = events().slice(at, lots.randint(200, 1500))
        append(log, piece)
        at += piece.num_rows
        pipelines.until(partial(departures_read, store, at), running)


def departures_read(store: Path, records: int) -> bool:
    return pipelines.counted(open_view(store, "departures_by_hour").manifest)["read"] >= records
