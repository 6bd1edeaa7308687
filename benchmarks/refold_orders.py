"""A view of the orders, by refold: from the first call of a client to the last commit.

    python -m benchmarks.refold_orders LOG TOPIC [VIEW] [--workers 2]

Folds the topic of a broker (``redpanda://...``) or of an embedded log (a directory) to the end that it has at the start,
into a store in a temporary directory, commits included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import polars as pl

from benchmarks.result import Detail, Result, begin, report
from benchmarks.views import VIEWS
from connectors import View, open_log, open_view
from flows import Projection, run


def main() -> None:
    asked = _arguments()
    projection = VIEWS[asked.view](asked.topic)
    with tempfile.TemporaryDirectory() as store:
        begin()
        started = time.perf_counter()
        events = fold(projection, asked.log, Path(store), asked.workers)
        seconds = time.perf_counter() - started
        report(result(open_view(store, projection.name), events, seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refold_orders")
    parser.add_argument("log", metavar="LOG", help="redpanda://host:port or the directory of an embedded log")
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("view", metavar="VIEW", nargs="?", choices=VIEWS, default="by_minute", help=", ".join(VIEWS))
    parser.add_argument("--workers", type=int, default=2, help="threads that fold (default: %(default)s)")
    return parser.parse_args()


def fold(projection: Projection, url: str, store: Path, workers: int) -> int:
    """Returns how many events the log had at the start."""
    (category,) = projection.categories
    with open_log(url) as log:
        events = sum(log.describe(category.name).ends)
        run([projection], log=log, store=store, until="end", workers=workers)
    return events


def result(view: View, events: int, seconds: float) -> Result:
    sums = [pl.len(), pl.col("orders").sum(), pl.col("amount").sum()]
    rows, counted, amount = view.scan().select(*sums).collect().row(0)
    details: dict[str, Detail] = {"rows": rows, "commits": view.seq}
    if "is_final" in view.schema.names:
        details["open_rows"] = view.scan().select((~pl.col("is_final")).sum()).collect().item()
    return Result(events, counted, amount, seconds, view.digest, details)


if __name__ == "__main__":
    main()
