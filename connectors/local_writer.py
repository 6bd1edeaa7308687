"""Appending to the embedded log: one writer per category, one tail per partition.

Promises
- What an append returned for is on disk and stays: a crash at any moment loses none of it and repeats none of it.
- Of an append that failed or was killed, each partition's share up to one segment's worth is there whole or not at all.
- Only a frame that a crash left unfinished at the very end of a tail is ever cut off; other damage is an error.
- After any failure the state in memory is dropped and read again from disk, so that memory never runs ahead of it.

A copy (``PartitionWriter.copy``, for an archive) keeps the same promises, and the offsets that the records have elsewhere, with
all that is known of those without a record.

Readers see a frame as soon as it is whole, which is a moment before it is safe from a loss of power.
Every step that changes the directory goes through ``connectors.fs``. Knows nothing of partitioning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from connectors import fs
from connectors.coverage import Note, Run, part, runs_of
from connectors.log import RECORDS, Slice
from connectors.log_digest import digest
from connectors.partition_files import PartitionFiles
from connectors.segment import encode_segment, group_cuts
from connectors.tail import OFFSETS_MAX, Frame, encode_frame, is_torn, walk
from schemas.errors import LogError

TAIL_FRAMES, TAIL_RECORDS, TAIL_BYTES = 4096, 98_304, 24 << 20
"""A tail that reached one of these is sealed. So many frames, so that single appends do not leave many files."""

SETTLED_RECORDS, SETTLED_BYTES = 16_384, 4 << 20
"""A tail that reached one of these is sealed when its writer is closed: what is sealed is read faster, and leaves columns."""

SEGMENT_GROUPS = 2
"""Row groups in a segment: at most 262,144 records or 64 MiB before compression."""

Share = TypeVar("Share")


def failed(what: str, directory: Path, error: OSError) -> LogError:
    return LogError(what, where=str(error.filename or directory), why=str(error), do=fs.advice(error))


class CategoryLock:
    """The right to append to a category, held by one process at a time, for as long as this object is open."""

    def __init__(self, directory: Path) -> None:
        """Raises ``LogError`` when somebody else holds it."""
        fd = fs.lock(directory / ".lock", wait=False)
        if fd is None:
            do = "stop it, or append through it; reading is free"
            raise LogError("another process is writing", where=str(directory), do=do)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class PartitionWriter:
    """Appends to one partition. The caller holds the category's lock; after an exception, drop this and open anew."""

    def __init__(self, files: PartitionFiles, *, archived: bool = False) -> None:
        """Clears up what a crash left behind. Raises ``LogError`` for damage, ``LogGap`` for missing segments.

        ``archived``: of an archive, which takes copies only; any other takes none.
        """
        self._files, self._archived = files, archived
        fs.fsync_dir(files.directory)  # a killed writer may not have made its last names durable
        for path in files.directory.glob(f".*{fs.TEMPORARY}"):
            fs.unlink(path)
        layout = files.layout()
        sealed = files.sealed_end(layout)
        if layout.tails[-1] < sealed:
            fs.write_file(files.tail(sealed), b"")
        self._base = max(layout.tails[-1], sealed)
        for base in layout.tails:
            if base < self._base:
                fs.unlink(files.tail(base))
        self._open_tail(self._recovered())

    def _recovered(self) -> list[Frame]:
        """The frames of the tail, after cutting off one that a crash left unfinished."""
        path = self._files.tail(self._base)
        tail = memoryview(fs.read_file(path))
        frames = list(walk(tail, self._base))
        end, next_offset = (frames[-1].end, frames[-1].next_offset) if frames else (0, self._base)
        if end < len(tail):
            if not is_torn(tail, end, next_offset):
                raise self._damaged(path, end)
            fs.truncate(path, end)
        return frames

    def _damaged(self, path: Path, at: int) -> LogError:
        return LogError(
            "the tail of the log is damaged; nothing was changed",
            where=f"{path}, byte {at:,} ({self._files.name})",
            why="the frame there is not what was written, and it is not one that a crash left unfinished",
            do="restore the file from a copy; to give up the records from there on, cut the file off at that byte",
        )

    def _open_tail(self, frames: Sequence[Frame]) -> None:
        self._frames, self._records = len(frames), sum(frame.record_count for frame in frames)
        self.next_offset = frames[-1].next_offset if frames else self._base
        self._bytes = frames[-1].end if frames else 0
        self._fd = os.open(self._files.tail(self._base), os.O_WRONLY | os.O_APPEND)
        fs.fsync(self._fd, path=self._files.tail(self._base))  # what a killed writer wrote was perhaps never synced

    def append(self, records: pa.Table) -> None:
        """Append, durably. ``records``: timestamp (int64), key, value, headers (binary), each in one chunk."""
        assert not self._archived
        batch = _numbered(records, self.next_offset)
        self._put(batch, (Run(self.next_offset + len(batch)),))

    def copy(self, slices: Sequence[Slice]) -> None:
        """Append the records of slices that meet, the first at ``next_offset``, under their own offsets, durably."""
        assert self._archived
        ends = [self.next_offset, *(one.next_offset for one in slices)]
        assert [one.first_offset for one in slices] == ends[:-1], "an archive has no hole and no record twice"
        self._put(_joined([one.records for one in slices]), runs_of(slices))

    def _put(self, batch: pa.RecordBatch, runs: Sequence[Run]) -> None:
        if self._is_full():
            self._seal()
        is_wide = runs[-1].next_offset - self.next_offset > OFFSETS_MAX
        if len(batch) >= TAIL_RECORDS or batch.nbytes >= TAIL_BYTES or is_wide:
            self._append_segments(batch, runs)
        else:
            for run in runs:
                self._append_frame(_before(batch, self.next_offset, run.next_offset), run)

    def _is_full(self) -> bool:
        return self._frames >= TAIL_FRAMES or self._records >= TAIL_RECORDS or self._bytes >= TAIL_BYTES

    def _append_frame(self, batch: pa.RecordBatch, run: Run) -> None:
        frame = encode_frame(self.next_offset, batch, run if self._archived else None)
        fs.append_fsync(self._fd, frame, path=self._files.tail(self._base))
        self.next_offset = run.next_offset
        self._bytes += len(frame)
        self._records += len(batch)
        self._frames += 1

    def _append_segments(self, batch: pa.RecordBatch, runs: Sequence[Run]) -> None:
        if self._frames:
            self._seal()
        self._write_segments(batch, runs)
        self._begin_tail(runs[-1].next_offset)

    def _seal(self) -> None:
        path = self._files.tail(self._base)
        frames = list(walk(memoryview(path.read_bytes()), self._base))
        if not frames or frames[-1].next_offset != self.next_offset:
            raise self._damaged(path, frames[-1].end if frames else 0)
        slices = [self._slice(frame) for frame in frames]
        self._write_segments(_joined([one.records for one in slices]), runs_of(slices))
        self._begin_tail(self.next_offset)

    def _slice(self, frame: Frame) -> Slice:
        first, end, run = frame.first_offset, frame.next_offset, frame.run
        missing = end - first - frame.record_count if run.removed else 0
        name, number = self._files.category, self._files.partition
        return Slice(name, number, first, end, frame.records(), missing, run.leader_epoch)

    def _write_segments(self, batch: pa.RecordBatch, runs: Sequence[Run]) -> None:
        """Segments that begin where the tail does, and reach to the end of ``runs``."""
        groups = [batch.slice(first, end - first) for first, end in pairwise(group_cuts(batch))]
        first = self._base
        for at in range(0, max(len(groups), 1), SEGMENT_GROUPS):
            chosen, later = groups[at : at + SEGMENT_GROUPS], groups[at + SEGMENT_GROUPS :]
            end = later[0]["offset"][0].as_py() if later else runs[-1].next_offset
            note = _note(chosen, part(runs, first, end)) if self._archived else None
            fs.write_file(self._files.segment(first), encode_segment(first, end, chosen, note))
            first = end

    def _begin_tail(self, base: int) -> None:
        old, self._base = self._base, base
        fs.write_file(self._files.tail(base), b"")
        self.close()
        fs.unlink(self._files.tail(old))
        self._open_tail([])

    def settle(self) -> None:
        """Nobody appends for now: seal what is worth it."""
        if self._records >= SETTLED_RECORDS or self._bytes >= SETTLED_BYTES:
            self._seal()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _numbered(records: pa.Table, first: int) -> pa.RecordBatch:
    """The records with offsets from ``first`` on, as schema ``RECORDS``; timestamps are the producer's (type 0)."""
    count = len(records)
    numbers = [np.arange(first, first + count, dtype=np.int64), records["timestamp"], np.zeros(count, np.int8)]
    columns = [*numbers, records["key"], records["value"], records["headers"]]
    return _joined(pa.table(columns, schema=RECORDS).to_batches())


