"""Count and sum of amount by country and minute, as a projection of refold.

    python -m benchmarks.refold_orders ADDRESS TOPIC EVENTS_MAX

Folds the topic to the end that it has at the start (EVENTS_MAX is for the baselines: refold takes all) into a store in
a temporary directory, commits included.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import time

import polars as pl

from benchmarks.orders import OrderPlaced, orders
from benchmarks.topic import Result, arguments, report
from connectors import open_log, open_view
from flows import Projection, agg, run, tumbling
from schemas import Category

VIEW = "orders_by_minute"


def projection(topic: str) -> Projection:
    return Projection(
        name=VIEW,
        version=1,
        category=Category(topic, orders.events),
        events=[OrderPlaced],
        key=["country"],
        window=tumbling(dt.timedelta(minutes=1)),
        allowed_lateness=dt.timedelta(seconds=5),
        columns={"orders": agg.count(), "amount": agg.sum("amount")},
    )


def main() -> None:
    asked = arguments()
    with tempfile.TemporaryDirectory() as store:
        started = time.perf_counter()
        with open_log(f"redpanda://{asked.address}") as log:
            events = sum(log.describe(asked.topic).ends)
            run([projection(asked.topic)], log=log, store=store, until="end")
        seconds = time.perf_counter() - started
        totals = open_view(store, VIEW).scan().select(pl.col("orders").sum(), pl.col("amount").sum()).collect()
    report(Result(events, totals["orders"][0], totals["amount"][0], seconds))


if __name__ == "__main__":
    main()
