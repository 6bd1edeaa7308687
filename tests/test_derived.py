"""Typed columns beside the raw log: with them or without, whole or damaged, a view is the same."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pipelines
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pipelines import VIEWS, append, appends, contents, events

from connectors import local_writer, open_log, open_view
from connectors.columns import ColumnFile, write_columns
from connectors.log import Slice
from connectors.partition_files import COLUMNS
from flows import Projection, agg, run, tumbling, verify
from flows.derived import Reading
from flows.flights import departures_by_hour
from flows.pipeline import decoder_for
from schemas.dictionary import plain
from schemas.errors import LogError
from schemas.flights import FlightDeparted, flights

JUNK = appends(
    [b"not json", b'{"type":"FlightDeparted","time":"yesterday"}', b"", None, b'{"type":"refold.progress","time":0}']
)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of several segments of several row groups, with bad records here and there, and a tail."""
    monkeypatch.setattr("connectors.segment.GROUP_RECORDS", 110)
    monkeypatch.setattr(local_writer, "TAIL_RECORDS", 160)
    place = str(tmp_path / "log")
    for first in range(0, 3200, 800):
        append(place, pa.concat_tables([events().slice(first, 800), JUNK]))
    return place


def columns(log: str) -> list[Path]:
    return sorted((Path(log) / COLUMNS).rglob("*.columns"))


def fold(log: str, store: Path, **how: object) -> dict[str, object]:
    """Everything that is in the tables, the digests of the log included."""
    run(VIEWS, log=log, store=store, until="end", **how)  # type: ignore[arg-type]
    found = {view.name: open_view(store, view.name).manifest for view in VIEWS}
    return {name: (manifest.tables, manifest.facts) for name, manifest in found.items()}


def test_the_second_replay_reads_columns_and_is_the_same(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fold(log, tmp_path / "first")
    assert len(columns(log)) > 10
    read = []
    monkeypatch.setattr("connectors.local_reader._Later.__call__", later(read))
    assert fold(log, tmp_path / "second", workers=2) == first
    assert len(set(map(id, read))) < groups(log), "raw records are read only where some are late or dead"
    shutil.rmtree(Path(log) / COLUMNS)
    assert fold(log, tmp_path / "third") == first


def later(read: list[object]) -> object:
    from connectors.local_reader import _Later

    whole = _Later.__call__

    def noted(self: object) -> pa.RecordBatch:
        read.append(self)
        return whole(self)  # type: ignore[arg-type]

    return noted


def groups(log: str) -> int:
    with open_log(log) as opened:
        info = opened.describe("flights")
        reader = opened.reader("flights", dict.fromkeys(range(info.partitions), 0), dict(enumerate(info.ends)))
        return sum(one.stored is not None for slices in iter(reader.read, []) for one in slices)


def test_another_projection_shares_what_it_can(log: str, tmp_path: Path) -> None:
    run([departures_by_hour], log=log, store=tmp_path / "store", until="end")
    before = columns(log)
    other = Projection(
        name="by_day", category=flights, events=[FlightDeparted], key=["origin"], window=tumbling(dt.timedelta(days=1)),
        columns={"n": agg.count(), "latest": agg.max("event_time")},
    )  # fmt: skip
    run([other], log=log, store=tmp_path / "store", until="end")
    assert columns(log) == before, "the envelope and the origins are there"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "remove"])
def test_damaged_columns_are_made_again(damage: str, log: str, tmp_path: Path) -> None:
    first = fold(log, tmp_path / "first")
    lots, files = random.Random(1), columns(log)
    for path in files[::2]:
        data = path.read_bytes()
        if damage == "flip":
            at = lots.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << lots.randrange(8)]) + data[at + 1 :])
        elif damage == "cut":
            path.write_bytes(data[: lots.randrange(len(data))])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "swap":
            path.write_bytes(lots.choice(files).read_bytes())
        else:
            path.unlink()
    assert fold(log, tmp_path / "second") == first
    assert fold(log, tmp_path / "third") == first


def test_columns_of_another_segment_are_not_used(log: str, tmp_path: Path) -> None:
    """A log that was made again: other records, under the same names."""
    fold(log, tmp_path / "first")
    shutil.move(Path(log) / COLUMNS, tmp_path / "kept")
    shutil.rmtree(log)
    for first in range(0, 3200, 800):
        append(log, pa.concat_tables([events().slice(first + 7, 800), JUNK]))
    shutil.move(tmp_path / "kept", Path(log) / COLUMNS)
    other = fold(log, tmp_path / "second")
    shutil.rmtree(Path(log) / COLUMNS)
    assert fold(log, tmp_path / "third") == other


