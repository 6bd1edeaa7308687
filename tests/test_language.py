"""The steps around the fold, as a user meets them: filter, derived columns, finish, condition on rows, event tables."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from connectors import open_log, open_view
from flows import Projection, agg, run, tumbling, verify
from schemas import Category, Event
from schemas.errors import UsageError

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


class Paid(Event):
    shop: str
    cents: int
    note: str | None = None


payments = Category("payments", [Paid])
EVENTS = [
    Paid(
        subject=f"customer-{i % 7}",
        time=START + dt.timedelta(minutes=i),
        shop="abc"[i % 3],
        cents=i,
        note="gift" if i % 5 == 0 else None,
    )
    for i in range(120)
]


@pytest.fixture
def log(tmp_path: Path) -> str:
    with open_log(str(tmp_path / "log")) as opened:
        opened.append(payments, EVENTS)
    return str(tmp_path / "log")


def rows(projection: Projection, log: str, tmp_path: Path) -> pl.DataFrame:
    store = tmp_path / "store"
    run([projection], log=log, store=store, until="end")
    assert verify(projection, log=log, store=store).ok
    return open_view(store, projection.name).scan().collect()


def counts(tmp_path: Path, view: str) -> dict[str, int]:
    places = open_view(tmp_path / "store", view).manifest.facts["log"]["payments"]["partitions"]
    return {name: sum(place["counts"][name] for place in places) for name in places[0]["counts"]}


def projection(**said: Any) -> Projection:
    return Projection(name="view", category=payments, **said)


def test_a_filter_sees_derived_columns_and_is_counted(log: str, tmp_path: Path) -> None:
    found = rows(
        projection(
            derive={"euros": pl.col("cents") / 100, "is_large": pl.col("euros") >= 0.6},
            where="is_large",
            key=["shop"],
            columns={"n": agg.count(), "most": agg.max("euros")},
        ),
        log,
        tmp_path,
    )
    assert found.to_dicts() == [
        {"shop": shop, "n": 20, "most": most} for shop, most in [("a", 1.17), ("b", 1.18), ("c", 1.19)]
    ]
    assert (counts(tmp_path, "view")["filtered"], counts(tmp_path, "view")["folded"]) == (60, 60)


def test_a_condition_that_is_null_is_not_true(log: str, tmp_path: Path) -> None:
    found = rows(projection(where=pl.col("note") == "gift", key=["shop"], columns={"n": agg.count()}), log, tmp_path)
    assert found["n"].sum() == 24
    assert counts(tmp_path, "view")["filtered"] == 96


def test_a_value_is_the_same_in_a_slice_of_one_record(tmp_path: Path) -> None:
    """Polars divides a single row, and multiplies several by the reciprocal: 57 / 100 would be two different numbers."""
    cents = projection(select={"euros": pl.col("cents") / 100})
    shares = projection(key={"who": "subject"}, columns={"_sum": agg.sum("cents")}, finish={"x": pl.col("_sum") / 100})
    for view, column in ((cents, "euros"), (shares, "x")):
        found = []
        for many in (1, 3):
            directory = tmp_path / f"{column}{many}"
            with open_log(str(directory / "log")) as opened:
                opened.append(payments, [Paid(subject=f"{i}", time=START, shop="a", cents=57) for i in range(many)])
            found.append(rows(view, str(directory / "log"), directory)[column].to_list())
        assert found[0] + found[0] * 2 == found[1]


def test_a_filter_comes_before_lateness(tmp_path: Path) -> None:
    """What the projection does not want is not late for it."""
    late = Paid(subject="customer-0", time=START - dt.timedelta(days=1), shop="a", cents=-1)
    with open_log(str(tmp_path / "log")) as opened:
        opened.append(payments, [*EVENTS, late])
    rows(
        projection(where=pl.col("cents") >= 0, window=tumbling(dt.timedelta(hours=1)), columns={"n": agg.count()}),
        str(tmp_path / "log"),
        tmp_path,
    )
    assert (counts(tmp_path, "view")["filtered"], counts(tmp_path, "view")["late"]) == (1, 0)


def test_finish_computes_of_the_row_and_hides_what_is_only_for_it(log: str, tmp_path: Path) -> None:
    found = rows(
        projection(
            key=["shop"],
            window=tumbling(dt.timedelta(hours=1)),
            columns={"n": agg.count(), "_cents": agg.sum("cents")},
            finish={
                "_mean": pl.col("_cents") / pl.col("n"),
                "label": pl.when(pl.col("_mean") > 60).then(pl.lit("dear")).otherwise(pl.lit("cheap")),
                "day": pl.col("window_start").dt.date(),
            },
        ),
        log,
        tmp_path,
    )
    assert found.columns == ["window_start", "window_end", "shop", "n", "label", "day", "is_final"]
    assert found["label"].to_list() == ["cheap"] * 3 + ["dear"] * 3
    assert found["day"].unique().to_list() == [dt.date(2026, 3, 1)]


def test_a_row_vanishes_when_its_condition_is_no_longer_true(tmp_path: Path) -> None:
    few = projection(key=["shop"], columns={"n": agg.count()}, having=pl.col("n") < 10)
    log, store = str(tmp_path / "log"), tmp_path / "store"
    seen = []
    for events in (EVENTS[:15], EVENTS[15:28], EVENTS[28:]):
        with open_log(log) as opened:
            opened.append(payments, events)
        run([few], log=log, store=store, until="end")
        assert verify(few, log=log, store=store).ok
        seen.append(open_view(store, "view").scan().collect().to_dicts())
    assert seen == [[{"shop": s, "n": 5} for s in "abc"], [{"shop": s, "n": 9} for s in "bc"], []]


class Measured(Event):
    size: float | None = None


def test_a_partition_whose_values_are_all_null_adds_nothing_to_a_sum(tmp_path: Path) -> None:
    """Not even 0.0, which would take the sign of a zero."""
    measured = Category("measured", [Measured])
    events = [Measured(subject="s", time=START, size=size) for size in (-0.0, None)]
    with open_log(str(tmp_path / "log")) as log:
        for partition, event in enumerate(events):
            records = measured.encode([event])
            place = pa.array([partition], pa.int32())
            log.append_batch(
                "measured", records.set_column(records.schema.names.index("partition"), "partition", place)
            )
    view = Projection(name="view", category=measured, key={"who": "subject"}, columns={"sum": agg.sum("size")})
    run([view], log=str(tmp_path / "log"), store=tmp_path / "store", until="end")
    (found,) = open_view(tmp_path / "store", "view").scan().collect()["sum"].to_list()
    assert math.copysign(1.0, found) == -1.0


def test_an_event_table_has_one_row_an_event(log: str, tmp_path: Path) -> None:
    table = projection(
        derive={"euros": pl.col("cents") / 100},
        where=pl.col("shop") != "c",
        select={"at": "event_time", "shop": "shop", "euros": "euros", "who": pl.col("subject").str.to_uppercase()},
    )
    found = rows(table, log, tmp_path)
    assert found.columns == ["partition", "offset", "at", "shop", "euros", "who"]
    assert found.select("partition", "offset").is_unique().all()
    wanted = [
        {"at": e.time, "shop": e.shop, "euros": e.cents * (1 / 100), "who": str(e.subject).upper()}
        for e in EVENTS
        if e.shop != "c"
    ]
    assert found.drop("partition", "offset").sort("at").to_dicts() == wanted


@pytest.mark.parametrize(
    ("said", "what", "do"),
    [
        ({"where": pl.col("cents")}, "where is int64, not bool", "condition"),
        ({"where": pl.col("cent") > 0}, "no event has a field `cent`", "did you mean `cents`"),
        ({"where": pl.col("cents") > pl.col("cents").mean()}, "not allowed", "element-wise"),
        ({"derive": {"cents": pl.col("cents") * 2}}, "has the name of a field", "rename"),
        ({"derive": {"a": pl.col("b"), "b": pl.col("cents")}}, "reads `b`, which comes later", "reorder"),
        ({"finish": {"x": pl.col("cents")}}, "`cents`, which no row has", "known are"),
        ({"finish": {"n": pl.col("n") + 1}}, "used twice", "rename"),
        ({"having": pl.col("n")}, "having is int64, not bool", "condition"),
        ({"having": pl.col("shoop") > 1}, "`shoop`, which no row has", "did you mean `shop`"),
        ({"key": {"_shop": "shop"}}, "would be hidden", "letter"),
        ({"select": ["shop"]}, "select= and key, columns", "one of the two"),
        ({"columns": {}}, "no columns", "agg.count"),
    ],
)
def test_mistakes_are_found_when_it_is_defined(said: dict[str, Any], what: str, do: str) -> None:
    with pytest.raises(UsageError) as raised:
        projection(**{"key": ["shop"], "columns": {"n": agg.count()}, **said})
    assert what in str(raised.value)
    assert do in str(raised.value)
    assert "projection view@1" in str(raised.value)


def test_every_step_is_in_the_definition() -> None:
    usual: dict[str, Any] = {"key": ["shop"], "columns": {"n": agg.count()}}
    definitions = [
        projection(**usual),
        projection(**usual, where=pl.col("cents") > 0),
        projection(**usual, where=pl.col("cents") > 1),
        projection(**usual, derive={"x": pl.col("cents") + 1}),
        projection(**usual, finish={"x": pl.col("n") + 1}),
        projection(**usual, having=pl.col("n") > 1),
        projection(select=["shop"]),
        projection(select=["shop", "note"]),
    ]
    assert len({found.fingerprint for found in definitions}) == len(definitions)
    again = [found.over(payments) for found in definitions]
    assert [found.fingerprint for found in again] == [found.fingerprint for found in definitions]
