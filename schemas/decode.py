"""Records to typed columns: a pure function of each record's bytes, timestamp and key.

An *envelope* decodes when the value is one JSON object whose type is text and whose time is an instant not too far
ahead of the record. A record whose envelope does not decode is dead for everybody; every other record moves the
watermark. Beyond that, validity is per column: a bad field hurts only those who read that field, and fields of event
types that nobody asked for are never looked at.

This module knows nothing of projections, windows or logs; it sees arrays.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.category import Category
from schemas.dictionary import TEXTS, plain
from schemas.envelope import MARKER_TYPE, constant
from schemas.event import TIMESTAMP, Event
from schemas.instants import LAST_US, milliseconds
from schemas.json_columns import JsonColumns, Path, read_columns

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Fates = npt.NDArray[np.uint8]
Kill = Callable[[Mask, str], None]

Column = tuple[str, pa.DataType]
"""A data field by name and Arrow type; two event types may use one name with two types."""

LIVE, TOMBSTONE, MARKER, DEAD = 0, 1, 2, 3
OTHER_TYPE = -1
SUBJECT: Column = ("subject", pa.string())


@dataclass(slots=True)
class Decoded:
    """Columns as long as the slice.

    ``fate``: LIVE, TOMBSTONE, MARKER or DEAD (uint8). ``event_time``: microseconds since the epoch, meant where LIVE or
    MARKER. ``type_code``: index into ``types``, or OTHER_TYPE. ``reasons``: why a DEAD record is dead, by row.
    ``columns[c]`` is null where ``invalid[c]``, where the type has no such field, and where the member is missing; texts may be
    of type ``TEXTS``. ``type_names``: what each record says its type is, as text (None where the category has a constant type).
    """

    types: tuple[type[Event], ...]
    fate: npt.NDArray[np.uint8]
    event_time: Ints
    type_code: npt.NDArray[np.int32]
    reasons: dict[int, str]
    columns: dict[Column, pa.Array] = field(default_factory=dict)
    invalid: dict[Column, Mask] = field(default_factory=dict)
    type_names: pa.Array | None = None


class Decoder:
    """Decodes slices of one category for the event types and fields that are asked for.

    ``asked``: per event type the names of the fields to read. ``subject``: whether anybody reads the subject.
    """

    def __init__(
        self, category: Category, asked: Mapping[type[Event], Sequence[str]], *, subject: bool = False
    ) -> None:
        self._category, self._envelope = category, category.envelope
        self._types = tuple(asked)
        # A column is filled for all types that have it, asked for or not: so it is the same whoever asks for it.
        self._every = tuple(category.events)
        self._max_ahead_us = category.max_ahead // dt.timedelta(microseconds=1)
        columns = {(f.name, f.type) for event, names in asked.items() for f in event.fields if f.name in names}
        self._fields: dict[Column, list[int]] = {
            column: [code for code, event in enumerate(self._every) if column in _columns_of(event)]
            for column in sorted(columns, key=str)
        }
        self._places = {column: self._places_of(column) for column in self._fields}
        self._subject = subject
        # What is at one place with two types, or at another place in each event type, cannot be parsed in one pass. Where one
        # pass keeps failing on fields of other types it is given up too: a matter of speed alone, the outcome is the same.
        self._by_type = any(len(set(places.values())) > 1 for places in self._places.values()) or self._fields_meet()

    @property
    def types(self) -> tuple[type[Event], ...]:
        return self._types

    @property
    def columns(self) -> list[Column]:
        """The columns that are read."""
        return [*self._fields, *([SUBJECT] if self._subject else [])]

    def facts(self, column: Column | None) -> dict[str, Any]:
        """All that decides what a column holds for given records (None: all that the envelope says), as JSON."""
        envelope = self._envelope
        parts = {part: str(getattr(envelope, part)) for part in ("type", "time")}
        found: dict[str, Any] = {"envelope": parts, "max_ahead_us": self._max_ahead_us}
        if column == SUBJECT and self._subject:
            return {**found, "subject": str(envelope.subject)}
        if column is not None:
            places = {self._every[code].type_name: place for code, place in self._places[column].items()}
            path = next(iter(places.values())) if len(set(places.values())) == 1 else dict(sorted(places.items()))
            found |= {"path": path, "type": str(column[1]), "of": sorted(places)}
        return found

    def decode(self, records: pa.RecordBatch) -> Decoded:
        """``records``: schema ``RECORDS`` of the log protocol (offset, timestamp, timestamp_type, key, value, headers)."""
        valued = np.flatnonzero(np.asarray(records.column("value").is_valid()))
        if len(valued) == records.num_rows:
            return self._decode_valued(records)
        return _unpack(self._decode_valued(records.take(pa.array(valued))), valued, records.num_rows)

    def _decode_valued(self, records: pa.RecordBatch) -> Decoded:
        values = records.column("value")
        wanted = self._envelope_paths()
        if not self._by_type:
            wanted |= {self._place(column): column[1] for column in self._fields}
        parsed = read_columns(values, wanted)
        result = self._read_envelope(records, parsed)
        if self._subject:
            result.columns[SUBJECT], result.invalid[SUBJECT] = self._read_subject(records, parsed)
        every = self._codes(self._every, result.type_names, len(values))
        if self._by_type:
            self._read_fields_by_type(result, values, every)
        else:
            self._take_fields(result, parsed, every)
        return result

    def _places_of(self, column: Column) -> dict[int, Path]:
        """Where the column is, by the code of the event type."""
        return {
            code: self._envelope.place(field)
            for code in self._fields[column]
            for field in self._every[code].fields
            if field.name == column[0]
        }

    def _place(self, column: Column) -> Path:
        """Where the column is in all event types that have it."""
        return next(iter(self._places[column].values()))

    def _fields_meet(self) -> bool:
        """Whether a field sits where the envelope or another field reads another type, or holds or lies in what they read."""
        fields = [
            (place, kind)
            for (_, kind), of in zip(self._fields, self._places.values(), strict=True)
            for place in of.values()
        ]
        return any(
            (path != place and path[: len(place)] == place[: len(path)]) or (path == place and kind != other)
            for path, kind in fields
            for place, other in [*fields, *self._envelope_paths().items()]
        )

    def _envelope_paths(self) -> dict[Path, pa.DataType]:
        envelope = self._envelope
        paths: dict[Path, pa.DataType] = {}
        if isinstance(envelope.type, tuple):
            paths[envelope.type] = pa.string()
        if isinstance(envelope.time, tuple):
            paths[envelope.time] = TIMESTAMP
        if self._subject and isinstance(envelope.subject, tuple):
            paths[envelope.subject] = pa.string()
        return paths

    def _read_envelope(self, records: pa.RecordBatch, parsed: JsonColumns) -> Decoded:
        n = records.num_rows
        fate, reasons = np.zeros(n, np.uint8), dict[int, str]()

        def kill(rows: Mask, reason: str) -> None:
            for row in np.flatnonzero(rows & (fate != DEAD)).tolist():
                reasons[row] = reason
            fate[rows] = DEAD

        kill(parsed.not_object, "the value is not one JSON object")
        names = self._read_type(parsed, fate, kill)
        type_code = self.codes(names, n)
        time, has_time = self._read_time(records, parsed, kill)
        # In milliseconds of any size (some producers write nanoseconds): cut where no event can be ahead, never overflow.
        timestamps = np.minimum(np.asarray(records.column("timestamp")), LAST_US // 1000 + 1)
        ahead = has_time & (timestamps >= 0) & (time - timestamps * 1000 > self._max_ahead_us)
        kill(ahead, f"the event time is more than {self._category.max_ahead} ahead of the record's timestamp")
        return Decoded(self._types, fate, time, type_code, reasons, type_names=names)

    def _read_type(self, parsed: JsonColumns, fate: Fates, kill: Kill) -> pa.Array | None:
        """The text of each record's type; kills those without one, and tells markers."""
        place = self._envelope.type
        if isinstance(place, constant):
            return None
        found = parsed.columns[place]
        kill(parsed.invalid[place], f"`{_dotted(place)}` (the event type) is not text")
        kill(np.asarray(found.is_null()), f"`{_dotted(place)}` (the event type) is missing")
        markers = _index_in(found, [MARKER_TYPE]) == 0
        fate[markers & (fate == LIVE)] = MARKER
        return found

    def codes(self, names: pa.Array | None, n: int) -> npt.NDArray[np.int32]:
        """``Decoded.type_code`` of ``n`` records whose types have these names."""
        return self._codes(self._types, names, n)

    def _codes(self, types: Sequence[type[Event]], names: pa.Array | None, n: int) -> npt.NDArray[np.int32]:
        known = [event.type_name for event in types]
        place = self._envelope.type
        if names is None and isinstance(place, constant):
            return np.full(n, known.index(place.value) if place.value in known else OTHER_TYPE, np.int32)
        return _index_in(names, known)

    def _read_time(self, records: pa.RecordBatch, parsed: JsonColumns, kill: Kill) -> tuple[Ints, Mask]:
        place = self._envelope.time
        if isinstance(place, tuple):
            found = parsed.columns[place]
            missing = np.asarray(found.is_null())
            kill(
                parsed.invalid[place], f"`{_dotted(place)}` (the event time) is neither RFC 3339 nor whole milliseconds"
            )
            kill(missing, f"`{_dotted(place)}` (the event time) is missing")
            return np.asarray(found.cast(pa.int64()).fill_null(0)), ~missing
        time, valid = milliseconds(records.column("timestamp"))
        valid &= np.asarray(records.column("timestamp")) >= 0
        kill(~valid, "the record has no timestamp, which this category takes as the event time")
        return time, valid

    def _read_subject(self, records: pa.RecordBatch, parsed: JsonColumns) -> tuple[pa.Array, Mask]:
        place = self._envelope.subject
        if isinstance(place, tuple):
            return parsed.columns[place], parsed.invalid[place]
        return _text(records.column("key"))

    def _take_fields(self, result: Decoded, parsed: JsonColumns, every: npt.NDArray[np.int32]) -> None:
        strangers = 0
        for column, codes in self._fields.items():
            path = self._place(column)
            has_field = in_codes(every, codes, len(self._every))
            strangers += int((parsed.invalid[path] & ~has_field).sum())
            values = parsed.columns[path]
            result.columns[column] = values if has_field.all() else _where(has_field, values)
            result.invalid[column] = parsed.invalid[path] & has_field
        self._by_type = strangers > len(result.fate) // 1000

    def _read_fields_by_type(self, result: Decoded, values: pa.BinaryArray, every: npt.NDArray[np.int32]) -> None:
        n = len(values)
        pieces: dict[Column, list[tuple[Ints, pa.Array, Mask]]] = {column: [] for column in self._fields}
        for code in range(len(self._every)):
            columns = [column for column, codes in self._fields.items() if code in codes]
            rows = np.flatnonzero((every == code) & (result.fate == LIVE))
            if not columns or not len(rows):
                continue
            places = {column: self._places[column][code] for column in columns}
            parsed = read_columns(values.take(pa.array(rows)), {place: kind for (_, kind), place in places.items()})
            for column, path in places.items():
                pieces[column].append((rows, parsed.columns[path], parsed.invalid[path]))
        for column, found in pieces.items():
            result.columns[column], result.invalid[column] = _scatter(found, column[1], n)


