"""Changes to a table, and how they turn its chunks into the chunks of the next snapshot.

``apply`` walks the chunks in order of key and touches only those that a change falls into, and a neighbour where a
chunk lost the row that ended it. Its result depends on the rows that come out, never on how they were reached.

Nothing here knows files: chunks are loaded by a function of the caller, new ones come out as rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.chunks import contiguous, ends_chunk, key_of
from connectors.manifest import Chunk, TableSpec
from connectors.sorting import are_ascending, sorted_order
from schemas.canonical import canonical_nested
from schemas.compiled import kernel, maker
from schemas.errors import UsageError
from schemas.hashing import binary_buffers

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows to put in place of those with the same primary key, and encoded primary keys of rows to remove.

    ``upserts``: the table's columns by name, no primary key twice. ``deletes``: keys as ``schemas.canonical.encode``
    makes them of the primary key's columns; those that are not in the table are ignored. Deletes come first: a key in
    both stays, with the new row. ``keys``: the encoded primary keys of ``upserts``, where they are at hand.
    """

    upserts: pa.Table
    deletes: pa.BinaryArray | None = None
    keys: pa.BinaryArray | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """Changes of many rows, made part by part when they are wanted: every key of a part is before every key of the next.

    Each maker is called once, from any thread.
    """

    makers: Sequence[Callable[[], Changes]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Sorted rows, their encoded primary keys, and behind which of them a chunk ends (None: look yet)."""

    rows: pa.Table
    keys: pa.ChunkedArray
    ends: Mask | None = None

    def slice(self, start: int, stop: int) -> Piece:
        return Piece(self.rows.slice(start, stop - start), self.keys.slice(start, stop - start))


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes in order of key. ``rows`` are the new rows; ``before[i]`` of them belong to keys before key ``i``.

    So key ``i`` gets the row ``before[i]`` when ``before[i + 1]`` is one more, and is removed when it is the same.
    ``ends``: behind which keys a chunk ends.
    """

    keys: pa.BinaryArray
    before: Ints
    rows: pa.Table
    ends: Mask

    def slice(self, start: int, stop: int) -> Delta:
        first, last = self.before[start], self.before[stop]
        keys, rows = self.keys.slice(start, stop - start), self.rows.slice(first, last - first)
        return Delta(keys, self.before[start : stop + 1] - first, rows, self.ends[start:stop])


def prepare(spec: TableSpec, changes: Changes) -> list[Delta]:
    """Check changes against the table's specification and sort them: one delta, or several that follow each other.

    New rows that come in order, and nothing to remove, are taken batch by batch as they are. Raises ``UsageError``.
    """
    if changes.deletes is None and (found := _in_order(spec, changes.upserts, changes.keys)) is not None:
        return found
    rows = conform(spec, changes.upserts)
    removed = changes.deletes if changes.deletes is not None else pa.array([], pa.binary())
    keys = pa.concat_arrays([removed, key_of(rows, spec.primary_key)])
    order = sorted_order(keys)  # stable: of equal keys, deletes come first
    ordered, source = keys.take(pa.array(order)), order - len(removed)
    again = np.zeros(len(keys), np.bool_)  # the next key is the same
    again[:-1] = np.asarray(pc.equal(ordered[1:], ordered[:-1]))
    if (again[:-1] & (source[:-1] >= 0)).any():
        msg = f"table {spec.name!r}: two new rows with one primary key"
        raise UsageError(msg, where=f"primary key {', '.join(spec.primary_key)}")
    source = source[~again]
    before = np.concatenate([[0], np.cumsum(source >= 0)]).astype(np.int64)
    distinct = ordered.filter(pa.array(~again))
    return [Delta(distinct, before, rows.take(pa.array(source[source >= 0])), ends_chunk(distinct, spec.chunk_rows))]


def _in_order(spec: TableSpec, rows: pa.Table, given: pa.BinaryArray | None) -> list[Delta] | None:
    """A delta for each batch of ``rows``; None when their keys do not ascend. ``given``: those keys, where they are at hand."""
    found: list[Delta] = []
    at = 0
    for batch in (batch for batch in rows.to_batches() if len(batch)):
        part = conform(spec, pa.Table.from_batches([batch]))
        keys = key_of(part, spec.primary_key) if given is None else given.slice(at, len(batch))
        at += len(batch)
        follows = not found or found[-1].keys[-1].as_py() < keys[0].as_py()
        if not (follows and are_ascending(keys)):
            return None
        found.append(Delta(keys, np.arange(len(keys) + 1), part, ends_chunk(keys, spec.chunk_rows)))
    return found


def conform(spec: TableSpec, rows: pa.Table) -> pa.Table:
    """``rows`` with exactly the specification's schema, each column one array, every NaN the one canonical NaN."""
    types = {field.name: field.type for field in spec.schema}
    if sorted(rows.schema.names) != sorted(types) or any(f.type != types[f.name] for f in rows.schema):
        msg = f"table {spec.name!r}: rows of another schema"
        raise UsageError(msg, where=f"wanted {_words(spec.schema)}\ngot {_words(rows.schema)}")
    columns = [_conform(spec, field, contiguous(rows.column(field.name))) for field in spec.schema]
    return pa.table(columns, schema=spec.schema.remove_metadata())


def _conform(spec: TableSpec, field: pa.Field, column: pa.Array) -> pa.Array:
    if column.null_count and not field.nullable:
        msg = f"table {spec.name!r}: a null in column {field.name!r}, which has none"
        raise UsageError(msg)
    return canonical_nested(column)


def _words(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def apply(
    spec: TableSpec, chunks: Sequence[Chunk], deltas: Iterable[Delta], load: Callable[[Chunk], pa.Table]
) -> Iterator[Chunk | Piece]:
    """The chunks after the changes (which follow each other), in order: those untouched as they are, new ones as pieces.

    No rows at all give nothing; the caller writes the one empty chunk of an empty table.
    """
    carry: Piece | None = None  # rows behind the last cut, which the next chunk will complete
    waiting = _Waiting(spec, deltas)
    for number, chunk in enumerate(chunks):
        here = waiting.up_to(bytes.fromhex(chunk.last))
        is_open = number == len(chunks) - 1 and waiting.is_any() and not _is_closed(spec, chunk)
        if chunk.rows and not here and carry is None and not is_open:
            yield chunk
            continue
        changed = _load(spec, chunk, load)
        for part in here:
            changed = _merge(changed, part)
        whole, carry = _cut(spec, carry, changed)
        yield from whole
    while waiting.is_any():
        whole, carry = _cut(spec, carry, _merge(nothing(spec), waiting.next()))
        yield from whole
    if carry is not None:
        yield carry


class _Waiting:
    """Deltas that follow each other, taken from the front."""

    def __init__(self, spec: TableSpec, deltas: Iterable[Delta]) -> None:
        self._spec, self._rest = spec, iter(deltas)
        self._first: Delta | None = None
        self._last = b""  # key of those before

    def is_any(self) -> bool:
        while self._first is None or not len(self._first.keys):
            self._first = next(self._rest, None)
            if self._first is None:
                return False
            self._check(self._first.keys)
        return True

    def _check(self, keys: pa.BinaryArray) -> None:
        if len(keys) and keys[0].as_py() <= self._last:
            msg = f"table {self._spec.name!r}: parts of changes that do not follow each other"
            raise UsageError(msg)
        self._last = keys[-1].as_py() if len(keys) else self._last

    def next(self) -> Delta:
        assert self._first is not None
        first, self._first = self._first, None
        return first

    def up_to(self, last: bytes) -> list[Delta]:
        """What belongs to keys up to this one."""
        found = []
        while self.is_any():
            delta = self.next()
            end = _behind(delta.keys, last)
            if end:
                found.append(delta.slice(0, end))
            if end < len(delta.keys):
                self._first = delta.slice(end, len(delta.keys))
                break
        return found


def _load(spec: TableSpec, chunk: Chunk, load: Callable[[Chunk], pa.Table]) -> Piece:
    rows = load(chunk)
    return Piece(rows, pa.chunked_array([key_of(rows, spec.primary_key)]))


def nothing(spec: TableSpec) -> Piece:
    return Piece(spec.schema.remove_metadata().empty_table(), pa.chunked_array([], pa.binary()))


def _is_closed(spec: TableSpec, chunk: Chunk) -> bool:
    last = pa.array([bytes.fromhex(chunk.last)], pa.binary())
    return chunk.rows > 0 and bool(ends_chunk(last, spec.chunk_rows)[0])


def _behind(keys: pa.BinaryArray, key: bytes) -> int:
    """How many of the sorted ``keys`` are <= ``key``."""
    return bisect_right(range(len(keys)), key, key=lambda i: keys[i].as_py())


def _cut(spec: TableSpec, carry: Piece | None, piece: Piece) -> tuple[list[Piece], Piece | None]:
    """The complete chunks of ``piece`` behind ``carry`` (in which none ends), and the rows behind the last cut (None when there
    are none)."""
    ends = ends_chunk(contiguous(piece.keys), spec.chunk_rows) if piece.ends is None else piece.ends
    before = len(carry.keys) if carry else 0
    stops = np.flatnonzero(ends) + 1 + before
    joined = _join(carry, piece)
    starts = [0, *stops.tolist()]
    whole = [joined.slice(a, b) for a, b in zip(starts, stops.tolist(), strict=False)]
    rest = joined.slice(starts[-1], len(joined.keys))
    return whole, rest if len(rest.keys) else None


def _join(first: Piece | None, second: Piece) -> Piece:
    if first is None:
        return second
    keys = pa.chunked_array([*first.keys.chunks, *second.keys.chunks])
    return Piece(pa.concat_tables([first.rows, second.rows]), keys)


def _merge(old: Piece, part: Delta) -> Piece:
    """The rows of ``old`` with the changes of ``part``."""
    if not len(part.keys):
        return old
    if not len(old.keys) and part.rows.num_rows == len(part.keys):
        return Piece(part.rows, pa.chunked_array([part.keys]), part.ends)
    keys = contiguous(old.keys)
    key_at, row_at = _merge_order(*binary_buffers(keys), *binary_buffers(part.keys), part.before)
    merged = pa.concat_arrays([keys, part.keys]).take(pa.array(key_at))
    rows = pa.concat_tables([old.rows, part.rows]).combine_chunks().take(pa.array(row_at))
    return Piece(rows, pa.chunked_array([merged]))


@maker
def _merge_order(old: Bytes, old_at: Ints, new: Bytes, new_at: Ints, before: Ints) -> tuple[Ints, Ints]:
    """Merge two sorted key lists; a new key replaces the equal old one, and is dropped itself when it has no row.

    Positions of the surviving keys in (old keys, new keys), and of their rows in (old rows, new rows).
    """
    n, m = len(old_at) - 1, len(new_at) - 1
    key_at, row_at = np.empty(n + m, np.int64), np.empty(n + m, np.int64)
    i = j = count = 0
    while i < n or j < m:
        order = (
            -1 if j == m else 1 if i == n else _compare(old, old_at[i], old_at[i + 1], new, new_at[j], new_at[j + 1])
        )
        if order < 0:
            key_at[count], row_at[count] = i, i
            count += 1
        elif before[j + 1] > before[j]:
            key_at[count], row_at[count] = n + j, n + before[j]
            count += 1
        i += order <= 0
        j += order >= 0
    return key_at[:count], row_at[:count]


@kernel
def _compare(a: Bytes, a_start: int, a_end: int, b: Bytes, b_start: int, b_end: int) -> int:
    """-1, 0 or 1 as ``a[a_start:a_end]`` is before, equal to or behind ``b[b_start:b_end]``."""
    size = min(a_end - a_start, b_end - b_start)
    if min(a_start, b_start) < 0 or a_start + size > len(a) or b_start + size > len(b):
        raise IndexError("offsets outside the data")
    for k in range(size):
        x, y = a[a_start + k], b[b_start + k]
        if x != y:
            return -1 if x < y else 1
    return (a_end - a_start > b_end - b_start) - (a_end - a_start < b_end - b_start)
