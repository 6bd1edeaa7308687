"""``inspect``: what is in a category that nobody has declared yet.

Some records are looked at one by one, to find out what members there are and where an event's parts may be; all that were read are then
counted in bulk, through the same decoding as a fold, for types, times, lateness and ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.log import CategoryInfo, Log
from connectors.overlap import slices
from flows.guessing import Guess, guess_envelope
from flows.shapes import Member, Path, members
from schemas.envelope import RECORD_TIME, constant
from schemas.event import TIMESTAMP
from schemas.json_columns import read_columns

SAMPLE = 200_000
"""Records that are read unless all are asked for: the same number from the beginning of each partition."""
LOOKED_AT = 5_000
OF_EACH_TYPE = 50
LATENESS_US = {
    "0 s": 0,
    "1 s": 10**6,
    "5 s": 5 * 10**6,
    "1 min": 6 * 10**7,
    "10 min": 6 * 10**8,
    "1 h": 36 * 10**8,
    "1 d": 864 * 10**8,
}
KEYS_SHOWN = 3
US_PER_MS = 1000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """An event type. ``fields``: by name, those of its data. ``versions``: how many records of each data version, where they say one."""

    name: str
    records: int
    fields: dict[str, Member]
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """``read``: records, of ``total`` that the log has. ``tombstones``: without a value. ``bad``: values that are no JSON object.

    ``times_us``: the least and the greatest event time. ``late``: by allowed lateness, how many events are so far behind the watermark of
    their partition that a fold of instants would lose them. ``partitions``: records of each, in the log. ``top_keys``: the most frequent
    keys and their counts. ``bytes``: mean and 99th percentile of a value. ``repeated_ids``: events with the id of another (None: no ids).
    """

    category: str
    read: int
    total: int
    tombstones: int
    bad: int
    guess: Guess
    types: tuple[Shape, ...]
    times_us: tuple[int, int] | None
    late: dict[str, int]
    partitions: tuple[int, ...]
    top_keys: tuple[tuple[str, int], ...]
    without_key: int
    distinct_keys: int
    bytes: tuple[float, float]
    repeated_ids: int | None
    example: str


def inspect(log: Log, category: str, *, records: int | None = SAMPLE) -> Inspection:
    """Read so many records (None: all), and say what they are. Raises ``UnknownCategory``, ``LogUnreachable``, ``LogError``."""
    info = log.describe(category)
    parts = _read(log, info, records)
    values = pa.chunked_array([part["value"] for part in parts], pa.binary())
    keys = pa.chunked_array([part["key"] for part in parts], pa.binary())
    valued = values.drop_null().combine_chunks()
    looked_at = _parsed(valued, _spread(len(valued), LOOKED_AT))
    key_count = len(keys) - keys.null_count
    share = key_count / len(keys) if len(keys) else 0.0
    guess = guess_envelope(members(looked_at), len(looked_at), round(share * len(looked_at)), category)
    counted = _Counted(guess, parts)
    shapes = tuple(_shape(name, count, guess, rows) for name, count, rows in counted.types(looked_at))
    sizes = (
        np.diff(np.frombuffer(valued.buffers()[1], np.int32)[valued.offset :][: len(valued) + 1])
        if len(valued)
        else np.zeros(1)
    )
    return Inspection(
        category=category,
        read=len(values),
        total=sum(info.ends) - sum(info.earliest),
        tombstones=values.null_count,
        bad=counted.bad,
        guess=guess,
        types=shapes,
        times_us=counted.times_us,
        late=counted.late,
        partitions=tuple(end - first for first, end in zip(info.earliest, info.ends, strict=True)),
        top_keys=tuple(_top(keys)),
        without_key=keys.null_count,
        distinct_keys=len(keys.drop_null().unique()),
        bytes=(float(sizes.mean()), float(np.percentile(sizes, 99))),
        repeated_ids=counted.repeated_ids,
        example=_example(valued),
    )


def _read(log: Log, info: CategoryInfo, records: int | None) -> list[pa.RecordBatch]:
    start = dict(enumerate(info.earliest))
    each = None if records is None else max(records // max(info.partitions, 1), 1)
    until = {p: end if each is None else min(end, info.earliest[p] + each) for p, end in enumerate(info.ends)}
    found: dict[int, list[pa.RecordBatch]] = {p: [] for p in start}
    for part in slices(log, info.name, start, until):
        found[part.partition].append(part.records)
    schema = [pa.Table.from_batches(batches).combine_chunks().to_batches() for batches in found.values() if batches]
    return [batch for batches in schema for batch in batches]


def _spread(count: int, wanted: int) -> Sequence[int]:
    return range(count) if count <= wanted else np.linspace(0, count - 1, wanted).astype(np.int64).tolist()


def _parsed(values: pa.Array, rows: Sequence[int]) -> list[dict[str, Any]]:
    """The records at these rows that are JSON objects."""
    found = []
    for value in values.take(pa.array(rows, pa.int64())).to_pylist():
        try:
            record = json.loads(value)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


class _Counted:
    """All records that were read, counted in bulk under a guessed envelope."""

    def __init__(self, guess: Guess, parts: Sequence[pa.RecordBatch]) -> None:
        self._guess = guess
        self.bad = 0
        self.late = dict.fromkeys(LATENESS_US, 0)
        self.times_us: tuple[int, int] | None = None
        self._types: Counter[str] = Counter()
        self._rows: dict[str, list[bytes]] = {}
        ids: list[pa.Array] = []
        for part in parts:
            self._count(part, ids)
        known = pa.chunked_array(ids, pa.string()) if ids else None
        self.repeated_ids = None if known is None else len(known) - len(known.unique())

    def _count(self, part: pa.RecordBatch, ids: list[pa.Array]) -> None:
        part = part.filter(pc.is_valid(part["value"]))
        if not len(part):
            return
        envelope = self._guess.envelope
        wanted: dict[Path, pa.DataType] = {}
        if isinstance(envelope.type, tuple):
            wanted[envelope.type] = pa.string()
        if isinstance(envelope.time, tuple):
            wanted[envelope.time] = TIMESTAMP
        if envelope.id is not None:
            wanted[envelope.id] = pa.string()
        read = read_columns(part["value"], wanted or {("",): pa.string()})
        self.bad += int(read.not_object.sum())
        if envelope.id is not None:
            ids.append(read.columns[envelope.id].cast(pa.string()).drop_null())
        times = read.columns[envelope.time].cast(pa.int64()) if isinstance(envelope.time, tuple) else None
        if envelope.time == RECORD_TIME:
            times = pc.multiply(part["timestamp"], US_PER_MS)
        if times is not None:
            self._time(np.asarray(times.drop_null()))
        if isinstance(envelope.type, constant):
            self._types[envelope.type.value] += len(part)
            return
        assert isinstance(envelope.type, tuple)
        names = read.columns[envelope.type].cast(pa.string())
        for one in names.drop_null().value_counts().to_pylist():
            name = one["values"]
            self._types[name] += one["counts"]
            kept = self._rows.setdefault(name, [])
            if len(kept) < OF_EACH_TYPE:
                rows = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(names, name), False)))[
                    : OF_EACH_TYPE - len(kept)
                ]
                kept += part["value"].take(pa.array(rows)).to_pylist()

    def _time(self, times: Ints) -> None:
        if not len(times):
            return
        low, high = int(times.min()), int(times.max())
        self.times_us = (
            (low, high) if self.times_us is None else (min(low, self.times_us[0]), max(high, self.times_us[1]))
        )
        before = np.concatenate([times[:1], np.maximum.accumulate(times)[:-1]])
        behind = before - times
        for name, allowed in LATENESS_US.items():
            self.late[name] += int((behind > allowed).sum())

    def types(self, looked_at: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, list[Mapping[str, Any]]]]:
        """Each type, how many records it has, and some of them: those that were looked at, and more of rare ones."""
        path = self._guess.type_path
        seen: dict[str, list[Mapping[str, Any]]] = {}
        for record in looked_at:
            name = _at(record, path) if path else next(iter(self._types), "")
            seen.setdefault(str(name), []).append(record)
        found = []
        for name, count in self._types.most_common():
            records = seen.get(name, [])
            if len(records) < OF_EACH_TYPE:
                records = [json.loads(value) for value in self._rows.get(name, [])] or records
            found.append((name, count, records))
        return found


def _at(record: Mapping[str, Any], path: Path) -> Any:
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _shape(name: str, count: int, guess: Guess, records: Sequence[Mapping[str, Any]]) -> Shape:
    envelope = guess.envelope
    parts = (envelope.type, envelope.time, envelope.subject, envelope.id)
    taken = {path[-1] for path in parts if isinstance(path, tuple) and path[:-1] == guess.data}
    inside = [data for record in records if isinstance(data := _at(record, guess.data), Mapping)]
    fields = {path[0]: member for path, member in members(inside).items() if len(path) == 1 and path[0] not in taken}
    for member in fields.values():
        member.kinds["null"] += len(inside) - member.records
    versions = Counter(str(record["dataversion"]) for record in records if "dataversion" in record)
    return Shape(name, count, fields, dict(versions))


def _top(keys: pa.ChunkedArray) -> list[tuple[str, int]]:
    counted = keys.drop_null().value_counts()
    if not len(counted):
        return []
    order = np.argsort(-np.asarray(counted.field("counts")), kind="stable")
    return [
        (counted.field("values")[int(at)].as_py().decode(errors="replace"), counted.field("counts")[int(at)].as_py())
        for at in order[:KEYS_SHOWN]
    ]


def _example(values: pa.Array) -> str:
    return values[0].as_py().decode(errors="replace") if len(values) else ""
