"""``inspect``: what is in a category that nobody has declared yet.

Some records, from both ends, are looked at one by one, to find out what members there are and where an event's parts may be; all are then
counted in bulk, through the same decoding as a fold, for types, times, lateness and ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.log import CategoryInfo, Log, Slice
from connectors.overlap import slices
from flows.guessing import Guess, guess_envelope
from flows.shapes import Member, Path, leaves, members
from schemas.envelope import RECORD_TIME, constant
from schemas.event import TIMESTAMP
from schemas.hashing import Words, hash_binary
from schemas.json_columns import read_columns

SAMPLE = 200_000
"""Records that are read unless all are asked for: the same number from the beginning of each partition."""
LOOKED_AT = 4_000
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
    """An event type. ``fields``: by their places in its data. ``versions``: how many records of each data version, where they say one."""

    name: str
    records: int
    fields: dict[Path, Member]
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """``read``: records, of ``total`` that the log has. ``tombstones``: without a value. ``bad``: values that are no JSON object.

    ``times_us``: the least and the greatest event time. ``late``: by allowed lateness, how many events are so far behind the watermark of
    their partition that a fold of instants would lose them. ``partitions``: records of each, in the log. ``top_keys``: the most frequent
    keys and their counts. ``bytes``: mean and 99th percentile of a value. ``repeated_ids``: events with the id of another (None: no ids;
    told apart by hashes of 64 bits).
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
    start, until = _range(info, records)
    first = [*_both_ends(log, info, start, until)]
    looked_at = _parsed(pa.chunked_array([part["value"].drop_null() for part in first], pa.binary()))
    read = sum(map(len, first))
    keyed = sum(len(part) - part["key"].null_count for part in first)
    guess = guess_envelope(
        members(looked_at), len(looked_at), round(len(looked_at) * keyed / read) if read else 0, category
    )
    counted = _Counted(guess)
    for partition, part in _ahead(slices(log, category, start, until)):
        counted.add(partition, part)
    top, distinct = counted.keys()
    return Inspection(
        category=category,
        read=counted.read,
        total=sum(info.ends) - sum(info.earliest),
        tombstones=counted.tombstones,
        bad=counted.bad,
        guess=guess,
        types=tuple(_shape(name, count, guess, rows) for name, count, rows in counted.types(looked_at)),
        times_us=counted.times_us,
        late=counted.late,
        partitions=tuple(end - first for first, end in zip(info.earliest, info.ends, strict=True)),
        top_keys=top,
        without_key=counted.without_key,
        distinct_keys=distinct,
        bytes=counted.bytes(),
        repeated_ids=counted.repeated_ids(),
        example=_example(first),
    )