def test_a_log_that_cannot_be_written_is_only_slower(log: str, tmp_path: Path) -> None:
    (Path(log) / COLUMNS).write_bytes(b"in the way")
    first = fold(log, tmp_path / "first")
    (Path(log) / COLUMNS).unlink()
    assert fold(log, tmp_path / "second") == first


def test_a_replay_that_begins_or_ends_within_a_segment(log: str, tmp_path: Path) -> None:
    fold(log, tmp_path / "whole")
    for number, cut in enumerate([[50, 130, 221, 599], [110, 110, 220, 500]]):
        for kept in (True, False):
            if not kept:
                shutil.move(Path(log) / COLUMNS, tmp_path / "aside")
            run(VIEWS, log=log, store=tmp_path / f"{number}{kept}", until=cut, workers=1)
            run(VIEWS, log=log, store=tmp_path / f"{number}{kept}", until="end", workers=1)
            if not kept:
                shutil.rmtree(Path(log) / COLUMNS, ignore_errors=True)
                shutil.move(tmp_path / "aside", Path(log) / COLUMNS)
        assert pipelines.digests(tmp_path / f"{number}True") == pipelines.digests(tmp_path / f"{number}False")


def test_what_is_read_is_what_was_decoded(log: str) -> None:
    decoder = decoder_for(flights, VIEWS)
    with open_log(log) as opened:
        info = opened.describe("flights")
        reader = opened.reader("flights", {0: 0}, {0: info.ends[0]})
        slices: list[Slice] = [one for slices in iter(reader.read, []) for one in slices]
    making, reading = Reading(decoder), Reading(decoder)
    for one in slices:
        making.read(one)
    for one in slices:
        (ours, hashes), (theirs, expected) = reading.read(one), Reading(decoder, raw=True).read(one)
        assert np.array_equal(hashes, expected)
        for name in ("fate", "event_time", "type_code"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.reasons == theirs.reasons
        for column in decoder.columns:
            assert plain(ours.columns[column]).equals(plain(theirs.columns[column]))
            assert np.array_equal(ours.invalid[column], theirs.invalid[column])


def test_a_damaged_segment_is_noticed_though_its_columns_are_whole(log: str, tmp_path: Path) -> None:
    fold(log, tmp_path / "first")
    segment = min(Path(log).glob("flights/*/*.parquet"))
    data = segment.read_bytes()
    segment.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(LogError, match="a segment of the log is damaged"):
        fold(log, tmp_path / "second")


def test_a_raw_verification_does_not_believe_the_columns(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    fold(log, store)
    for path in columns(log):
        spoil(path)
    usual, raw = (verify(VIEWS[0], log=log, store=store, raw=raw) for raw in (False, True))
    assert usual is not None and not usual.ok
    assert raw is not None and raw.ok


def spoil(path: Path) -> None:
    """A file as whole as any, that says another time for each record."""
    data = path.read_bytes()
    footer = json.loads(data[data.rindex(b'{"segment"') : -16])
    file = ColumnFile.open(path, footer["segment"], len(footer["groups"]))
    assert file is not None
    batches = [batch for number in range(len(footer["groups"])) if (batch := file.read(number)) is not None]
    if "event_time" in batches[0].schema.names:
        at = batches[0].schema.get_field_index("event_time")
        later = [batch.set_column(at, "event_time", pc.add(batch["event_time"], 3_600_000_000)) for batch in batches]
        assert write_columns(path, footer["segment"], later)


def test_a_file_of_columns(tmp_path: Path) -> None:
    batches = [pl.DataFrame({"x": [1, 2, number]}).to_arrow().to_batches()[0] for number in range(3)]
    path = tmp_path / "a" / "b.columns"
    assert write_columns(path, 7, batches)
    file = ColumnFile.open(path, 7, 3)
    assert file is not None
    assert [file.read(number) for number in range(3)] == batches
    assert ColumnFile.open(path, 8, 3) is None
    assert ColumnFile.open(path, 7, 2) is None
    assert contents(tmp_path).keys() == {"a/b.columns"}
