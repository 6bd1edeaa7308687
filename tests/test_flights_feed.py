"""The feed of the worked example: real flights as facts, and facts as records."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.log import APPENDS, RECORDS
from connectors.nycflights import ARCHIVE, archive, read_airports, read_flights
from flows.flights_facts import ZONES_NOT_IN_AIRPORTS, flight_facts, reporting_delay_ms
from flows.flights_feed import events_table, fact_id, records
from schemas.decode import DEAD, Decoder
from schemas.errors import LogError
from schemas.flights import FlightArrived, FlightCancelled, FlightDeparted, FlightScheduled, flights

ROWS = 336_776
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def facts() -> pl.DataFrame:
    return flight_facts()


@pytest.fixture(scope="module")
def source() -> pl.DataFrame:
    return read_flights()


def of_type(facts: pl.DataFrame, event: type) -> pl.DataFrame:
    return facts.filter(pl.col("type") == event.__name__)


# --- how many of each ------------------------------------------------------------------------------------------------


def test_every_flight_is_scheduled_and_then_departs_or_is_cancelled(facts: pl.DataFrame) -> None:
    counts = {event: of_type(facts, event).height for event in flights.events}
    assert counts == {FlightScheduled: ROWS, FlightDeparted: 328_521, FlightArrived: 328_063, FlightCancelled: 8_255}
    ended = pl.concat([of_type(facts, FlightDeparted)["row"], of_type(facts, FlightCancelled)["row"]])
    assert ended.sort().to_list() == list(range(1, ROWS + 1))


def test_diverted_flights_arrive_without_a_delay_or_not_at_all(facts: pl.DataFrame, source: pl.DataFrame) -> None:
    diverted = source.filter(pl.col("dep_time").is_not_null() & pl.col("arr_delay").is_null())
    arrived = of_type(facts, FlightArrived).filter(pl.col("delay_minutes").is_null())
    assert (diverted.height, arrived.height) == (1_175, 717)
    assert set(arrived["row"]) == set(diverted.filter(pl.col("arr_time").is_not_null())["row"])


def test_flights_without_a_tail_number_share_a_subject_and_are_all_cancelled(facts: pl.DataFrame) -> None:
    unassigned = facts.filter(pl.col("subject") == "unassigned")
    assert sorted(unassigned["type"].cast(pl.String).unique()) == ["FlightCancelled", "FlightScheduled"]
    assert of_type(unassigned, FlightCancelled).height == of_type(unassigned, FlightScheduled).height == 2_512


def test_flights_to_airports_without_a_time_zone_row_are_kept(facts: pl.DataFrame, source: pl.DataFrame) -> None:
    unlisted = set(source["dest"]) - set(read_airports()["faa"])
    assert unlisted == set(ZONES_NOT_IN_AIRPORTS)
    assert of_type(facts, FlightScheduled).filter(pl.col("destination").is_in(list(unlisted))).height == 7_602


# --- when it happened ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(row=st.integers(1, ROWS))
def test_event_times_equal_a_plain_reading_of_the_clocks(facts: pl.DataFrame, source: pl.DataFrame, row: int) -> None:
    told = source.row(row - 1, named=True)
    found = {fact["type"]: fact["time"] for fact in facts.filter(pl.col("row") == row).iter_rows(named=True)}
    assert found == expected_times(told)


def expected_times(told: dict[str, Any]) -> dict[str, dt.datetime]:
    """The rules again, a flight at a time, with the standard library's time zones."""
    day = dt.datetime(told["year"], told["month"], told["day"], tzinfo=NEW_YORK)
    scheduled = (day + minutes(told["sched_dep_time"])).astimezone(dt.UTC)
    times = {"FlightScheduled": scheduled - dt.timedelta(days=1)}
    if told["dep_time"] is None:
        return {**times, "FlightCancelled": scheduled}
    times["FlightDeparted"] = departure = scheduled + dt.timedelta(minutes=told["dep_delay"])
    if told["arr_time"] is None:
        return times
    if told["arr_delay"] is None:
        return {**times, "FlightArrived": next_reading(departure, told["arr_time"], told["dest"])}
    arrival = next_reading(scheduled, told["sched_arr_time"], told["dest"])
    return {**times, "FlightArrived": arrival + dt.timedelta(minutes=told["arr_delay"])}


