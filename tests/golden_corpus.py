"""The golden corpus: odd records and folds with the outcome that every version of refold must give them.

    python -m tests.golden_corpus --show     what the code makes of the cases, where the files say something else
    python -m tests.golden_corpus --write    write that into the files, to be reviewed as a change of meaning

The files in ``golden/`` hold inputs and expectations; this module reads and writes them, and holds the event types and
projections that they name. An outcome that changes means another ``SEMANTICS`` number (flows/projection.py): views
that were folded before are not those that would be folded now.

A *value* is text (its UTF-8 bytes), null, ``{"base64": ...}`` where the bytes are no UTF-8, or a list of parts to join,
each a text or ``[text, times]``. Times in outcomes are RFC 3339; columns that are null are left out. ``expect_slowly``
stands where committing after every record comes to something else, which only an error on the way may do.
"""

from __future__ import annotations

import base64
import datetime as dt
import difflib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from connectors.log import RECORDS, Slice
from connectors.manifest import Manifest
from connectors.table import Writer, open_writer
from flows import Projection, State, agg, calendar, hopping, python_fold, session, tumbling
from flows.facts import cut_of
from flows.fold import PartitionFold
from flows.merge import Place, split_partials, table_specs
from flows.merging import merge_of
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from schemas import RECORD_KEY, RECORD_TIME, Category, Event, constant, plain
from schemas.decode import DEAD, LIVE, MARKER, OTHER_TYPE, TOMBSTONE, Decoded, Decoder
from schemas.errors import DataError

GOLDEN = Path(__file__).resolve().parent / "golden"
RECORD_FILES = sorted((GOLDEN / "records").glob("*.json"))
FOLD_FILES = sorted((GOLDEN / "folds").glob("*.json"))
NOW_MS = 1_600_000_000_000
"""The timestamp of a record that names none: 2020-09-13T12:26:40Z."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FATES = {LIVE: "live", TOMBSTONE: "tombstone", MARKER: "marker", DEAD: "dead letter"}

AT_ONCE, BACKWARDS, SLOWLY = "at once", "backwards", "slowly"
"""Ways of folding a log, which must all come to the same."""

Case = dict[str, Any]
Outcome = dict[str, Any]


# -- records


class Measured(Event):
    number: int | None = None
    ratio: float | None = None
    note: str | None = None
    ok: bool | None = None
    at: dt.datetime | None = None
    day: dt.date | None = None


class Labelled(Event):
    number: str | None = None
    note: str | None = None


CATEGORIES = {
    "odd": Category("odd", [Measured, Labelled]),
    "bare": Category(
        "bare", [Measured], envelope=plain(type=constant("Measured"), time=RECORD_TIME, subject=RECORD_KEY)
    ),
    "nested": Category(
        "nested", [Measured], envelope=plain(type="meta.kind", time="meta.at", subject="who.id", data="body.fields")
    ),
}


def bytes_of(value: Any) -> bytes | None:
    """The bytes that a file's value stands for."""
    if isinstance(value, list):
        return b"".join((part if isinstance(part, str) else part[0] * part[1]).encode() for part in value)
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return None if value is None else str(value).encode()


def records_of(cases: Sequence[Case]) -> pa.RecordBatch:
    """Records, schema ``RECORDS``; offsets count from 0 where a case names none."""
    columns = {
        "offset": [case.get("offset", at) for at, case in enumerate(cases)],
        "timestamp": [case.get("timestamp", NOW_MS) for case in cases],
        "timestamp_type": [0] * len(cases),
        "key": [bytes_of(case.get("key")) for case in cases],
        "value": [bytes_of(case["value"]) for case in cases],
        "headers": [None] * len(cases),
    }
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in RECORDS], schema=RECORDS)


def decoder(category: Category, *types: type[Event]) -> Decoder:
    """One that reads every field of these types (of all when none is named), and the subject."""
    asked = {event: [field.name for field in event.fields] for event in types or category.events}
    return Decoder(category, asked, subject=True)


