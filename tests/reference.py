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
from decimal import Decimal
from fractions import Fraction
from typing import Any

AHEAD_MS_MAX = 86_400_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
INT64 = range(-(2**63), 2**63)


Events = list[Any]
"""Events of a group in offset order, each with its time; or lists of such, whose values are added up on their own."""


class Instant:
    """Stands for an instant in ``Spec.types``: RFC 3339 text, or whole milliseconds."""


Windows = Callable[[int], list[tuple[int, int]]]
"""The windows of an event time: start and end of each."""
Record = tuple[int, int, bytes | None]
"""Offset, timestamp in milliseconds (-1: none), value."""


@dataclass
class Spec:
    """What the test projection does: ``key`` and ``columns`` are plain functions of a decoded event."""

    types: dict[str, dict[str, tuple[type, bool]]]  # type name -> field -> (Python type, required)
    reads: tuple[str, ...]
    key: Callable[[dict[str, Any]], tuple[Any, ...]]
    columns: dict[str, tuple[Any, ...]]
    """Kind, input and condition as functions of an event, and options where the kind has any."""
    size_us: int | None
    lateness_us: int = 0
    where: Callable[[dict[str, Any]], Any] = lambda event: True
    select: dict[str, Callable[[dict[str, Any]], Any]] | None = None
    """An event table: what is in a row, by name."""
    finish: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    having: Callable[[dict[str, Any]], Any] = lambda row: True
    windows: Windows | None = None
    """Where windows are not side by side and of one size."""
    gap_us: int | None = None
    """Of sessions."""
    step: Callable[[dict[str, Any] | None, dict[str, Any]], dict[str, Any] | None] | None = None
    """A Python fold: the row of an entity after an event, from the row before it. It raises where the event is a dead letter."""

    @property
    def is_windowed(self) -> bool:
        return self.size_us is not None or self.windows is not None or self.gap_us is not None

    def windows_of(self, time: int) -> list[tuple[int, int]]:
        if self.gap_us is not None:
            return [(time, time + self.gap_us)]
        if self.windows is not None:
            return self.windows(time)
        assert self.size_us is not None
        start = time // self.size_us * self.size_us
        return [(start, start + self.size_us)]


