"""Nexmark's events as records in an embedded log.

    write(directory, market, arrival)        # categories `persons`, `auctions` and `bids`, four partitions each

An event arrives up to ``DISORDER_MS`` after it happened: how long after is drawn from its time and the seed of the
arrival, so that events of one millisecond keep their order and two arrivals differ in all else. (An aggregation that
asks which of two events was last goes by time, then by place in the log: with ties kept in order, every arrival must
give the same answer.) In the end a progress marker goes to each partition, later than everything in the events, so that
every row is final and every pending row is out.

The key is the entity: person, auction, or the auction that is bid for. A value is, byte for byte, what the category's
own encoder makes of the event.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from nexmark.generator import Drawn, Market, draw, lots
from nexmark.market import CATEGORIES, auctions, bids, persons

from connectors import open_log
from connectors.log import APPENDS, DEFAULT_PARTITIONS
from schemas import Category
from schemas.envelope import MARKER_TYPE
from schemas.event import Event, Field, rfc3339

DISORDER_MS = 3_000
DISORDER = dt.timedelta(milliseconds=DISORDER_MS)
"""Views that allow this much lateness have no late events."""
BEYOND_MS = 3_600_000
"""How far behind the last event the markers stand: more than any window and lateness."""
MANY = 500_000
"""Records encoded at a time."""

SUBJECTS = {persons.name: "person", auctions.name: "auction", bids.name: "auction"}


def write(directory: Path | str, market: Market, arrival: int = 1, drawn: Drawn | None = None) -> str:
    """The log with the events of ``market``, in the order of one arrival; returns its path."""
    frames = drawn or draw(market)
    with open_log(str(directory)) as log:
        for category, frame in zip(CATEGORIES, frames, strict=True):
            ordered = in_order_of_arrival(frame, arrival)
            for batch in ordered.iter_slices(MANY):
                log.append_batch(category.name, records(category, batch))
            log.append_batch(category.name, markers(category, market.end_ms() + BEYOND_MS))
    return str(directory)


def in_order_of_arrival(frame: pl.DataFrame, arrival: int) -> pl.DataFrame:
    """With ``arrived_ms``."""
    delay = (lots(arrival, 0, frame["time_ms"].to_numpy()) % np.uint64(DISORDER_MS)).astype(np.int64)
    return frame.with_columns(arrived_ms=pl.col("time_ms") + pl.Series(delay)).sort("arrived_ms", "number")


def records(category: Category, frame: pl.DataFrame) -> pa.Table:
    (event,) = category.events
    texts = frame.select(
        key=pl.col(SUBJECTS[category.name]).cast(pl.String), value=pl.concat_str(*_value(category, event))
    )
    columns = {name: texts[name].cast(pl.Binary).to_arrow() for name in ("key", "value")}
    partition = pa.nulls(len(frame), pa.int32())
    return pa.table({**columns, "timestamp": frame["arrived_ms"].to_arrow(), "partition": partition}).cast(APPENDS)


def event_id(category: Category) -> pl.Expr:
    return pl.format(f"{category.name}-{{}}", "number")


def _value(category: Category, event: type[Event]) -> Iterator[pl.Expr]:
    """The members in the order in which the category's envelope writes them. No text here needs an escape."""
    origin = f'"source":"/{category.name}","dataversion":{event.data_version},"type":"{event.type_name}"'
    yield pl.lit(f'{{"specversion":"1.0",{origin},"time":')
    yield _instant("time_ms")
    yield pl.format(',"subject":"{}","id":"{}","data":{{', SUBJECTS[category.name], event_id(category))
    for position, field in enumerate(event.fields):
        yield pl.lit("," * (position > 0) + f'"{field.name}":')
        yield _member(field)
    yield pl.lit("}}")


def _member(field: Field) -> pl.Expr:
    if pa.types.is_timestamp(field.type):
        return _instant(f"{field.name}_ms")
    return pl.format('"{}"', field.name) if pa.types.is_string(field.type) else pl.col(field.name).cast(pl.String)


def _instant(column: str) -> pl.Expr:
    """Microseconds only where there are any, as the encoder writes them."""
    time = pl.from_epoch(pl.col(column), "ms")
    whole = pl.col(column) % 1000 == 0
    return (
        pl.when(whole)
        .then(time.dt.strftime('"%Y-%m-%dT%H:%M:%SZ"'))
        .otherwise(time.dt.strftime('"%Y-%m-%dT%H:%M:%S%.6fZ"'))
    )


def markers(category: Category, at_ms: int) -> pa.Table:
    """One a partition."""
    time = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    text = json.dumps({"specversion": "1.0", "type": MARKER_TYPE, "source": f"/{category.name}", "time": rfc3339(time)})
    columns = {
        "key": [None] * DEFAULT_PARTITIONS,
        "value": [text.encode()] * DEFAULT_PARTITIONS,
        "timestamp": [at_ms] * DEFAULT_PARTITIONS,
        "partition": list(range(DEFAULT_PARTITIONS)),
    }
    return pa.table(columns, schema=APPENDS)
