"""The files of one partition of the embedded log, and what they say together.

    <base offset, 20 digits>.parquet    sealed segments, never changed
    <base offset, 20 digits>.tail       the newest records

A partition always has a tail. Sealing writes the segment, then the next tail, then removes the old one, so for a
moment (or after a crash) a tail may lie beside a segment with the same records: what is sealed wins.

Promises: a ``Layout`` never misses a file that was there for the whole of a listing, nor shows a tail without the
segments that were sealed before it, however busy a writer is. Reads only; knows no locks.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from connectors.segment import Segment
from connectors.tail import walk
from schemas.errors import LogChanged, LogError, LogGap

COLUMNS = ".columns"
_NAME = re.compile(r"(\d{20})\.(parquet|tail)")


@dataclass(frozen=True, slots=True)
class Layout:
    """Base offsets of the segments and of the tails, ascending."""

    segments: tuple[int, ...]
    tails: tuple[int, ...]

    @property
    def earliest(self) -> int:
        return min(self.segments + self.tails)


def unreadable(path: Path, error: OSError) -> LogError:
    return LogError("a file of the log cannot be read", where=str(path), why=str(error), do=fs.advice(error))


class PartitionFiles:
    def __init__(self, directory: Path, category: str, partition: int) -> None:
        self.directory = directory / str(partition)
        self.category, self.partition = category, partition
        self._columns = directory.parent / COLUMNS / category / str(partition)
        self._ends: dict[int, int] = {}  # next offset of segments by base offset: segments never change
        self._walked = (-1, 0, 0)  # of the tail with this base: bytes walked, and the next offset after them

    @property
    def name(self) -> str:
        return f"{self.category}/{self.partition}"

    def segment(self, base: int) -> Path:
        return self.directory / f"{base:020d}.parquet"

    def columns(self, base: int) -> Path:
        """The directory for what is derived from a segment; it may be removed at any time."""
        return self._columns / f"{base:020d}"

    def tail(self, base: int) -> Path:
        return self.directory / f"{base:020d}.tail"

    def layout(self) -> Layout:
        """What is there. Raises ``LogChanged`` when the partition is gone, ``LogError`` when it has no tail.

        A directory that changes while it is listed may hide a file that was renamed into place and show one that came
        after it. Two listings in a row that agree cannot: all that the first one saw was there before the second.
        """
        listing, before = self._list(), None
        while listing != before:
            listing, before = self._list(), listing
        if not listing.tails:
            end = self._end_of(listing.segments[-1]) if listing.segments else 0
            raise LogError(
                "a partition of the log has lost its tail, the file with its newest records",
                where=str(self.directory),
                do=f"restore it from a copy; to give those records up, make an empty file {self.tail(end).name}",
            )
        return listing

    def _list(self) -> Layout:
        try:
            names = [found for path in self.directory.iterdir() if (found := _NAME.fullmatch(path.name))]
        except FileNotFoundError as error:
            raise LogChanged("a partition of the log is gone", where=str(self.directory)) from error
        bases = {kind: sorted(int(name[1]) for name in names if name[2] == kind) for kind in ("parquet", "tail")}
        return Layout(tuple(bases["parquet"]), tuple(bases["tail"]))

    def sealed_end(self, layout: Layout) -> int:
        """The next offset after the segments; where there are none, the base of the tail.

        Raises ``LogGap`` when the newest segments are missing.
        """
        sealed = self._end_of(layout.segments[-1]) if layout.segments else layout.tails[-1]
        if layout.tails[-1] > sealed:
            raise self._gap(sealed, layout.tails[-1])
        return sealed

    def _end_of(self, base: int) -> int:
        if base not in self._ends:
            segment = Segment(self.segment(base), base)
            segment.close()
            self._ends[base] = segment.next_offset
        return self._ends[base]

    def open_segment(self, layout: Layout, offset: int) -> Segment:
        """The segment that covers ``offset``, which is before the sealed end. Raises ``LogGap`` when it is missing."""
        at = bisect_right(layout.segments, offset) - 1
        if at < 0:
            raise self._gap(offset, layout.segments[0])
        segment = Segment(self.segment(layout.segments[at]), layout.segments[at])
        if offset >= segment.next_offset:
            segment.close()
            raise self._gap(offset, layout.segments[at + 1])
        return segment

    def end(self) -> int:
        """The next offset after the last whole record."""
        while True:
            layout = self.layout()
            sealed, base = self.sealed_end(layout), layout.tails[-1]
            if base < sealed:
                return sealed
            try:
                return self._tail_end(base)
            except FileNotFoundError:  # sealed since the listing
                continue
            except OSError as error:
                raise unreadable(self.tail(base), error) from error

    def _tail_end(self, base: int) -> int:
        """The next offset after the tail's last whole frame; frames that were walked before are not read again."""
        fd = os.open(self.tail(base), os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            known, at, end = self._walked
            if known != base or at > size:
                at, end = 0, base
            tail = memoryview(fs.read_at(fd, size - at, at, path=self.tail(base)))
        finally:
            os.close(fd)
        read = 0
        for frame in walk(tail, end):
            read, end = frame.end, frame.next_offset
        self._walked = base, at + read, end
        return end

    def _gap(self, first: int, next_offset: int) -> LogGap:
        return LogGap(
            f"{next_offset - first:,} events are missing from the log",
            where=f"{self.name}, offsets {first:,} to {next_offset - 1:,} ({self.directory})",
            do="restore the missing segments from a copy",
        )
