"""The projections of the rows: what refold folds in each of them.

Made for a topic by name; the ones at the end stand for themselves, so that ``refold run --flows benchmarks.views`` finds them.
"""

from __future__ import annotations

import datetime as dt

from benchmarks.orders import OrderPlaced, orders
from flows import Projection, agg, tumbling
from flows.windows import Tumbling
from schemas import Category

MINUTE, SECOND = dt.timedelta(minutes=1), dt.timedelta(seconds=1)
LATENESS = dt.timedelta(seconds=5)
LONG_LATENESS = dt.timedelta(hours=2)
"""Of windows that stay open: 2 h of 1 s windows in 17 countries are 122,400."""


def by_minute(topic: str, name: str = "orders_by_minute") -> Projection:
    """The view of the baselines: count and sum of amount by country and minute."""
    return _projection(topic, name, "country", tumbling(MINUTE), LATENESS)


def by_second(topic: str) -> Projection:
    """The same by second, with windows that stay open for two hours of event time."""
    return _projection(topic, "orders_by_second", "country", tumbling(SECOND), LONG_LATENESS)


def by_customer(topic: str, name: str = "orders_by_customer") -> Projection:
    """No window: a row a customer."""
    return _projection(topic, name, "subject", None, dt.timedelta(0))


def _projection(topic: str, name: str, key: str, window: Tumbling | None, lateness: dt.timedelta) -> Projection:
    return Projection(
        name=name,
        version=1,
        category=Category(topic, orders.events),
        events=[OrderPlaced],
        key=[key],
        window=window,
        allowed_lateness=lateness,
        columns={"orders": agg.count(), "amount": agg.sum("amount")},
    )


VIEWS = {"by_minute": by_minute, "by_second": by_second, "by_customer": by_customer}

live_10k = by_minute("live-10k", "live_10k")
live_50k = by_minute("live-50k", "live_50k")
started = by_customer("started", "started")
