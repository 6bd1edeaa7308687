"""Nexmark's queries said as projections.

| query | as |
|---|---|
| q1, q2 | an event table of bids: ``select``, and ``where`` |
| q11 | a session and a count |
| q12 | a tumbling window and a count |
| q17 | a key with the day in it; counts with ``where``, min, max, mean, sum |
| q18 | the last of each column by bidder and auction |
| q3, q8, q9, q20 | joins: see ``nexmark.joined`` |
| q4, q5 | projections of projections: see ``nexmark.chained`` |
| q7 | the highest bids of a window, all that are equal |
| q19 | the ten highest bids by auction, as a list: the place in it is the rank |

Bids may come ``DISORDER`` late, and that much lateness is allowed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from nexmark import chained, joined
from nexmark.feed import DISORDER
from nexmark.market import bids

from flows import Projection, agg, session, tumbling

TEN_SECONDS = dt.timedelta(seconds=10)
price = pl.col("price")


def _as_it_is(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


@dataclass(frozen=True, slots=True)
class Query:
    """``projections``: the last one is the answer. ``reshaped`` makes the oracle's columns of its rows. ``by_place``: the rows
    say where in the log their event is, so that another arrival gives others."""

    projections: tuple[Projection, ...]
    reshaped: Callable[[pl.DataFrame], pl.DataFrame] = _as_it_is
    by_place: bool = False

    @property
    def view(self) -> str:
        return self.projections[-1].name


q1 = Projection(
    name="nexmark_q1",
    category=bids,
    select={
        "auction": "auction",
        "bidder": "bidder",
        "price_thousandths": price * 908,
        "event_time": "event_time",
        "extra": "extra",
    },
)
q2 = Projection(name="nexmark_q2", category=bids, where=pl.col("auction") % 123 == 0, select=["auction", "price"])
q11 = Projection(
    name="nexmark_q11",
    category=bids,
    key=["bidder"],
    window=session(TEN_SECONDS),
    allowed_lateness=DISORDER,
    columns={"bid_count": agg.count()},
)
q12 = Projection(
    name="nexmark_q12",
    category=bids,
    key=["bidder"],
    window=tumbling(TEN_SECONDS),
    allowed_lateness=DISORDER,
    columns={"bid_count": agg.count()},
)
q17 = Projection(
    name="nexmark_q17",
    category=bids,
    key={"auction": "auction", "day": pl.col("event_time").dt.date()},
    columns={
        "total_bids": agg.count(),
        "rank1_bids": agg.count(where=price < 10_000),
        "rank2_bids": agg.count(where=(price >= 10_000) & (price < 1_000_000)),
        "rank3_bids": agg.count(where=price >= 1_000_000),
        "min_price": agg.min("price"),
        "max_price": agg.max("price"),
        "avg_price": agg.mean("price"),
        "sum_price": agg.sum("price"),
    },
)
q18 = Projection(
    name="nexmark_q18",
    category=bids,
    key=["auction", "bidder"],
    columns={name: agg.last(name) for name in ("price", "channel", "url", "event_time", "extra")},
)
q7 = Projection(
    name="nexmark_q7",
    category=bids,
    window=tumbling(TEN_SECONDS),
    allowed_lateness=DISORDER,
    columns={
        "bids": agg.top(
            1, by="price", of={name: name for name in ("auction", "bidder", "price", "event_time", "extra")}, ties=True
        )
    },
)
BID = ("bidder", "price", "channel", "url", "event_time", "extra")
q19 = Projection(
    name="nexmark_q19",
    category=bids,
    key=["auction"],
    columns={"bids": agg.top(10, by="price", of={name: name for name in BID})},
)


def _ranked(rows: pl.DataFrame) -> pl.DataFrame:
    ranks = pl.int_ranges(1, pl.col("bids").list.len() + 1).alias("rank_number")
    return rows.with_columns(ranks).explode("bids", "rank_number").unnest("bids")


def _exploded(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.explode("bids").unnest("bids")


QUERIES = {
    "q1": Query((q1,), by_place=True),
    "q2": Query((q2,), by_place=True),
    "q3": Query((joined.q3,), by_place=True),
    "q4": Query((chained.q4,)),
    "q5": Query((chained.q5,), lambda rows: rows.explode("hottest").unnest("hottest")),
    "q7": Query((q7,), _exploded),
    "q8": Query((joined.q8,)),
    "q9": Query((joined.q9,)),
    "q11": Query((q11,)),
    "q12": Query((q12,)),
    "q17": Query((q17,), lambda rows: rows.with_columns(pl.col("day").dt.to_string())),
    "q18": Query((q18,)),
    "q19": Query((q19,), _ranked),
    "q20": Query((joined.q20,), by_place=True),
}
