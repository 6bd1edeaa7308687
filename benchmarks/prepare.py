"""Makes the inputs of the rows, in a process of its own: what it holds in memory is not the rows' business.

    python -m benchmarks.prepare INPUT EVENTS ADDRESS DIRECTORY

``orders``: the topic, the same records in an embedded log, and their columns as Parquet. ``shapes``: a topic of the same orders in
many shapes. ``keys``: an embedded log of as many orders, two a customer. Prints how long it took and the sum of all
amounts, as a result.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import shapes
from benchmarks.load import Loader
from benchmarks.orders import amount, amount_of, country, drawn_orders, records_of
from benchmarks.result import Result, begin, report
from connectors import open_log

TABLE_ROWS = 100_000
ORDERS_A_KEY = 2

Drawn = Iterator[pl.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare")
    parser.add_argument("input", choices=INPUTS)
    parser.add_argument("events", type=int)
    parser.add_argument("address", help="host:port of the broker")
    parser.add_argument("directory", type=Path, help="where embedded logs and files go")
    asked = parser.parse_args()
    begin()
    started = time.perf_counter()
    total = INPUTS[asked.input](asked.events, asked.address, asked.directory)
    report(Result(asked.events, asked.events, total, time.perf_counter() - started))


def topic_of(kind: str, events: int) -> str:
    return f"{kind}-{events}"


def columns_file(directory: Path) -> Path:
    return directory / "orders.parquet"


def archive(directory: Path) -> Path:
    """The embedded log of all rows that read one."""
    return directory / "archive"


def tables(events: int, customers: int | None = None) -> Drawn:
    for first in range(0, events, TABLE_ROWS):
        yield drawn_orders(first, min(first + TABLE_ROWS, events), customers)


def _orders(events: int, address: str, directory: Path) -> float:
    topic, total = topic_of("orders", events), 0.0
    schema = pa.schema({"time": pa.int64(), "country": pa.string(), "amount": pa.float64()})
    with ExitStack() as stack:
        loader = stack.enter_context(Loader(address, topic))
        log = stack.enter_context(open_log(str(archive(directory))))
        file = stack.enter_context(pq.ParquetWriter(columns_file(directory), schema))
        loader.create()
        for drawn in tables(events):
            records = records_of(drawn)
            loader.append(records)
            log.append_batch(topic, records)
            file.write_table(_columns(drawn).to_arrow().cast(schema))
            total += amount_of(drawn)
    return total


def _columns(drawn: pl.DataFrame) -> pl.DataFrame:
    return drawn.select(pl.col("time_ms").alias("time") * 1000, country().alias("country"), amount().alias("amount"))


def _shapes(events: int, address: str, directory: Path) -> float:
    total = 0.0
    with Loader(address, topic_of("shapes", events)) as loader:
        loader.create()
        for drawn in tables(events):
            loader.append(records_of(drawn, shapes.values(drawn)))
            total += amount_of(drawn)
    return total


def _keys(events: int, address: str, directory: Path) -> float:
    return append_keyed(archive(directory), topic_of("keys", events), events, events // ORDERS_A_KEY)


def append_keyed(directory: Path, topic: str, events: int, customers: int) -> float:
    """Append orders of so many customers to an embedded log. Returns the sum of their amounts."""
    total = 0.0
    with open_log(str(directory)) as log:
        for drawn in tables(events, customers):
            log.append_batch(topic, records_of(drawn))
            total += amount_of(drawn)
    return total


INPUTS: dict[str, Callable[[int, str, Path], float]] = {"orders": _orders, "shapes": _shapes, "keys": _keys}

if __name__ == "__main__":
    main()
