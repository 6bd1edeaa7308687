"""What Nexmark's events, their records and the queries in SQL must be for the views' test to mean anything."""

from __future__ import annotations

import datetime as dt
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexmark import feed, oracle
from nexmark.generator import Drawn, Market, draw
from nexmark.market import CATEGORIES

from connectors import open_log
from schemas import Category
from schemas.event import Event

MARKET = Market(events=30_000, seed=1)
SMALL = Market(events=3_000, seed=2)
Row = dict[str, Any]


@functools.cache
def drawn(market: Market = MARKET) -> Drawn:
    return draw(market)


@functools.cache
def truth(name: str, market: Market = MARKET) -> pl.DataFrame:
    with oracle.Oracle(drawn(market)) as asked:
        return oracle.QUERIES[name](asked)


def asked(query: str) -> int:
    """A number found in the events."""
    with oracle.Oracle(drawn()) as tables:
        return int(tables.rows(query).item())


# -- the events


def test_a_fiftieth_are_persons_three_are_auctions_and_the_rest_bids() -> None:
    assert [len(frame) for frame in drawn()] == [600, 1_800, 27_600]
    assert sorted(number for frame in drawn() for number in frame["number"]) == list(range(30_000))
    for frame, name in zip(drawn(), ("person", "auction"), strict=False):
        assert frame[name].to_list() == list(range(1000, 1000 + len(frame)))


def test_the_seed_decides() -> None:
    again, other = draw(Market(events=3_000, seed=2)), draw(Market(events=3_000, seed=3))
    assert all(one.equals(two) for one, two in zip(drawn(SMALL), again, strict=True))
    assert not any(one.equals(two) for one, two in zip(drawn(SMALL), other, strict=True))


@pytest.mark.parametrize(
    ("what", "query", "least"),
    [
        ("auctions in category 10", "SELECT count(*) FROM auction WHERE category = 10", 300),
        ("bids on an auction that is not open yet", "{} WHERE B.dateTime < A.dateTime", 500),
        ("bids on an auction that has ended", "{} WHERE B.dateTime > A.expires", 500),
        ("bids in the last millisecond of an auction", "{} WHERE B.dateTime = A.expires", 5),
        ("bids in the first millisecond of an auction", "{} WHERE B.dateTime = A.dateTime", 5),
        (
            "sellers who register later",
            "SELECT count(*) FROM auction A JOIN person P ON A.seller = P.id WHERE P.dateTime > A.dateTime",
            20,
        ),
        (
            "equal bids on an auction",
            "SELECT count(*) FROM (SELECT count(*) AS n FROM bid GROUP BY auction, price HAVING n > 1)",
            1_000,
        ),
        (
            "bids of a bidder on an auction in one millisecond",
            "SELECT count(*) FROM (SELECT count(*) AS n FROM bid GROUP BY auction, bidder, dateTime HAVING n > 1)",
            1_000,
        ),
        (
            "bids of a bidder that are just the gap of a session apart",
            "SELECT count(*) FROM (SELECT dateTime - lag(dateTime) OVER (PARTITION BY bidder ORDER BY dateTime) AS gap FROM bid)"
            " WHERE gap = INTERVAL '10' SECOND",
            5,
        ),
    ],
)
def test_it_happens(what: str, query: str, least: int) -> None:
    assert asked(query.format("SELECT count(*) FROM auction A JOIN bid B ON A.id = B.auction")) >= least, what


# -- the records


@settings(max_examples=20)
@given(market=st.builds(Market, events=st.just(300), per_second=st.integers(1, 20_000), seed=st.integers(0, 2**32)))
def test_values_are_what_the_category_makes_of_the_events(market: Market) -> None:
    for category, frame in zip(CATEGORIES, draw(market), strict=True):
        ordered = feed.in_order_of_arrival(frame, 1)
        expected = category.encode([event_of(category, row) for row in named(category, ordered).to_dicts()])
        found = feed.records(category, ordered)
        assert found.select(["key", "value"]).equals(expected.select(["key", "value"]))


def named(category: Category, frame: pl.DataFrame) -> pl.DataFrame:
    """As the event types have them."""
    names = {"time_ms": "time", "expires_ms": "expires"}
    texts = [pl.col(feed.SUBJECTS[category.name]).cast(pl.String).alias("subject"), feed.event_id(category).alias("id")]
    return instants(frame).rename(names, strict=False).with_columns(texts)


def instants(frame: pl.DataFrame) -> pl.DataFrame:
    """With datetimes in the place of milliseconds."""
    milliseconds = pl.col("^.*_ms$")
    return frame.with_columns(pl.from_epoch(milliseconds, "ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC"))


def event_of(category: Category, row: Row) -> Event:
    (kind,) = category.events
    names = ["subject", "time", "id", *(field.name for field in kind.fields)]
    return kind(**{name: row[name] for name in names})


