"""A producer of orders at a steady rate, for the row ``live``.

    python -m benchmarks.live_producer ADDRESS TOPIC FIRST RATE SECONDS

From order number FIRST on; a batch every 20 ms, made beforehand, sent a partition at a time and acknowledged. The last line
that it prints: for each batch, when it began to send it (monotonic clock), and how many records each partition has had
then from this producer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import accumulate

from benchmarks.load import Loader
from benchmarks.orders import orders_table
from connectors.log import DEFAULT_PARTITIONS

BATCH_S = 0.02

Sends = list[tuple[int, bytes, int]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_producer")
    parser.add_argument("address")
    parser.add_argument("topic")
    parser.add_argument("first", type=int)
    parser.add_argument("rate", type=int, help="events a second")
    parser.add_argument("seconds", type=int)
    asked = parser.parse_args()
    with Loader(asked.address, asked.topic) as loader:
        batches = _batches(loader, asked.first, int(asked.rate * BATCH_S), int(asked.seconds / BATCH_S))
        times = _produce(loader, batches)
    json.dump(list(zip(times, _ends(batches), strict=True)), sys.stdout)
    print(flush=True)


def _batches(loader: Loader, first: int, size: int, count: int) -> list[Sends]:
    numbers = range(first, first + size * count, size)
    return [list(loader.batches(orders_table(number, number + size)[0])) for number in numbers]


def _produce(loader: Loader, batches: list[Sends]) -> list[float]:
    """Returns when each batch was sent: at its time, or when the one before was acknowledged, if that was later."""
    first, times = time.monotonic(), []
    for at, batch in enumerate(batches):
        time.sleep(max(0.0, first + at * BATCH_S - time.monotonic()))
        times.append(time.monotonic())
        for partition, records, _ in batch:
            loader.send(partition, records)
    return times


def _ends(batches: list[Sends]) -> list[list[int]]:
    counts = [
        [sum(n for at, _, n in batch if at == wanted) for wanted in range(DEFAULT_PARTITIONS)] for batch in batches
    ]
    return list(accumulate(counts, lambda before, more: [a + b for a, b in zip(before, more, strict=True)]))


if __name__ == "__main__":
    main()
