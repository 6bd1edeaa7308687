"""Rows to local groups: which rows of a slice have the same key, without looking at a byte of text.

Every key column becomes a column of numbers that tells its values apart (codes of a dictionary, values, bits); a small hash
table over pairs of numbers gives local ids, dense and in order of first appearance, which make pairs with the numbers of a
third column, and so on. (The codes of one column alone need no table.) What the numbers are is nobody's business outside: a
slice is grouped anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import to_order
from schemas.compiled import inlined, kernel, maker
from schemas.dictionary import TEXTS

Ints = npt.NDArray[np.int64]

FIRST_SLOTS = 1 << 14
"""Many more than the groups that a slice mostly has: the fewer that meet, the fewer guesses of the processor are wrong."""
MULTIPLIER, SECOND_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def distinct_rows(keys: Sequence[pa.Array]) -> tuple[Ints, Ints]:
    """The local group of each row, and the first row of each group. Two groups may have the same key where a dictionary has a
    value twice: who looks keys up does not mind."""
    keys = [key.dictionary_encode() if key.type == pa.string() else key for key in keys]
    if len(keys) == 1 and keys[0].type == TEXTS:
        return _by_code(_codes(keys[0]), len(keys[0].dictionary))
    numbers = [_numbers(key) for key in keys]
    ids, firsts = _grouped(numbers[0], numbers[min(1, len(numbers) - 1)])
    for more in numbers[2:]:
        ids, firsts = _grouped(ids, more)
    return ids, firsts


@kernel
def renumber(ids: Ints, numbers: Ints) -> None:
    """Put ``numbers[ids[i]]`` in the place of each id."""
    for i in range(len(ids)):
        ids[i] = numbers[ids[i]]


def _grouped(ones: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Groups of rows with the same pair of numbers. (Pairs, as a loop over any number of columns takes five times as long.)"""
    ids, firsts, pairs = np.empty(len(ones), np.int64), np.empty(0, np.int64), np.empty((0, 2), np.int64)
    at, count, size = 0, 0, FIRST_SLOTS
    while True:
        slots = _rehashed(pairs, count, size)
        firsts, pairs = _larger(firsts, size // 2), _larger(pairs, size // 2)
        at, count = _group(ones, others, at, ids, firsts, pairs, slots, count)
        if at == len(ids):
            return ids, firsts[:count]
        size *= 8


def _larger(array: Ints, size: int) -> Ints:
    larger = np.empty((size, *array.shape[1:]), np.int64)
    larger[: len(array)] = array
    return larger


def _numbers(key: pa.Array) -> Ints:
    """A number for each value, different ones for different values; a null is none of them."""
    # Copies, as the kernel would be compiled once more for memory that cannot be written to.
    if key.type == TEXTS:
        return _codes(key).astype(np.int64)
    numbers = to_order(key).astype(np.int64)
    if not key.null_count:
        return numbers
    return _grouped(numbers, np.asarray(key.is_null()).astype(np.int64))[0]  # local groups are as good as two numbers


def _codes(key: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    indices = key.indices
    return np.asarray(indices.fill_null(-1) if indices.null_count else indices)


@maker
def _by_code(codes: npt.NDArray[np.int32], count: int) -> tuple[Ints, Ints]:
    """Groups of rows with the same code, of ``count`` that there may be, or -1: each has its place, and nothing is looked for."""
    places, ids, firsts = (
        np.full(count + 1, -1, np.int32),
        np.empty(len(codes), np.int64),
        np.empty(len(codes), np.int64),
    )
    found = 0
    for row in range(len(codes)):
        place = codes[row] + 1
        if places[place] < 0:
            places[place], firsts[found] = found, row
            found += 1
        ids[row] = places[place]
    return ids, firsts[:found].copy()


@inlined
def _slot(one: int, other: int, mask: np.uint64) -> np.uint64:
    h = (np.uint64(one) ^ (np.uint64(other) * SECOND_MULTIPLIER)) * MULTIPLIER
    return (h >> np.uint64(32)) & mask


@kernel
def _group(
    ones: Ints, others: Ints, at: int, ids: Ints, firsts: Ints, pairs: Ints, slots: npt.NDArray[np.int32], count: int
) -> tuple[int, int]:  # fmt: skip
    """Works until half the slots are taken; returns how far it came, and how many groups there are.

    ``firsts``, ``pairs``: the first row of each group and its numbers, as many as half the slots.
    """
    mask = np.uint64(len(slots) - 1)
    for row in range(at, len(ids)):
        place = np.uint64(row)  # unsigned: an index that may count from the end is looked at each time
        one, other = ones[place], others[place]
        j = _slot(one, other, mask)
        while True:
            group = slots[j]
            if group < 0:
                if count == len(firsts):
                    return row, count
                slots[j], firsts[count], ids[place] = count, row, count
                pairs[count, 0], pairs[count, 1] = one, other
                count += 1
                break
            known = np.uint64(group)
            if pairs[known, 0] == one and pairs[known, 1] == other:
                ids[place] = group
                break
            j = (j + np.uint64(1)) & mask
    return len(ids), count


@maker
def _rehashed(pairs: Ints, count: int, size: int) -> npt.NDArray[np.int32]:
    slots, mask = np.full(size, -1, np.int32), np.uint64(size - 1)
    for group in range(count):
        j = _slot(pairs[group, 0], pairs[group, 1], mask)
        while slots[j] >= 0:
            j = (j + np.uint64(1)) & mask
        slots[j] = group
    return slots
