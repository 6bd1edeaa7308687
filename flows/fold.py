"""The fold of one projection over one partition: a left fold in offset order, with nothing but the log to shape it.

``PartitionFold`` holds the open windows of its partition. After each slice it can give a ``Delta``: the partials of the groups that
changed, the records that were late or dead, and where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.log import Slice
from flows import verdicts as verdict
from flows.changed import ChangedGroups
from flows.delta import DEAD_LETTERS, LATE, Delta
from flows.entities import Entities, entities_of, without_rows
from flows.evaluation import compute, truth
from flows.event_table import EventRows
from flows.grouping import distinct_rows, renumber
from flows.hops import Hops
from flows.partials import NO_GROUPS, Partials
from flows.progress import NO_WATERMARK, Progress
from flows.projection import Projection
from flows.sessions import Sessions
from flows.told import Told
from flows.verdicts import Judge, Verdicts
from flows.windows import Hopping, Session
from schemas.canonical import encode
from schemas.decode import SUBJECT, Decoded
from schemas.dictionary import plain
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class PartitionFold:
    """One projection, one partition. ``resume``: where the view stood, and its partials of this partition."""

    def __init__(
        self, projection: Projection, category: str, partition: int, resume: Progress, partials: pa.RecordBatch | None
    ) -> None:
        self.projection, self.category, self.partition = projection, category, partition
        self._judge = Judge(projection)
        self._plain, self._computed = _split(projection.expressions(), projection.reads)
        self._event_rows = EventRows(projection) if projection.select else None
        self._entities = entities_of(projection)
        self.progress = resume.copy()
        self._partials = Sessions(projection) if isinstance(projection.window, Session) else Partials(projection)
        if partials is not None:
            self._partials.load(partials)
            self._drop_closed()
        self._changed = ChangedGroups()
        self._start = resume.next_offset
        self._late: list[pa.RecordBatch] = []
        self._dead: list[pa.RecordBatch] = []

    def fold(self, part: Slice, decoded: Decoded, hashes: npt.NDArray[np.uint64], marks: Ints, watermark: int) -> None:
        """Fold a slice that begins at this fold's position. ``marks``: the watermark before every record."""
        assert part.first_offset == self.progress.next_offset, "slices follow each other"
        window = self.projection.window
        starts = window.starts(decoded.event_time) if window else None
        ends = window.ends(starts) if window and starts is not None else None
        verdicts, counts = self._judge.verdicts(decoded, ends, marks, self._passes(decoded))
        hops = self._hops(decoded, starts, marks)
        if counts["late"] or (hops and hops.some_are_lost):
            self._keep_late(part, decoded, marks, verdicts, starts, hops)
        refused = self._take_entities_on(self._entities, part, decoded, verdicts, counts) if self._entities else {}
        if counts["dead_letters"]:
            self._keep_dead(part, decoded, np.flatnonzero(verdicts == verdict.DEAD_LETTER), refused)
        if counts["folded"] and not self._entities:
            everything = counts["folded"] == len(verdicts)
            rows = None if everything else np.flatnonzero(verdicts == verdict.FOLDED)
            if self._event_rows is not None:
                self._event_rows.add(self._place(part, None)[1:], rows, self._evaluate(decoded, rows))
            else:
                self._fold_rows(decoded, rows, starts, hops)
        self.progress.count(len(verdicts), counts)
        self._advance(part, hashes, watermark)

    def fold_in_order(self, decoded: Decoded, places: Sequence[pa.Array], of: Sequence[pa.Array]) -> Ints:
        """Fold rows whose turn has come: none of them is late. ``places``: the key of an event table; ``of``: category, partition and
        offset of the events. Returns the rows that a Python fold refused, which are dead letters."""
        n = len(decoded.event_time)
        passes = self._passes(decoded)
        rows = None if not len(passes) or passes.all() else np.flatnonzero(passes)
        self.progress.next_offset += n
        if self._entities is not None:
            return self._take_on_in_order(self._entities, decoded, np.arange(n) if rows is None else rows, of)
        if self._event_rows is not None:
            self._event_rows.add(places, rows, self._evaluate(decoded, rows))
        elif rows is None or len(rows):
            starts = self.projection.window.starts(decoded.event_time) if self.projection.window else None
            self._fold_rows(decoded, rows, starts, self._hops(decoded, starts, np.full(n, NO_WATERMARK)))
        return np.empty(0, np.int64)

    def _take_on_in_order(self, entities: Entities, decoded: Decoded, rows: Ints, of: Sequence[pa.Array]) -> Ints:
        """The same with a Python fold. The bytes of what it refuses are no longer at hand: the place says where they are."""
        values = self._evaluate(decoded, rows)
        ids = self._group_ids([values[f"key:{name}"] for name in self.projection.key], len(rows))
        category, partition, offset = (column.take(pa.array(rows)) for column in of)
        refused = entities.run(
            self._partials.states[0], ids, values, lambda i: f"{category[i]}/{partition[i]} at offset {offset[i]}"
        )
        self._changed.mark(without_rows(ids, refused), len(self._partials))
        found = np.array(sorted(refused), np.int64)
        if len(found):
            place = [column.take(pa.array(found)) for column in (category, partition, offset)]
            bytes_ = pa.nulls(len(found), pa.binary())
            reasons = pa.array([refused[row] for row in found.tolist()], pa.string())
            self._dead.append(pa.record_batch([*place, bytes_, bytes_, reasons], schema=DEAD_LETTERS))
        return rows[found]

    def delta(self) -> Delta:
        """Everything since the last delta; closed windows are then forgotten here (the view keeps them until final)."""
        delta = self._delta(self._partials.told)
        self._drop_closed()
        return delta

    def last_delta(self, *, is_here: bool) -> Delta:
        """The same when nothing is folded any more. ``is_here``: whether this process writes the view, which then has all that is here."""
        return self._delta(self._partials.handed_over if is_here else self._partials.told, end=True)

    def _delta(self, tell: Callable[[Ints], Told], *, end: bool = False) -> Delta:
        ids = self._changed.take(len(self._partials))
        groups, gone, told = (self._event_rows.take(), NO_GROUPS, None) if self._event_rows else tell(ids)
        delta = Delta(
            self.view,
            self.category,
            self.partition,
            self._start,
            self.progress.copy(),
            groups,
            pa.Table.from_batches(self._late, LATE),
            pa.Table.from_batches(self._dead, DEAD_LETTERS),
            end,
            gone,
            told,
        )
        self._start = self.progress.next_offset
        self._late, self._dead = [], []
        return delta

    @property
    def view(self) -> str:
        return self.projection.title

    @property
    def can_wait(self) -> bool:
        """Whether it takes no more room, and hardly more time, to tell later of more: groups stay here in any case."""
        return self.projection.window is None and self._event_rows is None and not self._dead

    @property
    def has_moved(self) -> bool:
        return self.progress.next_offset > self._start

    @property
    def changed_groups(self) -> int:
        """Or rows of an event table: what a delta would carry."""
        return len(self._changed) if self._event_rows is None else len(self._event_rows)

    # -- folding

    def _hops(self, decoded: Decoded, starts: Ints | None, marks: Ints) -> Hops | None:
        window = self.projection.window
        if starts is None or not isinstance(window, Hopping):
            return None
        return Hops(window, decoded.event_time, starts, marks, self.projection.allowed_lateness_us)

    def _fold_rows(self, decoded: Decoded, rows: Ints | None, starts: Ints | None, hops: Hops | None) -> None:
        """Fold these rows (None: all)."""
        values = self._evaluate(decoded, rows)
        time = decoded.event_time if rows is None else decoded.event_time[rows]
        keys = [values[f"key:{name}"] for name in self.projection.key]
        inputs = [acc.value(values) for acc in self.projection.accumulators]
        counts = [
            _contributes(value, values.get(f"where:{acc.name}"))
            for acc, value in zip(self.projection.accumulators, inputs, strict=True)
        ]
        for ids, some in self._placed(keys, time, rows, starts, hops):
            when = time if some is None else time[some]
            accumulators = zip(self.projection.accumulators, self._partials.states, inputs, counts, strict=True)
            for acc, state, value, ok in accumulators:
                acc.update(state, ids, _at(ok, some), _picked(value, some), when)
            self._changed.mark(ids, len(self._partials))

    def _take_entities_on(
        self, entities: Entities, part: Slice, decoded: Decoded, verdicts: Verdicts, counts: dict[str, int]
    ) -> Mapping[int, str]:
        """Fold with a Python fold. What it refuses, with the reasons, are dead letters after all."""
        rows = np.flatnonzero(verdicts == verdict.FOLDED)
        if not len(rows):
            return {}
        values = self._evaluate(decoded, None if len(rows) == len(verdicts) else rows)
        ids = self._group_ids([values[f"key:{name}"] for name in self.projection.key], len(rows))
        place = f"{part.category}/{part.partition}"
        offsets = part.records.column("offset").take(pa.array(rows))
        refused = entities.run(self._partials.states[0], ids, values, lambda row: f"{place} at offset {offsets[row]}")
        self._changed.mark(without_rows(ids, refused), len(self._partials))
        found = {int(rows[row]): reason for row, reason in refused.items()}
        verdicts[list(found)] = verdict.DEAD_LETTER
        counts["folded"] -= len(found)
        counts["dead_letters"] += len(found)
        return found

    def _placed(
        self, keys: list[pa.Array], time: Ints, rows: Ints | None, starts: Ints | None, hops: Hops | None
    ) -> Iterator[tuple[Ints, Ints | None]]:
        """Groups, and the positions of what is to be folded into them (None: all): portions that follow each other."""
        if isinstance(self._partials, Sessions):
            yield from self._partials.portions(keys, time)
            return
        if hops is not None:
            yield from hops.groups(rows, keys, self._intern)
            return
        if starts is not None:
            keys = [pa.array(starts if rows is None else starts[rows]).cast(TIMESTAMP), *keys]
        yield self._group_ids(keys, len(time)), None

    def _group_ids(self, keys: list[pa.Array], n: int) -> Ints:
        """The group of each row. Only the distinct keys of the slice are encoded and looked up."""
        if not keys:
            assert isinstance(self._partials, Partials)
            return np.zeros(n, np.int64) + self._partials.intern(pa.array([b""], pa.binary()))
        ids, firsts = distinct_rows(keys)
        rows = pa.array(firsts)
        renumber(ids, self._intern([plain(key.take(rows)) for key in keys]))
        return ids

    def _intern(self, keys: list[pa.Array]) -> Ints:
        """``keys``: the columns of the groups' keys; that of the windows' starts comes first."""
        assert isinstance(self._partials, Partials)
        starts = np.asarray(keys[0].cast(pa.int64())) if self.projection.window else None
        return self._partials.intern(encode(keys), starts)

    def _evaluate(self, decoded: Decoded, rows: Ints | None) -> dict[str, pa.Array]:
        """All expressions at ``rows``, in their canonical types. Plain columns never leave Arrow."""
        columns = {name: self._column(decoded, name, rows) for name in self.projection.reads}
        found = {}
        for name, column in self._plain.items():
            array = columns[column]
            found[name] = array if name.startswith(("key:", "fold:")) else plain(array)
        if self._computed:
            n = len(decoded.fate) if rows is None else len(rows)
            computed = self._compute(columns, n, self._computed)
            found |= {name: array.cast(self.projection.types[name]) for name, array in computed.items()}
        return found

    def _passes(self, decoded: Decoded) -> Mask:
        """Which records the filter lets through; empty when there is none."""
        if self.projection.where is None:
            return np.empty(0, np.bool_)
        columns = {name: self._column(decoded, name, None) for name in self.projection.reads}
        return truth(self._compute(columns, len(decoded.fate), {"where": self.projection.where})["where"])

    def _compute(self, columns: Mapping[str, pa.Array], n: int, wanted: Mapping[str, pl.Expr]) -> dict[str, pa.Array]:
        given = {name: plain(array) for name, array in columns.items()}
        return compute(given, n, self.projection.derive, wanted)

    def _column(self, decoded: Decoded, name: str, rows: Ints | None) -> pa.Array:
        if name == "event_time" and name in self.projection.built_in:
            return pa.array(decoded.event_time if rows is None else decoded.event_time[rows]).cast(TIMESTAMP)
        if name == "event_type" and name not in self.projection.fields:
            names = pa.array([event.type_name for event in decoded.types], pa.string())
            codes = decoded.type_code if rows is None else decoded.type_code[rows]
            return names.take(pa.array(codes, mask=codes < 0))  # types that nobody reads have no name here
        column = (
            SUBJECT
            if name == "subject" and name not in self.projection.fields
            else (name, self.projection.fields[name].type)
        )
        array = decoded.columns[column]
        return array if rows is None else array.take(pa.array(rows))

    def _drop_closed(self) -> None:
        if self.projection.window is None or not len(self._partials):
            return
        closed = self._partials.ended(self.progress.watermark - self.projection.held_us)
        if 2 * len(closed) > len(self._partials):  # dropping costs a copy: let them be until it pays
            self._partials.drop(closed)

    # -- what is kept of the records, and the books

    def _keep_late(
        self, part: Slice, decoded: Decoded, marks: Ints, verdicts: Verdicts, starts: Ints | None, hops: Hops | None
    ) -> None:
        assert starts is not None
        rows = np.flatnonzero(verdicts == verdict.LATE)
        late = starts[rows]
        if hops is not None:
            rows, late = hops.lost(np.flatnonzero((verdicts == verdict.LATE) | (verdicts == verdict.FOLDED)))
            self.progress.lost_contributions += int(np.count_nonzero(verdicts[rows] == verdict.FOLDED))
        times = [late, decoded.event_time[rows], marks[rows]]
        columns = [*self._place(part, rows), *(pa.array(time).cast(TIMESTAMP) for time in times)]
        columns += [self._column(decoded, "event_type", rows), *self._raw(part, rows)]
        self._late.append(pa.record_batch(columns, schema=LATE))

    def _keep_dead(self, part: Slice, decoded: Decoded, rows: Ints, refused: Mapping[int, str]) -> None:
        found = [refused[row] if row in refused else self._judge.reason(decoded, row) for row in rows.tolist()]
        reasons = pa.array(found, pa.string())
        self._dead.append(
            pa.record_batch([*self._place(part, rows), *self._raw(part, rows), reasons], schema=DEAD_LETTERS)
        )

    def _place(self, part: Slice, rows: Ints | None) -> list[pa.Array]:
        """Category, partition and offset of these rows (None: of all)."""
        offsets = part.records.column("offset")
        offsets = offsets if rows is None else offsets.take(pa.array(rows))
        category = pa.repeat(pa.scalar(part.category, pa.string()), len(offsets))
        return [category, pa.repeat(pa.scalar(part.partition, pa.int32()), len(offsets)), offsets]

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


def _at(ok: Mask, some: Ints | None) -> Mask:
    return ok if some is None or not len(ok) else ok[some]


def _picked(values: pa.Array | None, some: Ints | None) -> pa.Array | None:
    return values if values is None or some is None else values.take(pa.array(some))


def _split(expressions: Mapping[str, pl.Expr], reads: Sequence[str]) -> tuple[dict[str, str], dict[str, pl.Expr]]:
    """The expressions that are a column of the event as it is, with its name, and those to be computed."""
    direct: dict[str, str] = {}
    for name, expression in expressions.items():
        roots = expression.meta.root_names()
        if len(roots) == 1 and roots[0] in reads and expression.meta.eq(pl.col(roots[0])):
            direct[name] = roots[0]
    return direct, {name: found.alias(name) for name, found in expressions.items() if name not in direct}
