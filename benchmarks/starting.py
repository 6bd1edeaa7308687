"""How long a start takes: ``refold run`` on a keyed view that is there already, until a new event is readable in it.

    python -m benchmarks.starting ROWS

The event is appended to the embedded log just before the process is started. Included: the interpreter, all imports, reading
the view's manifest and partials, comparing the log with it, reading and folding the event, and the commit. The view
itself (ROWS customers, one order each) is folded beforehand. Usage is that of ``refold run``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import polars as pl

from benchmarks.following import Following
from benchmarks.orders import drawn_orders, records_of
from benchmarks.prepare import append_keyed
from benchmarks.result import Result, report
from benchmarks.views import started
from connectors import open_log, open_view
from flows import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting")
    parser.add_argument("rows", type=int, metavar="ROWS")
    rows = parser.parse_args().rows
    topic = started.category.name
    with tempfile.TemporaryDirectory() as directory:
        log, store = str(Path(directory) / "log"), Path(directory) / "store"
        append_keyed(Path(log), topic, rows, customers=rows)
        run([started], log=log, store=store, until="end")
        with open_log(log) as opened:
            ends = opened.append_batch(topic, records_of(drawn_orders(rows, rows + 1, customers=rows)))
        with Following(started, log, store, commit_interval_s=0.0) as following:
            following.wait_for(ends)
        view = open_view(store, started.name).scan().select(pl.len(), pl.col("orders").sum()).collect()
    in_view, counted = view.row(0)
    seconds = following.seen[-1][0] - following.started
    report(Result(rows + 1, counted, None, seconds, details={"rows": in_view}), following.usage)


if __name__ == "__main__":
    main()
