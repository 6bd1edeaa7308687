"""The fold of one projection over one partition: a left fold in offset order, with nothing but the log to shape it.

``PartitionFold`` holds the open windows of its partition. After each slice it can give a ``Delta``: the *absolute*
partials of the groups that changed (not increments), the records that were late or dead, and where it stands. So a
delta may be sent late, joined with others or repeated without changing the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.log import Slice
from flows import kernels
from flows import verdicts as verdict
from flows.grouping import distinct_rows, renumber
from flows.partials import Partials
from flows.progress import Progress
from flows.projection import Projection
from flows.verdicts import Judge
from schemas.canonical import encode
from schemas.decode import SUBJECT, Decoded
from schemas.dictionary import plain
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_PLACE = [
    pa.field("category", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
]
LATE = pa.schema(
    [
        *_PLACE,
        pa.field("window_start", TIMESTAMP, nullable=False),
        pa.field("event_time", TIMESTAMP, nullable=False),
        pa.field("watermark", TIMESTAMP, nullable=False),  # of the partition, before the record
        pa.field("event_type", pa.string()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
"""Late events, one row per record and window it was too late for."""
DEAD_LETTERS = pa.schema(
    [
        *_PLACE,
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Records that could not be decoded or folded."""


@dataclass(slots=True)
class Delta:
    """What one partition has to say to its view. ``start`` is the position that the previous delta ended at."""

    view: str
    category: str
    partition: int
    start: int
    progress: Progress
    groups: pa.RecordBatch
    late: pa.Table
    dead_letters: pa.Table
    end: bool = False
    ids: Ints | None = None
    """The ids of the groups in the fold, which has them from its partials and then in order of appearance; None where it forgets some."""