def in_codes(type_code: npt.NDArray[np.int32], codes: Sequence[int], types: int) -> Mask:
    """Which rows have one of these type codes, of ``types`` that there are."""
    wanted = np.zeros(types + 1, np.bool_)  # the last for OTHER_TYPE, which is -1
    wanted[list(codes)] = True
    return wanted[type_code]


def _index_in(texts: pa.Array, known: Sequence[str]) -> npt.NDArray[np.int32]:
    """The place of each text among the known ones; OTHER_TYPE where it is none of them, or null."""
    distinct = texts.dictionary if texts.type == TEXTS else texts
    if texts.type == TEXTS and len(distinct) == 1 and not texts.null_count:  # most topics have long runs of one type
        only = distinct[0].as_py()
        return np.full(len(texts), known.index(only) if only in known else OTHER_TYPE, np.int32)
    places = pc.fill_null(pc.index_in(distinct, pa.array(known, pa.string())), OTHER_TYPE)
    if texts.type == TEXTS:
        places = pc.fill_null(places.take(texts.indices), OTHER_TYPE)
    return np.asarray(places).astype(np.int32)


def _where(rows: Mask, values: pa.Array) -> pa.Array:
    """``values`` at ``rows``, null elsewhere."""
    if values.type == TEXTS:
        return pa.DictionaryArray.from_arrays(pc.if_else(pa.array(rows), values.indices, None), values.dictionary)
    return pc.if_else(pa.array(rows), values, None)


