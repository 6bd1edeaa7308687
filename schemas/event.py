"""Event types: immutable facts as typed classes.

    class FlightDeparted(Event):
        origin: str
        delay_minutes: float | None = None

A class states the fields of the event's ``data``. A field is *required* unless its type allows ``None``; a missing
field and a null are the same. One whose JSON name is no name in Python, or that sits within an object, says where:

    unit_price: Annotated[float, At("unit-price")]
    city: Annotated[str | None, At("address", "city")] = None

The class knows nothing of logs, envelopes or projections.

    Python type          Arrow type
    str                  string
    int                  int64
    float                float64
    bool                 bool
    datetime.datetime    timestamp[us, UTC]   (RFC 3339 text in JSON)
    datetime.date        date32               (YYYY-MM-DD in JSON)
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import inspect
import itertools
import json
import types
import typing
from typing import Any, ClassVar

import pyarrow as pa

from schemas.errors import UsageError

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    dt.datetime: TIMESTAMP,
    dt.date: pa.date32(),
}
ENVELOPE_FIELDS = ("subject", "time", "id")


@dataclasses.dataclass(frozen=True, init=False)
class At:
    """Where a field is in the event's data: the names of the members from the outermost object to the value."""

    path: tuple[str, ...]

    def __init__(self, *path: str) -> None:
        if not path or not all(isinstance(name, str) for name in path):
            raise UsageError(f"At{path} is no place", do='name a member, or those on the way:  At("address", "city")')
        object.__setattr__(self, "path", path)


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of an event's data: its name, Arrow type, whether it may be missing, and where it is (None: under its name)."""

    name: str
    type: pa.DataType
    nullable: bool
    at: At | None = None

    @property
    def path(self) -> tuple[str, ...]:
        return (self.name,) if self.at is None else self.at.path


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
class Event:
    """Base of all event types. ``subject`` is the entity's id, ``time`` when it happened (an aware datetime).

    ``id`` is derived from the content when it is not given, so that the same fact has the same id wherever it is made.
    """

    subject: str | None
    time: dt.datetime
    id: str | None = None

    type_name: ClassVar[str]
    data_version: ClassVar[int] = 1
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.type_name = cls.__dict__.get("type_name", cls.__name__)
        own = set(inspect.get_annotations(cls))
        if clash := own & {*ENVELOPE_FIELDS, "type"}:
            raise UsageError(
                f"event type {cls.__name__}: {sorted(clash)} belong to the envelope", do="rename the field"
            )
        cls.__annotations__ = {
            "subject": "str | None",
            "time": "dt.datetime",
            "id": "str | None",
            **cls.__annotations__,
        }
        cls.id = None
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        hints = typing.get_type_hints(cls, localns={"dt": dt}, include_extras=True)
        names = [f.name for f in dataclasses.fields(cls) if f.name not in ENVELOPE_FIELDS]  # type: ignore[arg-type]
        cls.fields = tuple(_field(cls, name, hints[name]) for name in names)
        _check_places(cls)

    def data(self) -> dict[str, Any]:
        """The fields as JSON values, nulls left out."""
        values = ((f.name, getattr(self, f.name)) for f in self.fields)
        return {name: _json_value(value) for name, value in values if value is not None}

    def derived_id(self) -> str:
        content = [self.type_name, self.subject, rfc3339(self.time), self.data()]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _field(cls: type, name: str, hint: Any) -> Field:
    nullable, places = False, list[At]()
    while typing.get_origin(hint) in (typing.Annotated, typing.Union, types.UnionType):
        if typing.get_origin(hint) is typing.Annotated:
            places += [said for said in hint.__metadata__ if isinstance(said, At)]
            hint = hint.__origin__
            continue
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        nullable |= len(options) < len(typing.get_args(hint))
        if len(options) != 1:
            break
        hint = options[0]
    if hint not in ARROW_TYPES:
        allowed = ", ".join(t.__name__ for t in ARROW_TYPES)
        raise UsageError(
            f"event type {cls.__name__}: field `{name}` has type {hint}",
            do=f"use one of {allowed}, or one of them | None",
        )
    return Field(name, ARROW_TYPES[hint], nullable, next((at for at in places if at.path != (name,)), None))


def _check_places(cls: type[Event]) -> None:
    """No field is where another one is, or within it."""
    for one, other in itertools.permutations(cls.fields, 2):
        if one.path == other.path[: len(one.path)]:
            place = ".".join(other.path)
            raise UsageError(
                f"event type {cls.__name__}: fields `{one.name}` and `{other.name}` are both at `{place}`",
                do="leave one of them out",
            )


def _json_value(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    return value.isoformat() if isinstance(value, dt.date) else value


def rfc3339(time: dt.datetime) -> str:
    """UTC, ``Z``, microseconds only where there are any. Raises ``UsageError`` for a naive datetime."""
    if time.tzinfo is None:
        raise UsageError(
            f"event time {time} has no time zone", do="use an aware datetime, for example tzinfo=timezone.utc"
        )
    return time.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
