"""A sealed segment: records ``[first, next)`` of one partition as an immutable Parquet file.

Columns are those of ``RECORDS``. The file's key-value metadata holds the range of offsets that it covers, which may be
wider than the offsets of the records in it, and the number of the format. Row groups are small enough to be one slice
each, so that reading holds one of them in memory, never the file.

Promises: what is read is what was written, or a ``LogError`` names the file. Pages carry checksums; what the footer
says is checked against what is in the pages. Knows nothing of tails, locks or where files are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.log import RECORDS
from schemas.errors import LogError

FORMAT = 1
GROUP_RECORDS = 65_536
GROUP_BYTES = 16 << 20
"""Bounds of a row group, and so of a slice; a single record may be bigger."""

_FORMAT_KEY, _RANGE_KEY = b"refold.format", b"refold.range"
_READ_ERRORS = (OSError, ValueError, KeyError, pa.ArrowException)  # Arrow raises each of these for damaged files


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


def encode_segment(first: int, next_offset: int, groups: Sequence[pa.RecordBatch]) -> bytes:
    """The bytes of a segment that covers ``[first, next_offset)``; each of ``groups`` becomes a row group."""
    coverage = {_FORMAT_KEY: str(FORMAT), _RANGE_KEY: f"{first} {next_offset}"}
    assert groups
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, RECORDS.with_metadata(coverage), **_WRITING) as writer:
        for group in groups:
            assert first <= group.column("offset")[0].as_py() <= group.column("offset")[-1].as_py() < next_offset
            writer.write_table(pa.Table.from_batches([group]), row_group_size=len(group))
    return sink.getvalue().to_pybytes()


_WRITING = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": {"offset": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"},
    "write_statistics": ["offset"],
    "write_page_checksum": True,
}


class Segment:
    """An open segment. ``first`` and ``next_offset`` are the range of offsets that it covers."""

    def __init__(self, path: Path, first: int) -> None:
        """Raises ``LogError`` when the file cannot be read or does not cover a range that begins at ``first``."""
        self.path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
            self.first, self.next_offset = _coverage(self._file.metadata.metadata or {})
            self._starts = _group_starts(self._file.metadata)
        except _READ_ERRORS as error:
            raise self._damaged(str(error)) from error
        if self.first != first or not self._is_ordered():
            raise self._damaged(f"it says that it holds offsets {self.first:,} to {self.next_offset:,}")

    def _is_ordered(self) -> bool:
        ascending = all(a < b for a, b in pairwise(self._starts))
        return ascending and self.first <= self._starts[0] and self._starts[-1] < self.next_offset

    def read(self, offset: int) -> tuple[pa.RecordBatch, int]:
        """The records from ``offset`` to the end of its row group, and the next offset after what they cover."""
        assert self.first <= offset < self.next_offset
        group = max(bisect_right(self._starts, offset) - 1, 0)
        end = self._starts[group + 1] if group + 1 < len(self._starts) else self.next_offset
        try:
            records = self._read_group(group)
        except _READ_ERRORS as error:
            raise self._damaged(str(error)) from error
        offsets = records.column("offset").to_numpy()
        if not self._fits(offsets, group, end):
            raise self._damaged(f"row group {group} does not hold what the footer says")
        return records.slice(int(np.searchsorted(offsets, offset))), end

    def _read_group(self, group: int) -> pa.RecordBatch:
        table = self._file.read_row_group(group, use_threads=False)
        if not table.schema.equals(RECORDS) or len(table) != self._file.metadata.row_group(group).num_rows:
            msg = f"row group {group} has other columns or another length than it should"
            raise ValueError(msg)
        table.validate()
        return table.combine_chunks().to_batches()[0]

    def _fits(self, offsets: npt.NDArray[np.int64], group: int, end: int) -> bool:
        return bool(offsets[0] == self._starts[group] and offsets[-1] < end and (np.diff(offsets) > 0).all())

    def _damaged(self, why: str) -> LogError:
        return LogError("a segment of the log is damaged", where=str(self.path), why=why, do="restore it from a copy")

    def close(self) -> None:
        self._file.close()


def _coverage(metadata: Mapping[bytes, bytes]) -> tuple[int, int]:
    if metadata[_FORMAT_KEY] != str(FORMAT).encode():
        msg = f"format {metadata[_FORMAT_KEY].decode(errors='replace')} is not known to this version"
        raise ValueError(msg)
    first, next_offset = metadata[_RANGE_KEY].split()
    return int(first), int(next_offset)


def _group_starts(metadata: pq.FileMetaData) -> list[int]:
    """First offset of each row group."""
    column = RECORDS.names.index("offset")
    groups = (metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups))
    return [statistics.min for statistics in groups]
