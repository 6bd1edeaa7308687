"""Projections of projections, as a user meets them. That they keep the law is shown in ``test_law.py``.

What a chain says is compared with plain Python over the rows of its source at the same cut; and with what everybody can count.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import Chopped
from test_joins import CATEGORIES, KINDS, PARTITIONS, STEP, Fact, Kind, append, folded_by, logs

from connectors import open_log, open_view
from flows import Projection, agg, calendar, hopping, rebuild, repair, run, session, tumbling, verify
from flows.committer import Pace
from flows.python_folds import State, python_fold
from flows.status import summary
from schemas import Category, Event
from schemas.errors import UsageError

T0 = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)


class Sold(Event):
    shop: str
    amount: int


sales = Category("sales", [Sold])


def hourly(**more: Any) -> Projection:
    said = {"key": ["shop"], "window": tumbling(HOUR), "columns": {"n": agg.count(), "total": agg.sum("amount")}}
    return Projection(name="hourly", category=sales, **(said | more))


def daily(source: Projection, **more: Any) -> Projection:
    said = {"window": tumbling(24 * HOUR), "columns": {"hours": agg.count(), "n": agg.sum("n"), "most": agg.max("n")}}
    return Projection(name="daily", source=source, **(said | more))


class Shops:
    """A log of one partition and a store: sell, look, sell again."""

    def __init__(self, path: Path) -> None:
        self.log, self.store = str(path / "log"), path / "store"
        with open_log(self.log) as log:
            log.create(sales.name, 1)

    def sell(self, *sold: tuple[str, float, int]) -> None:
        """Shop, hours since the beginning, amount."""
        events = [Sold(subject=shop, time=T0 + hours * HOUR, shop=shop, amount=n) for shop, hours, n in sold]
        with open_log(self.log) as log:
            log.append(sales, events)

    def rows(self, *views: Projection) -> list[dict[str, Any]]:
        run(views, log=self.log, store=self.store, until="end")
        assert all(verify(view, log=self.log, store=self.store).ok for view in views)
        found = open_view(self.store, views[-1].name).scan().collect().to_dicts()
        return [{name: value for name, value in row.items() if not name.startswith("window")} for row in found]


@pytest.fixture
def shops(tmp_path: Path) -> Shops:
    return Shops(tmp_path)


# -- what the rows below do


def test_a_day_is_its_hours_and_is_final_when_they_are(shops: Shops) -> None:
    view = daily(hourly(allowed_lateness=HOUR), key=["shop"])
    shops.sell(("a", 0.1, 1), ("a", 0.2, 1), ("a", 5, 1), ("b", 23.9, 1))
    first = [
        {"shop": "a", "hours": 2, "n": 3, "most": 2, "is_final": False},
        {"shop": "b", "hours": 1, "n": 1, "most": 1, "is_final": False},
    ]
    assert shops.rows(view) == first
    shops.sell(("a", 24.9, 1))  # the last hour of the day is still open
    assert [row["is_final"] for row in shops.rows(view)] == [False, False, False]
    shops.sell(("b", 23.5, 1), ("a", 25, 1))
    final = [dict(row, is_final=True) for row in first]
    final[1] |= {"n": 2, "most": 2}
    assert shops.rows(view)[:2] == final


def test_a_day_is_not_final_before_an_hour_that_began_in_it_is(shops: Shops) -> None:
    view = daily(hourly(window=hopping(2 * HOUR, HOUR)))
    shops.sell(("a", 1, 1), ("a", 24.5, 1))  # from 23 to 1 o'clock is open
    assert [row["is_final"] for row in shops.rows(view)] == [False, False]
    shops.sell(("a", 25, 1))
    assert [row["is_final"] for row in shops.rows(view)] == [True, False]


def test_a_session_that_begins_in_a_day_keeps_it_open(shops: Shops) -> None:
    view = daily(hourly(window=session(2 * HOUR)), columns={"n": agg.sum("n"), "visits": agg.count()})
    shops.sell(("a", 1, 1), ("a", 23, 1), ("a", 24.9, 1), ("b", 26.5, 1))  # the one that began at 23 may go on
    assert shops.rows(view)[0] == {"n": 3, "visits": 2, "is_final": False}
    shops.sell(("b", 28.9, 1))
    assert shops.rows(view)[0] == {"n": 3, "visits": 2, "is_final": True}


def test_rows_that_become_one_or_move_are_counted_once(shops: Shops) -> None:
    view = daily(hourly(window=session(2 * HOUR), allowed_lateness=9 * HOUR), columns={"visits": agg.count()})
    shops.sell(("a", 25, 1), ("a", 28, 1))
    assert [row["visits"] for row in shops.rows(view)] == [2]
    shops.sell(("a", 26.5, 1))
    assert [row["visits"] for row in shops.rows(view)] == [1]
    shops.sell(("a", 23.5, 1))  # and now it began the day before: the other day has none
    assert [row["visits"] for row in shops.rows(view)] == [1]
    assert open_view(shops.store, "daily").scan().collect()["window_start"].to_list() == [T0]


def test_a_row_that_its_source_no_longer_shows_is_gone_from_its_group(shops: Shops) -> None:
    quiet = hourly(having=pl.col("n") < 2, allowed_lateness=9 * HOUR)
    view = daily(quiet, key=["shop"], window=None)
    shops.sell(("a", 1, 1), ("a", 2, 1), ("b", 1, 1))
    assert shops.rows(quiet, view) == [
        {"shop": "a", "hours": 2, "n": 2, "most": 1},
        {"shop": "b", "hours": 1, "n": 1, "most": 1},
    ]
    shops.sell(("a", 2.5, 1), ("b", 1.5, 1))
    assert shops.rows(quiet, view) == [{"shop": "a", "hours": 1, "n": 1, "most": 1}]


def test_a_row_leaves_the_group_that_it_no_longer_belongs_to(shops: Shops) -> None:
    by_count = daily(hourly(), key={"sales": "n"}, window=None, columns={"hours": agg.count()})
    shops.sell(("a", 1, 1), ("b", 1, 1))
    assert shops.rows(by_count) == [{"sales": 1, "hours": 2}]
    shops.sell(("a", 1.5, 1))
    assert shops.rows(by_count) == [{"sales": 1, "hours": 1}, {"sales": 2, "hours": 1}]
    shops.sell(("b", 1.5, 1))
    assert shops.rows(by_count) == [{"sales": 2, "hours": 2}]


def test_hidden_columns_stay_below_and_whats_computed_there_is_seen(shops: Shops) -> None:
    source = hourly(columns={"_n": agg.count()}, finish={"many": pl.col("_n") > 1})
    view = daily(source, where="many", columns={"busy": agg.count()}, having=pl.col("busy") > 0)
    shops.sell(("a", 1, 1), ("a", 1.5, 1), ("a", 2, 1))
    assert [row["busy"] for row in shops.rows(view)] == [1]
    with pytest.raises(UsageError, match="no event has a field `_n`"):
        daily(source, columns={"n": agg.sum("_n")})


def test_first_and_last_go_by_the_key_of_the_source(shops: Shops) -> None:
    source = hourly(key=["amount", "shop"], window=None)
    view = daily(
        source, key={"all": pl.lit("all")}, window=None, columns={"f": agg.first("shop"), "l": agg.last("shop")}
    )
    shops.sell(("c", 1, 2), ("b", 2, 1), ("a", 3, 9), ("d", 4, 3))
    assert shops.rows(view) == [{"all": "all", "f": "b", "l": "a"}]
    shops.sell(("e", 5, 0), ("f", 6, 5))  # whenever they come
    assert shops.rows(view) == [{"all": "all", "f": "e", "l": "a"}]


def test_chains_of_three_in_a_calendar(shops: Shops) -> None:
    days = daily(hourly(), key=["shop"], window=calendar("day", zone="Europe/Berlin"), columns={"n": agg.sum("n")})
    view = Projection(name="all", source=days, key=["shop"], columns={"days": agg.count(), "best": agg.max("n")})
    shops.sell(*[("a", hour, 1) for hour in range(72)])
    assert shops.rows(view) == [{"shop": "a", "days": 4, "best": 24}]


def test_what_is_final_is_remembered_no_more(shops: Shops) -> None:
    view = daily(hourly(), key=["shop"])
    shops.sell(*[(shop, hour, 1) for hour in range(100) for shop in "abc"])
    shops.rows(view)
    manifest = open_view(shops.store, "daily").manifest
    assert {name: manifest.tables[name].rows for name in ("rows", "partials", "upstream")} == {
        "rows": 15, "partials": 3, "upstream": 12,
    }  # fmt: skip
    assert summary(open_view(shops.store, "daily"))["final_until_us"] == (T0 + 99 * HOUR).timestamp() * 1e6


def test_a_chain_is_rebuilt_and_repaired(shops: Shops) -> None:
    view = daily(hourly(), key=["shop"])
    shops.sell(*[(shop, hour, 1) for hour in range(30) for shop in "abc"])
    rows = shops.rows(view)
    manifest = rebuild(view, log=shops.log, store=shops.store)
    assert manifest is not None
    file = shops.store / "daily" / "v1" / "data" / manifest.tables["upstream"].chunks[0].file
    file.chmod(0o644)
    file.write_bytes(b"lost")
    found = verify(view, log=shops.log, store=shops.store)
    assert found is not None
    assert [damaged.table for damaged in found.damaged] == ["upstream"]
    assert repair(view, log=shops.log, store=shops.store) is not None
    assert shops.rows(view) == rows


# -- the rows of the source at the same cut


def recomputed(rows: list[dict[str, Any]], size: dt.timedelta) -> dict[Any, dict[str, Any]]:
    """In order of the source's key, as its table has them."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if row["n"] < 2:
            continue
        start = row["window_start"] - (row["window_start"] - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) % size
        group = found.setdefault(start, {"rows": 0, "n": 0, "product": None, "items": []})
        group["rows"] += 1
        group["n"] += row["n"]
        if row["product"] is not None:
            group["product"] = row["product"] if group["product"] is None else group["product"] + row["product"]
        if row["item"] is not None:
            group["items"].append(row["item"])
    return found


