"""Nexmark's queries that ask twice, said as projections of projections.

| query | as |
|---|---|
| q4 | the greatest price that was bid for an auction while it was open, and the mean of these by category |
| q5 | the bids of an auction by hopping window, and of each window all auctions with the most |
"""

from __future__ import annotations

import datetime as dt

from nexmark.feed import DISORDER
from nexmark.joined import TEN_SECONDS, while_open
from nexmark.market import bids

from flows import Projection, agg, hopping, tumbling

TWO_SECONDS = dt.timedelta(seconds=2)

winning = Projection(
    name="nexmark_winning",
    source=while_open,
    allowed_lateness=DISORDER,
    key={"auction": "auction_auction", "category": "auction_category"},
    columns={"final": agg.max("bid_price")},
)
q4 = Projection(name="nexmark_q4", source=winning, key=["category"], columns={"price": agg.mean("final")})
bids_by_auction = Projection(
    name="nexmark_bids_by_auction",
    category=bids,
    key=["auction"],
    window=hopping(TEN_SECONDS, TWO_SECONDS),
    allowed_lateness=DISORDER,
    columns={"num": agg.count()},
)
q5 = Projection(
    name="nexmark_q5",
    source=bids_by_auction,
    window=tumbling(TWO_SECONDS),  # one window starts in each
    columns={"hottest": agg.top(1, by="num", of={"auction": "auction", "num": "num"}, ties=True)},
)
