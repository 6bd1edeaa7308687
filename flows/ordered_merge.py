"""The merge of an ordered projection: events wait until it is their turn, are joined, and are folded in one order.

The *frontier* is the least watermark of all partitions of all categories, less the allowed lateness. An event that is not late lies at
or after it, so all events before the frontier have come: their turn has come. They are taken in the order of (event time, right
stream first, partition, offset), however far each partition has been read, and so what is made of them at a cut is a function of
the log up to that cut. Nothing is decided when a commit is made: it may release more or less at a time, never in another order.

What waits, and what a join must remember, are rows of the table *pending* (``flows.waiting``); it is checkpointed with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from connectors.changes import Changes, Parts
from flows.delta import Delta
from flows.fold import PartitionFold
from flows.matching import Matches, matching
from flows.merge import Place, ViewMerge, split_partials
from flows.progress import NO_WATERMARK, Progress
from flows.projection import Projection
from flows.waiting import (
    NOT_STORED,
    SEEN,
    WAITING,
    Held,
    Ints,
    Mask,
    as_pending,
    in_order,
    keys_of,
    of_pending,
    pending_spec,
)
from schemas.decode import LIVE, Decoded

TOGETHER: Place = ("", 0)
"""Where partials of what was folded in one order are kept."""
WAITING_MAX = 1 << 20
"""Rows that wait before those whose turn has come are taken, commit or not."""


class OrderedMerge(ViewMerge):
    """``inner``: makes the merge of what is folded in order."""

    def __init__(
        self,
        projection: Projection,
        progress: Mapping[Place, Progress],
        stored: Callable[[str], pa.Table] | None,
        inner: Callable[[Projection, Mapping[Place, Progress], pa.Table | None], ViewMerge],
    ) -> None:
        self._arrived: dict[str, list[pa.RecordBatch]] = {category: [] for category in projection.sides}
        self._arrivals = 0  # rows in them
        self._told = {place: facts.copy() for place, facts in progress.items()}
        self._refused = dict.fromkeys(progress, 0)
        super().__init__(projection, progress, None)
        partials = stored("partials") if stored else None
        here = Progress(0, self._least_watermark())
        self._inner = inner(projection, {TOGETHER: here}, partials)
        found = split_partials(projection, partials).get(TOGETHER) if partials is not None else None
        self._fold = PartitionFold(projection, *TOGETHER, here, found)
        self._recall(stored("pending") if stored else pending_spec(projection).schema.empty_table())
        self._gone: list[pa.BinaryArray] = []

    def _recall(self, pending: pa.Table) -> None:
        projection = self.projection
        self._waiting = {category: Held(side.folded_schema) for category, side in projection.sides.items()}
        for category, held in self._waiting.items():
            rows = of_pending(projection, category, pending, is_seen=False)
            held.append(rows, np.full(len(rows), WAITING, np.int8))
        assert projection.source is not None
        seen = [of_pending(projection, category, pending, is_seen=True) for category in projection.sides]
        self._matching = matching(projection.source, seen)
        for held in self._matching.kept:
            held.stored[:] = SEEN

    def add(self, delta: Delta) -> None:
        self._told[(delta.category, delta.partition)] = delta.progress.copy()
        super().add(delta)

    def _take(self, place: Place, delta: Delta) -> None:
        self._arrived[place[0]].append(delta.groups)
        self.changed_groups += delta.groups.num_rows
        self._arrivals += delta.groups.num_rows
        if self.projection.select:
            self.kept_bytes += delta.groups.nbytes  # about what comes of them
        if self._arrivals > WAITING_MAX:
            self._release()

    def settled(self, instants: Ints) -> Mask:
        return self._inner.settled(instants)

    def final_groups(self) -> int:
        return self._inner.final_groups()

    def changes(self) -> dict[str, Changes | Parts]:
        self._release()
        self._settle_counts()
        return super().changes()

    def _tables(self) -> dict[str, Changes | Parts]:
        watermark = self._least_watermark()
        self._fold.progress.watermark = watermark
        folded = self._fold.delta()
        self._dead.append(folded.dead_letters)
        self._inner.add(folded)
        found = self._inner.changes()
        return {"rows": found["rows"], "partials": found["partials"], "pending": self._pending_changes(watermark)}

    # -- whose turn it is

    def _least_watermark(self) -> int:
        return min(facts.watermark for facts in self.progress.values())

    def _frontier(self, watermark: int) -> int:
        return NO_WATERMARK if watermark == NO_WATERMARK else watermark - self.projection.allowed_lateness_us

    def _release(self) -> None:
        """Take the rows before the frontier, in order, and fold what comes of them."""
        for category, batches in self._arrived.items():
            held = self._waiting[category]
            held.append(pa.Table.from_batches(batches, held.table.schema))
        self._arrived, self._arrivals = {category: [] for category in self._arrived}, 0
        frontier = self._frontier(self._least_watermark())
        released = [self._released(category, frontier) for category in self.projection.sides]
        if any(len(rows) for rows in released):
            self._fold_matches(self._matching.match(released))

    def _released(self, category: str, frontier: int) -> pa.Table:
        held = self._waiting[category]
        turn = held.times() < frontier
        if not turn.any():
            return held.table.slice(0, 0)
        rows = held.table.filter(pa.array(turn))
        self._forget(category, rows.filter(pa.array(held.stored[turn] != NOT_STORED)))
        held.keep(~turn)
        return rows.take(pa.array(in_order(rows)))

    def _forget(self, category: str, stored: pa.Table) -> None:
        if len(stored):
            self._gone.append(keys_of(category, stored))

    # -- what is made of them

    def _fold_matches(self, matches: Matches) -> None:
        n = len(matches.time)
        if not n:
            return
        projection = self.projection
        decoded = Decoded((), np.full(n, LIVE, np.uint8), matches.time, np.full(n, -1, np.int32), {})
        assert projection.source is not None
        for name, (side, own) in projection.source.names().items():
            if name in projection.reads:
                column = (name, projection.fields[name].type)
                decoded.columns[column] = _picked(matches, side, f"own:{own}")
                decoded.invalid[column] = np.zeros(n, np.bool_)
        places = [
            _picked(matches, int(name.startswith("right_")), name.removeprefix("right_")) for name in projection.place
        ]
        left = next(iter(projection.sides))
        partition, offset = (_picked(matches, 0, name) for name in ("partition", "offset"))
        of = [pa.repeat(pa.scalar(left, pa.string()), n), partition, offset]
        for row in self._fold.fold_in_order(decoded, places, of).tolist():
            self._refused[(left, partition[row].as_py())] += 1

    # -- the books, and what is remembered

    def _settle_counts(self) -> None:
        """A partition counts as folded what was in time: here it is told apart from what still waits, and from what was refused."""
        for category, held in self._waiting.items():
            partitions = np.asarray(held.table.column("partition").combine_chunks()).astype(np.int64)
            waiting = np.bincount(partitions, minlength=1)
            for place, facts in self.progress.items():
                if place[0] == category:
                    told, refused = self._told[place].counts, self._refused[place]
                    pending = int(waiting[place[1]]) if place[1] < len(waiting) else 0
                    facts.counts["pending"] = pending
                    facts.counts["folded"] = told["folded"] + told["pending"] - pending - refused
                    facts.counts["dead_letters"] = told["dead_letters"] + refused

    def _pending_changes(self, watermark: int) -> Changes:
        """Rows that the table has not, or not as they are, and keys of those that it should not have."""
        needed = self._matching.needed(self._frontier(watermark))
        upserts = [pending_spec(self.projection).schema.empty_table()]
        for category, held, mask in zip(self.projection.sides, self._matching.kept, needed, strict=False):
            self._forget(category, held.table.filter(pa.array(~mask & (held.stored == SEEN))))
            held.stored[~mask] = NOT_STORED
            upserts.append(self._unsaid(category, held, mask, SEEN))
        for category, held in self._waiting.items():
            upserts.append(self._unsaid(category, held, np.ones(len(held), np.bool_), WAITING))
        self._tidy(needed)
        gone, self._gone = self._gone, []
        return Changes(pa.concat_tables(upserts), pa.concat_arrays(gone) if gone else None)

    def _unsaid(self, category: str, held: Held, mask: Mask, what: int) -> pa.Table:
        new = mask & (held.stored != what)
        held.stored[new] = what
        return as_pending(self.projection, category, held.table.filter(pa.array(new)), what == SEEN)

    def _tidy(self, needed: Sequence[Mask]) -> None:
        """Let go of what nobody can meet any more, when that is half of what is kept: it costs a copy of the rest."""
        there = sum(int(np.count_nonzero(mask)) for mask in needed)
        if 2 * there < sum(len(mask) for mask in needed):
            self._matching.keep(needed)


def _picked(matches: Matches, side: int, name: str) -> pa.Array:
    """A column of one side, of each match; null where there is no row of that side."""
    rows = matches.rows[side]
    taken = matches.tables[side].column(name).take(pa.array(rows, mask=rows < 0))
    return taken.combine_chunks()