def chain_of(kind: Kind, lateness: int) -> tuple[Projection, Projection, dt.timedelta]:
    size = dt.timedelta(microseconds=10 * STEP)
    columns = {
        "rows": agg.count(),
        "n": agg.sum("n"),
        "product": agg.sum("product"),
        "items": agg.collect("item", limit=1000),
    }
    source = folded_by(kind, lateness)
    above = Projection(name="above", source=source, where=pl.col("n") > 1, window=tumbling(size), columns=columns)
    return source, above, size


@settings(max_examples=int(os.environ.get("REFOLD_EXAMPLES") or 8), deadline=None, print_blob=True)
@given(logs(), st.sampled_from(KINDS), st.sampled_from([0, 4 * STEP]), st.integers(0, 2**32))
def test_a_chain_is_what_plain_python_makes_of_the_table_below_at_every_cut(
    facts: list[Fact], kind: Kind, lateness: int, seed: int
) -> None:
    lots = random.Random(seed)
    source, above, size = chain_of(kind, lateness)
    with tempfile.TemporaryDirectory(prefix="refold-chains-") as directory:
        store, fresh = Path(directory) / "store", Path(directory) / "fresh"
        with open_log(f"{directory}/log") as log:
            for category in CATEGORIES:
                log.create(category, PARTITIONS)
            append(log, facts)
            ends = {name: list(log.describe(name).ends) for name in CATEGORIES}
            cut = {name: [0] * PARTITIONS for name in CATEGORIES}
            for last in [False] * lots.randint(0, 3) + [True]:
                cut = {
                    name: [end if last else lots.randint(now, end) for now, end in zip(cut[name], some, strict=True)]
                    for name, some in ends.items()
                }
                chopped: Any = Chopped(log, lots.randint(0, 2**32), 4)
                pace = Pace(interval_s=lots.choice([0.0, 1000.0]))
                run([source, above], log=chopped, store=store, until=cut, workers=lots.choice([1, 2]), pace=pace)
                below = open_view(store, source.name).scan().collect().to_dicts()
                found = open_view(store, above.name).scan().collect().to_dicts()
                assert {
                    row["window_start"]: {name: row[name] for name in above.columns} for row in found
                } == recomputed(below, size)
            run([above], log=log, store=fresh, until="end")
        manifests = [open_view(place, above.name).manifest for place in (store, fresh)]
        assert len({str({n: t.digest for n, t in m.tables.items()}) for m in manifests}) == 1


