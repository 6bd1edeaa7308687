"""The fast way from JSON values to columns: what it accepts is what the exact parser gives, and it tells what it left.

``Scanner`` prepares the wanted paths once; ``scan`` gives the columns of a run of values and the rows that it did not accept.
Not every set of paths can be scanned (``Scanner.of`` gives None): then the exact parser does all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import scan_kernels as kernels
from schemas.dictionary import TEXTS, coded, slots_for
from schemas.event import TIMESTAMP
from schemas.instants import dates
from schemas.wide import WORD

Path = tuple[str, ...]
Mask = npt.NDArray[np.bool_]

_KINDS = {
    pa.string(): kernels.TEXT,
    pa.int64(): kernels.INT,
    pa.float64(): kernels.FLOAT,
    pa.bool_(): kernels.BOOL,
    TIMESTAMP: kernels.INSTANT,
    pa.date32(): kernels.TEXT,
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """``accepted``: the rows that count. Columns by path, as long as the values (texts of type ``TEXTS``); ``invalid`` has the
    paths where an accepted row may be invalid."""

    accepted: Mask
    columns: dict[Path, pa.Array]
    invalid: dict[Path, Mask]


class Scanner:
    """Finds the members at ``wanted`` paths. For any number of threads."""

    def __init__(self, wanted: Mapping[Path, pa.DataType]) -> None:
        self._wanted = dict(wanted)
        self._names, self._text = _tree(self._wanted)
        self._texts = np.flatnonzero([_KINDS[kind] == kernels.TEXT for kind in self._wanted.values()])

    @classmethod
    def of(cls, wanted: Mapping[Path, pa.DataType]) -> Scanner | None:
        """None where a path leads through another, or there are too many."""
        members = {path[:depth] for path in wanted for depth in range(1, len(path) + 1)}
        through = any(path[:depth] in wanted for path in wanted for depth in range(1, len(path)))
        if through or len(members) > kernels.MEMBERS_MAX or any(kind not in _KINDS for kind in wanted.values()):
            return None
        return cls(wanted)

    def scan(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Scanned:
        """``offsets``: the values are ``data[offsets[i]:offsets[i + 1]]``; raises ``ValueError`` when they are not."""
        n = len(offsets) - 1
        if n and not (offsets[0] >= 0 and offsets[-1] <= len(data) and (np.diff(offsets) >= 0).all()):
            msg = "an array with offsets outside its data"
            raise ValueError(msg)
        data = _padded(data, int(offsets[-1]))
        numbers = np.empty((len(self._wanted), n), np.uint64)
        sizes = np.full((len(self._wanted), n), -1, np.int32)
        texts = self._texts
        codes, firsts = np.empty((len(texts), n), np.int32), np.empty((len(texts), n), np.int64)
        slots, counts = np.full((len(texts), slots_for(n)), -1, np.int32), np.zeros(len(texts), np.int64)
        accepted, edges = np.zeros(n, np.bool_), np.empty(kernels.TABLE_WORDS, np.int64)
        literals, recent = np.empty(kernels.EDGES_MAX * kernels.LITERAL_MAX, np.uint8), np.zeros(3, np.int64)
        kernels.scan(
            data.ctypes.data,
            offsets,
            self._names,
            self._text,
            numbers,
            sizes,
            texts,
            codes,
            firsts,
            slots,
            counts,
            accepted,
            edges,
            literals,
            recent,
        )
        columns: dict[Path, pa.Array] = {}
        invalid: dict[Path, Mask] = {}
        for column, (path, kind) in enumerate(self._wanted.items()):
            if _KINDS[kind] == kernels.TEXT:
                k = int(np.searchsorted(texts, column))
                found = coded(numbers[column].view(np.int64), sizes[column], codes[k], firsts[k], int(counts[k]))
            else:
                found = _column(kind, numbers[column], sizes[column])
            if kind == pa.date32():
                found, invalid[path] = _to_dates(found)
            columns[path] = found
        return Scanned(accepted, columns, invalid)


def _padded(data: npt.NDArray[np.uint8], end: int) -> npt.NDArray[np.uint8]:
    """The same bytes where as many as the kernels want may be read behind ``end``."""
    return (
        data if end + kernels.BEHIND <= len(data) else np.concatenate([data[:end], np.zeros(kernels.BEHIND, np.uint8)])
    )


def _column(kind: pa.DataType, numbers: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int32]) -> pa.Array:
    absent = sizes < 0
    mask = absent if absent.any() else None
    if kind == pa.float64():
        return pa.array(numbers.view(np.float64), mask=mask, from_pandas=False)
    if kind == pa.bool_():
        return pa.array(numbers != 0, mask=mask)
    array = pa.array(numbers.view(np.int64), mask=mask)
    return array.cast(kind) if kind == TIMESTAMP else array


def _to_dates(texts: pa.DictionaryArray) -> tuple[pa.Array, Mask]:
    days, valid = dates(texts.dictionary)
    by_value = pa.array(days.astype(np.int32), mask=~valid).cast(pa.date32())
    found = by_value.take(texts.indices)
    return found, np.asarray(texts.is_valid()) & np.asarray(found.is_null())


def merged(scanned: Scanned, rows: npt.NDArray[np.int64], columns: Mapping[Path, pa.Array]) -> dict[Path, pa.Array]:
    """The columns with those of other ``rows`` (all that were not accepted) put in their places."""
    if not len(rows):
        return scanned.columns
    places = np.arange(len(scanned.accepted))
    places[rows] = len(places) + np.arange(len(rows))
    return {path: _put(array, columns[path], pa.array(places)) for path, array in scanned.columns.items()}


def _put(array: pa.Array, others: pa.Array, places: pa.Array) -> pa.Array:
    if array.type != TEXTS:
        return pa.concat_arrays([array, others]).take(places)
    encoded = others.dictionary_encode()
    indices = pa.concat_arrays([array.indices, pa.array(_shifted(encoded.indices, len(array.dictionary)))])
    values = pa.concat_arrays([array.dictionary, encoded.dictionary])
    return pa.DictionaryArray.from_arrays(indices.take(places), values)


def _shifted(indices: pa.Array, by: int) -> pa.Array:
    missing = np.asarray(indices.is_null())
    return pa.array(np.asarray(indices.fill_null(0)).astype(np.int32) + np.int32(by), mask=missing)


def _tree(wanted: Mapping[Path, pa.DataType]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The table of members and the text of their names, as the kernels want them; nodes breadth first, the root is node 0."""
    nodes: list[Path] = [()]
    members: list[Path] = []
    first = [0]
    for node in nodes:  # grows while it is gone through
        below = dict.fromkeys(path[: len(node) + 1] for path in wanted if path[: len(node)] == node != path)
        nodes += [path for path in below if path not in wanted]
        members += below
        first.append(len(members))
    parents = [nodes.index(node[:-1]) if node else 0 for node in nodes]
    names = [path[-1].encode() for path in members]
    table = np.zeros((len(members) + 1, 7), np.int64)
    table[: len(first), kernels.FIRST] = first
    table[: len(nodes), kernels.PARENT] = parents
    table[:-1, kernels.HEAD] = [int.from_bytes(name[:WORD].ljust(WORD, b"\0"), "little", signed=True) for name in names]
    table[:-1, kernels.SIZE] = [len(name) for name in names]
    table[:-1, kernels.AT] = np.cumsum([0, *map(len, names)])[:-1]
    table[:-1, kernels.KIND] = [_KINDS[wanted[path]] if path in wanted else kernels.OBJECT for path in members]
    places = list(wanted)
    table[:-1, kernels.TARGET] = [places.index(path) if path in wanted else nodes.index(path) for path in members]
    return table, np.frombuffer(b"".join(names), np.uint8)
