"""The reference fold: one loop over records, written as plainly as possible. It shares nothing with the engine but words.

It takes a projection's meaning from a small description of its own (``Spec``), not from ``Projection``, so that a mistake in
the definition code shows as well. Instants are whole microseconds since the epoch, everywhere.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

AHEAD_MS_MAX = 86_400_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
INT64 = range(-(2**63), 2**63)


class Instant:
    """Stands for an instant in ``Spec.types``: RFC 3339 text, or whole milliseconds."""


Record = tuple[int, int, bytes | None]
"""Offset, timestamp in milliseconds (-1: none), value."""


@dataclass
class Spec:
    """What the test projection does: ``key`` and ``columns`` are plain functions of a decoded event."""

    types: dict[str, dict[str, tuple[type, bool]]]  # type name -> field -> (Python type, required)
    reads: tuple[str, ...]
    key: Callable[[dict[str, Any]], tuple[Any, ...]]
    columns: dict[str, tuple[str, Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], bool]]]
    size_us: int | None
    lateness_us: int = 0
    step: Callable[[dict[str, Any] | None, dict[str, Any]], dict[str, Any] | None] | None = None
    """A Python fold: the row of an entity after an event, from the row before it. It raises where the event is a dead letter."""


@dataclass
class Outcome:
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    late: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)
    """(partition, offset) -> (window start, event time, watermark before it)"""
    dead: set[tuple[int, int]] = field(default_factory=set)
    counts: list[dict[str, int]] = field(default_factory=list)
    """Per partition, records by what became of them."""
    watermarks: list[int | None] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether every whole number fits 64 bits. Where one does not there is no such table."""
        return all(value in INT64 for row in self.rows.values() for value in row.values() if type(value) is int)


def total_order(x: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", math.nan if math.isnan(x) else x))
    return bits ^ ((bits >> 63) & (2**63 - 1))


def identity(value: Any) -> Any:
    """What tells a part of a key from another: -0.0 is not 0.0, and NaN is itself."""
    return ("float", total_order(value)) if isinstance(value, float) else value


def fold(partitions: list[list[Record]], spec: Spec) -> Outcome:
    """``partitions``: per partition the records in offset order."""
    outcome = Outcome()
    partials: list[dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]]] = []
    entities: dict[tuple[Any, ...], tuple[int, dict[str, Any] | None]] = {}  # of a Python fold: partition and row
    for number, records in enumerate(partitions):
        watermark: int | None = None
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]] = {}
        counts: dict[str, int] = {}
        for offset, timestamp, value in records:
            before = watermark
            fate, event = decode(value, timestamp, spec)
            if event is not None:
                watermark = event["event_time"] if watermark is None else max(watermark, event["event_time"])
            if fate == "folded" and event is not None:
                start = None if spec.size_us is None else event["event_time"] // spec.size_us * spec.size_us
                if start is not None and before is not None and before >= start + spec.size_us + spec.lateness_us:
                    fate = "late"
                    outcome.late[(number, offset)] = (start, event["event_time"], before)
                else:
                    group = (start, *(identity(part) for part in spec.key(event)))
                    if spec.step is None or taken_on(group, number, event, spec.step, entities):
                        groups.setdefault(group, []).append((event["event_time"], event))
                    else:
                        fate = "dead_letters"
            if fate == "dead_letters":
                outcome.dead.add((number, offset))
            counts[fate] = counts.get(fate, 0) + 1
        partials.append(groups)
        outcome.counts.append(counts)
        outcome.watermarks.append(watermark)
    if spec.step is not None:
        outcome.rows = {group: row for group, (_, row) in entities.items() if row is not None}
        return outcome
    for group in {group for groups in partials for group in groups}:
        outcome.rows[group] = row_of(group, [groups.get(group, []) for groups in partials], spec)
        if spec.size_us is not None:
            end = group[0] + spec.size_us + spec.lateness_us
            outcome.rows[group]["is_final"] = all(w is not None and w >= end for w in outcome.watermarks)
    return outcome


def taken_on(
    group: tuple[Any, ...], partition: int, event: dict[str, Any], step: Callable[..., Any], entities: dict[Any, Any]
) -> bool:
    """Whether a Python fold takes the event; if so, its entity is taken on."""
    there, row = entities.get(group, (partition, None))
    try:
        row = step(None if row is None else dict(row), event)
    except ValueError:
        return False
    assert there == partition, "an entity of a Python fold lives in one partition"
    entities[group] = (partition, row)
    return True


