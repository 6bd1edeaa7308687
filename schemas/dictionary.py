"""Many texts to few: codes and the distinct values behind them, straight from the bytes they lie in.

A dictionary is made anew for every array and in order of first appearance. Codes are no identity: they tell rows of one
array apart, and nothing that leaves a slice may depend on them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import kernel
from schemas.wide import WORD, byte, head_of

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Sizes = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int32]

TEXTS = pa.dictionary(pa.int32(), pa.string())
"""Type of text columns given as codes and distinct values (a value may be there twice)."""

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def coded(begins: Ints, sizes: Sizes, codes: Codes, firsts: Ints, count: int) -> pa.DictionaryArray:
    """What ``encode`` found, of type ``TEXTS``."""
    indices = pa.array(codes, mask=codes < 0) if (codes < 0).any() else pa.array(codes)
    return pa.DictionaryArray.from_arrays(indices, _gathered(begins, sizes, firsts[:count]))


def slots_for(rows: int) -> int:
    """Slots that hold as many different texts."""
    return 1 << max(8, (2 * rows).bit_length())


def plain(array: pa.Array) -> pa.Array:
    """The same texts without a dictionary; other arrays as they are."""
    return array.cast(pa.string()) if array.type == TEXTS else array


def _gathered(begins: Ints, sizes: Sizes, rows: Ints) -> pa.StringArray:
    ends = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(sizes[rows], out=ends[1:])
    out = np.empty(ends[-1], np.uint8)
    _copy(begins[rows], ends, out)
    return pa.Array.from_buffers(pa.string(), len(rows), [None, pa.py_buffer(ends), pa.py_buffer(out)])


@kernel
def _copy(begins: Ints, ends: Sizes, out: Bytes) -> None:
    for i in range(len(begins)):
        for j in range(ends[i + 1] - ends[i]):
            out[ends[i] + j] = byte(begins[i] + j)


@kernel
def _hash(at: int, size: int) -> np.uint64:
    """Good enough to find a slot."""
    h = np.uint64(size) * MULTIPLIER
    while size > 0:
        h = (h ^ head_of(at, size)) * MULTIPLIER
        h ^= h >> np.uint64(32)
        at, size = at + WORD, size - WORD
    return h


@kernel
def _same(one: int, other: int, size: int) -> bool:
    while size > 0:
        if head_of(one, size) != head_of(other, size):
            return False
        one, other, size = one + WORD, other + WORD, size - WORD
    return True


@kernel
def encode(
    begins: Ints, sizes: Sizes, first: int, end: int, codes: Codes, firsts: Ints, slots: Codes, count: int
) -> int:  # fmt: skip
    """Codes of the texts of rows ``[first, end)``: at addresses ``begins`` (size -1: null, code -1), 8 bytes behind each of which
    may be read. ``firsts``: the row in which each text was first seen. ``slots``: -1 at first, never full. Returns how many texts
    there are now, ``count`` being how many there were.
    """
    mask = len(slots) - 1
    for row in range(first, end):
        size = np.int64(sizes[row])
        if size < 0:
            codes[row] = -1
            continue
        if row > first and sizes[row - 1] == size and _same(begins[row - 1], begins[row], size):
            codes[row] = codes[row - 1]  # one type of event mostly follows itself
            continue
        j = np.int64(_hash(begins[row], size) & np.uint64(mask))
        while True:
            code = slots[j]
            if code < 0:
                slots[j], firsts[count], codes[row] = count, row, count
                count += 1
                break
            known = firsts[code]
            if sizes[known] == size and _same(begins[known], begins[row], size):
                codes[row] = code
                break
            j = (j + 1) & mask
    return count