# -- what is said of it


def test_the_fingerprint_knows_the_source_but_not_its_name() -> None:
    def renamed(name: str, version: int) -> Projection:
        columns = {"n": agg.count(), "total": agg.sum("amount")}
        return Projection(
            name=name, version=version, category=sales, key=["shop"], window=tumbling(HOUR), columns=columns
        )

    one = daily(hourly()).fingerprint
    assert daily(renamed("other", 7)).fingerprint == one
    others = [hourly(where=pl.col("amount") > 0), hourly(allowed_lateness=HOUR), hourly(having=pl.col("n") > 1)]
    assert len({one, *(daily(source).fingerprint for source in others)}) == 4


class Last(State):
    amount: int


def last(state: Last | None, event: Any) -> Last | None:
    return Last(event.amount)


@pytest.mark.parametrize(
    ("said", "what", "do"),
    [
        (lambda: daily(Projection(name="t", category=sales, select=["amount"])), "is an event table", "columns="),
        (
            lambda: daily(Projection(name="f", category=sales, key=["shop"], fold=python_fold(Last, last))),
            "is a Python fold",
            "columns=",
        ),
        (lambda: daily(hourly(), window=session(HOUR)), "a hopping or session window", "tumbling"),
        (lambda: daily(hourly(), allowed_lateness=HOUR), "allowed_lateness= of a projection's rows", "in the source"),
        (lambda: daily(hourly(window=None)), "the source has no window", "put a column"),
        (lambda: daily(hourly(), category=sales), "neither or both of category= and source=", "one of them"),
        (lambda: daily(hourly(), columns={"x": agg.sum("totl")}), "no event has a field `totl`", "total"),
        (lambda: daily(hourly(columns={"event_time": agg.count()})), "has a column `event_time`", "rename"),
        (
            lambda: Projection(name="t", source=hourly(), select=["n"]),
            "select= of a projection's rows",
            "key, window and columns",
        ),
    ],
)
def test_mistakes_are_found_when_it_is_said(said: Callable[[], Projection], what: str, do: str) -> None:
    with pytest.raises(UsageError) as raised:
        said()
    assert what in str(raised.value)
    assert do in str(raised.value)
