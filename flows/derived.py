"""Typed columns beside the raw log: decode a segment once, and read what came of it the next time.

``Reading`` gives what the decoder gives, byte for byte, whether it decodes or finds the outcome of an earlier decoding beside the
segment (``connectors.columns``). Outcomes are kept per column, under a fingerprint of all that they depend on, so that another
projection over the same events finds the columns it shares; the first is the *envelope*: fate, event time, type, reason and
hash of each record.

Promises: what is read is used only if it is whole, of this very segment, and of this very meaning. It may be removed at
any time, and a log that cannot be written to is only slower.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.columns import SUFFIX, ColumnFile, write_columns
from connectors.log import RowGroup, Slice
from connectors.log_digest import record_hashes
from flows.projection import SEMANTICS
from schemas.decode import Column, Decoded, Decoder

FORMAT = 1
Hashes = npt.NDArray[np.uint64]
Batches = dict[str, pa.RecordBatch]
"""By the name of the file they are kept in."""


class Reading:
    """Decodes slices of one partition. ``raw``: whatever is kept beside them. For one thread."""

    def __init__(self, decoder: Decoder, raw: bool = False) -> None:
        self._decoder, self._raw = decoder, raw
        self._names = {column: _fingerprint(decoder, column) for column in decoder.columns}
        self._envelope = _fingerprint(decoder, None)
        self._open: tuple[Path | None, dict[str, ColumnFile | None]] = None, {}
        self._made: tuple[Path | None, list[Batches]] = None, []

    def read(self, part: Slice) -> tuple[Decoded, Hashes]:
        """The slice decoded, and the hash of each record."""
        group = None if self._raw else part.stored
        if group is not None and (found := self._found(group)) is not None:
            return found
        decoded, hashes = self._decoder.decode(part.records), record_hashes(part.records)
        if group is not None:
            self._keep(group, decoded, hashes)
        return decoded, hashes

    # -- what is there

    def _found(self, group: RowGroup) -> tuple[Decoded, Hashes] | None:
        envelope = self._read(group, self._envelope)
        if envelope is None:
            return None
        columns = {}
        for column, name in self._names.items():
            batch = self._read(group, name)
            if batch is None:
                return None
            columns[column] = batch
        return _decoded(self._decoder, envelope, columns), np.asarray(envelope.column("hash"))

    def _read(self, group: RowGroup, name: str) -> pa.RecordBatch | None:
        directory, files = self._open
        if directory != group.columns:
            files = {}
            self._open = group.columns, files
        if name not in files:
            files[name] = ColumnFile.open(f"{group.columns}/{name}{SUFFIX}", group.checksum, group.groups)
        file = files[name]
        batch = file.read(group.number) if file else None
        return batch if batch is not None and batch.num_rows == group.rows else None

    # -- what is made

    def _keep(self, group: RowGroup, decoded: Decoded, hashes: Hashes) -> None:
        """Remember the outcome; when that of the whole segment is there, write it."""
        if group.number == 0:
            self._made = group.columns, []
        directory, made = self._made
        if directory != group.columns or len(made) != group.number:
            return
        batches = {self._names[column]: _column_batch(decoded, column) for column in self._names}
        made.append({self._envelope: _envelope_batch(decoded, hashes), **batches})
        if len(made) == group.groups:
            for name in made[0]:
                write_columns(group.columns / (name + SUFFIX), group.checksum, [batch[name] for batch in made])
            self._made, self._open = (None, []), (None, {})


def _fingerprint(decoder: Decoder, column: Column | None) -> str:
    """Of all that decides what is in a column (None: the envelope)."""
    facts: dict[str, Any] = {"format": FORMAT, "semantics": SEMANTICS, "arrow": pa.__version__, **decoder.facts(column)}
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _envelope_batch(decoded: Decoded, hashes: Hashes) -> pa.RecordBatch:
    n = len(hashes)
    reasons = [decoded.reasons.get(row) for row in range(n)] if decoded.reasons else pa.nulls(n)
    columns = {
        "hash": pa.array(hashes),
        "event_time": pa.array(decoded.event_time),
        "fate": pa.array(decoded.fate),
        "type": pa.nulls(n) if decoded.type_names is None else decoded.type_names,
        "reason": pa.array(reasons, pa.string()) if decoded.reasons else reasons,
    }
    return pa.RecordBatch.from_pydict(columns)


def _column_batch(decoded: Decoded, column: Column) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {"value": decoded.columns[column], "invalid": pa.array(decoded.invalid[column].view(np.uint8))}
    )


def _decoded(decoder: Decoder, envelope: pa.RecordBatch, columns: dict[Column, pa.RecordBatch]) -> Decoded:
    reason = envelope.column("reason")
    rows = np.flatnonzero(np.asarray(reason.is_valid())).tolist() if reason.null_count < len(reason) else []
    names = None if pa.types.is_null(envelope.column("type").type) else envelope.column("type")
    return Decoded(
        decoder.types,
        np.asarray(envelope.column("fate")),
        np.asarray(envelope.column("event_time")),
        decoder.codes(names, envelope.num_rows),
        {row: reason[row].as_py() for row in rows},
        {column: batch.column("value") for column, batch in columns.items()},
        {column: np.asarray(batch.column("invalid")).view(np.bool_) for column, batch in columns.items()},
        names,
    )
