"""What is known of a range of a partition beside its records: who led it, and why offsets have no record.

A ``Run`` says it for consecutive offsets; runs tile a range, each from where the one before it ended. In a run the offsets without
a record are all of one kind: *removed* by compaction (``Slice.missing`` counts them), or never there to be read
(control records, aborted transactions).

Promises: ``missing`` of any part of a range is what its slices said, wherever the part is cut, and the parts add up.
One exception: a slice tells how many offsets were removed, not which; where it holds both kinds, the first are taken
to be the removed ones (as ``flows.pipeline`` does when it cuts a slice). Pure functions; knows no files.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from connectors.log import Slice


class Run(NamedTuple):
    """Offsets up to ``next_offset`` (exclusive) that were written by one leader (-1: unknown)."""

    next_offset: int
    leader_epoch: int = -1
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """What a segment of an archive says of its records: how many, the sum of their hashes (mod 2**64), and its runs."""

    records: int
    digest: int
    runs: tuple[Run, ...]

    def to_bytes(self) -> bytes:
        return json.dumps({"records": self.records, "digest": f"{self.digest:016x}", "runs": self.runs}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Note:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what is no note."""
        found = json.loads(data)
        runs = tuple(Run(int(end), int(epoch), bool(removed)) for end, epoch, removed in found["runs"])
        return cls(int(found["records"]), int(found["digest"], 16), runs)


def runs_of(slices: Iterable[Slice]) -> tuple[Run, ...]:
    """The runs of slices that meet, as few as there can be."""
    runs: list[Run] = []
    settled = False  # whether the last run has a hole, and so a kind
    for one in slices:
        for run, has_holes in _runs(one):
            if runs and _is_one(runs[-1], settled, run, has_holes):
                kind = run.removed if has_holes else runs[-1].removed
                runs[-1] = run._replace(removed=kind)
                settled = settled or has_holes
            else:
                runs.append(run)
                settled = has_holes
    return tuple(runs)


def _is_one(last: Run, settled: bool, run: Run, has_holes: bool) -> bool:
    kinds_agree = last.removed == run.removed or not (settled and has_holes)
    return last.leader_epoch == run.leader_epoch and kinds_agree


def _runs(one: Slice) -> list[tuple[Run, bool]]:
    """One or two runs of a slice, each with whether it has a hole."""
    holes = one.next_offset - one.first_offset - one.records.num_rows
    if one.missing in (0, holes):
        return [(Run(one.next_offset, one.leader_epoch, one.missing > 0), holes > 0)]
    middle = _after_holes(one, one.missing)
    return [(Run(middle, one.leader_epoch, True), True), (Run(one.next_offset, one.leader_epoch), True)]


def _after_holes(one: Slice, count: int) -> int:
    """The offset after the ``count``-th hole of a slice."""
    offsets = one.records.column("offset").to_numpy()
    holes_before = offsets - one.first_offset - np.arange(len(offsets))
    at = int(np.searchsorted(holes_before, count))
    previous, done = (int(offsets[at - 1]) + 1, int(holes_before[at - 1])) if at else (one.first_offset, 0)
    return previous + count - done


def part(runs: Sequence[Run], first: int, next_offset: int) -> tuple[Run, ...]:
    """The runs of ``[first, next_offset)``, which they cover. Not empty."""
    low = bisect_right(runs, first, key=lambda run: run.next_offset)
    high = bisect_right(runs, next_offset - 1, key=lambda run: run.next_offset)
    return (*runs[low:high], runs[high]._replace(next_offset=next_offset))


def missing_and_leader(runs: Sequence[Run], first: int, next_offset: int, records: pa.RecordBatch) -> tuple[int, int]:
    """``Slice.missing`` and ``Slice.leader_epoch`` of ``[first, next_offset)``, which holds ``records``."""
    chosen = part(runs, first, next_offset)
    missing = 0
    if any(run.removed for run in chosen):
        offsets = records.column("offset").to_numpy()
        for run in chosen:
            if run.removed:
                low, high = np.searchsorted(offsets, (first, run.next_offset))
                missing += run.next_offset - first - int(high - low)
            first = run.next_offset
    return missing, chosen[-1].leader_epoch
