"""A sealed segment: records ``[first, next)`` of one partition as an immutable Parquet file.

Columns are those of ``RECORDS``. The file's key-value metadata holds the range of offsets that it covers, which may be
wider than the offsets of the records in it, and the number of the format. Row groups are small enough to be one slice
each, so that reading holds one of them in memory, never the file.

Between the last row group and the footer, where Parquet's other readers do not look, lie checksums::

    CRC32C of each row group, u32 each | number of row groups u32 | CRC32C of these and the footer u32

A segment of an archive has a *note* in its metadata as well (``connectors.coverage.Note``): the digest of its records, and
what is known of offsets that have none.

Promises: what is read is what was written, or a ``LogError`` names the file. Checksums come before parsing, because
the Parquet library may end the process over a damaged footer. Knows nothing of tails, locks or where files are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from crc32c import crc32c

from connectors.coverage import Note, Run
from connectors.log import RECORDS
from schemas.errors import LogError

FORMAT = 1
GROUP_RECORDS = 131_072
GROUP_BYTES = 32 << 20
"""Bounds of a row group, and so of a slice; a single record may be bigger."""

_FORMAT_KEY, _RANGE_KEY, _NOTE_KEY = b"refold.format", b"refold.range", b"refold.note"
_WRITING = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": {"offset": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"},
    "write_statistics": ["offset"],
}
_END_BYTES = 8  # of a Parquet file: length of the footer u32, "PAR1"
_OFFSET = RECORDS.names.index("offset")
_NO_RECORDS = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in RECORDS], schema=RECORDS)


def group_cuts(records: pa.RecordBatch) -> list[int]:
    """Positions at which to cut ``records`` so that every piece is within the bounds of a row group; 0 first."""
    ends = np.cumsum(_record_bytes(records))
    cuts = [0]
    while cuts[-1] < len(records):
        first = cuts[-1]
        before = int(ends[first - 1]) if first else 0
        fitting = int(np.searchsorted(ends, before + GROUP_BYTES, side="right"))
        cuts.append(min(max(fitting, first + 1), first + GROUP_RECORDS, len(records)))
    return cuts


def _record_bytes(records: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of key, value and headers of each record."""
    sizes = np.zeros(len(records), np.int64)
    for name in ("key", "value", "headers"):
        column = records.column(name)
        if column.null_count < len(column):
            sizes += np.diff(np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1])
    return sizes


def encode_segment(first: int, next_offset: int, groups: Sequence[pa.RecordBatch], note: Note | None = None) -> bytes:
    """The bytes of a segment that covers ``[first, next_offset)``; each of ``groups``, not empty, becomes a row group.

    Only a segment with a note may be without records.
    """
    assert groups or note
    coverage = {_FORMAT_KEY: str(FORMAT).encode(), _RANGE_KEY: f"{first} {next_offset}".encode()}
    if note is not None:
        coverage[_NOTE_KEY] = note.to_bytes()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, RECORDS.with_metadata(coverage), **_WRITING) as writer:
        for group in groups:
            assert first <= group.column("offset")[0].as_py() <= group.column("offset")[-1].as_py() < next_offset
            writer.write_table(pa.Table.from_batches([group]), row_group_size=len(group))
    return _with_checksums(sink.getvalue())


def _with_checksums(parquet: pa.Buffer) -> bytes:
    content = memoryview(parquet)
    footer = len(content) - _END_BYTES - _word(content, len(content) - _END_BYTES)
    bounds = [*_group_bounds(pq.read_metadata(pa.BufferReader(parquet))), footer]
    sums = np.array(
        [crc32c(content[first:end]) for first, end in pairwise(bounds)] + [len(bounds) - 1], "<u4"
    ).tobytes()
    return b"".join((content[:footer], sums, _sum_of(sums, content[footer:]), content[footer:]))


def _sum_of(sums: bytes, footer: memoryview) -> bytes:
    return crc32c(footer, crc32c(sums)).to_bytes(4, "little")


def _word(content: bytes | memoryview, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "little")


def _group_bounds(metadata: pq.FileMetaData) -> list[int]:
    """The byte at which each row group begins; the file's first bytes are counted in."""
    groups = range(1, metadata.num_row_groups)
    return [0, *(metadata.row_group(group).column(0).data_page_offset for group in groups)]