def record_outcome(decoded: Decoded, row: int) -> Outcome:
    fate = FATES[int(decoded.fate[row])]
    if fate == "dead letter":
        return {"fate": fate, "reason": decoded.reasons[row]}
    if fate == "tombstone":
        return {"fate": fate}
    code = int(decoded.type_code[row])
    found: Outcome = {"fate": fate, "time": instant(EPOCH + dt.timedelta(microseconds=int(decoded.event_time[row])))}
    if fate == "marker":
        return found
    if code == OTHER_TYPE:
        return found | {"fate": "other type"}
    event = decoded.types[code]
    columns = [("subject", pa.string()), *((field.name, field.type) for field in event.fields)]
    values = {column[0]: plain_value(decoded.columns[column][row].as_py()) for column in columns}
    return found | {
        "type": event.type_name,
        "columns": {name: value for name, value in values.items() if value is not None},
        "invalid": [column[0] for column in columns if decoded.invalid[column][row]],
    }


def instant(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"


def plain_value(value: Any) -> Any:
    """A column's value as JSON has it; infinities and NaN, which it has not, in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dt.datetime):
        return instant(value)
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_value(item) for name, item in value.items()}
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, dt.date) else value


def recorded(file: Case) -> Case:
    """A file of records with what the code makes of each of them, alone."""
    reading = decoder(CATEGORIES[file["category"]])
    cases = [case | {"expect": record_outcome(reading.decode(records_of([case])), 0)} for case in file["cases"]]
    return file | {"cases": cases}


# -- folds


class Weighed(Event):
    number: int
    place: str | None = None
    size: float | None = None
    note: str | None = None
    day: dt.date | None = None


class Emptied(Event):
    place: str | None = None


scales = Category("scales", [Weighed, Emptied])
PROJECTIONS = {
    "windowed": Projection(
        name="windowed",
        category=scales,
        events=[Weighed],
        key=["place"],
        window=tumbling(dt.timedelta(seconds=10)),
        allowed_lateness=dt.timedelta(seconds=5),
        columns={
            "n": agg.count(),
            "total": agg.sum("number"),
            "mean_number": agg.mean("number"),
            "total_size": agg.sum("size"),
            "mean_size": agg.mean("size"),
            "least": agg.min("size"),
            "greatest": agg.max("size"),
        },
    ),
    "keyed": Projection(
        name="keyed",
        category=scales,
        key=["place"],
        columns={
            "n": agg.count(),
            "weighed": agg.count("number"),
            "first_note": agg.first("note"),
            "last_note": agg.last("note"),
            "least_note": agg.min("note"),
            "greatest_note": agg.max("note"),
            "last_size": agg.last("size"),
            "first_day": agg.min("day"),
            "since": agg.last("event_time"),
            "state": agg.last("event_type"),
        },
    ),
    "punctual": Projection(
        name="punctual",
        category=scales,
        events=[Weighed],
        window=tumbling(dt.timedelta(microseconds=3)),
        columns={"n": agg.count(), "heavy": agg.count(where=pl.col("number") > 1)},
    ),
    "overlapping": Projection(
        name="overlapping",
        category=scales,
        events=[Weighed],
        key=["place"],
        window=hopping(dt.timedelta(seconds=10), dt.timedelta(seconds=4)),
        allowed_lateness=dt.timedelta(seconds=1),
        columns={"n": agg.count(), "total_size": agg.sum("size"), "last_number": agg.last("number")},
    ),
    **{
        unit: Projection(
            name=f"by_{unit}",
            category=scales,
            events=[Weighed],
            window=calendar(unit, zone=zone),
            columns={"n": agg.count(), "total": agg.sum("number")},
        )
        for unit, zone in [("day", "America/Sao_Paulo"), ("week", "Pacific/Apia"), ("month", "Europe/Berlin")]
    },
    "visits": Projection(
        name="visits",
        category=scales,
        events=[Weighed],
        key=["place"],
        window=session(dt.timedelta(seconds=10)),
        allowed_lateness=dt.timedelta(seconds=30),
        columns={
            "n": agg.count(),
            "total_size": agg.sum("size"),
            "first_note": agg.first("note"),
            "last_note": agg.last("note"),
        },
    ),
}

CENTS = pl.col("note").cast(pl.Decimal(38, 2), strict=False)
PROJECTIONS |= {
    "gathered": Projection(
        name="gathered",
        category=scales,
        events=[Weighed],
        key=["place"],
        columns={
            "spread": agg.var("number"),
            "spread_of_all": agg.var("number", ddof=0),
            "spread_of_sizes": agg.std("size"),
            "note_of_least": agg.min_by("note", by="size"),
            "note_of_most": agg.max_by("note", by="size"),
            "number_of_last_note": agg.max_by("number", by="note"),
            "notes": agg.count_distinct("note"),
            "sizes": agg.count_distinct("size"),
            "first_notes": agg.collect("note", limit=3),
            "heaviest": agg.top(2, by="number", of={"number": "number", "note": "note", "day": "day"}),
            "lightest": agg.top(2, by="size", of="note", largest=False),
            "middle": agg.quantile("size", 0.5),
            "nearly_most": agg.quantile("number", 0.9, error=0.001),
        },
    ),
    "priced": Projection(
        name="priced",
        category=scales,
        events=[Weighed],
        key=["place"],
        columns={
            "total": agg.sum(CENTS),
            "mean": agg.mean(CENTS),
            "least": agg.min(CENTS),
            "greatest": agg.max(CENTS),
            "first": agg.first(CENTS),
            "last": agg.last(CENTS),
            "prices": agg.count(CENTS),
            "all": agg.collect(CENTS, limit=100),
        },
    ),
}


class Load(State):
    """What lies on a scale, taken on by ``loaded``."""

    number: int
    size: float | None = None
    note: str | None = None
    day: dt.date | None = None
    since: dt.datetime | None = None
    heavy: bool = False


def loaded(load: Load | None, event: Any) -> Load | None:
    if event.event_type == "Emptied":
        return None
    load = load or Load(0, since=event.event_time)
    load.number += event.number
    load.heavy = load.number > 100
    load.size, load.note, load.day = event.size, event.note, event.day
    if event.note == "broken":
        raise LookupError(f"after {load.number}")
    return load


PROJECTIONS["loads"] = Projection(name="loads", category=scales, key=["place"], fold=python_fold(Load, loaded))


def log_of(case: Case) -> list[pa.RecordBatch]:
    """The records of each partition of a fold; ``event`` is short for a value."""
    return [records_of([_with_value(record) for record in partition]) for partition in case["log"]]


def _with_value(record: Case) -> Case:
    if "event" not in record:
        return record
    return record | {"value": json.dumps(record["event"], separators=(",", ":"))}


def fold(case: Case, store: Path, way: str = AT_ONCE) -> Outcome:
    """What a view of the whole log says. AT_ONCE: a partition at a time, one commit; BACKWARDS: the same, the last
    partition first; SLOWLY: record by record, the last partition first, committed and reopened after each."""
    projection, log = PROJECTIONS[case["projection"]], log_of(case)
    progress = {(scales.name, partition): Progress(0) for partition in range(len(log))}
    with open_writer(store, projection.name, 1, table_specs(projection)) as writer:
        for pieces in _portions(log, way):
            progress = _fold_and_commit(projection, writer, progress, pieces)
        assert writer.manifest is not None
        return _told(writer, writer.manifest, progress)


def _portions(log: Sequence[pa.RecordBatch], way: str) -> Iterator[list[Slice]]:
    """What is folded between two commits."""
    whole = [Slice(scales.name, p, 0, _end(records), records) for p, records in enumerate(log)]
    if way != SLOWLY:
        yield whole if way == AT_ONCE else whole[::-1]
        return
    for part in reversed(whole):
        first = 0
        for row in range(part.records.num_rows):
            record = part.records.slice(row, 1)
            yield [Slice(scales.name, part.partition, first, _end(record), record)]
            first = _end(record)
    yield []


def _end(records: pa.RecordBatch) -> int:
    return int(records.column("offset")[-1].as_py()) + 1 if records.num_rows else 0


def _fold_and_commit(
    projection: Projection, writer: Writer, progress: dict[Place, Progress], pieces: Sequence[Slice]
) -> dict[Place, Progress]:
    stored = writer.read("partials")
    merge, found = merge_of(projection, progress, stored), split_partials(projection, stored)
    for piece in pieces:
        place = (piece.category, piece.partition)
        pipeline = PartitionPipeline(scales, [PartitionFold(projection, *place, progress[place], found.get(place))])
        pipeline.fold(piece)
        for delta in pipeline.deltas(end=True):
            merge.add(delta)
    writer.commit(merge.changes(), {"cut": cut_of(merge.progress)})
    return merge.progress


def _told(writer: Writer, manifest: Manifest, progress: dict[Place, Progress]) -> Outcome:
    return {
        "rows": [_without_nulls(row) for row in writer.read("rows").to_pylist()],
        "late": _places(writer, "late", "window_start", "watermark"),
        "dead_letters": _places(writer, "dead_letters", "reason"),
        "counts": [
            {name: count for name, count in _counts(facts).items() if count} for _, facts in sorted(progress.items())
        ],
        "digests": {name: manifest.tables[name].digest for name in ("rows", "late", "dead_letters")},
    }


def _counts(facts: Progress) -> dict[str, int]:
    return facts.counts | {"lost_contributions": facts.lost_contributions}


def _places(writer: Writer, table: str, *columns: str) -> list[Outcome]:
    names = ("partition", "offset", *columns)
    return [{name: plain_value(row[name]) for name in names} for row in writer.read(table).to_pylist()]


def _without_nulls(row: dict[str, Any]) -> Outcome:
    return {name: plain_value(value) for name, value in row.items() if value is not None}


def fold_outcome(case: Case, way: str = AT_ONCE) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="refold-golden-") as store:
        try:
            return fold(case, Path(store), way)
        except DataError as error:
            return {"error": error.what}


def folded(file: Case) -> Case:
    """A file of folds with what the code makes of each of them."""
    cases = [case | {"expect": fold_outcome(case)} for case in file["cases"]]
    for case in cases:
        if "expect_slowly" in case:
            case["expect_slowly"] = fold_outcome(case, SLOWLY)
    return file | {"cases": cases}


# -- files


def read(path: Path) -> Case:
    return json.loads(path.read_text())


def now(path: Path) -> Case:
    """A file as it would be written now."""
    return (recorded if path.parent.name == "records" else folded)(read(path))


def text(file: Case) -> str:
    """One line for what is short, so that a case can be read at a glance; ASCII, so that nothing is invisible."""
    return _laid_out(file, 0) + "\n"


def _laid_out(value: Any, indent: int) -> str:
    flat = json.dumps(value)
    if indent + len(flat) <= 150 or not isinstance(value, dict | list) or not value:
        return flat
    inner = indent + 1
    if isinstance(value, list):
        parts = [_laid_out(item, inner) for item in value]
    else:
        parts = [f"{json.dumps(name)}: {_laid_out(item, inner)}" for name, item in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    lines = ",\n".join(" " * inner + part for part in parts)
    return f"{opening}\n{lines}\n{' ' * indent}{closing}"


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in (["--show"], ["--write"]):
        print(__doc__)
        return 2
    different = 0
    for path in [*RECORD_FILES, *FOLD_FILES]:
        there, made = path.read_text(), text(now(path))
        name = str(path.relative_to(GOLDEN))
        lines = list(difflib.unified_diff(there.splitlines(), made.splitlines(), name, "now", lineterm="", n=3))
        print("\n".join(lines) if lines else f"{name}: as it was")
        different += bool(lines)
        if lines and arguments[0] == "--write":
            path.write_text(made)
    return 1 if different and arguments[0] == "--show" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