def _columns_of(event: type[Event]) -> list[Column]:
    return [(field.name, field.type) for field in event.fields]


def _text(keys: pa.BinaryArray) -> tuple[pa.Array, Mask]:
    """Record keys as text; null and invalid where they are not UTF-8."""
    try:
        text = keys.cast(pa.string())
        text.validate(full=True)
        return text, np.zeros(len(keys), np.bool_)
    except pa.ArrowInvalid:
        words = [_utf8(key) for key in keys.to_pylist()]
        bad = np.array([word is None for word in words]) & np.asarray(keys.is_valid())
        return pa.array(words, pa.string()), bad


def _utf8(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None


def _dotted(path: Path) -> str:
    return ".".join(path)


def _scatter(pieces: list[tuple[Ints, pa.Array, Mask]], kind: pa.DataType, n: int) -> tuple[pa.Array, Mask]:
    """One column of ``n`` rows from pieces at given rows; null elsewhere."""
    invalid, places = np.zeros(n, np.bool_), np.full(n, -1, np.int64)
    start = 0
    for rows, _, bad in pieces:
        invalid[rows] = bad
        places[rows] = np.arange(start, start + len(rows))
        start += len(rows)
    packed = pa.concat_arrays([plain(array) for _, array, _ in pieces]) if pieces else pa.nulls(0, kind)
    return packed.take(pa.array(places, mask=places < 0)), invalid


def _unpack(packed: Decoded, rows: Ints, n: int) -> Decoded:
    """Back to the places of all records; those without a value are tombstones."""
    whole = Decoded(
        packed.types, np.full(n, TOMBSTONE, np.uint8), np.zeros(n, np.int64), np.full(n, OTHER_TYPE, np.int32), {}
    )
    whole.fate[rows], whole.event_time[rows], whole.type_code[rows] = packed.fate, packed.event_time, packed.type_code
    if packed.type_names is not None:
        no_one = np.zeros(len(rows), np.bool_)
        whole.type_names, _ = _scatter([(rows, packed.type_names, no_one)], pa.string(), n)
    whole.reasons.update({int(rows[row]): reason for row, reason in packed.reasons.items()})
    for column, array in packed.columns.items():
        whole.columns[column], whole.invalid[column] = _scatter([(rows, array, packed.invalid[column])], column[1], n)
    return whole
