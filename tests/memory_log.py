"""A log in memory, whose readers hand out the same records in any slices, in any order, and may fail on the way.

    log = MemoryLog("things", [[Entry(b"{}"), Entry(kind=CONTROL)], []], lots=random.Random(1))
    run([projection], log=log, store=store, until="end")

It keeps the promises of ``connectors.log`` (slices of a partition meet exactly and never reach beyond ``until``), and
apart from that gives what is hardest to bear: slices of one record or none, partitions in any order and at any pace,
offsets without a record as transactions (``CONTROL``) and compaction (``REMOVED``) leave them, batches of several leaders.
Without ``lots`` every partition is one slice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from connectors.log import RECORDS, CategoryInfo, Slice

RECORD, CONTROL, REMOVED = "record", "control", "removed"
PIECES = (0, 1, 1, 2, 3, 8, 1000)
"""Offsets in a slice: mostly few, sometimes none, sometimes all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is at one offset."""

    value: bytes | None = None
    timestamp: int = 90_000
    key: bytes | None = None
    kind: str = RECORD
    timestamp_type: int = 0
    leader_epoch: int = 0

    def __repr__(self) -> str:
        """Short, for the report of a failure."""
        if self.kind != RECORD:
            return f"<{self.kind}, leader {self.leader_epoch}>"
        return f"<{self.value!r} at {self.timestamp}, key {self.key!r}, leader {self.leader_epoch}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would write every field on a line


Partitions = Sequence[Sequence[Entry]]


class MemoryLog:
    """One category. ``ends``: how much of it is there already; ``on_read`` is called before every read and may raise.

    Entries may be appended to the partitions, and ``ends`` moved, between runs.
    """

    url = "memory"

    def __init__(
        self,
        category: str,
        partitions: Partitions,
        *,
        lots: random.Random | None = None,
        ends: Sequence[int] | None = None,
        on_read: Callable[[], None] | None = None,
    ) -> None:
        self.category, self.partitions, self.lots, self.on_read = category, partitions, lots, on_read
        self.ends = [len(entries) for entries in partitions] if ends is None else list(ends)

    def categories(self) -> list[str]:
        return [self.category]

    def describe(self, category: str) -> CategoryInfo:
        """A log that ever removed a record is a compacted one."""
        assert category == self.category
        compacted = any(entry.kind == REMOVED for entries in self.partitions for entry in entries)
        return CategoryInfo(category, "in memory", (0,) * len(self.ends), tuple(self.ends), compacted)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> MemoryReader:
        assert category == self.category
        ends = {p: self.ends[p] if until is None or p not in until else until[p] for p in start}
        assert all(start[p] <= self.ends[p] for p in start), "reading begins within the log"
        # A reader is used by one thread, and so needs lots of its own.
        lots = None if self.lots is None else random.Random(self.lots.random())
        return MemoryReader(self, start, ends, lots)

    def close(self) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return


class MemoryReader:
    def __init__(
        self, log: MemoryLog, start: Mapping[int, int], ends: Mapping[int, int], lots: random.Random | None
    ) -> None:
        self._log, self._ends, self._lots = log, ends, lots
        self._positions = dict(start)

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        if self._log.on_read:
            self._log.on_read()
        chosen = [p for p, end in self._ends.items() if self._positions[p] < end]
        if self._lots is not None:
            chosen = self._lots.sample(chosen, self._lots.randint(0, len(chosen)))
        return [found for p in chosen if (found := self._slice(p)).next_offset > found.first_offset]

    def _slice(self, partition: int) -> Slice:
        first, end = self._positions[partition], self._ends[partition]
        if self._lots is not None:
            end = min(end, first + self._lots.choice(PIECES))
        self._positions[partition] = end
        return slice_of(self._log.category, partition, self._log.partitions[partition], first, end)

    def positions(self) -> dict[int, int]:
        return dict(self._positions)

    def close(self) -> None:
        return


def slice_of(category: str, partition: int, entries: Sequence[Entry], first: int, end: int) -> Slice:
    there = [(offset, entries[offset]) for offset in range(first, end)]
    rows = [(offset, entry) for offset, entry in there if entry.kind == RECORD]
    columns = [
        [offset for offset, _ in rows],
        [entry.timestamp for _, entry in rows],
        [entry.timestamp_type for _, entry in rows],
        [entry.key for _, entry in rows],
        [entry.value for _, entry in rows],
        [None for _ in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORDS, strict=True)]
    missing = sum(entry.kind == REMOVED for _, entry in there)
    epoch = there[-1][1].leader_epoch if there else -1
    return Slice(category, partition, first, end, pa.record_batch(arrays, schema=RECORDS), missing, epoch)


def records_before(partitions: Partitions, cut: Sequence[int]) -> list[list[tuple[int, int, bytes | None]]]:
    """Per partition the records (offset, timestamp, value) before a cut: what the reference fold takes."""
    return [
        [(offset, entry.timestamp, entry.value) for offset, entry in enumerate(entries[:end]) if entry.kind == RECORD]
        for entries, end in zip(partitions, cut, strict=True)
    ]
