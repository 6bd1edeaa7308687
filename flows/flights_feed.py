"""The facts about the flights of 2013 as records of the category `flights`, in the order of appending.

    log.append_batch(flights.name, events_table())

Promises: every value is, byte for byte, what ``flights.encode`` makes of the same event, only a million at a time.
Knows nothing of how the facts were found (see flows/flights_facts.py) or of where they go.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from connectors.log import APPENDS
from flows.flights_facts import flight_facts
from schemas.event import Event, Field
from schemas.flights import flights

_ORDER = ["known_at_ms", "type", "row"]


def events_table(cache: Path | None = None, *, limit_days: int | None = None) -> pa.Table:
    """Records ready to append (schema ``APPENDS``, ``partition`` null): the key is the subject, the value structured
    CloudEvents JSON, the timestamp when the fact became known. Raises ``LogError`` when the source cannot be had.
    """
    return records(flight_facts(cache, limit_days=limit_days))


def records(facts: pl.DataFrame) -> pa.Table:
    """Facts (as ``flight_facts`` gives them, in any order) as records in the order in which they became known."""
    encoded = pl.concat([_encoded(facts, event) for event in flights.events]).sort(_ORDER)
    columns = {
        "key": encoded["subject"].cast(pl.Binary).to_arrow(),
        "value": encoded["value"].cast(pl.Binary).to_arrow(),
        "timestamp": encoded["known_at_ms"].to_arrow(),
        "partition": pa.nulls(len(encoded), pa.int32()),
    }
    return pa.table(columns).cast(APPENDS)


def _encoded(facts: pl.DataFrame, event: type[Event]) -> pl.DataFrame:
    own = facts.filter(pl.col("type") == event.type_name)
    return own.select(*_ORDER, "subject", _value(event).alias("value"))


def _value(event: type[Event]) -> pl.Expr:
    """The members in the order in which the category's envelope writes them. No text of this feed needs an escape."""
    origin = f'"source":"/{flights.name}","dataversion":{event.data_version},"type":"{event.type_name}"'
    return pl.concat_str(
        pl.lit(f'{{"specversion":"1.0",{origin},"time":'),
        _rfc3339(pl.col("time")),
        pl.lit(',"subject":"'),
        pl.col("subject"),
        pl.lit('","id":"'),
        fact_id(event),
        pl.lit('","data":{'),
        pl.concat_str([_member(field) for field in event.fields], ignore_nulls=True).str.strip_prefix(","),
        pl.lit("}}"),
    )


def fact_id(event: type[Event]) -> pl.Expr:
    """The id of a fact: its row in the source and its type, which no other fact shares."""
    return pl.concat_str(pl.col("row"), pl.lit(f"-{event.type_name}"))


def _member(field: Field) -> pl.Expr:
    """``,"name":value``; null where the value is, so that the member is left out."""
    column = pl.col(field.name)
    if pa.types.is_string(field.type):
        return pl.concat_str(pl.lit(f',"{field.name}":"'), column, pl.lit('"'))
    if pa.types.is_timestamp(field.type):
        return pl.concat_str(pl.lit(f',"{field.name}":'), _rfc3339(column))
    return pl.concat_str(pl.lit(f',"{field.name}":'), column)


def _rfc3339(instant: pl.Expr) -> pl.Expr:
    """Whole seconds are all that this feed has."""
    return instant.dt.strftime('"%Y-%m-%dT%H:%M:%SZ"')
