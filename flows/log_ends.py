"""The event times at the end of a log: how far a view is behind it, in event time.

The place of the time comes from the definition that a view was committed with, so that no code of the projection is needed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.clock import monotonic
from connectors.log import CategoryInfo, Log
from schemas.event import TIMESTAMP
from schemas.json_columns import read_exactly

LAST = 20
"""Records at the end of a partition whose times are looked at: the greatest counts, as for a watermark."""
WAIT_S = 5.0
"""Seconds after which what has not come is left open."""
US_PER_MS = 1000

TimePath = tuple[str, ...] | None
"""Where a record's value has the event's time; None: it is the record's own."""


def time_paths(definition: Mapping[str, Any]) -> dict[str, TimePath]:
    """By category, from a definition of a view (see ``flows.definition``)."""
    return {category: _path(envelope["time"]) for category, envelope in envelopes(definition)}


def envelopes(definition: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The categories that a definition reads, and what it says of the envelope of each."""
    source = definition.get("source", {})
    if "projection" in source:
        yield from envelopes(source["projection"])
    for side in source.get("streams", [definition] if "category" in definition else []):
        yield side["category"], side["envelope"]


def _path(said: str) -> TimePath:
    return ast.literal_eval(said) if said.startswith("(") else None


def end_times_us(log: Log, info: CategoryInfo, path: TimePath, partitions: Iterable[int]) -> dict[int, int]:
    """The greatest event time (microseconds since the epoch) among the last records of each of the partitions; those
    without any are left out.

    Raises ``LogUnreachable``, ``LogError``.
    """
    start = {p: max(info.ends[p] - LAST, info.earliest[p]) for p in partitions if info.ends[p] > info.earliest[p]}
    found: dict[int, int] = {}
    if not start:
        return found
    until = {p: info.ends[p] for p in start}
    reader = log.reader(info.name, start, until)
    give_up = monotonic() + WAIT_S
    try:
        while any(reader.positions()[p] < until[p] for p in start) and monotonic() < give_up:
            for part in reader.read(timeout_ms=100):
                if (time := _greatest(part.records, path)) is not None:
                    found[part.partition] = max(time, found.get(part.partition, time))
    finally:
        reader.close()
    return found


def _greatest(records: pa.RecordBatch, path: TimePath) -> int | None:
    if path is None:
        times = np.asarray(records.column("timestamp")) * US_PER_MS
        return int(times.max()) if len(times) else None
    values = records.column("value").drop_null()
    if not len(values):
        return None
    parsed = read_exactly(values, {path: TIMESTAMP})
    times = parsed.columns[path].cast(pa.int64()).drop_null()
    return max(times.to_pylist(), default=None)
