"""Is an archive what was written? Every segment is read again and its records are hashed against the digest that it was written with.

Promises: reads only, and knows nothing of the original; somebody may copy to the archive meanwhile. A damaged file is named,
and the others are checked all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from connectors.archive import Copying, Watch
from connectors.local import LocalLog
from connectors.log_digest import digest
from connectors.partition_files import PartitionFiles
from connectors.segment import Segment
from connectors.tail import is_torn, walk
from schemas.errors import LogError, UnknownCategory


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file of an archive, by its path in the archive's directory, and what is wrong with it."""

    file: str
    why: str


@dataclass(frozen=True, slots=True)
class CheckedPartition:
    """Offsets ``[earliest, end)``, in so many segments and a tail; ``digest``: of all ``records``, in hexadecimal digits."""

    partition: int
    earliest: int
    end: int
    segments: int
    records: int
    digest: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found. ``digest`` of a partition is that of a view that folded it whole (``log_digest``), if nothing is damaged."""

    category: str
    partitions: tuple[CheckedPartition, ...]
    damaged: tuple[DamagedFile, ...]

    @property
    def ok(self) -> bool:
        return not self.damaged


def check_archive(
    directory: str | Path, category: str, *, stop: threading.Event | None = None, watch: Watch | None = None
) -> Checked | None:
    """Read an archive from end to end; None when it was stopped before. Raises ``UnknownCategory``, ``UsageError``, ``LogError``."""
    with LocalLog(directory) as log:
        files = log.archived(category)
    if files is None:
        raise UnknownCategory(f"there is no archive of {category}", where=str(directory), do="refold archive makes one")
    facts = Copying()
    checks = [_PartitionCheck(one, Path(directory), facts, (stop or threading.Event()).is_set) for one in files]
    if watch:
        watch(facts)
    for check in checks:
        check.run()
        if check.is_stopped():
            return None
    damaged = tuple(found for check in checks for found in check.damaged)
    return Checked(category, tuple(check.found() for check in checks), damaged)


class _PartitionCheck:
    def __init__(self, files: PartitionFiles, home: Path, facts: Copying, is_stopped: Callable[[], bool]) -> None:
        self._files, self._home, self._facts, self.is_stopped = files, home, facts, is_stopped
        self._place = (files.category, files.partition)
        layout = files.layout()
        self._earliest = self._end = layout.earliest
        self._segments = self._records = self._digest = 0
        self.damaged: list[DamagedFile] = []
        facts.begins[self._place] = facts.positions[self._place] = self._end
        facts.ends[self._place] = layout.tails[-1]

    def found(self) -> CheckedPartition:
        facts = (self._segments, self._records, f"{self._digest:016x}")
        return CheckedPartition(self._files.partition, self._earliest, self._end, *facts)

    def run(self) -> None:
        while True:
            layout = self._files.layout()
            for base in layout.segments:
                if base >= self._end and not self.is_stopped():
                    self._segment(base)
            if self.is_stopped() or layout.tails[-1] < self._end or self._tail(layout.tails[-1]):
                return

    def _segment(self, base: int) -> None:
        path = self._files.segment(base)
        self._expect(path, base)
        self._segments += 1
        self._end = base + 1  # if no more can be told of it
        try:
            segment = Segment(path, base)
        except LogError as error:
            self._note(path, error.why or error.what)
            return
        try:
            self._end = segment.next_offset
            self._read(segment)
        except LogError as error:
            self._note(path, error.why or error.what)
        finally:
            segment.close()
        self._facts.positions[self._place] = self._end

    def _read(self, segment: Segment) -> None:
        records = total = 0
        at = segment.first
        while at < segment.next_offset:
            batch, at = segment.read(at)
            records, total = records + len(batch), (total + digest([batch])) % 2**64
        self._add(records, total)
        if segment.note is None:
            self._note(segment.path, "it has no digest: no archive wrote it")
        elif (segment.note.records, segment.note.digest) != (records, total):
            self._note(
                segment.path,
                f"its records have the digest {total:016x}, and were written with {segment.note.digest:016x}",
            )

    def _tail(self, base: int) -> bool:
        """False when it was sealed meanwhile: there is a segment more to read."""
        path = self._files.tail(base)
        try:
            content = memoryview(fs.read_file(path))
        except FileNotFoundError:
            return False
        self._expect(path, base)
        end, self._end = 0, base
        for frame in walk(content, base):
            self._add(frame.record_count, digest([frame.records()]))
            end, self._end = frame.end, frame.next_offset
        if end < len(content) and not is_torn(content, end, self._end):
            self._note(path, f"the frame at byte {end:,} is not what was written")
        self._facts.positions[self._place] = self._end
        return True

    def _add(self, records: int, total: int) -> None:
        self._records += records
        self._facts.records += records
        self._digest = (self._digest + total) % 2**64

    def _expect(self, path: Path, base: int) -> None:
        """What comes next begins where the last file ended, unless that is damaged already."""
        if base > self._end and not self.damaged:
            self._note(path, f"the files with offsets {self._end:,} to {base - 1:,} are missing before it")

    def _note(self, path: Path, why: str) -> None:
        self.damaged.append(DamagedFile(str(path.relative_to(self._home)), why))