def _range(info: CategoryInfo, records: int | None) -> tuple[dict[int, int], dict[int, int]]:
    start = dict(enumerate(info.earliest))
    each = None if records is None else max(records // max(info.partitions, 1), 1)
    return start, {p: end if each is None else min(end, info.earliest[p] + each) for p, end in enumerate(info.ends)}


def _ahead(parts: Iterator[Slice]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Partition and records of each, read while the one before it is counted."""

    def read() -> tuple[int, pa.RecordBatch] | None:
        part = next(parts, None)
        return (
            None if part is None else (part.partition, part.records)
        )  # an embedded log reads when it is asked for them

    with ThreadPoolExecutor(1) as reading:
        coming = reading.submit(read)
        while (found := coming.result()) is not None:
            coming = reading.submit(read)
            yield found


def _both_ends(
    log: Log, info: CategoryInfo, start: Mapping[int, int], until: Mapping[int, int]
) -> Iterator[pa.RecordBatch]:
    """Some records from the beginning and from the end of each partition: what changed on the way shows."""
    each = max(LOOKED_AT // (2 * max(info.partitions, 1)), 1)
    for low, high in (
        (dict(start), {p: min(first + each, until[p]) for p, first in start.items()}),
        ({p: max(end - each, min(start[p] + each, end)) for p, end in until.items()}, dict(until)),
    ):
        found = sorted(slices(log, info.name, low, high), key=lambda part: (part.partition, part.first_offset))
        yield from (part.records for part in found)


def _parsed(values: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Those that are JSON objects."""
    found = []
    for value in values.to_pylist():
        try:
            record = json.loads(value)
        except ValueError:
            continue
        if isinstance(record, dict) and (rb"\ud" not in value or _is_text(value)):
            found.append(record)
    return found


def _is_text(value: bytes) -> bool:
    """Whether what is escaped in it can be written as UTF-8 (half a surrogate pair cannot; no parser of ours takes it)."""
    try:
        json.dumps(json.loads(value), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class _Counted:
    """All records that are read, counted in bulk under a guessed envelope, slice by slice."""

    def __init__(self, guess: Guess) -> None:
        self._guess = guess
        self.read = self.tombstones = self.bad = self.without_key = 0
        self.late = dict.fromkeys(LATENESS_US, 0)
        self.times_us: tuple[int, int] | None = None
        self._watermarks: dict[int, int] = {}
        self._types: Counter[str] = Counter()
        self._rows: dict[str, list[bytes]] = {}
        self._keys: list[pa.StructArray] = []
        self._ids: list[Words] = []
        self._sizes: list[npt.NDArray[np.int32]] = []

    def add(self, partition: int, part: pa.RecordBatch) -> None:
        """The next slice of a partition."""
        keys = part["key"].drop_null()
        self.read += len(part)
        self.without_key += len(part) - len(keys)
        self.tombstones += part["value"].null_count
        self._keys.append(keys.value_counts())
        part = part.filter(pc.is_valid(part["value"])) if part["value"].null_count else part
        if len(part):
            self._sizes.append(np.asarray(pc.binary_length(part["value"])))
            self._add_valued(partition, part)

    def _add_valued(self, partition: int, part: pa.RecordBatch) -> None:
        envelope = self._guess.envelope
        places = {envelope.type: pa.string(), envelope.time: TIMESTAMP, envelope.id: pa.string()}
        wanted = {place: kind for place, kind in places.items() if isinstance(place, tuple)}
        read = read_columns(part["value"], wanted or {("",): pa.string()})
        self.bad += int(read.not_object.sum())
        if envelope.id is not None:
            self._ids.append(hash_binary(read.columns[envelope.id].cast(pa.string()).drop_null()))
        if isinstance(envelope.time, tuple):
            self._time(partition, np.asarray(read.columns[envelope.time].cast(pa.int64()).drop_null()))
        elif envelope.time == RECORD_TIME:
            self._time(partition, np.asarray(part["timestamp"]) * US_PER_MS)
        if isinstance(envelope.type, constant):
            self._types[envelope.type.value] += len(part)
        else:
            self._type(read.columns[envelope.type], part)

    def _type(self, names: pa.Array, part: pa.RecordBatch) -> None:
        texts = names.cast(pa.string())
        for one in texts.drop_null().value_counts().to_pylist():
            name = one["values"]
            self._types[name] += one["counts"]
            kept = self._rows.setdefault(name, [])
            if len(kept) < OF_EACH_TYPE:
                rows = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(texts, name), False)))[
                    : OF_EACH_TYPE - len(kept)
                ]
                kept += part["value"].take(pa.array(rows)).to_pylist()

    def _time(self, partition: int, times: Ints) -> None:
        if not len(times):
            return
        low, high = int(times.min()), int(times.max())
        self.times_us = (
            (low, high) if self.times_us is None else (min(low, self.times_us[0]), max(high, self.times_us[1]))
        )
        after = np.maximum.accumulate(times)
        known = self._watermarks.get(partition, int(times[0]))
        behind = np.maximum(np.concatenate([[known], after[:-1]]), known) - times
        self._watermarks[partition] = max(int(after[-1]), known)
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

    def keys(self) -> tuple[tuple[tuple[str, int], ...], int]:
        """The most frequent keys with their counts, and how many different ones there are."""
        parts = [pa.table({"key": one.field("values"), "n": one.field("counts")}) for one in self._keys if len(one)]
        if not parts:
            return (), 0
        counted = (
            pa.concat_tables(parts)
            .group_by("key")
            .aggregate([("n", "sum")])
            .sort_by([("n_sum", "descending"), ("key", "ascending")])
        )
        top = counted.slice(0, KEYS_SHOWN).to_pylist()
        return tuple((row["key"].decode(errors="replace"), row["n_sum"]) for row in top), counted.num_rows

    def bytes(self) -> tuple[float, float]:
        """Mean and 99th percentile of a value."""
        sizes = np.concatenate([np.zeros(0, np.int32), *self._sizes])
        return (float(sizes.mean()), float(np.percentile(sizes, 99))) if len(sizes) else (0.0, 0.0)

    def repeated_ids(self) -> int | None:
        if self._guess.envelope.id is None:
            return None
        ids = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._ids]))
        return int((ids[1:] == ids[:-1]).sum())


def _at(record: Mapping[str, Any], path: Path) -> Any:
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _shape(name: str, count: int, guess: Guess, records: Sequence[Mapping[str, Any]]) -> Shape:
    envelope = guess.envelope
    parts = (envelope.type, envelope.time, envelope.subject, envelope.id)
    depth = len(guess.data)
    taken = {path[depth:] for path in parts if isinstance(path, tuple) and path[:depth] == guess.data}
    inside = [data for record in records if isinstance(data := _at(record, guess.data), Mapping)]
    fields = {path: member for path, member in leaves(members(inside)).items() if path not in taken}
    for member in fields.values():
        member.kinds["null"] += len(inside) - member.records
    versions = Counter(str(record["dataversion"]) for record in records if "dataversion" in record)
    return Shape(name, count, fields, dict(versions))


def _example(parts: Sequence[pa.RecordBatch]) -> str:
    values = (value for part in parts for value in part["value"].drop_null()[:1])
    first = next(values, None)
    return "" if first is None else first.as_py().decode(errors="replace")
