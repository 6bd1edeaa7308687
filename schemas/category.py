"""A category: the name of a category stream, the event types in it, and how a record holds an event."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import pyarrow as pa

from schemas.envelope import MARKER_TYPE, Envelope, cloudevents, milliseconds_of
from schemas.errors import UsageError
from schemas.event import Event

_APPENDS = {"key": pa.binary(), "value": pa.binary(), "timestamp": pa.int64(), "partition": pa.int32()}


class Category:
    """Declared once, beside its event types.

    ``max_ahead``: how far an event's time may lie beyond its record's timestamp. An event further ahead is a dead
    letter and does not move the watermark, so that one event dated 2999 cannot make all that follow late.
    """

    def __init__(
        self,
        name: str,
        events: Sequence[type[Event]],
        *,
        envelope: Envelope | None = None,
        max_ahead: dt.timedelta = dt.timedelta(days=1),
    ) -> None:
        self.name = name
        self.events = tuple(events)
        self.envelope = envelope or cloudevents()
        self.max_ahead = max_ahead
        names = [event.type_name for event in events]
        if not names or len(set(names)) < len(names) or MARKER_TYPE in names:
            raise UsageError(
                f"category {name}: event types {names}", do="give one or more types with names of their own"
            )

    def __repr__(self) -> str:
        return f"Category({self.name!r}, {len(self.events)} event types, {self.envelope.name})"

    def progress(self, time: dt.datetime, partitions: int) -> pa.Table:
        """A progress marker for each partition, ready for ``append_batch``: nothing that happened before ``time`` will be appended.

        It moves the watermark, and is folded by nobody; without it an idle partition holds back what is final and what is joined.
        """
        columns = {
            "key": [None] * partitions,
            "value": [self.envelope.encode_marker(time, self.name)] * partitions,
            "timestamp": [milliseconds_of(time)] * partitions,
            "partition": list(range(partitions)),
        }
        return pa.table({name: pa.array(columns[name], kind) for name, kind in _APPENDS.items()})

    def encode(self, events: Iterable[Event], keys: Sequence[str | None] | None = None) -> pa.Table:
        """Records ready to append: ``key`` (the subject unless given), ``value``, ``timestamp``, ``partition`` (null)."""
        rows = list(events)
        for event in rows:
            if type(event) not in self.events:
                known = ", ".join(known.type_name for known in self.events)
                raise UsageError(
                    f"{type(event).__name__} is no event type of category {self.name}", do=f"append one of {known}"
                )
        subjects = [event.subject for event in rows] if keys is None else list(keys)
        columns = {
            "key": [None if key is None else key.encode() for key in subjects],
            "value": [self.envelope.encode(event, self.name) for event in rows],
            "timestamp": [self.envelope.record_time_ms(event) for event in rows],
            "partition": [None] * len(rows),
        }
        return pa.table({name: pa.array(columns[name], kind) for name, kind in _APPENDS.items()})
