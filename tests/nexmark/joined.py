"""Nexmark's queries over two categories, said as projections of joins.

| query | as |
|---|---|
| q3 | all pairs of an auction and its seller, whichever came first |
| q8 | pairs of a person and an auction less than a window apart, of those the ones in one window |
| q9 | the bids while an auction was open, and of those the highest by auction |
| q20 | all pairs of a bid and its auction |
"""

from __future__ import annotations

import datetime as dt

import polars as pl
from nexmark.feed import DISORDER
from nexmark.market import auctions, bids, persons

from flows import Projection, agg, tumbling
from flows.joins import interval_join, stream

TEN_SECONDS = dt.timedelta(seconds=10)
MOMENT = dt.timedelta(microseconds=1)
IS_IN_CATEGORY_10 = pl.col("category") == 10
ITEM = ("item_name", "description", "initial_bid", "reserve", "expires", "seller", "category")

q3 = Projection(
    name="nexmark_q3",
    source=interval_join(
        stream(auctions, where=IS_IN_CATEGORY_10),
        stream(persons, where=pl.col("state").is_in(["OR", "ID", "CA"]), prefix="seller_"),
        on={"seller": "person"},
        lower=None,
        upper=None,
    ),
    allowed_lateness=DISORDER,
    select={"name": "seller_name", "city": "seller_city", "state": "seller_state", "auction": "auction"},
)
q8 = Projection(
    name="nexmark_q8",
    source=interval_join(
        stream(persons, prefix="person_"),
        stream(auctions, prefix="auction_"),
        on={"person": "seller"},
        lower=MOMENT - TEN_SECONDS,
        upper=TEN_SECONDS - MOMENT,
    ),
    where=pl.col("person_event_time").dt.truncate("10s") == pl.col("auction_event_time").dt.truncate("10s"),
    key={"person": "person_person", "name": "person_name"},
    window=tumbling(TEN_SECONDS),
    allowed_lateness=DISORDER,
    columns={"auctions": agg.count()},
)
while_open = interval_join(
    stream(auctions, prefix="auction_"),
    stream(bids, prefix="bid_"),
    on="auction",
    lower=dt.timedelta(0),
    upper="expires",
)
q9 = Projection(
    name="nexmark_q9",
    source=while_open,
    allowed_lateness=DISORDER,
    key={"auction": "auction_auction"},
    columns={name: agg.first(f"auction_{name}") for name in (*ITEM, "extra")}
    | {"opened": agg.first("auction_event_time")}
    | {name: agg.max_by(f"bid_{name}", by="bid_price") for name in ("bidder", "price")}
    | {"bid_time": agg.max_by("bid_event_time", by="bid_price"), "bid_extra": agg.max_by("bid_extra", by="bid_price")},
)
q20 = Projection(
    name="nexmark_q20",
    source=interval_join(
        stream(bids, prefix="bid_"),
        stream(auctions, where=IS_IN_CATEGORY_10, prefix="auction_"),
        on="auction",
        lower=None,
        upper=None,
    ),
    allowed_lateness=DISORDER,
    select={name: f"bid_{name}" for name in ("auction", "bidder", "price", "channel", "url", "event_time", "extra")}
    | {name: f"auction_{name}" for name in ITEM}
    | {"opened": "auction_event_time", "auction_extra": "auction_extra"},
)