@dataclass
class Outcome:
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Rows that the condition on rows leaves out."""
    late: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)
    """(partition, offset, window start) -> (event time, watermark before it)"""
    lost: list[int] = field(default_factory=list)
    """Per partition, windows that records came too late for which were folded into others."""
    dead: set[tuple[int, int]] = field(default_factory=set)
    counts: list[dict[str, int]] = field(default_factory=list)
    """Per partition, records by what became of them."""
    watermarks: list[int | None] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    """Of all rows, also of those that are left out."""

    @property
    def fits(self) -> bool:
        """Whether every whole number fits 64 bits. Where one does not there is no such table."""
        rows = [*self.rows.values(), *self.left_out]
        return all(value in INT64 for row in rows for value in row.values() if type(value) is int)


def total_order(x: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", math.nan if math.isnan(x) else x))
    return bits ^ ((bits >> 63) & (2**63 - 1))


def identity(value: Any) -> Any:
    """What tells a part of a key from another: -0.0 is not 0.0, and NaN is itself."""
    return ("float", total_order(value)) if isinstance(value, float) else value


def fold(partitions: list[list[Record]], spec: Spec) -> Outcome:
    """``partitions``: per partition the records in offset order."""
    outcome = Outcome()
    partials: list[dict[tuple[Any, ...], Events]] = []
    entities: dict[tuple[Any, ...], tuple[int, dict[str, Any] | None]] = {}  # of a Python fold: partition and row
    for number, records in enumerate(partitions):
        watermark: int | None = None
        groups: dict[tuple[Any, ...], Events] = {}
        sessions: dict[tuple[Any, ...], list[Session]] = {}
        lost = 0
        counts: dict[str, int] = {}
        for offset, timestamp, value in records:
            before = watermark
            fate, event = decode(value, timestamp, spec)
            if event is not None:
                watermark = event["event_time"] if watermark is None else max(watermark, event["event_time"])
            if fate == "folded" and event is not None and spec.where(event) is not True:
                fate = "filtered"
            if fate == "folded" and event is not None and spec.select is not None:
                outcome.rows[(number, offset)] = {name: value_of(event) for name, value_of in spec.select.items()}
            elif fate == "folded" and event is not None and spec.step is not None:
                if not taken_on(tuple(identity(part) for part in spec.key(event)), number, event, spec.step, entities):
                    fate = "dead_letters"
            elif fate == "folded" and event is not None:
                time, key = event["event_time"], tuple(identity(part) for part in spec.key(event))
                windows = spec.windows_of(time) if spec.is_windowed else [(None, None)]
                late = [
                    start
                    for start, end in windows
                    if end is not None and before is not None and before >= end + spec.lateness_us
                ]
                outcome.late |= {(number, offset, start): (time, before) for start in late}
                if len(late) == len(windows):
                    fate = "late"
                elif spec.gap_us is not None:
                    sessions[key] = joined(sessions.get(key, []), time, event, spec.gap_us)
                else:
                    lost += len(late)
                    for window in windows:
                        if window[0] not in late:
                            groups.setdefault((window, *key), []).append((time, event))
            if fate == "dead_letters":
                outcome.dead.add((number, offset))
            counts[fate] = counts.get(fate, 0) + 1
        for key, found in sessions.items():
            groups |= {((session.start, session.end), *key): session.events for session in found}
        partials.append(groups)
        outcome.lost.append(lost)
        outcome.counts.append(counts)
        outcome.watermarks.append(watermark)
    folded = [(window, key, row_of(parts, spec)) for (window, *key), parts in united(partials, spec)]
    folded += [((None, None), key, dict(row)) for key, (_, row) in entities.items() if row is not None]
    for (start, end), key, row in folded:
        outcome.windows.append((start, end))
        for name, value_of in spec.finish.items():
            row[name] = value_of(row)
        if spec.having(row) is not True:
            outcome.left_out.append(row)
            continue
        row = outcome.rows[(start, *key)] = {name: value for name, value in row.items() if not name.startswith("_")}
        if spec.is_windowed:
            until = end + spec.lateness_us + (spec.gap_us or 0)
            row |= {"window_end": end, "is_final": all(w is not None and w >= until for w in outcome.watermarks)}
    return outcome


def taken_on(
    key: tuple[Any, ...], partition: int, event: dict[str, Any], step: Callable[..., Any], entities: dict[Any, Any]
) -> bool:
    """Whether a Python fold takes the event; if so, its entity is taken on."""
    there, row = entities.get(key, (partition, None))
    try:
        row = step(None if row is None else dict(row), event)
    except ValueError:
        return False
    assert there == partition, "an entity of a Python fold lives in one partition"
    entities[key] = (partition, row)
    return True


@dataclass
class Session:
    """The events of a key of which each comes less than a gap after the one before. ``events``: in offset order, behind what
    the sessions held (each a list of its own) that an event has made one."""

    start: int
    end: int
    events: Events


def joined(sessions: list[Session], time: int, event: dict[str, Any], gap: int) -> list[Session]:
    """The sessions of a key with one more event: alone, in one of them, or between two that it makes one."""
    touched = sorted((s for s in sessions if time < s.end and s.start < time + gap), key=lambda s: s.start)
    assert len(touched) <= 2, "no event is less than a gap away from three"
    events = list(touched[0].events) if len(touched) == 1 else [session.events for session in touched]
    start = min([time, *(s.start for s in touched)])
    end = max([time + gap, *(s.end for s in touched)])
    return [s for s in sessions if s not in touched] + [Session(start, end, [*events, (time, event)])]


def united(partials: list[dict[tuple[Any, ...], Events]], spec: Spec) -> list[tuple[tuple[Any, ...], list[Events]]]:
    """Groups of all partitions, and what each partition has for them, in partition order.

    Sessions of a key that overlap are one; it has those of a partition in order of their starts.
    """
    if spec.gap_us is None:
        groups = {group for part in partials for group in part}
        return [(group, [part.get(group, []) for part in partials]) for group in groups]
    by_key: dict[tuple[Any, ...], list[tuple[int, int, int, Events]]] = {}
    for number, part in enumerate(partials):
        for ((start, end), *key), events in part.items():
            by_key.setdefault(tuple(key), []).append((start, end, number, events))
    found = []
    for key, sessions in by_key.items():
        waiting = sorted(sessions, key=lambda session: session[:3])
        while waiting:
            start, until = waiting[0][:2]
            row = []
            while waiting and waiting[0][0] < until:
                row.append(waiting.pop(0))
                until = max(until, row[-1][1])
            parts = [events for _, _, _, events in sorted(row, key=lambda session: (session[2], session[0]))]
            found.append((((start, until), *key), parts))
    return found


def row_of(parts: list[Events], spec: Spec) -> dict[str, Any]:
    """A row from what its group has in each partition."""
    row = {}
    for name, (kind, value_of, counts, *options) in spec.columns.items():
        row[name] = aggregate(kind, values_of(parts, value_of, counts), *options)
    return row


def values_of(events: Events, value_of: Callable[..., Any], counts: Callable[..., bool]) -> list[Any]:
    """Time and value of the events that contribute, nested as they are."""
    found: list[Any] = []
    for item in events:
        if isinstance(item, list):
            found.append(values_of(item, value_of, counts))
        elif counts(item[1]) and value_of(item[1]) is not None:
            found.append((item[0], value_of(item[1])))
    return found


def flat(parts: list[Any]) -> list[tuple[int, Any]]:
    return [one for item in parts for one in (flat(item) if isinstance(item, list) else [item])]


def total(parts: list[Any]) -> Any:
    """The sum from left to right, that of a part being one number; None where there is nothing to add."""
    found = None
    for item in parts:
        value = total(item) if isinstance(item, list) else item[1]
        found = value if found is None else found if value is None else found + value
    return found


def order_of(value: Any) -> Any:
    """What a value is sorted by."""
    return total_order(value) if isinstance(value, float) else value


def aggregate(kind: str, parts: list[Any], options: dict[str, Any] | None = None) -> Any:
    """One aggregation over non-null values (time, value), nested by partition, in partition order."""
    options = options or {}
    values = [value for _, value in flat(parts)]
    if kind == "count":
        return len(values)
    if kind == "count_distinct":
        return len({identity(value) for value in values})
    if not values:
        return None
    if kind in ("var", "std"):
        found = variance(parts, options["ddof"])
        return found if found is None or kind == "var" else math.sqrt(found)
    if kind == "quantile":
        return quantile(sorted(map(float, values), key=total_order), **options)
    if kind in ("collect", "top", "min_by", "max_by"):
        # in order of partition and offset, as far as times can be equal
        ranked = [((time, place), value) for place, (time, value) in enumerate(flat(parts))]
        ranked.sort(key=lambda pair: pair[0])
        if kind == "collect":
            return [value for _, value in ranked[: options["limit"]]]
        largest = kind == "max_by" or options.get("largest", False)
        ranked.sort(key=lambda pair: order_of(pair[1][0]), reverse=largest)  # of equal ones the earlier stays before
        shown = [what for _, (_, what) in ranked]
        if kind != "top":
            return shown[0]
        limit = options["limit"]
        if options.get("ties"):  # all that are as good as the last one within the limit
            worst = order_of(ranked[:limit][-1][1][0])
            limit += sum(order_of(by) == worst for _, (by, _) in ranked[limit:])
        return shown[:limit]
    if isinstance(values[0], Decimal) and kind in ("sum", "mean"):
        whole = sum(map(Fraction, values))
        return Decimal(f"{int(whole * 100)}E-2") if kind == "sum" else float(whole / len(values))
    if kind in ("sum", "mean"):
        if isinstance(values[0], int):
            return sum(values) if kind == "sum" else sum(values) / len(values)
        whole = total(parts)
        return whole if kind == "sum" else whole / len(values)
    if kind in ("min", "max"):
        return (min if kind == "min" else max)(values, key=order_of)
    best = None
    for place, (time, value) in enumerate(
        flat(parts)
    ):  # in order of partition and offset, as far as times can be equal
        if best is None or ((time, place) < best[0] if kind == "first" else (time, place) > best[0]):
            best = ((time, place), value)
    assert best is not None
    return best[1]


def variance(parts: list[Any], ddof: int) -> float | None:
    """Exact for whole numbers; for floats step by step, as Welford and Chan say."""
    values = [value for _, value in flat(parts)]
    if len(values) <= ddof:
        return None
    if isinstance(values[0], int):
        mean = Fraction(sum(values), len(values))
        return float(sum((value - mean) ** 2 for value in values) / (len(values) - ddof))
    n, _, m2 = moments(parts)
    return math.nan if m2 < 0 else m2 / (n - ddof)


def moments(parts: list[Any]) -> tuple[float, float, float]:
    """Count, mean and sum of squared distances, from left to right; what a part comes to is taken in as a whole."""
    n, mean, m2 = 0.0, 0.0, 0.0
    for item in parts:
        if not isinstance(item, list):
            n += 1
            delta = item[1] - mean
            mean = item[1] if n == 1 else mean + delta / n
            m2 = 0.0 if n == 1 else m2 + delta * (item[1] - mean)
            continue
        there, its_mean, its_m2 = moments(item)
        if n == 0 or there == 0:
            n, mean, m2 = (there, its_mean, its_m2) if n == 0 else (n, mean, m2)
            continue
        delta = its_mean - mean
        mean = mean + delta * (there / (n + there))
        m2 = m2 + its_m2 + delta * delta * (n * there / (n + there))
        n += there
    return n, mean, m2


def quantile(values: list[float], q: str, error: float) -> float:
    """``values`` ascending. What the bucket of the value of that rank is told by."""
    value = values[math.floor(Fraction(q) * (len(values) - 1))]
    size, gamma = abs(value), (1 + error) / (1 - error)
    if math.isnan(value) or math.isinf(value):
        return value
    if size < 2.2250738585072014e-308:
        return 0.0
    border = 1.0
    if size > 1:
        while border * gamma < size:
            border *= gamma
    else:
        while border >= size and border > 2.2250738585072014e-308:
            border /= gamma
        border = max(border, 2.2250738585072014e-308)
    return math.copysign(min(border * (1 + error), 1.7976931348623157e308), value)


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
