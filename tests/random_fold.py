"""Python folds for the law, each beside the same thing said for the reference fold over plain dictionaries.

They make entities, change them, delete them, raise on some events (after they have changed the state that they were given), and return
what is no state. The entities of a fold live in one partition: ``of_partition`` gives the subjects of a log a partition each; events
of nobody are refused by the folds themselves.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl
from hypothesis import strategies as st
from memory_log import Entry
from random_projection import TYPES, Measured, Moved, Pair, Renamed, things
from reference import INT64, Spec

from flows import Projection, State, python_fold


class Tally(State):
    """Of every type that a field may have."""

    events: int
    first_place: str
    total: float = 0.0
    sum: int | None = None
    note: str | None = None
    good: bool | None = None
    day: dt.date | None = None
    at: dt.datetime | None = None


def tallied(tally: Tally | None, event: Any) -> Tally | None:
    if event.subject is None:
        raise ValueError("of nobody")
    if event.note == "b":
        return None
    if tally is None:
        tally = Tally(0, event.place)
    if tally.at is not None and tally.at.utcoffset():
        raise AssertionError("instants of a state are in UTC, always")
    tally.events += 1
    if event.event_type == "Moved":
        tally.at = event.event_time.astimezone(dt.timezone(dt.timedelta(hours=-3)))
        return tally
    tally.total = -0.0 if event.size is None else tally.total + event.size
    tally.note = event.note
    if event.number == 3:
        raise LookupError("three")
    tally.sum = event.number if tally.sum is None else tally.sum + event.number
    tally.good, tally.day = event.good, event.day
    tally.at = event.at
    if event.number == -3:
        tally.first_place = None  # type: ignore[assignment]
    return tally


def tallied_plainly(tally: dict[str, Any] | None, event: dict[str, Any]) -> dict[str, Any] | None:
    if event["subject"] is None:
        raise ValueError
    if event["note"] == "b":
        return None
    if tally is None:
        empty = dict.fromkeys(("sum", "note", "good", "day", "at"))
        tally = {"events": 0, "first_place": event["place"], "total": 0.0, **empty}
    after = {**tally, "events": tally["events"] + 1}
    if event["event_type"] == "Moved":
        return {**after, "at": event["event_time"]}
    if event["number"] in (3, -3):
        raise ValueError
    after["total"] = -0.0 if event["size"] is None else after["total"] + event["size"]
    after["sum"] = (after["sum"] or 0) + event["number"]
    if after["sum"] not in INT64:
        raise ValueError
    return {**after, "note": event["note"], "good": event["good"], "day": event["day"], "at": event["at"]}


@dataclasses.dataclass(frozen=True)
class Latest:
    kind: str
    length: float


def latest(state: Latest | None, event: Any) -> Latest | None:
    if event.subject is None or (state is None and not event.note):
        return missing(event)
    if event.note is None:
        return None
    return Latest(event.event_type, len(event.note))


def missing(event: Any) -> None:
    raise KeyError(event.subject)


def latest_plainly(state: dict[str, Any] | None, event: dict[str, Any]) -> dict[str, Any] | None:
    if event["subject"] is None or (state is None and not event["note"]):
        raise ValueError
    return None if event["note"] is None else {"kind": event["event_type"], "length": float(len(event["note"]))}


def tallies(name: str) -> Pair:
    projection = Projection(
        name=name, category=things, events=[Measured, Moved], key={"who": "subject"}, fold=python_fold(Tally, tallied)
    )
    types = {kind: TYPES[kind] for kind in ("Measured", "Moved")}
    reads = ("subject", *dict.fromkeys(name for fields in types.values() for name in fields))
    return Pair(projection, Spec(types, reads, lambda event: (event["subject"],), {}, None, step=tallied_plainly))


def latests(name: str) -> Pair:
    projection = Projection(
        name=name,
        category=things,
        events=[Renamed],
        key=["subject", "event_type"],
        fold=python_fold(Latest, latest, reads=["note"]),
    )
    types = {"Renamed": TYPES["Renamed"]}
    key = lambda event: (event["subject"], event["event_type"])  # noqa: E731
    return Pair(projection, Spec(types, ("note", "subject"), key, {}, None, step=latest_plainly))


class Doubled(State):
    events: int
    twice: int | None


def doubled(state: Doubled | None, event: Any) -> Doubled | None:
    if event.subject is None:
        raise ValueError("of nobody")
    return Doubled(1 if state is None else state.events + 1, event.twice)


def doubled_plainly(state: dict[str, Any] | None, event: dict[str, Any]) -> dict[str, Any] | None:
    if event["subject"] is None:
        raise ValueError
    twice = None if event["number"] is None else 2 * event["number"]
    return {"events": 1 if state is None else state["events"] + 1, "twice": twice}


def doubles(name: str) -> Pair:
    """With all that comes before and after a fold. (A number that is doubled by Polars may wrap: those are left out.)"""
    small = 2**61
    projection = Projection(
        name=name,
        category=things,
        events=[Measured, Moved],
        derive={"twice": pl.col("number") * 2},
        where=pl.col("number").is_null() | pl.col("number").is_between(-small, small),
        key={"who": "subject"},
        fold=python_fold(Doubled, doubled, reads=["twice"]),
        finish={"more": pl.col("twice") + pl.col("events")},
        having=pl.col("events") > 1,
    )
    types = {kind: TYPES[kind] for kind in ("Measured", "Moved")}
    spec = Spec(types, ("number", "subject"), lambda event: (event["subject"],), {}, None, step=doubled_plainly)
    spec.where = lambda event: event["number"] is None or -small <= event["number"] <= small
    spec.finish = {"more": lambda row: None if row["twice"] is None else row["twice"] + row["events"]}
    spec.having = lambda row: row["events"] > 1
    return Pair(projection, spec)


def folded_pairs(name: str = "drawn") -> st.SearchStrategy[Pair]:
    return st.sampled_from([tallies, tallies, latests, doubles]).map(lambda make: make(name))


def of_partition(entries: Sequence[Entry], partition: int) -> list[Entry]:
    """The same entries, of entities that only this partition has."""
    own = b'"subject":"%d' % partition
    return [
        dataclasses.replace(entry, value=entry.value.replace(b'"subject":"', own)) if entry.value else entry
        for entry in entries
    ]
