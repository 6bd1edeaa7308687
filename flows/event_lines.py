"""JSON lines to events: each line checked against the event classes of a category, so that what is appended can be folded.

    {"type": "OrderPlaced", "subject": "c-17", "time": "2024-01-01T00:00:00Z", "country": "NO", "amount": 12.5}

``type`` may be left out where the category has one; ``subject`` and ``id`` may be missing; the fields may also stand in ``data``. An
instant is RFC 3339 text or whole milliseconds since the epoch.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from schemas import Category, Event
from schemas.errors import UsageError
from schemas.event import ENVELOPE_FIELDS, TIMESTAMP, Field
from schemas.hints import meant


def events_of(category: Category, lines: Iterable[str]) -> Iterator[tuple[int, Event]]:
    """The events and the numbers of their lines, empty lines left out. Raises ``UsageError`` naming the line and the field."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, parse_event(category, line, f"line {number:,}")


def parse_event(category: Category, text: str, where: str) -> Event:
    """Raises ``UsageError``, with ``where`` in it."""
    try:
        said = json.loads(text)
    except ValueError as error:
        raise UsageError("it is no JSON", where=where, why=str(error), do="give one JSON object a line") from None
    if not isinstance(said, dict):
        raise UsageError("it is no JSON object", where=where, do="give one JSON object a line")
    kind = _type(category, said.pop("type", None), where)
    envelope = {name: said.pop(name) for name in ENVELOPE_FIELDS if name in said}
    data = said.pop("data") if isinstance(said.get("data"), dict) and len(said) == 1 else said
    return kind(**_envelope(envelope, where), **_data(kind, data, where))


def _type(category: Category, name: Any, where: str) -> type[Event]:
    known = {event.type_name: event for event in category.events}
    if name is None and len(known) == 1:
        return category.events[0]
    if name in known:
        return known[name]
    what = "its type is missing" if name is None else f"`{name}` is no event type of category {category.name}"
    raise UsageError(what, where=f"{where}, field `type`", do=_hint(str(name or ""), known))


def _hint(name: str, known: Iterable[str]) -> str:
    return meant(name, [*known], f"give one of {', '.join(known)}")


def _envelope(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    if said.get("time") is None:
        raise UsageError(
            "its time is missing", where=f"{where}, field `time`", do="say when it happened, with a time zone"
        )
    for name in ("subject", "id"):
        if not isinstance(said.get(name), str | None):
            raise UsageError(f"{said[name]!r} is no text", where=f"{where}, field `{name}`", do="put it in quotes")
    return {
        "subject": said.get("subject"),
        "id": said.get("id"),
        "time": _instant(said["time"], f"{where}, field `time`"),
    }


def _data(kind: type[Event], said: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {field.name: field for field in kind.fields}
    for name in said:
        if name not in fields:
            raise UsageError(
                f"{kind.type_name} has no such field", where=f"{where}, field `{name}`", do=_hint(name, fields)
            )
    for field in fields.values():
        if said.get(field.name) is None and not field.nullable:
            raise UsageError(
                f"{kind.type_name} must have it", where=f"{where}, field `{field.name}`", do="give it a value"
            )
    return {
        name: None if value is None else _value(fields[name], value, f"{where}, field `{name}`")
        for name, value in said.items()
    }


def _value(field: Field, given: Any, where: str) -> Any:
    if field.type == TIMESTAMP:
        return _instant(given, where)
    if pa.types.is_date(field.type):
        return _date(given, where)
    kinds: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (int,), "double": (int, float), "bool": (bool,)}
    wanted = kinds[str(field.type)]
    if not isinstance(given, wanted) or (isinstance(given, bool) and bool not in wanted):
        raise UsageError(f"{given!r} is no {field.type}", where=where, do=f"give a value of type {field.type}")
    value: Any = given
    if field.type == pa.int64() and not -(2**63) <= value < 2**63:
        raise UsageError(f"{value} does not fit into 64 bits", where=where, do="give a smaller one")
    if field.type == pa.float64() and not math.isfinite(value):
        raise UsageError(f"{value} is no value in JSON", where=where, do="give a finite one, or null")
    return float(value) if field.type == pa.float64() else value


def _instant(value: Any, where: str) -> dt.datetime:
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=value)
        time = dt.datetime.fromisoformat(value)
        if time.tzinfo is not None:
            return time
    except (ValueError, TypeError, OverflowError):
        pass
    do = "write it like 2024-01-01T00:00:00Z, or as milliseconds since the epoch"
    raise UsageError(f"{value!r} is no instant with a time zone", where=where, do=do)


def _date(value: Any, where: str) -> dt.date:
    try:
        return dt.date.fromisoformat(value)
    except (ValueError, TypeError):
        raise UsageError(f"{value!r} is no date", where=where, do="write it like 2024-01-01") from None