def test_the_log_has_all_events_out_of_order_and_a_marker_behind_all(tmp_path: Path) -> None:
    feed.write(tmp_path, SMALL, arrival=1)
    with open_log(str(tmp_path)) as log:
        for category, frame in zip(CATEGORIES, drawn(SMALL), strict=True):
            ends = log.describe(category.name).ends
            assert len(ends) == 4
            assert min(ends) > 1
            assert sum(ends) == len(frame) + 4


@settings(max_examples=20)
@given(arrival=st.integers(0, 2**32))
def test_arrival_is_out_of_order_within_its_bound_and_leaves_ties_alone(arrival: int) -> None:
    for frame in drawn(SMALL)[1:]:
        found = feed.in_order_of_arrival(frame, arrival)
        assert found.drop("arrived_ms").sort("number").equals(frame)
        behind = found["time_ms"].cum_max() - found["time_ms"]
        assert 1_000 < behind.max() <= feed.DISORDER_MS  # type: ignore[operator]
        assert found.group_by("time_ms").agg((pl.col("number").diff() > 0).all().alias("kept"))["kept"].all()


def test_arrivals_differ() -> None:
    one, two = (feed.in_order_of_arrival(drawn(SMALL).bid, arrival)["number"].to_numpy() for arrival in (1, 2))
    assert np.mean(one != two) > 0.9


# -- the queries in SQL


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("q1", 27_600, 27_600),
        ("q2", 100, 1_000),
        ("q3", 50, 1_000),
        ("q4", 5, 5),
        ("q5", 155, 1_000),
        ("q7", 31, 100),
        ("q8", 30, 600),
        ("q9", 1_000, 1_799),
        ("q11", 1_000, 10_000),
        ("q12", 1_000, 20_000),
        ("q17", 1_810, 3_600),
        ("q18", 5_000, 25_000),
        ("q19", 5_000, 20_000),
        ("q20", 2_000, 10_000),
    ],
)
def test_a_query_has_something_to_say(name: str, least: int, most: int) -> None:
    assert least <= len(truth(name)) <= most


def test_the_most_bids_and_the_highest_bids_are_shared_now_and_then() -> None:
    assert (truth("q5")["window_start"].value_counts()["count"] > 1).sum() >= 3
    periods = truth("q7").group_by(pl.col("event_time").dt.truncate("10s"), "price").len()
    assert (periods["len"] > 1).any()


def test_sessions_are_of_many_sizes() -> None:
    sizes = Counter(truth("q11")["bid_count"])
    assert sizes[1] > 100
    assert len(sizes) > 30
    assert (truth("q11")["window_end"] - truth("q11")["window_start"]).n_unique() > 300


# What three of them say, once more in plain Python: so that an error in the SQL is not taken for one in refold.


def plain_q5(market: Drawn) -> list[Row]:
    step, size, epoch = dt.timedelta(seconds=2), dt.timedelta(seconds=10), dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    counts: dict[dt.datetime, Counter[int]] = {}
    for bid in instants(market.bid).to_dicts():
        start = bid["time_ms"] - (bid["time_ms"] - epoch) % step
        while start + size > bid["time_ms"]:
            counts.setdefault(start, Counter())[bid["auction"]] += 1
            start -= step
    return [
        {"window_start": start, "auction": auction, "num": num}
        for start, found in counts.items()
        for auction, num in found.items()
        if num == max(found.values())
    ]


def plain_q9(market: Drawn) -> list[Row]:
    best: dict[int, Row] = {}
    opened = {auction["auction"]: auction for auction in instants(market.auction).to_dicts()}
    for bid in instants(market.bid).to_dicts():
        auction = opened.get(bid["auction"])
        if auction and auction["time_ms"] <= bid["time_ms"] <= auction["expires_ms"]:
            known = best.get(bid["auction"])
            if known is None or bid["price"] > known["price"]:
                best[bid["auction"]] = bid
    return [{"auction": auction, "bidder": bid["bidder"], "bid_extra": bid["extra"]} for auction, bid in best.items()]


def plain_q11(market: Drawn) -> list[Row]:
    gap = dt.timedelta(seconds=10)
    found: list[Row] = []
    last: dict[int, Row] = {}
    for bid in instants(market.bid).to_dicts():
        session = last.get(bid["bidder"])
        if session is None or bid["time_ms"] >= session["window_end"]:
            session = last[bid["bidder"]] = {"window_start": bid["time_ms"], "bidder": bid["bidder"], "bid_count": 0}
            found.append(session)
        session["window_end"] = bid["time_ms"] + gap
        session["bid_count"] += 1
    return found


@pytest.mark.parametrize(("name", "plain"), [("q5", plain_q5), ("q9", plain_q9), ("q11", plain_q11)])
def test_the_sql_is_right(name: str, plain: Callable[[Drawn], list[Row]]) -> None:
    expected = plain(drawn(SMALL))
    columns = sorted(expected[0])
    found = truth(name, SMALL).select(columns)
    assert len(found) >= 20
    assert found.sort(columns).equals(pl.DataFrame(expected, schema=found.schema).sort(columns))