def _before(batch: pa.RecordBatch, first: int, end: int) -> pa.RecordBatch:
    """The records of offsets ``[first, end)``."""
    low, high = np.searchsorted(batch["offset"].to_numpy(), (first, end))
    return batch.slice(low, high - low)


def _note(groups: Sequence[pa.RecordBatch], runs: tuple[Run, ...]) -> Note:
    return Note(sum(map(len, groups)), digest(groups), runs)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class CategoryWriter:
    """Appends to all partitions of one category; holds its lock until closed."""

    def __init__(self, partitions: Sequence[PartitionFiles], lock: CategoryLock, *, archived: bool = False) -> None:
        self.partitions, self._archived = len(partitions), archived
        self._files = partitions
        self._lock = lock
        self._writers: list[PartitionWriter] = []

    def append(self, shares: dict[int, pa.Table]) -> tuple[int, ...]:
        """Append ``shares`` (by partition); returns the next offset per partition. Raises ``LogError``."""
        return self._work(PartitionWriter.append, shares)

    def copy(self, pieces: Mapping[int, Sequence[Slice]]) -> tuple[int, ...]:
        """``PartitionWriter.copy`` by partition; returns the next offset per partition. Raises ``LogError``."""
        return self._work(PartitionWriter.copy, pieces)

    def _work(self, add: Callable[[PartitionWriter, Share], None], shares: Mapping[int, Share]) -> tuple[int, ...]:
        try:
            self._open()
            for partition, share in shares.items():
                add(self._writers[partition], share)
        except OSError as error:
            self._drop()
            msg = "appending to the log failed; the records may or may not be there"
            raise failed(msg, self._files[0].directory.parent, error) from error
        except BaseException:
            self._drop()
            raise
        return tuple(writer.next_offset for writer in self._writers)

    def _open(self) -> None:
        for files in self._files[len(self._writers) :]:
            self._writers.append(PartitionWriter(files, archived=self._archived))

    def _drop(self) -> None:
        while self._writers:
            self._writers.pop().close()

    def close(self) -> None:
        try:
            with suppress(OSError):  # all that was appended is there; who opens the log next clears up
                for writer in self._writers:
                    writer.settle()
        finally:
            self._drop()
            self._lock.close()
