"""The flights of 2013 as facts: what happened, when, and when it became known.

A row of the source tells a whole flight; this module cuts it into the facts that a recorder would have seen one by one.
Everything is a pure function of the source's bytes: the same facts, in the same order, on every machine. The rules:

Event time (UTC)
    The scheduled departure is the source's ``time_hour`` (already UTC) plus ``minute``.
    The scheduled arrival is the first instant after it at which a clock at the destination reads ``sched_arr_time``.
    ``FlightScheduled``: 24 hours before the scheduled departure (the source does not say when a schedule was made).
    ``FlightDeparted``: the scheduled departure plus ``dep_delay``; every row with a ``dep_time``.
    ``FlightArrived``: the scheduled arrival plus ``arr_delay``. 1,175 flights departed and have no ``arr_delay``: they
    were diverted. 717 of them have an ``arr_time``: they arrived, without a delay, when the destination's clock first
    read it after the departure; 458 have none and never arrived.
    ``FlightCancelled``: the scheduled departure; the 8,255 rows without a ``dep_time``.
Clocks
    2400 is midnight at the end of the day, which is 0000 of the next one.
    Four destinations (BQN, PSE, SJU, STT: 7,602 flights) have no row in airports.csv; their zones are stated here.
    A clock reading that occurs twice on the day summer time ends means the first, one that does not occur on the day it
    begins means the instant an hour later; so read, every clock of the source agrees with its delays but one (row
    144,508 landed in the hour that did not exist), and there the delay is believed.
Subject
    The tail number. 2,512 flights have none (all cancelled): their subject is ``unassigned``.
Becoming known
    A report takes its time: a hash of row and type draws 0-10 minutes for 98.0 % of all facts, 10-60 minutes for 1.9 %
    and 1-6 hours for 0.1 %. Event time plus that is when the fact became known, which is the timestamp of its record
    and decides the order of appending; ties go by type (in the order of the category), then by row.

Knows nothing of JSON, records or logs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from connectors.nycflights import read_airports, read_flights
from schemas.flights import flights

NO_TAIL_NUMBER = "unassigned"
ZONES_NOT_IN_AIRPORTS = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
_SCHEDULED_BEFORE = pl.duration(hours=24)
_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000
_COMMON = ["row", "subject", "carrier", "flight", "origin", "destination"]
_TYPES = pl.Enum([event.type_name for event in flights.events])


def flight_facts(cache: Path | None = None, *, limit_days: int | None = None) -> pl.DataFrame:
    """All facts, in the order in which they became known; only those of flights of the first days with ``limit_days``.

    Columns: ``type`` (Enum of the category's type names), ``row`` (Int64, of the source, from 1), ``subject`` (String),
    ``time`` (Datetime us UTC), ``known_at_ms`` (Int64, since the epoch), and the fields of the event types (integers
    Int64, minutes Float64, texts String, instants Datetime us UTC), null where a type has no such field.
    Raises ``LogError`` when the source cannot be had.
    """
    rows = read_flights(cache)
    if limit_days is not None:
        rows = rows.filter(pl.date("year", "month", "day").dt.ordinal_day() <= limit_days)
    timed = _timed(rows, _zones(cache))
    facts = pl.concat([_scheduled(timed), _departed(timed), _arrived(timed), _cancelled(timed)], how="diagonal")
    known = (pl.col("time").dt.epoch("ms") + reporting_delay_ms(facts)).alias("known_at_ms")
    return facts.with_columns(known).sort("known_at_ms", "type", "row")


def _zones(cache: Path | None) -> pl.DataFrame:
    stated = pl.DataFrame({"faa": list(ZONES_NOT_IN_AIRPORTS), "tzone": list(ZONES_NOT_IN_AIRPORTS.values())})
    return pl.concat([read_airports(cache), stated]).rename({"faa": "destination", "tzone": "zone"})


def _timed(rows: pl.DataFrame, zones: pl.DataFrame) -> pl.DataFrame:
    """One row a flight, its four instants in place of the clock readings."""
    named = rows.rename({"dest": "destination", "distance": "distance_miles"}).join(
        zones, on="destination", how="left", validate="m:1", maintain_order="left"
    )
    departures = named.with_columns(
        pl.col("tailnum").fill_null(NO_TAIL_NUMBER).alias("subject"),
        (pl.col("time_hour") + pl.duration(minutes="minute")).alias("scheduled_departure"),
    ).with_columns((pl.col("scheduled_departure") + pl.duration(minutes="dep_delay")).alias("departure"))
    by_zone = departures.partition_by("zone", maintain_order=True)
    return pl.concat([_with_arrivals(part, part["zone"][0]) for part in by_zone])


def _with_arrivals(rows: pl.DataFrame, zone: str) -> pl.DataFrame:
    scheduled = _next_reading("scheduled_departure", "sched_arr_time", zone)
    told_by_delay = pl.col("scheduled_arrival") + pl.duration(minutes="arr_delay")
    told_by_clock = _next_reading("departure", "arr_time", zone)
    return rows.with_columns(scheduled.alias("scheduled_arrival")).with_columns(
        pl.coalesce(told_by_delay, told_by_clock).alias("arrival")
    )


def _next_reading(after: str, clock: str, zone: str) -> pl.Expr:
    """The first instant at or after ``after`` at which a clock in ``zone`` reads ``clock`` (HHMM)."""
    local = pl.col(after).dt.convert_time_zone(zone).dt.replace_time_zone(None)
    minutes = (pl.col(clock) // 100 * 60 + pl.col(clock) % 100) % 1440
    today = local.dt.truncate("1d") + pl.duration(minutes=minutes)
    reading = pl.when(today < local).then(today + pl.duration(days=1)).otherwise(today)
    return _instant(reading, zone)


def _instant(local: pl.Expr, zone: str) -> pl.Expr:
    exact = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    an_hour_later = (local + pl.duration(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return pl.coalesce(exact, an_hour_later).dt.convert_time_zone("UTC")


def _scheduled(timed: pl.DataFrame) -> pl.DataFrame:
    fields = ["scheduled_departure", "scheduled_arrival", "distance_miles"]
    return _facts(timed, "FlightScheduled", pl.col("scheduled_departure") - _SCHEDULED_BEFORE, fields)


def _departed(timed: pl.DataFrame) -> pl.DataFrame:
    gone = timed.filter(pl.col("departure").is_not_null()).with_columns(_minutes("dep_delay", "delay_minutes"))
    return _facts(gone, "FlightDeparted", pl.col("departure"), ["distance_miles", "delay_minutes"])


def _arrived(timed: pl.DataFrame) -> pl.DataFrame:
    there = timed.filter(pl.col("arrival").is_not_null()).with_columns(
        _minutes("arr_delay", "delay_minutes"), _minutes("air_time", "air_minutes")
    )
    return _facts(there, "FlightArrived", pl.col("arrival"), ["distance_miles", "air_minutes", "delay_minutes"])


def _cancelled(timed: pl.DataFrame) -> pl.DataFrame:
    return _facts(timed.filter(pl.col("departure").is_null()), "FlightCancelled", pl.col("scheduled_departure"), [])


def _minutes(column: str, name: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64).alias(name)


def _facts(rows: pl.DataFrame, type_name: str, time: pl.Expr, fields: list[str]) -> pl.DataFrame:
    return rows.select(pl.lit(type_name, _TYPES).alias("type"), time.alias("time"), *_COMMON, *fields)


def reporting_delay_ms(facts: pl.DataFrame) -> pl.Series:
    """How long each fact took to become known: a pure function of ``row`` and ``type`` (Int64, milliseconds)."""
    ranks = facts["type"].to_physical().to_numpy().astype(np.uint64)
    mixed = _splitmix64(facts["row"].to_numpy().astype(np.uint64) * np.uint64(len(flights.events)) + ranks)
    lot, rest = mixed % np.uint64(1000), (mixed // np.uint64(1000)).astype(np.int64)
    prompt, slow, straggling = rest % (10 * _MINUTE_MS), rest % (50 * _MINUTE_MS), rest % (5 * _HOUR_MS)
    delay = np.where(lot < 1, _HOUR_MS + straggling, np.where(lot < 20, 10 * _MINUTE_MS + slow, prompt))
    return pl.Series("reporting_delay_ms", delay)


def _splitmix64(x: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014); wraps around, as it should."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