def minutes(clock: int) -> dt.timedelta:
    return dt.timedelta(minutes=clock // 100 * 60 + clock % 100)


AIRPORT_ZONES = {**ZONES_NOT_IN_AIRPORTS}


@pytest.fixture(scope="module", autouse=True)
def airport_zones() -> None:
    AIRPORT_ZONES.update(read_airports().iter_rows())


def next_reading(after: dt.datetime, clock: int, airport: str) -> dt.datetime:
    """Minute by minute, until the clock on the wall reads it."""
    zone, moment = ZoneInfo(AIRPORT_ZONES[airport]), after
    while (local := moment.astimezone(zone)).hour * 100 + local.minute != clock % 2400:
        moment += dt.timedelta(minutes=1)
    return moment


def test_arrivals_read_as_the_source_says_on_the_clock_at_the_destination(
    facts: pl.DataFrame, source: pl.DataFrame
) -> None:
    zones = pl.DataFrame({"destination": AIRPORT_ZONES.keys(), "zone": AIRPORT_ZONES.values()})
    arrived = (
        of_type(facts, FlightArrived).join(source.select("row", "arr_time"), on="row").join(zones, on="destination")
    )
    wrong = []
    for (zone,), part in arrived.group_by("zone"):
        local = pl.col("time").dt.convert_time_zone(str(zone))
        clock = local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute()
        wrong += part.filter(clock != pl.col("arr_time") % 2400)["row"].to_list()
    assert wrong == [144_508]  # landed at 02:xx local time on the day when that hour did not exist


@pytest.mark.parametrize(
    ("row", "event", "time"),
    [
        (1, FlightScheduled, "2012-12-31 10:15"),
        (1, FlightDeparted, "2013-01-01 10:17"),  # 05:17 in New York
        (1, FlightArrived, "2013-01-01 14:30"),  # 08:30 in Houston
    ],
)
def test_known_flights(facts: pl.DataFrame, row: int, event: type, time: str) -> None:
    found = of_type(facts, event).filter(pl.col("row") == row)["time"].to_list()
    assert found == [dt.datetime.fromisoformat(time).replace(tzinfo=dt.UTC)]


def test_2400_is_midnight_at_the_end_of_the_day(facts: pl.DataFrame, source: pl.DataFrame) -> None:
    late = source.filter(pl.col("dep_time") == 2400)
    times = of_type(facts, FlightDeparted).join(late.select("row", "month", "day"), on="row")
    local = times["time"].dt.convert_time_zone("America/New_York").dt.replace_time_zone(None)
    next_day = times.select(pl.datetime(2013, "month", "day") + pl.duration(days=1)).to_series()
    assert times.height == 29
    assert local.to_list() == next_day.to_list()


def test_no_flight_is_shorter_than_its_time_in_the_air(facts: pl.DataFrame) -> None:
    departures = of_type(facts, FlightDeparted).select("row", departure="time")
    both = of_type(facts, FlightArrived).join(departures, on="row")
    lasted = (both["time"] - both["departure"]).dt.total_minutes()
    assert lasted.min() >= 20
    assert lasted.max() < 24 * 60
    assert (lasted >= both["air_minutes"].fill_null(0)).all()


# --- when it became known --------------------------------------------------------------------------------------------


def test_facts_come_in_the_order_in_which_they_became_known(facts: pl.DataFrame) -> None:
    order = facts.select("known_at_ms", pl.col("type").to_physical(), "row")
    assert order.equals(order.sort("known_at_ms", "type", "row"))
    assert order.is_unique().all()


def test_reports_take_minutes_and_a_few_take_hours(facts: pl.DataFrame) -> None:
    delay = facts["known_at_ms"] - facts["time"].dt.epoch("ms")
    assert delay.min() >= 0
    assert delay.max() < 6 * 3_600_000
    assert (delay < 600_000).mean() == pytest.approx(0.98, abs=0.001)
    assert (delay >= 3_600_000).mean() == pytest.approx(0.001, abs=0.0002)


def test_some_facts_are_overtaken_by_more_than_half_an_hour(facts: pl.DataFrame) -> None:
    behind = facts["time"].cum_max() - facts["time"]
    assert (behind > dt.timedelta(0)).mean() > 0.5
    assert 1_000 < (behind > dt.timedelta(minutes=30)).sum() < 50_000


@given(st.lists(st.tuples(st.integers(1, 10**6), st.sampled_from(flights.events)), min_size=1, max_size=30))
def test_a_reporting_delay_depends_on_nothing_but_row_and_type(drawn: list[tuple[int, type]]) -> None:
    kind = pl.Enum([event.type_name for event in flights.events])
    rows, types = [row for row, _ in drawn], [event.__name__ for _, event in drawn]
    together = reporting_delay_ms(pl.DataFrame({"row": rows, "type": pl.Series(types, dtype=kind)})).to_list()
    alone = [
        reporting_delay_ms(pl.DataFrame({"row": [row], "type": pl.Series([name], dtype=kind)}))[0]
        for row, name in zip(rows, types, strict=True)
    ]
    assert together == alone


# --- as records ------------------------------------------------------------------------------------------------------


def test_records_are_what_encoding_the_typed_events_one_by_one_gives() -> None:
    facts = flight_facts(limit_days=2)
    made, expected = records(facts), flights.encode(typed(facts))
    assert made.schema == expected.schema == APPENDS
    assert made["value"].to_pylist() == expected["value"].to_pylist()
    assert made["key"].to_pylist() == expected["key"].to_pylist()
    assert made["timestamp"].to_pylist() == facts["known_at_ms"].to_list()


def typed(facts: pl.DataFrame) -> list[Any]:
    events = {event.type_name: event for event in flights.events}
    ids = {name: facts.select(fact_id(event)).to_series() for name, event in events.items()}
    made = []
    for i, fact in enumerate(facts.iter_rows(named=True)):
        event = events[fact["type"]]
        data = {field.name: fact[field.name] for field in event.fields}
        made.append(event(subject=fact["subject"], time=fact["time"], id=ids[fact["type"]][i], **data))
    return made


def test_a_week_decodes_to_its_facts_without_a_dead_letter() -> None:
    facts = flight_facts(limit_days=7)
    asked = {event: [field.name for field in event.fields] for event in flights.events}
    decoded = Decoder(flights, asked, subject=True).decode(as_read(records(facts)))
    assert not (decoded.fate == DEAD).any()
    assert (decoded.event_time == facts["time"].dt.epoch("us").to_numpy()).all()
    for (name, _), column in decoded.columns.items():
        assert column.to_pylist() == facts[name].to_list(), name


def as_read(appended: pa.Table) -> pa.RecordBatch:
    n = len(appended)
    columns = {name: appended[name].combine_chunks() for name in ("timestamp", "key", "value")}
    columns |= {"offset": pa.array(np.arange(n)), "timestamp_type": pa.array(np.zeros(n, np.int8))}
    return pa.RecordBatch.from_arrays([columns.get(f.name, pa.nulls(n, f.type)) for f in RECORDS], schema=RECORDS)


def test_the_first_days_alone_are_the_same_records(facts: pl.DataFrame, source: pl.DataFrame) -> None:
    first = source.filter((pl.col("month") == 1) & (pl.col("day") <= 3))["row"]
    assert events_table(limit_days=3).equals(records(facts.filter(pl.col("row").is_in(first.implode()))))


# --- where the data come from ----------------------------------------------------------------------------------------


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.usefixtures("no_index")
def test_an_archive_put_there_by_hand_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = tmp_path / "cache"
    by_hand.mkdir()
    (by_hand / ARCHIVE).write_bytes(archive().read_bytes())
    monkeypatch.setenv("REFOLD_CACHE", str(by_hand))
    assert archive() == by_hand / ARCHIVE


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize("content", [None, b"not the archive"])
def test_an_archive_that_cannot_be_had_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    cache = tmp_path / "cache"
    if content is not None:
        cache.mkdir()
        (cache / ARCHIVE).write_bytes(content)
    with pytest.raises(LogError, match="cannot be had") as caught:
        read_flights(cache)
    assert str(cache / ARCHIVE) in str(caught.value)
    assert f"put {ARCHIVE}" in str(caught.value)
