"""Envelopes: where in a record the type, time, subject, id and data of an event sit.

    cloudevents()                                   structured CloudEvents JSON (v1.0); extra attributes are ignored
    plain(type="kind", time="at", subject="order.id")     plain JSON: dotted paths; the data sit beside them
    plain(type=constant("OrderPlaced"), time=RECORD_TIME, subject=RECORD_KEY)

``time`` is RFC 3339 text or whole milliseconds since the epoch. An envelope only says *where*; ``schemas.decode`` reads.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import UsageError
from schemas.event import Event, Field, rfc3339
from schemas.json_columns import Path


@dataclass(frozen=True, slots=True)
class constant:
    """The same type name for every record of the category."""

    value: str


@dataclass(frozen=True, slots=True)
class _FromRecord:
    what: str


RECORD_TIME = _FromRecord("record time")
"""The event's time is the record's timestamp in the log (milliseconds)."""
RECORD_KEY = _FromRecord("record key")
"""The event's subject is the record's key (UTF-8 text)."""

MARKER_TYPE = "refold.progress"
"""Reserved type of a progress marker: it moves the watermark of its partition and is folded by nobody."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Places of the parts. A path is a tuple of member names; ``data`` is the path of the object that holds the fields."""

    name: str
    type: Path | constant
    time: Path | _FromRecord
    subject: Path | _FromRecord
    id: Path | None
    data: Path

    def place(self, field: Field) -> Path:
        return (*self.data, *field.path)

    def encode(self, event: Event, category: str) -> bytes:
        """One record's value."""
        value: dict[str, Any] = dict(self._fixed(event, category))
        for path, part in self._parts(event):
            _put(value, path, part)
        data = event.data()
        for field in event.fields:
            if field.name in data:
                _put(value, self.place(field), data[field.name])
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def encode_marker(self, time: dt.datetime, category: str) -> bytes:
        """The value of a progress marker. Raises ``UsageError`` where every record has one type."""
        if isinstance(self.type, constant):
            msg = f"category {category} has records of one type: none can be a progress marker"
            raise UsageError(msg, do="give the envelope a place for the type")
        value: dict[str, Any] = {"specversion": "1.0", "source": f"/{category}"} if self.name == "cloudevents" else {}
        _put(value, self.type, MARKER_TYPE)
        if isinstance(self.time, tuple):
            _put(value, self.time, rfc3339(time))
        return json.dumps(value, separators=(",", ":")).encode()

    def _fixed(self, event: Event, category: str) -> Mapping[str, Any]:
        if self.name != "cloudevents":
            return {}
        return {"specversion": "1.0", "source": f"/{category}", "dataversion": event.data_version}

    def _parts(self, event: Event) -> list[tuple[Path, Any]]:
        parts = [(self.type, event.type_name), (self.time, rfc3339(event.time)), (self.subject, event.subject)]
        found = [(place, part) for place, part in parts if isinstance(place, tuple) and part is not None]
        return found + ([(self.id, event.id or event.derived_id())] if self.id else [])

    def record_time_ms(self, event: Event) -> int | None:
        """The timestamp that the record must carry, where the event's time is nowhere else."""
        if self.time is not RECORD_TIME:
            return None
        return milliseconds_of(event.time)


def milliseconds_of(time: dt.datetime) -> int:
    """Since the epoch, as a record's timestamp."""
    return int((time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1))


def cloudevents() -> Envelope:
    """Structured CloudEvents JSON. ``type`` and ``time`` are required here; ``specversion``, ``id``, ``source``,
    ``subject`` and ``dataversion`` may be missing. Source: CloudEvents 1.0, JSON event format."""
    return Envelope("cloudevents", ("type",), ("time",), ("subject",), ("id",), ("data",))


def plain(
    *,
    type: str | constant,
    time: str | _FromRecord,
    subject: str | _FromRecord = RECORD_KEY,
    id: str | None = None,
    data: str = "",
) -> Envelope:
    """Plain JSON objects. Places are dotted paths; ``data`` is where the fields sit (the object itself when empty)."""
    return Envelope(
        "plain",
        type if isinstance(type, constant) else _path(type),
        time if isinstance(time, _FromRecord) else _path(time),
        subject if isinstance(subject, _FromRecord) else _path(subject),
        _path(id) if id else None,
        _path(data) if data else (),
    )


def _path(dotted: str) -> Path:
    return tuple(dotted.split("."))


def _put(value: dict[str, Any], path: Path, part: Any) -> None:
    for name in path[:-1]:
        value = value.setdefault(name, {})
    value[path[-1]] = part
