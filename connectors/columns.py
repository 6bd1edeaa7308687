"""Files of columns that were derived from a segment of the log: never the truth, always checked, safe to remove.

    batches of all row groups, each an Arrow IPC stream | footer (JSON) | CRC32C of the footer u32 | its size u32 | "RFCOL001"

The footer says of which segment the columns are (its checksum) and where each batch lies, with its CRC32C. A file that is absent,
damaged, or of another segment reads as None: whoever wants the columns makes them again. Nothing here knows what they mean.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from crc32c import crc32c

from connectors import fs

MAGIC = b"RFCOL001"
_END = struct.Struct("<II8s")
_ALIGNMENT = 64
SUFFIX = ".columns"


def write_columns(path: Path, checksum: int, batches: Sequence[pa.RecordBatch]) -> bool:
    """Write the columns of all row groups of the segment with this checksum. False when the disk does not take them."""
    parts: list[bytes | memoryview] = []
    places: list[list[int]] = []
    at = 0
    for batch in batches:
        stream = _stream(batch)
        parts += [stream, bytes(-len(stream) % _ALIGNMENT)]
        places.append([at, len(stream), crc32c(stream)])
        at += len(stream) + len(parts[-1])
    footer = json.dumps({"segment": checksum, "groups": places}).encode()
    parts += [footer, _END.pack(crc32c(footer), len(footer), MAGIC)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.write_derived(path, b"".join(parts))
    except OSError:
        return False
    return True


def _stream(batch: pa.RecordBatch) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


class ColumnFile:
    """An open file; what it gives lives as long as somebody holds it, also when the file is removed."""

    def __init__(self, mapped: memoryview, places: Sequence[Sequence[int]]) -> None:
        self._mapped, self._places = mapped, places

    @classmethod
    def open(cls, path: Path | str, checksum: int, groups: int) -> ColumnFile | None:
        """None when there is no such file for a segment with this checksum and so many row groups."""
        try:
            mapped = memoryview(pa.memory_map(str(path)).read_buffer())
            sum_, size, magic = _END.unpack(mapped[-_END.size :])
            footer = mapped[-_END.size - size : -_END.size]
            if magic != MAGIC or crc32c(footer) != sum_:
                return None
            found = json.loads(bytes(footer))
        except (OSError, ValueError, struct.error):
            return None
        if found["segment"] != checksum or len(found["groups"]) != groups:
            return None
        return cls(mapped, found["groups"])

    def read(self, group: int) -> pa.RecordBatch | None:
        """The columns of a row group, without a copy; None when they are damaged."""
        at, size, sum_ = self._places[group]
        stream = self._mapped[at : at + size]
        if len(stream) != size or crc32c(stream) != sum_:
            return None
        batch: pa.RecordBatch = pa.ipc.open_stream(pa.py_buffer(stream)).read_next_batch()
        return batch
