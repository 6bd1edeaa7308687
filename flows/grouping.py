"""Rows to local groups: which rows of a slice have the same key, without looking at a byte of text.

Every key column becomes a column of numbers that tells its values apart (codes of a dictionary, values, bits); a small hash
table over the numbers gives local ids, dense and in order of first appearance. What the numbers are is nobody's
business outside: a slice is grouped anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import to_order
from schemas.compiled import inlined, kernel, maker
from schemas.dictionary import TEXTS

Ints = npt.NDArray[np.int64]

FIRST_SLOTS = 1 << 12
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def distinct_rows(keys: Sequence[pa.Array]) -> tuple[Ints, Ints]:
    """The local group of each row, and the first row of each group. Two groups may have the same key where a dictionary has a
    value twice: who looks keys up does not mind."""
    columns = np.empty((len(keys), len(keys[0])), np.int64)
    for column, key in zip(columns, keys, strict=True):
        column[:] = _numbers(key)
    return _grouped(columns)


@kernel
def renumber(ids: Ints, numbers: Ints) -> None:
    """Put ``numbers[ids[i]]`` in the place of each id."""
    for i in range(len(ids)):
        ids[i] = numbers[ids[i]]


def _grouped(columns: Ints) -> tuple[Ints, Ints]:
    n = columns.shape[1]
    ids, firsts = np.empty(n, np.int64), np.empty(n, np.int64)
    slots, at, count = np.full(FIRST_SLOTS, -1, np.int32), 0, 0
    while True:
        at, count = _group(columns, at, ids, firsts, slots, count)
        if at == n:
            return ids, firsts[:count]
        slots = _rehashed(columns, firsts, count, 8 * len(slots))


def _numbers(key: pa.Array) -> npt.NDArray[np.signedinteger[Any]]:
    """A number for each value, different ones for different values; a null is none of them."""
    if key.type == pa.string():
        key = key.dictionary_encode()
    numbers = _codes(key) if key.type == TEXTS else to_order(key)
    if key.type == TEXTS or not key.null_count:
        return numbers
    nulls = np.asarray(key.is_null()).astype(np.int64)
    return _grouped(np.stack([numbers, nulls]))[0]  # one number for two: their local groups are as good as themselves


def _codes(key: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    indices = key.indices
    return np.asarray(indices.fill_null(-1) if indices.null_count else indices)


@inlined
def _hash(columns: npt.NDArray[np.int64], row: int) -> np.uint64:
    h = np.uint64(0)
    for column in range(columns.shape[0]):
        h = (h ^ np.uint64(columns[column, row])) * MULTIPLIER
        h ^= h >> np.uint64(32)
    return h


@inlined
def _same(columns: npt.NDArray[np.int64], one: int, other: int) -> bool:
    for column in range(columns.shape[0]):
        if columns[column, one] != columns[column, other]:
            return False
    return True


@kernel
def _group(
    columns: npt.NDArray[np.int64], at: int, ids: Ints, firsts: Ints, slots: npt.NDArray[np.int32], count: int
) -> tuple[int, int]:
    """Works until half the slots are taken; returns how far it came, and how many groups there are."""
    mask = np.uint64(len(slots) - 1)
    for row in range(at, len(ids)):
        j = np.int64(_hash(columns, row) & mask)
        while True:
            group = slots[j]
            if group < 0:
                if 2 * (count + 1) > len(slots):
                    return row, count
                slots[j] = count
                firsts[count] = row
                ids[row] = count
                count += 1
                break
            if _same(columns, firsts[group], row):
                ids[row] = group
                break
            j = (j + 1) & np.int64(mask)
    return len(ids), count


@maker
def _rehashed(columns: npt.NDArray[np.int64], firsts: Ints, count: int, size: int) -> npt.NDArray[np.int32]:
    slots = np.full(size, -1, np.int32)
    for group in range(count):
        j = np.int64(_hash(columns, firsts[group]) & np.uint64(size - 1))
        while slots[j] >= 0:
            j = (j + 1) & (size - 1)
        slots[j] = group
    return slots
