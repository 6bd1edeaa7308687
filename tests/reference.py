"""The reference fold: one loop over records, written as plainly as possible. It shares nothing with the engine but words.

It takes a projection's meaning from a small description of its own (``Spec``), not from ``Projection``, so that a mistake in
the definition code shows as well.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EPOCH_MS_LIMIT = 86_400_000


@dataclass
class Spec:
    """What the test projection does: ``key`` and ``columns`` are plain functions of a decoded event."""

    types: dict[str, dict[str, tuple[type, bool]]]  # type name -> field -> (Python type, required)
    reads: tuple[str, ...]
    key: Callable[[dict[str, Any]], tuple[Any, ...]]
    columns: dict[str, tuple[str, Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], bool]]]
    size_us: int | None
    lateness_us: int = 0


@dataclass
class Outcome:
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    late: set[tuple[int, int]] = field(default_factory=set)
    dead: set[tuple[int, int]] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)


def total_order(x: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", math.nan if math.isnan(x) else x))
    return bits ^ ((bits >> 63) & (2**63 - 1))


def fold(partitions: list[list[tuple[int, int, bytes | None]]], spec: Spec) -> Outcome:
    """``partitions``: per partition the records (offset, timestamp in ms, value) in offset order."""
    outcome = Outcome()
    partials: list[dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]]] = []
    watermarks: list[int | None] = []
    for number, records in enumerate(partitions):
        watermark: int | None = None
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]] = {}
        for offset, timestamp, value in records:
            before = watermark
            fate, event = decode(value, timestamp, spec)
            if event is not None:
                watermark = event["event_time"] if watermark is None else max(watermark, event["event_time"])
            if fate == "folded" and event is not None:
                start = None if spec.size_us is None else event["event_time"] // spec.size_us * spec.size_us
                if start is not None and before is not None and before >= start + spec.size_us + spec.lateness_us:
                    fate = "late"
                    outcome.late.add((number, offset))
                else:
                    groups.setdefault((start, *spec.key(event)), []).append((event["event_time"], event))
            if fate == "dead_letters":
                outcome.dead.add((number, offset))
            outcome.counts[fate] = outcome.counts.get(fate, 0) + 1
        partials.append(groups)
        watermarks.append(watermark)
    lowest = None if any(w is None for w in watermarks) else min(w for w in watermarks if w is not None)
    for group in {group for groups in partials for group in groups}:
        row = {}
        for name, (kind, value_of, counts) in spec.columns.items():
            per_partition = [
                [
                    (time, value_of(event))
                    for time, event in groups.get(group, [])
                    if counts(event) and value_of(event) is not None
                ]
                for groups in partials
            ]
            row[name] = aggregate(kind, [values for values in per_partition if values])
        if spec.size_us is not None:
            row["is_final"] = lowest is not None and lowest >= group[0] + spec.size_us + spec.lateness_us
        outcome.rows[group] = row
    return outcome


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


def decode(value: bytes | None, timestamp: int, spec: Spec) -> tuple[str, dict[str, Any] | None]:
    """Fate and event; the event is None where the envelope did not decode (the watermark stays)."""
    if value is None:
        return "tombstones", None
    try:
        found = json.loads(value)
    except ValueError:
        return "dead_letters", None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str) or not isinstance(found.get("time"), int):
        return "dead_letters", None
    time = found["time"] * 1000
    if found["time"] - timestamp > EPOCH_MS_LIMIT:
        return "dead_letters", None
    event = {"event_time": time, "event_type": found["type"]}
    if found["type"] == "refold.progress":
        return "markers", event
    if found["type"] not in spec.types:
        return "other_types", event
    data = found.get("data") or {}
    for name in spec.reads:
        kind, required = spec.types[found["type"]].get(name, (object, False))
        item = data.get(name) if kind is not object else None
        if item is None:
            if required:
                return "dead_letters", event
        elif kind is float and isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item):
            item = float(item)
        elif type(item) is not kind:
            return "dead_letters", event
        event[name] = item
    return "folded", event
