"""The benchmark's input: orders as structured CloudEvents JSON, about 219 bytes each.

Orders are placed every 10 ms of a made-up day and reach the log at most 3 s later, so that event times lie out of order
by at most that. Customers are dealt to countries and, by the hash of their id, to partitions. Everything is a pure
function of the number of an order: every run has the same input.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from connectors.log import APPENDS, DEFAULT_PARTITIONS
from connectors.partitioner import partition_of
from schemas import Category, Event

START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
STEP_MS = 10
BEHIND_MS_MAX = 3_000
CUSTOMERS = 20_000
COUNTRIES = ["AT", "BE", "CH", "DE", "DK", "ES", "FI", "FR", "GB", "IE", "IT", "NL", "NO", "PL", "PT", "SE", "US"]
TEMPLATE = (
    '{{"specversion":"1.0","source":"/orders","type":"OrderPlaced","time":"{}","subject":"{}","id":"order-{}",'
    '"data":{{"country":"{}","amount":{},"currency":"EUR","items":{}}}}}'
)

Hashes = npt.NDArray[np.uint64]


class OrderPlaced(Event):
    country: str
    amount: float
    currency: str
    items: int


orders = Category("orders", events=[OrderPlaced])


def orders_table(first: int, end: int) -> tuple[pa.Table, float]:
    """Orders number ``first`` (inclusive) to ``end`` (exclusive) as records ready to append (schema ``APPENDS``), and
    the sum of their amounts."""
    lots = _mixed(np.arange(first, end, dtype=np.uint64))
    arrival_ms = int(START.timestamp() * 1000) + np.arange(first, end) * STEP_MS
    drawn = pl.DataFrame(
        {
            "order": np.arange(first, end),
            "customer": (lots % np.uint64(CUSTOMERS)).astype(np.int64),
            "cents": (lots >> np.uint64(20)).astype(np.int64) % 50_000 + 100,
            "items": (lots >> np.uint64(40)).astype(np.int64) % 9 + 1,
            "time_ms": arrival_ms - (lots >> np.uint64(44)).astype(np.int64) % (BEHIND_MS_MAX + 1),
            "timestamp": arrival_ms,
        }
    )
    texts = drawn.select("timestamp", _customer().alias("key"), _value().alias("value"))
    columns = {name: texts[name].cast(pl.Binary).to_arrow().cast(pa.binary()) for name in ("key", "value")}
    partition = pa.array(partition_of(columns["key"], DEFAULT_PARTITIONS))
    table = pa.table({**columns, "timestamp": texts["timestamp"].to_arrow(), "partition": partition}, schema=APPENDS)
    return table, int(drawn["cents"].sum()) / 100


def _mixed(x: Hashes) -> Hashes:
    """splitmix64's finalizer: neighbouring numbers give unrelated lots."""
    z = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _customer() -> pl.Expr:
    return pl.format("customer-{}", pl.col("customer"))


def _value() -> pl.Expr:
    return pl.format(
        TEMPLATE,
        pl.from_epoch("time_ms", "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        _customer(),
        pl.col("order").cast(pl.String).str.zfill(15),
        pl.lit(pl.Series(COUNTRIES)).gather(pl.col("customer") % len(COUNTRIES)),
        pl.col("cents") / 100,
        pl.col("items"),
    )
