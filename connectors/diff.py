"""What differs between two states of one table, found by their chunk lists.

Chunks are cut where the rows say so, hence equal stretches of rows are equal chunks: only chunks that are not in both
lists are read, and of those one a side at a time. Rows are compared by their canonical encodings, so that NaN equals NaN and
-0.0 does not equal 0.0.

Where the files of a side lie is not known here: each side brings a function that loads a chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.changes import Piece
from connectors.chunks import contiguous, key_of
from connectors.manifest import Chunk, Table
from schemas.canonical import encode

Load = Callable[[Chunk], pa.Table]


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs, or one row that only one side has (``column`` is None, and the other side's value too).

    ``key``: the primary key, by column. ``left``, ``right``: the values; of a whole row its other columns, by name.
    ``files``: the chunk files that hold the row, of the left side and of the right (None: it has no such row).
    """

    key: dict[str, Any]
    column: str | None
    left: Any
    right: Any
    files: tuple[str | None, str | None]


def changed_chunks(left: Table, right: Table) -> list[Chunk]:
    """Chunks of ``left`` that hold rows which ``right`` does not have like this, in order of key."""
    known = {chunk.digest for chunk in right.chunks}
    return [chunk for chunk in left.chunks if chunk.digest not in known]


def differences(left: Table, right: Table, load_left: Load, load_right: Load) -> Iterator[Difference]:
    """All differences in order of primary key; take as many as are wanted. The tables have one schema and primary key.

    Raises what the load functions raise (``StoreDamaged`` for a file that is not what was written).
    """
    key = left.primary_key
    one, other = _Side(left.chunks, key, load_left), _Side(right.chunks, key, load_right)
    while one.has_more or other.has_more:
        if one.next_digest is not None and one.next_digest == other.next_digest:
            one.skip()
            other.skip()
            continue
        one.fill()
        other.fill()
        bound = min(side.last for side in (one, other) if side.last is not None)
        yield from _compare(key, one.take(bound), other.take(bound), (one.file, other.file))


class _Side:
    """The chunks of one side, read one at a time: rows of the present chunk that were not compared yet, and the rest."""

    def __init__(self, chunks: Sequence[Chunk], key: tuple[str, ...], load: Load) -> None:
        self._rest = [chunk for chunk in chunks if chunk.rows]
        self._key, self._load = key, load
        self._piece: Piece | None = None
        self.file: str | None = None

    @property
    def has_more(self) -> bool:
        return bool(self._rest) or self._piece is not None

    @property
    def next_digest(self) -> str | None:
        """Digest of the next chunk, where the one before is dealt with."""
        return self._rest[0].digest if self._rest and self._piece is None else None

    def skip(self) -> None:
        self._rest.pop(0)

    def fill(self) -> None:
        if self._piece is None and self._rest:
            chunk = self._rest.pop(0)
            rows = self._load(chunk)
            self._piece, self.file = Piece(rows, key_of(rows, self._key)), chunk.file

    @property
    def last(self) -> bytes | None:
        return None if self._piece is None else self._piece.keys[-1].as_py()

    def take(self, bound: bytes) -> Piece | None:
        """The rows with keys up to ``bound``; those behind it stay."""
        piece = self._piece
        if piece is None:
            return None
        stop = bisect_right(range(len(piece.keys)), bound, key=lambda i: piece.keys[i].as_py())
        self._piece = piece.slice(stop, len(piece.keys)) if stop < len(piece.keys) else None
        return piece.slice(0, stop)


def _compare(
    key: tuple[str, ...], left: Piece | None, right: Piece | None, files: tuple[str | None, str | None]
) -> Iterator[Difference]:
    nothing = pa.array([], pa.binary())
    left_keys, right_keys = (nothing if piece is None else piece.keys for piece in (left, right))
    at_right = np.asarray(pc.fill_null(pc.index_in(left_keys, right_keys), -1))
    common = np.flatnonzero(at_right >= 0)
    found: list[tuple[bytes, Difference]] = []
    if left is not None and right is not None and len(common):
        found += _of_common_rows(key, left, right, common, at_right[common], files)
    if left is not None:
        alone = np.flatnonzero(at_right < 0)
        found += [(left_keys[i].as_py(), _alone(key, left.rows, i, 0, files)) for i in alone.tolist()]
    if right is not None:
        alone = np.flatnonzero(~np.asarray(pc.is_in(right_keys, left_keys)))
        found += [(right_keys[i].as_py(), _alone(key, right.rows, i, 1, files)) for i in alone.tolist()]
    yield from (difference for _, difference in sorted(found, key=lambda pair: pair[0]))


def _of_common_rows(
    key: tuple[str, ...],
    left: Piece,
    right: Piece,
    at_left: np.ndarray[Any, Any],
    at_right: np.ndarray[Any, Any],
    files: tuple[str | None, str | None],
) -> Iterator[tuple[bytes, Difference]]:
    for name in (name for name in left.rows.schema.names if name not in key):
        ours = contiguous(left.rows.column(name)).take(pa.array(at_left))
        theirs = contiguous(right.rows.column(name)).take(pa.array(at_right))
        other = np.flatnonzero(np.asarray(pc.not_equal(encode([ours]), encode([theirs]))))
        for i in other.tolist():
            row = int(at_left[i])
            values = (ours[i].as_py(), theirs[i].as_py())
            yield left.keys[row].as_py(), Difference(_key(key, left.rows, row), name, *values, files)


def _alone(
    key: tuple[str, ...], rows: pa.Table, row: int, side: int, files: tuple[str | None, str | None]
) -> Difference:
    values = {name: rows.column(name)[row].as_py() for name in rows.schema.names if name not in key}
    primary = _key(key, rows, row)
    if side == 0:
        return Difference(primary, None, values, None, (files[0], None))
    return Difference(primary, None, None, values, (None, files[1]))


def _key(key: tuple[str, ...], rows: pa.Table, row: int) -> dict[str, Any]:
    return {name: rows.column(name)[row].as_py() for name in key}
