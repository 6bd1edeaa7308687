"""Who waits for whom in a replay (flows/pace_of_reading.py): never the slowest, and in the end nobody."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import Entry, MemoryLog
from pipelines import digests, flights_log

from connectors import open_log
from flows import pace_of_reading, run
from flows.flights import views
from flows.pace_of_reading import LEAD_RECORDS, PaceOfReading, Place

LARGE = 100 * LEAD_RECORDS
ONE, OTHER, THIRD = ("flights", 0), ("flights", 1), ("trucks", 0)


def pace(**bounds: tuple[int, int]) -> PaceOfReading:
    found = PaceOfReading()
    for place, name in ((ONE, "one"), (OTHER, "other"), (THIRD, "third")):
        if name in bounds:
            found.begin(place, *bounds[name])
    return found


def test_a_partition_far_ahead_waits_until_the_slowest_has_come_near() -> None:
    found = pace(one=(0, LARGE), other=(0, LARGE))
    found.moved(ONE, LARGE // 2)
    assert found.ahead_of([ONE]) == OTHER
    assert found.ahead_of([OTHER]) is None
    found.moved(OTHER, LARGE // 2 - LEAD_RECORDS)
    assert found.ahead_of([ONE]) is None


def test_a_worker_reads_as_long_as_one_of_its_partitions_is_not_far_ahead() -> None:
    found = pace(one=(0, LARGE), other=(0, LARGE), third=(0, LARGE))
    found.moved(ONE, LARGE // 2)
    assert found.ahead_of([ONE, OTHER]) is None
    found.moved(OTHER, LARGE // 2)
    assert found.ahead_of([ONE, OTHER]) == THIRD


def test_partitions_of_very_different_sizes_keep_step_by_the_share_of_their_records() -> None:
    found = pace(one=(1_000_000, 1_000_000 + LARGE), third=(0, 10 * LARGE))
    found.moved(ONE, 1_000_000 + LARGE // 2)
    found.moved(THIRD, 5 * LARGE)
    assert found.ahead_of([ONE]) is None
    assert found.ahead_of([THIRD]) is None


def test_nobody_waits_for_a_partition_that_has_ended_or_has_nothing_to_be_read() -> None:
    found = pace(one=(0, LARGE), other=(0, LARGE), third=(5, 5))
    found.moved(ONE, LARGE // 2)
    found.end(OTHER)
    assert found.ahead_of([ONE]) is None
    assert found.ahead_of([OTHER]) is None


def test_a_few_slices_are_no_lead() -> None:
    found = pace(one=(0, LEAD_RECORDS), other=(0, LARGE))
    found.moved(ONE, LEAD_RECORDS)
    assert found.ahead_of([ONE]) is None


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 40), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_slowest_never_waits(bounds: list[tuple[int, int, float]]) -> None:
    found = PaceOfReading()
    places = [("things", number) for number in range(len(bounds))]
    for place, (first, records, share) in zip(places, bounds, strict=True):
        found.begin(place, first, first + records)
        found.moved(place, first + int(records * share))
    assert found.ahead_of(places) is None
    assert any(found.ahead_of([place]) is None for place in places)


def some_flights(seed: int) -> MemoryLog:
    """In slices of any size, of partitions at any pace."""
    partitions = []
    with open_log(flights_log()) as log:
        for p in range(log.describe("flights").partitions):
            records = log.reader("flights", {p: 0}, {p: 3_000}).read()[0].records.to_pylist()
            partitions.append([Entry(record["value"], record["timestamp"], record["key"]) for record in records])
    return MemoryLog("flights", partitions, lots=random.Random(seed))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_views_are_the_same_however_often_workers_wait(monkeypatch, tmp_path: Path, workers: int) -> None:
    run(views, log=some_flights(1), store=tmp_path / "at_ease", until="end", workers=1)
    monkeypatch.setattr(pace_of_reading, "LEAD_SHARE", 0.0)
    monkeypatch.setattr(pace_of_reading, "LEAD_RECORDS", 0)
    waited, ahead_of = [], PaceOfReading.ahead_of

    def noted(self: PaceOfReading, places: Iterable[Place]) -> Place | None:
        waited.append(ahead_of(self, places))
        return waited[-1]

    monkeypatch.setattr(PaceOfReading, "ahead_of", noted)
    run(views, log=some_flights(2), store=tmp_path / "in_step", until="end", workers=workers)
    assert digests(tmp_path / "in_step") == digests(tmp_path / "at_ease")
    assert any(waited) == (workers > 1)
