"""Reading the embedded log: forward, slice by slice, while somebody else may append and seal.

Promises: whole records only, in order, without a gap or a repeat, never beyond ``until``; a slice is a part of one
row group of a segment, or at most as many records and bytes from the tail. Takes no lock and changes no file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors import fs
from connectors.clock import monotonic
from connectors.coverage import Run, missing_and_leader, part
from connectors.log import RowGroup, Slice
from connectors.partition_files import Layout, PartitionFiles, unreadable
from connectors.segment import GROUP_BYTES, GROUP_RECORDS, Segment
from connectors.tail import Frame, is_followed, walk
from schemas.errors import LogError, UsageError

_POLL_SECONDS, _POLL_SECONDS_MAX = 0.02, 0.08
"""Between two looks at the disk; twice as long after each that found nothing."""


class TailReader:
    """The tail that begins at offset ``base``: still readable here after it was sealed and removed."""

    def __init__(self, files: PartitionFiles, base: int) -> None:
        """Raises ``FileNotFoundError`` when it was sealed in the meantime."""
        self._files, self.base = files, base
        self._fd = os.open(files.tail(base), os.O_RDONLY)
        self._at, self._next_offset = 0, base  # where the next frame to look at begins, and with which offset
        self.runs: tuple[Run, ...] = ()  # of what was read last

    def read(self, offset: int) -> tuple[pa.RecordBatch, int] | None:
        """Records from ``offset`` on and the next offset after them; None when there are none yet."""
        try:
            frames = self._wanted(offset)
        except OSError as error:
            raise unreadable(self._files.tail(self.base), error) from error
        if not frames:
            return None
        batches = [frame.records() for frame in frames]
        records = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        self.runs = tuple(frame.run for frame in frames)
        return _from_offset(records, offset), frames[-1].next_offset

    def _wanted(self, offset: int) -> list[Frame]:
        """As many frames from ``offset`` on as a slice may hold; remembers where the one after them begins."""
        tail = self._content()
        frames = list(walk(tail, self._next_offset))
        if not frames:
            self._check(tail)
            return []
        chosen = [frame for frame in frames if frame.next_offset > offset]
        chosen = list(takewhile(lambda frame: _fits(chosen[0], frame), chosen))
        last = chosen[-1] if chosen else frames[-1]
        self._at, self._next_offset = self._at + last.end, last.next_offset
        return chosen

    def _content(self) -> memoryview:
        """The bytes of the tail from the next frame on; a tail is small."""
        size = os.fstat(self._fd).st_size
        return memoryview(fs.read_at(self._fd, max(size - self._at, 0), self._at, path=self._files.tail(self.base)))

    def _check(self, tail: memoryview) -> None:
        """Raises ``LogError`` when the next frame is damaged, rather than not written yet.

        If a later frame is whole, this one was finished before it: what is wrong with it now will stay wrong.
        """
        if is_followed(tail, 0, self._next_offset) and not any(walk(self._content(), self._next_offset)):
            raise LogError(
                "the tail of the log is damaged",
                where=f"{self._files.tail(self.base)}, byte {self._at:,} ({self._files.name})",
                do="restore the file from a copy",
            )

    def close(self) -> None:
        os.close(self._fd)


def _from_offset(records: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    return records.slice(int(np.searchsorted(records["offset"].to_numpy(), offset)))


def _fits(first: Frame, frame: Frame) -> bool:
    """Whether a slice that begins with ``first`` may hold ``frame`` too."""
    if frame is first:
        return True
    return frame.next_offset - first.first_offset <= GROUP_RECORDS and frame.end - first.start <= GROUP_BYTES


class PartitionReader:
    """Reads ``[start, until)`` of one partition; ``until`` None: follows."""

    def __init__(self, files: PartitionFiles, start: int, until: int | None) -> None:
        self._files, self.next_offset, self._until = files, start, until
        self._source: Segment | TailReader | None = None
        self._layout: Layout | None = None  # as last seen; segments that were there stay as they are

    @property
    def at_end(self) -> bool:
        return self._until is not None and self.next_offset >= self._until

    def read(self) -> Slice | None:
        """The next slice; None when there is none yet, or none before ``until``."""
        if self.at_end:
            return None
        if whole := self._whole_group():
            return whole
        found = self._from_source()
        if found is None and self._move_on():
            if whole := self._whole_group():
                return whole
            found = self._from_source()
        return self._slice(*found) if found else None

    def _whole_group(self) -> Slice | None:
        """The next row group, if all of it is wanted and it is complete: its records are read when they are asked for.

        Its bytes are checked all the same: columns that were derived from it must not hide that it is damaged.
        """
        segment, first = self._source, self.next_offset
        found = segment.whole_group(first) if isinstance(segment, Segment) else None
        if found is None or not isinstance(segment, Segment) or (self._until is not None and found[2] > self._until):
            return None
        number, rows, end = found
        segment.check(number)
        self.next_offset = end
        stored = RowGroup(self._files.columns(segment.first), segment.checksum, number, segment.groups, rows)
        leader = part(segment.runs, first, end)[-1].leader_epoch
        read = _Later(segment.path, segment.first, first)
        return Slice(self._files.category, self._files.partition, first, end, read, 0, leader, stored)

    def _from_source(self) -> tuple[pa.RecordBatch, int] | None:
        source = self._source
        if isinstance(source, Segment) and self.next_offset >= source.next_offset:
            return None
        return source.read(self.next_offset) if source else None

    def _move_on(self) -> bool:
        """Open the file that holds the next offset now; False when that is the one just read."""
        while True:
            layout = self._known()
            sealed, base = self._files.sealed_end(layout), layout.tails[-1]
            if self.next_offset < sealed:
                self._replace(self._open_segment(layout))
                return True
            if base < sealed or (isinstance(self._source, TailReader) and self._source.base == base):
                return False
            try:
                self._replace(TailReader(self._files, base))
            except FileNotFoundError:  # sealed since the listing
                continue
            return True

    def _open_segment(self, layout: Layout) -> Segment:
        try:
            return self._files.open_segment(layout, self.next_offset)
        except LogError:  # it may be gone since the listing: a new one tells that from damage
            self._layout = self._files.layout()
            return self._files.open_segment(self._layout, self.next_offset)

    def _known(self) -> Layout:
        """The layout, listed again only when no segment that was seen holds what comes next."""
        if self._layout is None or self.next_offset >= self._files.sealed_end(self._layout):
            self._layout = self._files.layout()
        return self._layout

    def _replace(self, source: Segment | TailReader) -> None:
        self.close()
        self._source = source

    def _slice(self, records: pa.RecordBatch, next_offset: int) -> Slice:
        first = self.next_offset
        if self._until is not None and next_offset > self._until:
            next_offset = self._until
            records = records.slice(0, int(np.searchsorted(records["offset"].to_numpy(), next_offset)))
        self.next_offset = next_offset
        assert self._source is not None
        known = missing_and_leader(self._source.runs, first, next_offset, records)
        return Slice(self._files.category, self._files.partition, first, next_offset, records, *known)

    def close(self) -> None:
        if self._source:
            self._source.close()
        self._source = None


class _Later:
    """Reads a row group once, when it is wanted: the reader may be further by then."""

    def __init__(self, path: Path, base: int, offset: int) -> None:
        self._place, self._records = (path, base, offset), None

    def __call__(self) -> pa.RecordBatch:
        if self._records is None:
            path, base, offset = self._place
            segment = Segment(path, base)
            try:
                self._records = segment.read(offset)[0]
            finally:
                segment.close()
        return self._records


class LocalReader:
    """Reader of some partitions of a category; ``connectors.log.Reader`` says how it behaves."""

    def __init__(
        self,
        partitions: Sequence[PartitionFiles],
        start: Mapping[int, int],
        until: Mapping[int, int],
        check: Callable[[], None],
    ) -> None:
        """``check`` raises when the category is no longer the one that this reader was made for."""
        self._check = check
        self._partitions = {at: PartitionReader(partitions[at], start[at], until.get(at)) for at in sorted(start)}
        self._closed = False

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        """At most one slice a partition; waits up to ``timeout_ms`` for the first. ``Reader.read`` gives the errors."""
        if self._closed:
            raise UsageError("the reader is closed")
        deadline, pause = monotonic() + timeout_ms / 1000, _POLL_SECONDS
        while True:
            slices = [found for partition in self._partitions.values() if (found := partition.read())]
            remaining = deadline - monotonic()
            if slices or remaining <= 0 or all(partition.at_end for partition in self._partitions.values()):
                break
            time.sleep(min(pause, remaining))
            pause = min(2 * pause, _POLL_SECONDS_MAX)
        if not slices:
            self._check()
        return slices

    def positions(self) -> dict[int, int]:
        return {at: partition.next_offset for at, partition in self._partitions.items()}

    def close(self) -> None:
        self._closed = True
        for partition in self._partitions.values():
            partition.close()