class PartitionFold:
    """One projection, one partition. ``resume``: where the view stood, and its partials of this partition."""

    def __init__(
        self, projection: Projection, category: str, partition: int, resume: Progress, partials: pa.RecordBatch | None
    ) -> None:
        self.projection, self.category, self.partition = projection, category, partition
        self._judge = Judge(projection)
        self._plain, self._computed = _split(projection.expressions())
        self.progress = resume.copy()
        self._partials = Partials(projection)
        if partials is not None:
            self._partials.put(partials)
            self._drop_closed()
        self._is_changed: Mask = np.zeros(0, np.bool_)  # may be longer than there are groups
        self._changed: list[Ints] = []  # the ids of those, none twice
        self._start = resume.next_offset
        self._late: list[pa.RecordBatch] = []
        self._dead: list[pa.RecordBatch] = []

    def fold(self, part: Slice, decoded: Decoded, hashes: npt.NDArray[np.uint64], marks: Ints, watermark: int) -> None:
        """Fold a slice that begins at this fold's position. ``marks``: the watermark before every record."""
        assert part.first_offset == self.progress.next_offset, "slices follow each other"
        starts = self.projection.window.starts(decoded.event_time) if self.projection.window else None
        verdicts, counts = self._judge.verdicts(decoded, starts, marks)
        if counts["late"]:
            self._keep_late(part, decoded, marks, np.flatnonzero(verdicts == verdict.LATE))
        if counts["dead_letters"]:
            self._keep_dead(part, decoded, np.flatnonzero(verdicts == verdict.DEAD_LETTER))
        if counts["folded"]:
            everything = counts["folded"] == len(verdicts)
            self._fold_rows(decoded, None if everything else np.flatnonzero(verdicts == verdict.FOLDED), starts)
        self.progress.count(len(verdicts), counts)
        self._advance(part, hashes, watermark)

    def delta(self, *, end: bool = False) -> Delta:
        """Everything since the last delta; closed windows are then forgotten here (the view keeps them until final)."""
        ids = np.sort(np.concatenate([np.empty(0, np.int64), *self._changed]))
        delta = Delta(
            self.projection.title,
            self.category,
            self.partition,
            self._start,
            self.progress.copy(),
            self._partials.get(ids),
            pa.Table.from_batches(self._late, LATE),
            pa.Table.from_batches(self._dead, DEAD_LETTERS),
            end,
            ids if self.projection.window is None else None,
        )
        self._start = self.progress.next_offset
        self._late, self._dead = [], []
        self._is_changed[ids] = False
        self._changed = []
        self._drop_closed()
        return delta

    @property
    def has_moved(self) -> bool:
        return self.progress.next_offset > self._start

    @property
    def changed_groups(self) -> int:
        return sum(map(len, self._changed))

    # -- folding

    def _fold_rows(self, decoded: Decoded, rows: Ints | None, starts: Ints | None) -> None:
        """Fold these rows (None: all)."""
        values = self._evaluate(decoded, rows)
        time = decoded.event_time if rows is None else decoded.event_time[rows]
        keys = [values[f"key:{name}"] for name in self.projection.key]
        if starts is not None:
            keys = [pa.array(starts if rows is None else starts[rows]).cast(TIMESTAMP), *keys]
        ids = self._group_ids(keys, len(time))
        for acc, state in zip(self.projection.accumulators, self._partials.states, strict=True):
            value = values.get(f"input:{acc.name}")
            acc.update(state, ids, _contributes(value, values.get(f"where:{acc.name}")), value, time)
        self._mark_changed(ids)

    def _group_ids(self, keys: list[pa.Array], n: int) -> Ints:
        """The group of each row. Only the distinct keys of the slice are encoded and looked up."""
        if not keys:
            return np.zeros(n, np.int64) + self._partials.intern(pa.array([b""], pa.binary()))
        ids, firsts = distinct_rows(keys)
        rows = pa.array(firsts)
        renumber(ids, self._partials.intern(encode([plain(key.take(rows)) for key in keys])))
        return ids

    def _evaluate(self, decoded: Decoded, rows: Ints | None) -> dict[str, pa.Array]:
        """All expressions at ``rows``, in their canonical types. Plain columns never leave Arrow."""
        columns = {name: self._column(decoded, name, rows) for name in self.projection.reads}
        found = {}
        for name, column in self._plain.items():
            array = columns[column]
            found[name] = array if name.startswith("key:") else plain(array)
        if self._computed:
            n = len(decoded.fate) if rows is None else len(rows)
            frame = (
                pl.DataFrame([pl.Series(name, plain(array)) for name, array in columns.items()])
                if columns
                else pl.DataFrame({"": np.zeros(n, np.int64)})
            )
            table = frame.select(**self._computed).to_arrow()
            for name in self._computed:
                array = table.column(name).combine_chunks()
                array = pa.repeat(array[0], n) if len(array) == 1 != n else array
                found[name] = array.cast(self.projection.types[name])
        return found

    def _column(self, decoded: Decoded, name: str, rows: Ints | None) -> pa.Array:
        if name == "event_time":
            return pa.array(decoded.event_time if rows is None else decoded.event_time[rows]).cast(TIMESTAMP)
        if name == "event_type":
            names = pa.array([event.type_name for event in decoded.types], pa.string())
            return names.take(pa.array(decoded.type_code if rows is None else decoded.type_code[rows]))
        column = (
            SUBJECT
            if name == "subject" and name not in self.projection.fields
            else (name, self.projection.fields[name].type)
        )
        array = decoded.columns[column]
        return array if rows is None else array.take(pa.array(rows))

    def _mark_changed(self, ids: Ints) -> None:
        if len(self._is_changed) < len(self._partials):
            larger = np.zeros(2 * len(self._partials), np.bool_)
            larger[: len(self._is_changed)] = self._is_changed
            self._is_changed = larger
        fresh = np.empty(len(ids), np.int64)
        count = kernels.mark(ids, self._is_changed, fresh)
        self._changed.append(fresh[:count].copy())

    def _drop_closed(self) -> None:
        window = self.projection.window
        if window is None or not len(self._partials):
            return
        closed = self._partials.before(self.progress.watermark - window.size_us - self.projection.allowed_lateness_us)
        if 2 * len(closed) > len(self._partials):  # dropping costs a copy: let them be until it pays
            self._partials.drop(closed)

    # -- what is kept of the records, and the books

    def _keep_late(self, part: Slice, decoded: Decoded, marks: Ints, rows: Ints) -> None:
        assert self.projection.window is not None
        starts = self.projection.window.starts(decoded.event_time[rows])
        times = [starts, decoded.event_time[rows], marks[rows]]
        columns = [*self._place(part, rows), *(pa.array(time).cast(TIMESTAMP) for time in times)]
        columns += [self._column(decoded, "event_type", rows), *self._raw(part, rows)]
        self._late.append(pa.record_batch(columns, schema=LATE))

    def _keep_dead(self, part: Slice, decoded: Decoded, rows: Ints) -> None:
        reasons = pa.array([self._judge.reason(decoded, row) for row in rows.tolist()], pa.string())
        self._dead.append(
            pa.record_batch([*self._place(part, rows), *self._raw(part, rows), reasons], schema=DEAD_LETTERS)
        )

    def _place(self, part: Slice, rows: Ints) -> list[pa.Array]:
        n = len(rows)
        return [
            pa.array([part.category] * n),
            pa.array([part.partition] * n, pa.int32()),
            part.records.column("offset").take(pa.array(rows)),
        ]

    def _raw(self, part: Slice, rows: Ints) -> list[pa.Array]:
        return [part.records.column(name).take(pa.array(rows)) for name in ("key", "value")]

    def _advance(self, part: Slice, hashes: npt.NDArray[np.uint64], watermark: int) -> None:
        progress = self.progress
        progress.next_offset = part.next_offset
        progress.watermark = watermark
        progress.missing += part.missing
        progress.leader_epoch = part.leader_epoch  # of the last batch, with records or without: whatever the slices are
        if len(hashes):
            progress.last_offset = part.last_offset
            progress.last_hash = int(hashes[-1])
            progress.log_digest = (progress.log_digest + int(hashes.sum(dtype=np.uint64))) % 2**64


def _contributes(value: pa.Array | None, where: pa.Array | None) -> Mask:
    """Which rows count; an empty mask means all of them."""
    ok = np.asarray(value.is_valid()) if value is not None and value.null_count else np.empty(0, np.bool_)
    if where is None:
        return ok
    chosen = np.asarray(pc.fill_null(where, False))
    return ok & chosen if len(ok) else chosen


def _split(expressions: Mapping[str, pl.Expr]) -> tuple[dict[str, str], dict[str, pl.Expr]]:
    """The expressions that are a column as it is, with its name, and those to be computed."""
    direct: dict[str, str] = {}
    for name, expression in expressions.items():
        roots = expression.meta.root_names()
        if len(roots) == 1 and expression.meta.eq(pl.col(roots[0])):
            direct[name] = roots[0]
    return direct, {name: found.alias(name) for name, found in expressions.items() if name not in direct}
