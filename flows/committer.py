"""The last stage: one writer per view, that merges deltas and decides when to commit.

Any moment is a valid moment: a commit takes whatever deltas have come, and its cut says what that is. So pacing may
follow the clock without touching what is written (``flows.pacing``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from connectors.clock import monotonic
from connectors.collect import GRACE_S, collect
from connectors.manifest import Manifest
from connectors.retiring import remove_retired
from connectors.table import Writer
from flows.delta import Delta
from flows.facts import Standing, facts_of
from flows.merge import Place, ViewMerge
from flows.merging import merge_of
from flows.pacing import Pacing
from flows.projection import Projection
from schemas.errors import DataError

SHAPE_SAMPLE = 10_000
"""Records of a category after which a run asks whether they are events at all."""
COLLECTION_S = 60.0
KEPT_BYTES_MAX = 1 << 27
"""Of late events, dead letters and rows of events: with more a view commits, since it only gathers them."""
FINAL_GROUPS_MAX = 1 << 18
"""Final groups that a view holds; with more it commits, whatever that takes: only a commit lets go of them, and as each is written
once, waiting would save nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``interval_s``: seconds between commits (None: see ``flows.pacing``). ``allow_dead_letters``: go on even if most records are dead."""

    interval_s: float | None = None
    allow_dead_letters: bool = False


class Committer:
    """Owns the writer of one view while a job runs."""

    def __init__(
        self,
        projection: Projection,
        writer: Writer,
        standing: Standing,
        pace: Pace,
        close: Callable[[Writer], None],
        *,
        ends: bool,
    ) -> None:
        """``ends``: whether the job ends by itself; ``close``: what to do with the writer in the end."""
        self.projection, self.writer, self._standing, self._pace, self._close = (
            projection,
            writer,
            standing,
            pace,
            close,
        )
        stored = writer.read if writer.manifest else None
        self.merge: ViewMerge = merge_of(projection, standing.progress, stored)
        self._ended: set[Place] = set()
        self._pacing = Pacing(pace.interval_s, monotonic(), ends=ends)
        self._collection_due = monotonic() + COLLECTION_S

    def add(self, delta: Delta) -> None:
        self.merge.add(delta)
        if delta.end:
            self._ended.add((delta.category, delta.partition))

    def is_due(self) -> bool:
        """Whether something has moved, and it is time; the last commit of all need not be (``finish``)."""
        self._check_shape(self._has_ended)
        if not self.merge.moved:
            return False
        if self.merge.kept_bytes >= KEPT_BYTES_MAX:
            return True
        changed = self.merge.changed_groups
        if changed >= FINAL_GROUPS_MAX and self.merge.final_groups() >= FINAL_GROUPS_MAX:
            return True
        return self._pacing.is_due(monotonic(), changed)

    def due(self) -> float:
        """When the next commit is due, going by the time alone (``connectors.clock.monotonic``)."""
        return self._pacing.due(self.merge.changed_groups)

    def finish(self) -> None:
        """The last commit of a view, every partition of which has ended; what has not moved is not committed."""
        if self._has_ended:
            self._check_shape(True)
            if self.merge.moved or self.writer.manifest is None:
                self.commit()
                self._collect()

    @property
    def _has_ended(self) -> bool:
        return len(self._ended) == len(self.merge.progress)

    def commit(self) -> Manifest:
        began = monotonic()
        standing = replace(self._standing, progress=self.merge.progress)
        manifest = self.writer.commit(self.merge.changes(), facts_of(self.projection, standing))
        self._pacing.committed(began, monotonic())
        if monotonic() >= self._collection_due:
            self._collect()
        return manifest

    def _collect(self) -> None:
        """Remove snapshots that were superseded longer ago than the grace period."""
        self._collection_due = monotonic() + COLLECTION_S
        home = self.writer.generation.version
        collect(home.path.parents[1], self.projection.name, self.projection.version, GRACE_S)
        remove_retired(home.path.parents[1], self.projection.name, GRACE_S)

    def close(self) -> None:
        self._close(self.writer)

    def _check_shape(self, ended: bool) -> None:
        """A topic of quite another shape makes a view of nothing: stop before the first commit says otherwise."""
        if self._pace.allow_dead_letters:
            return
        for category in {category for category, _ in self.merge.progress}:
            counts = [facts.counts for (name, _), facts in self.merge.progress.items() if name == category]
            read, dead = sum(c["read"] for c in counts), sum(c["dead_letters"] for c in counts)
            first_look = self.writer.manifest is None or read < 2 * SHAPE_SAMPLE
            if first_look and dead * 2 > read and (read >= SHAPE_SAMPLE or ended):
                raise DataError(
                    f"{dead:,} of the first {read:,} records of `{category}` are dead letters",
                    where=f"view {self.projection.title}",
                    why="the records are not what the category's event types and envelope say",
                    do="compare a record with the Category; or go on all the same:  --allow-dead-letters",
                )
