"""One partition's way from slice to deltas, without an engine. Read it top-down: this is the whole program.

    slice -> decode once -> for each projection: fold -> delta

Several projections share one read and one decode. They may stand at different positions (each view commits for
itself), so a slice is cut where one of them begins; what a view sees never depends on who else is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from connectors.log import Slice
from flows.commits_ahead import CommitsAhead
from flows.delta import Delta
from flows.derived import Reading
from flows.fold import PartitionFold
from flows.kernels import watermarks_before
from flows.projection import Projection
from schemas import Category
from schemas.decode import LIVE, MARKER, Decoder

CHANGED_GROUPS_MAX = 50_000
"""Changed groups of a fold that are worth sending on at once; fewer wait for more."""


class PartitionPipeline:
    """All folds of one partition of one category."""

    def __init__(self, category: Category, folds: Sequence[PartitionFold], *, raw: bool = False) -> None:
        """``raw``: decode every record, whatever was derived from them before."""
        self._category, self._raw = category, raw
        self.folds: list[PartitionFold] = []
        for fold in folds:
            self.join(fold)

    def join(self, fold: PartitionFold) -> None:
        """One more projection on the same read and decode."""
        self.folds.append(fold)
        self._reading = Reading(decoder_for(self._category, [fold.projection for fold in self.folds]), self._raw)

    @property
    def position(self) -> int:
        """Where reading begins: the next offset of the view that is furthest behind."""
        return min(fold.progress.next_offset for fold in self.folds)

    def fold(self, arrived: Slice) -> None:
        for part in self._parts(arrived):
            self._fold_part(part)

    def deltas(self, ahead: CommitsAhead | None = None, *, end: bool = False, at_least: int = 0) -> list[Delta]:
        """What changed, of the folds where at least ``at_least`` groups did; folds that have not moved are silent, and so are those
        that can wait, as long as no commit is near. ``end``: of all, and nothing is folded any more."""
        ahead = ahead or CommitsAhead()
        if end:
            return [fold.last_delta(is_here=ahead.is_here(fold.view)) for fold in self.folds]
        moved = [fold for fold in self.folds if fold.has_moved and fold.changed_groups >= at_least]
        return [fold.delta() for fold in moved if not (fold.can_wait and ahead.is_far(fold.view))]

    def _fold_part(self, part: Slice) -> None:
        here = [fold for fold in self.folds if fold.progress.next_offset == part.first_offset]
        if not here:
            return
        decoded, hashes = self._reading.read(part)
        timed = (decoded.fate == LIVE) | (decoded.fate == MARKER)
        for watermark in {fold.progress.watermark for fold in here}:  # more than one only where origins differ
            marks, after = watermarks_before(decoded.event_time, timed, watermark)
            for fold in [fold for fold in here if fold.progress.watermark == watermark]:
                fold.fold(part, decoded, hashes, marks, int(after))

    def _parts(self, arrived: Slice) -> Iterator[Slice]:
        """The slice, cut where a fold begins within it, without what nobody needs."""
        positions = {fold.progress.next_offset for fold in self.folds}
        cuts = sorted(
            {arrived.first_offset, arrived.next_offset}
            | {p for p in positions if arrived.first_offset < p < arrived.next_offset}
        )
        if len(cuts) == 2:
            yield arrived
            return
        offsets, missing = np.asarray(arrived.records.column("offset")), arrived.missing
        for first, after in pairwise(cuts):
            low, high = np.searchsorted(offsets, [first, after])
            records = arrived.records.slice(int(low), int(high - low))
            here = min(missing, after - first - records.num_rows)  # each hole is counted in one part
            missing -= here
            yield replace(arrived, first_offset=first, next_offset=after, held=records, missing=here, stored=None)


def decoder_for(category: Category, projections: Sequence[Projection]) -> Decoder:
    """One decoder for all that the projections read of a category."""
    asked = {
        event: sorted({name for p in projections if event in p.events for name in p.reads})
        for event in category.events
        if any(event in p.events for p in projections)
    }
    subject = any("subject" in p.reads and "subject" not in p.fields for p in projections)
    return Decoder(category, asked, subject=subject)