def row_of(group: tuple[Any, ...], partitions: list[list[tuple[int, dict[str, Any]]]], spec: Spec) -> dict[str, Any]:
    """A row from the events of its group, (time, event), in each partition."""
    row = {}
    for name, (kind, value_of, counts) in spec.columns.items():
        per_partition = [
            [(time, value_of(event)) for time, event in events if counts(event) and value_of(event) is not None]
            for events in partitions
        ]
        row[name] = aggregate(kind, [values for values in per_partition if values])
    return row


def aggregate(kind: str, partitions: list[list[tuple[int, Any]]]) -> Any:
    """One aggregation over the non-null values of each partition that has any, in partition order."""
    values = [value for part in partitions for _, value in part]
    if kind == "count":
        return len(values)
    if not values:
        return None
    if kind in ("sum", "mean"):
        if isinstance(values[0], int):
            return sum(values) if kind == "sum" else sum(values) / len(values)
        sums = []
        for part in partitions:
            total = part[0][1]
            for _, value in part[1:]:
                total = total + value
            sums.append(total)
        whole = sums[0]
        for total in sums[1:]:
            whole = whole + total
        return whole if kind == "sum" else whole / len(values)
    if kind in ("min", "max"):
        order = total_order if isinstance(values[0], float) else lambda value: value
        return (min if kind == "min" else max)(values, key=order)
    best = None
    for number, part in enumerate(partitions):
        for place, (time, value) in enumerate(part):
            rank = (time, number, place)
            if best is None or (rank < best[0] if kind == "first" else rank > best[0]):
                best = (rank, value)
    assert best is not None
    return best[1]


class Ambiguous:
    """Stands for a member that an object has twice."""


class MinusZero:
    """Stands for the literal -0: a whole number that has a sign as a float."""


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    return {name: Ambiguous if names.count(name) > 1 else value for name, value in pairs}


def number_with_point(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError("too big a number is no number, wherever it stands")
    return float(text)


def whole_number(text: str) -> Any:
    return MinusZero if text == "-0" else int(text)


def decode(value: bytes | None, timestamp: int, spec: Spec) -> tuple[str, dict[str, Any] | None]:
    """Fate and event; the event is None where the envelope did not decode (the watermark stays)."""
    if value is None:
        return "tombstones", None
    try:
        text = value.decode("utf-8", "surrogateescape")  # bytes that are no text hurt only who reads them
        found = json.loads(
            text, object_pairs_hook=unique_members, parse_float=number_with_point, parse_int=whole_number
        )
    except ValueError:
        return "dead_letters", None
    if not isinstance(found, dict) or not is_text(found.get("type")):
        return "dead_letters", None
    time = read(found.get("time"), Instant)
    if time is None or (timestamp >= 0 and time - timestamp * 1000 > AHEAD_MS_MAX * 1000):
        return "dead_letters", None
    event = {"event_time": time, "event_type": found["type"]}
    if found["type"] == "refold.progress":
        return "markers", event
    if found["type"] not in spec.types:
        return "other_types", event
    fields = spec.types[found["type"]]
    data = {} if found.get("data") is None else found["data"]
    for name in spec.reads:
        if name == "subject":
            place, (kind, required) = found, (str, False)
        elif name in fields:
            place, (kind, required) = data, fields[name]
        else:
            event.setdefault(name, None)
            continue
        if not isinstance(place, dict):
            return "dead_letters", event
        event[name] = None if place.get(name) is None else read(place[name], kind)
        if event[name] is None and (required or place.get(name) is not None):
            return "dead_letters", event
    return "folded", event


def is_text(item: Any) -> bool:
    return isinstance(item, str) and not any("\udc80" <= character <= "\udcff" for character in item)


def read(item: Any, kind: type) -> Any:
    """A JSON value as a value of a field; None where it is not one."""
    if item is MinusZero:
        item = -0.0 if kind is float else 0
    if kind is str:
        return item if is_text(item) else None
    if kind is int:
        return item if type(item) is int and item in INT64 else None
    if kind is float:
        return float(item) if type(item) in (int, float) and math.isfinite(item) else None
    if kind is bool:
        return item if isinstance(item, bool) else None
    try:
        if kind is dt.date:
            return dt.date.fromisoformat(item)
        when = EPOCH + dt.timedelta(milliseconds=item) if type(item) is int else dt.datetime.fromisoformat(item)
        return (when - EPOCH) // dt.timedelta(microseconds=1)
    except (TypeError, ValueError, OverflowError):
        return None
