"""How late a live view is: from the append of an event to the moment when a reader finds it in the view.

    python -m benchmarks.live ADDRESS RATE SECONDS

``refold run --commit-interval 0.05`` follows a topic of a broker while a producer appends; each is a process of its own.
The clock of a batch starts when the producer begins to send it (so the broker's part is in) and stops when a look at
the view, every 5 ms, first finds a cut that has all of it. Usage is that of ``refold run``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import views
from benchmarks.following import Following, Offsets, reached
from benchmarks.load import Loader
from benchmarks.orders import orders_table
from benchmarks.result import Detail, Result, report
from connectors import open_log, open_view

COMMIT_INTERVAL_S = 0.05
VIEWS = {10_000: views.live_10k, 50_000: views.live_50k}
FIRST_EVENTS = 2_000
"""Appended before the clock runs, so that the first commit and its imports are over."""

Batch = tuple[float, Offsets]


def main() -> None:
    asked = _arguments()
    projection = VIEWS[asked.rate]
    topic = projection.categories[0].name
    url = f"redpanda://{asked.address}"
    with tempfile.TemporaryDirectory() as store:
        base = _first_events(asked.address, topic)
        with Following(projection, url, Path(store), COMMIT_INTERVAL_S) as following:
            following.wait_for(base)
            following.seen.clear()
            batches = _produce(asked, topic, base, following)
        view = open_view(store, projection.name).scan()
        counted, amount = view.select(pl.col("orders").sum(), pl.col("amount").sum()).collect().row(0)
    events = sum(batches[-1][1]) - sum(base)
    late = np.array(list(latencies(batches, following.seen))) * 1000
    seconds = batches[-1][0] - batches[0][0]
    p50, p99 = (float(np.percentile(late, part)) for part in (50, 99))
    details: dict[str, Detail] = {"p50_ms": p50, "p99_ms": p99, "max_ms": float(late.max())}
    details["commits"] = len(following.seen)
    report(Result(events, counted - FIRST_EVENTS, amount, seconds, details=details), following.usage)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live")
    parser.add_argument("address", help="host:port of the broker")
    parser.add_argument("rate", type=int, choices=VIEWS, help="events a second")
    parser.add_argument("seconds", type=int, help="for how long")
    return parser.parse_args()


def _first_events(address: str, topic: str) -> Offsets:
    """Make the topic; returns its ends."""
    with Loader(address, topic) as loader:
        loader.create()
        loader.append(orders_table(0, FIRST_EVENTS)[0])
    with open_log(f"redpanda://{address}") as log:
        return log.describe(topic).ends


def _produce(asked: argparse.Namespace, topic: str, base: Offsets, following: Following) -> list[Batch]:
    """Produce, looking meanwhile, until all of it is in the view. Returns when which ends were appended."""
    command = [sys.executable, "-m", "benchmarks.live_producer", asked.address, topic]
    arguments = [str(number) for number in (FIRST_EVENTS, asked.rate, asked.seconds)]
    with tempfile.TemporaryFile("w+") as printed:
        with subprocess.Popen([*command, *arguments], stdout=printed) as producer:
            following.look_while(lambda: producer.poll() is None)
        printed.seek(0)
        sent = json.loads(printed.readlines()[-1])
    batches = [(at, tuple(a + b for a, b in zip(base, ends, strict=True))) for at, ends in sent]
    following.wait_for(batches[-1][1])
    return batches


def latencies(batches: list[Batch], seen: list[tuple[float, Offsets]]) -> Iterator[float]:
    """Seconds from each append to the first cut seen that has all of it; both ascending, the last cut has everything."""
    looks = iter(seen)
    found, cut = next(looks)
    for appended, ends in batches:
        while not reached(cut, ends):
            found, cut = next(looks)
        yield found - appended


if __name__ == "__main__":
    main()
