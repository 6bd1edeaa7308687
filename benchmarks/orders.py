"""The benchmark's input: orders as structured CloudEvents JSON, about 219 bytes each.

Orders are placed every 10 ms of a made-up day and reach the log at most 3 s later, so that event times lie out of order
by at most that. Customers are dealt to countries and, by the hash of their id, to partitions. Everything is a pure
function of the number of an order: every run has the same input.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

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
SPREAD = 2_654_435_761
"""A prime beyond any number of customers, so that ``order * SPREAD % customers`` meets each of them equally often."""
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
    drawn = drawn_orders(first, end)
    return records_of(drawn), amount_of(drawn)


def drawn_orders(first: int, end: int, customers: int | None = None) -> pl.DataFrame:
    """Orders number ``first`` to ``end`` as columns: ``order``, ``customer``, ``cents``, ``items``, ``time_ms`` (of the
    event), ``timestamp`` (of the record, ms), all int64. ``customers``: so many, each with as many orders as any other;
    left out, ``CUSTOMERS`` are drawn at random."""
    lots = mixed(np.arange(first, end, dtype=np.uint64))
    arrival_ms = int(START.timestamp() * 1000) + np.arange(first, end) * STEP_MS
    drawn = lots % np.uint64(CUSTOMERS) if customers is None else np.arange(first, end) * SPREAD % customers
    return pl.DataFrame(
        {
            "order": np.arange(first, end),
            "customer": drawn.astype(np.int64),
            "cents": (lots >> np.uint64(20)).astype(np.int64) % 50_000 + 100,
            "items": (lots >> np.uint64(40)).astype(np.int64) % 9 + 1,
            "time_ms": arrival_ms - (lots >> np.uint64(44)).astype(np.int64) % (BEHIND_MS_MAX + 1),
            "timestamp": arrival_ms,
        }
    )


def records_of(drawn: pl.DataFrame, values: pl.Series | None = None) -> pa.Table:
    """The orders as records ready to append (schema ``APPENDS``), partitions given; with other ``values`` if told so."""
    texts = {
        "key": drawn.select(customer()).to_series(),
        "value": drawn.select(_value()).to_series() if values is None else values,
    }
    columns = {name: text.cast(pl.Binary).to_arrow().cast(pa.binary()) for name, text in texts.items()}
    partition = pa.array(partition_of(columns["key"], DEFAULT_PARTITIONS))
    return pa.table({**columns, "timestamp": drawn["timestamp"].to_arrow(), "partition": partition}, schema=APPENDS)


def amount_of(drawn: pl.DataFrame) -> float:
    return int(drawn["cents"].sum()) / 100


def mixed(x: Hashes) -> Hashes:
    """splitmix64's finalizer: neighbouring numbers give unrelated lots."""
    z = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def customer() -> pl.Expr:
    return pl.format("customer-{}", pl.col("customer"))


def instant() -> pl.Expr:
    return pl.from_epoch("time_ms", "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")


def number() -> pl.Expr:
    return pl.col("order").cast(pl.String).str.zfill(15)


def country(names: Sequence[str] = COUNTRIES) -> pl.Expr:
    return pl.lit(pl.Series(names)).gather(pl.col("customer") % len(COUNTRIES))


def amount() -> pl.Expr:
    return pl.col("cents") / 100


def _value() -> pl.Expr:
    return pl.format(TEMPLATE, instant(), customer(), number(), country(), amount(), pl.col("items"))