class Segment:
    """An open segment. ``first`` and ``next_offset`` are the range of offsets that it covers.

    ``note`` is that of an archive's segment (None: it is no archive's), ``runs`` what is known of its offsets.
    """

    def __init__(self, path: Path, first: int) -> None:
        """Raises ``LogError`` when the file cannot be read or does not cover a range that begins at ``first``."""
        self.path = path
        try:
            self._raw = pa.OSFile(str(path))
            self._sums, end = self._checked_sums()
            self._file = pq.ParquetFile(self._raw, pre_buffer=False)
            self.first, self.next_offset = _coverage(self._file.metadata)
            written = self._file.metadata.metadata.get(_NOTE_KEY)
            self.note = None if written is None else Note.from_bytes(written)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if self.first != first:
            raise self._damaged(f"it holds offsets from {self.first:,} on")
        self._bounds = [*_group_bounds(self._file.metadata), end]
        self._starts = _group_starts(self._file.metadata)
        self.runs = self.note.runs if self.note else (Run(self.next_offset),)

    def _checked_sums(self) -> tuple[list[int], int]:
        """The checksums of the row groups, and the byte at which these end."""
        ending = self._raw.size() - _END_BYTES
        footer = ending - _word(self._bytes(ending, ending + 4), 0)
        count = _word(self._bytes(footer - 8, footer - 4), 0)
        end = footer - 8 - 4 * count
        sums = self._bytes(end, footer - 4)
        self.checksum = _word(self._bytes(footer - 4, footer), 0)
        if self._bytes(footer - 4, footer) != _sum_of(sums, memoryview(self._bytes(footer, ending + _END_BYTES))):
            raise ValueError("the footer is not what was written")
        return np.frombuffer(sums, "<u4", count).tolist(), end

    def _bytes(self, first: int, end: int) -> bytes:
        if not 0 <= first <= end <= self._raw.size():
            raise ValueError("the file is cut off, or its footer is not what was written")
        return self._raw.read_at(end - first, first)

    def whole_group(self, offset: int) -> tuple[int, int, int] | None:
        """Number, records and end of the row group that begins at ``offset``, if it has a record at each of its offsets."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0 or self._starts[number] != offset:
            return None
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self.next_offset
        rows = self._file.metadata.row_group(number).num_rows
        return (number, rows, end) if rows == end - offset else None

    @property
    def groups(self) -> int:
        return len(self._starts)

    def read(self, offset: int) -> tuple[pa.RecordBatch, int]:
        """The records from ``offset`` to the end of its row group, and the next offset after what they cover."""
        assert self.first <= offset < self.next_offset
        group = max(bisect_right(self._starts, offset) - 1, 0)
        end = self._starts[group + 1] if group + 1 < len(self._starts) else self.next_offset
        try:
            records = self._read_group(group)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        return records.slice(int(np.searchsorted(records.column(_OFFSET).to_numpy(), offset))), end

    def _read_group(self, group: int) -> pa.RecordBatch:
        if not self._starts:
            return _NO_RECORDS
        self._check_group(group)
        return self._file.read_row_group(group, use_threads=False).combine_chunks().to_batches()[0]

    def check(self, group: int) -> None:
        """Compare the bytes of a row group with their checksum, without reading a record. Raises ``LogError``."""
        try:
            self._check_group(group)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _check_group(self, group: int) -> None:
        if crc32c(self._bytes(self._bounds[group], self._bounds[group + 1])) != self._sums[group]:
            msg = f"row group {group} is not what was written"
            raise ValueError(msg)

    def _damaged(self, why: str) -> LogError:
        return LogError("a segment of the log is damaged", where=str(self.path), why=why, do="restore it from a copy")

    def close(self) -> None:
        self._file.close()
        self._raw.close()


def _coverage(metadata: pq.FileMetaData) -> tuple[int, int]:
    written = metadata.metadata
    if written[_FORMAT_KEY] != str(FORMAT).encode():
        msg = f"format {written[_FORMAT_KEY].decode()} is not known to this version"
        raise ValueError(msg)
    first, next_offset = written[_RANGE_KEY].split()
    return int(first), int(next_offset)


def _group_starts(metadata: pq.FileMetaData) -> list[int]:
    """First offset of each row group."""
    groups = (metadata.row_group(group).column(_OFFSET).statistics for group in range(metadata.num_row_groups))
    return [statistics.min for statistics in groups]
