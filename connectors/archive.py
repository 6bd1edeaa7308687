"""Archives: a category of another log, copied into a directory, exactly once by offset.

    archive(log, "orders", "data/archive")          up to the ends that the log has now
    archive(log, "orders", "data/archive", follow=True, stop=stop)

An archive is an embedded log (``connectors.local``) whose category has the identity of the original. It gives the
slices that the original gave: the same offsets, with the same holes, timestamps, keys, values, headers, leader epochs and counts
of removed records. So a view folded from one is gone on with, or proved, from the other.

Promises: what is in an archive is never written twice and has no hole after its beginning; it goes on from its own ends, whatever
moment it was stopped at; where the original is another stream, or has lost what comes next, nothing is written. An archive that is made
begins where the original does: what was gone by then is not in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from connectors.clock import monotonic
from connectors.local import LocalLog
from connectors.local_writer import CategoryWriter
from connectors.log import CategoryInfo, Log, Reader, Slice
from connectors.overlap import READ_WAIT_MS, check_identity, check_overlap, check_stream

PIECE_RECORDS, PIECE_BYTES = 262_144, 32 << 20
"""So much of a partition is written at once, if it comes fast enough: a segment's worth."""
WAITING_BYTES = 256 << 20
"""More than this never waits in memory, over all partitions."""
FOLLOW_SECONDS = 1.0
"""While following, what has come is written after so long, however little it is."""

Place = tuple[str, int]


@dataclass
class Copying:
    """How far a copy is. ``positions``: what was read; ``begins`` and ``ends``: where that began, and where it will stop
    (``until`` None: it follows, and they are the ends last seen). ``records``: how many were written."""

    until: str | None = "end"
    begins: dict[Place, int] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    positions: dict[Place, int] = field(default_factory=dict)
    records: int = 0


Watch = Callable[[Copying], None]


@dataclass(frozen=True, slots=True)
class Archived:
    """What came of it: the archive as it is now, how many ``records`` were added, and whether it was stopped before the end."""

    info: CategoryInfo
    records: int
    stopped: bool


def archive(
    log: Log,
    category: str,
    to: str | Path,
    *,
    follow: bool = False,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> Archived:
    """Copy a category to the archive in directory ``to``, from where that ends: to the present ends, or until ``stop``.

    Raises ``UnknownCategory``, ``LogChanged`` (the category is another stream than the archive's, or was rewritten), ``LogGap``
    (it lost events that the archive does not have), ``UsageError`` (``to`` has a category of this name that is no archive).
    """
    with LocalLog(to) as target:
        info = log.describe(category)
        if target.archived(category):
            known = target.describe(category)
            check_stream(known, info)
            check_overlap(target, log, known, info)
        writer = target.copier(info)
        try:
            copy = _Copy(log, info, writer, follow, stop or threading.Event())
            if watch:
                watch(copy.facts)
            copy.run()
        finally:
            writer.close()
        return Archived(target.describe(category), copy.facts.records, copy.is_behind and not follow)


class _Copy:
    """One copy, from where the writer stands."""

    def __init__(
        self, log: Log, info: CategoryInfo, writer: CategoryWriter, follow: bool, stop: threading.Event
    ) -> None:
        self._log, self._info, self._writer, self._stop = log, info, writer, stop
        self._begins = dict(enumerate(writer.copy({})))
        self._until = None if follow else {p: max(end, self._begins[p]) for p, end in enumerate(info.ends)}
        self._waiting: dict[int, list[Slice]] = {p: [] for p in self._begins}
        self._flushed = monotonic()
        begins = {(info.name, p): begin for p, begin in self._begins.items()}
        self.facts = Copying(None if follow else "end", begins, positions=dict(begins))
        self._see_ends(info)

    @property
    def is_behind(self) -> bool:
        return any(self.facts.positions[place] < end for place, end in self.facts.ends.items())

    def run(self) -> None:
        if self._is_done:
            return
        reader = self._log.reader(self._info.name, self._begins, self._until)
        try:
            self._look_again()  # the name may have come to mean another stream before the reader looked
            while not (self._is_done or self._stop.is_set()):
                self._read(reader)
        finally:
            reader.close()
        self._flush(self._waiting)

    @property
    def _is_done(self) -> bool:
        return self._until is not None and not self.is_behind

    def _read(self, reader: Reader) -> None:
        for one in reader.read(timeout_ms=READ_WAIT_MS):
            self._waiting[one.partition].append(one)
            self.facts.positions[one.category, one.partition] = one.next_offset
            if _is_piece(self._waiting[one.partition]):
                self._flush([one.partition])
        if sum(map(_bytes, self._waiting.values())) >= WAITING_BYTES:
            self._flush(self._waiting)
        if self._until is None and monotonic() - self._flushed >= FOLLOW_SECONDS:
            self._flush(self._waiting)
            self._look_again()
            self._flushed = monotonic()

    def _flush(self, partitions: list[int] | dict[int, list[Slice]]) -> None:
        """Write what waits, durably."""
        pieces = {p: self._waiting[p] for p in partitions if self._waiting[p]}
        self._writer.copy(pieces)
        self._waiting.update({p: [] for p in pieces})
        self.facts.records += sum(one.records.num_rows for piece in pieces.values() for one in piece)

    def _look_again(self) -> None:
        """Raises ``LogChanged`` when the category is another stream now, or has other partitions."""
        now = self._log.describe(self._info.name)
        check_identity(self._info, now)
        if self._until is None:
            self._see_ends(now)

    def _see_ends(self, info: CategoryInfo) -> None:
        ends = {(info.name, p): max(end, self._begins[p]) for p, end in enumerate(info.ends)}
        self.facts.ends.update(ends)


def _is_piece(waiting: list[Slice]) -> bool:
    return sum(one.records.num_rows for one in waiting) >= PIECE_RECORDS or _bytes(waiting) >= PIECE_BYTES


def _bytes(waiting: list[Slice]) -> int:
    return sum(one.records.nbytes for one in waiting)
