"""How fast the queries are folded from an embedded log.

    PYTHONPATH=tests python -m nexmark.bench [--events 2000000] [--workers 2] [QUERY...]

Each query is folded twice into fresh stores, from the first offset to the end, commits included: once from the JSON of the records
and once from the typed columns that the first fold has left beside the log. Events are those of the query's categories.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
from nexmark import feed
from nexmark.generator import Market
from nexmark.market import auctions, bids
from nexmark.queries import DISORDER, QUERIES, Query

from connectors import open_log, open_view
from connectors.partition_files import COLUMNS
from flows import Projection, agg, as_of, hopping, interval_join, run, session, stream, tumbling

PER_SECOND = 10_000
SECOND = dt.timedelta(seconds=1)
USUAL: dict[str, Any] = {"allowed_lateness": DISORDER, "columns": {"n": agg.count(), "total": agg.sum("price")}}
WINDOWS = {
    "tumbling": tumbling(10 * SECOND),
    "hopping": hopping(10 * SECOND, step=SECOND),
    "session": session(SECOND),
}
JOINS = {
    "as_of": as_of(bids, stream(auctions, prefix="auction_"), on="auction"),
    "interval": interval_join(
        bids, stream(auctions, prefix="auction_"), on="auction", lower=-20 * SECOND, upper=dt.timedelta(0)
    ),
}
SPEEDS = {
    **{
        name: Query(
            (Projection(name=name, category=bids, key={"group": pl.col("bidder") % 10}, window=window, **USUAL),)
        )
        for name, window in WINDOWS.items()
    },
    **{
        name: Query(
            (Projection(name=name, source=join, key=["auction_category"], window=tumbling(10 * SECOND), **USUAL),)
        )
        for name, join in JOINS.items()
    },
}
"""A count and a sum of whole numbers each: what a window and what a join costs."""


def main() -> None:
    known = {**SPEEDS, **QUERIES}
    asked = _arguments(known)
    with tempfile.TemporaryDirectory(prefix="refold-nexmark-") as directory:
        small = feed.write(Path(directory, "small"), Market(events=1_000))
        log = feed.write(Path(directory, "log"), Market(asked.events, PER_SECOND))
        print("| query | events | M/s from JSON | M/s from columns | rows | digest |\n|---|---:|---:|---:|---:|---|")
        for name in asked.queries or known:
            fold(
                known[name], small, Path(directory, "small-store"), asked.workers
            )  # what a process does once is not measured
            print(line(name, known[name], log, Path(directory, "store"), asked.workers), flush=True)


def _arguments(known: Collection[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nexmark.bench")
    parser.add_argument("queries", metavar="QUERY", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--events", type=int, default=2_000_000, help="of all three kinds (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that fold (default: %(default)s)")
    return parser.parse_args()


def line(name: str, query: Query, log: str, store: Path, workers: int) -> str:
    shutil.rmtree(Path(log, COLUMNS), ignore_errors=True)
    events = events_of(query, log)
    from_json, from_columns = (events / fold(query, log, store, workers) / 1e6 for _ in range(2))
    view = open_view(store, query.view)
    rows = view.scan().select(pl.len()).collect().item()
    return f"| {name} | {events:,} | {from_json:.2f} | {from_columns:.2f} | {rows:,} | {view.digest[:12]} |"


def fold(query: Query, log: str, store: Path, workers: int) -> float:
    """Seconds that it takes, into a fresh store."""
    shutil.rmtree(store, ignore_errors=True)
    began = time.perf_counter()
    run(query.projections, log=log, store=store, until="end", workers=workers)
    return time.perf_counter() - began


def events_of(query: Query, log: str) -> int:
    categories = {category.name for projection in query.projections for category in projection.categories}
    with open_log(log) as opened:
        return sum(sum(opened.describe(category).ends) for category in categories)


if __name__ == "__main__":
    main()
