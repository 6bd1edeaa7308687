"""The order of canonical keys, found by comparing eight bytes at a time.

Canonical keys delimit themselves, so none is the beginning of another, and to compare them padded with zeros is to compare
them. Most keys of a table share their first bytes; those are skipped once. (Arrow compares whole values: 2.5 times as slow.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import kernel, maker
from schemas.hashing import binary_buffers

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WORD = 8
RUN_MAX = 128


def sorted_order(keys: pa.BinaryArray) -> Ints:
    """Positions of ``keys`` (canonical encodings of one schema, no nulls) in ascending order; equal keys stay in their order."""
    data, offsets = binary_buffers(keys)
    if len(offsets) < 2:
        return np.empty(0, np.int64)
    at = _common_prefix(data, offsets)
    words = _words(data, offsets, np.arange(len(keys)), at)
    order = np.argsort(words)  # not stable, and a third of the time; rows that are equal so far are sorted again below
    tied = _tied(words[order])
    longest = int(np.diff(offsets).max())
    while len(tied) and at <= longest:
        # Rows that were equal so far lie side by side, run by run: sort each run by its next word, and at last by row.
        at += WORD
        rows, runs = order[tied[:, 0]], tied[:, 1]
        words = _words(data, offsets, rows, at)
        if not _sort_runs(rows, runs, words):
            finer = np.lexsort((rows, words, runs))
            rows, words = rows[finer], words[finer]
        order[tied[:, 0]] = rows
        tied = _still_tied(tied, words)
    return order


def heads(keys: pa.BinaryArray) -> tuple[int, Words]:
    """How many bytes all keys (at least one) begin with, and the 8 behind them as numbers that order as the bytes do."""
    data, offsets = binary_buffers(keys)
    at = _common_prefix(data, offsets)
    return at, _words(data, offsets, np.arange(len(keys)), at)


def are_ascending(keys: pa.BinaryArray) -> bool:
    """Whether each key comes before the next one, none twice."""
    return bool(_ascend(*binary_buffers(keys)))


@kernel
def _ascend(data: Bytes, offsets: Ints) -> bool:
    for i in range(len(offsets) - 1):
        if offsets[i] < 0 or offsets[i + 1] < offsets[i] or offsets[i + 1] > len(data):
            return False
    for i in range(len(offsets) - 2):
        first, middle, end = np.uint64(offsets[i]), np.uint64(offsets[i + 1]), np.uint64(offsets[i + 2])
        at, to = first, middle  # unsigned: an index that may count from the end is looked at each time
        while at < middle and to < end and data[at] == data[to]:
            at += np.uint64(1)
            to += np.uint64(1)
        if to == end or (at < middle and data[at] > data[to]):
            return False
    return True


@kernel
def _common_prefix(data: Bytes, offsets: Ints) -> int:
    """How many bytes all keys begin with."""
    size = offsets[1] - offsets[0]
    for i in range(1, len(offsets) - 1):
        size = min(size, offsets[i + 1] - offsets[i])
        for j in range(size):
            if data[offsets[i] + j] != data[offsets[0] + j]:
                size = j
                break
    return size


@maker
def _words(data: Bytes, offsets: Ints, rows: Ints, at: int) -> Words:
    """The 8 bytes from byte ``at`` of each key, as big-endian numbers; zeros where a key has no more."""
    words = np.zeros(len(rows), np.uint64)
    for i in range(len(rows)):
        first, end = offsets[rows[i]] + at, offsets[rows[i] + 1]
        for j in range(min(end - first, WORD)):
            words[i] |= np.uint64(data[first + j]) << np.uint64(8 * (WORD - 1 - j))
    return words


@kernel
def _sort_runs(rows: Ints, runs: Ints, words: Words) -> bool:
    """Sort each run by (word, row), in place; False, and nothing done, when one is too long for sorting by insertion."""
    first = 0
    for i in range(len(runs)):
        first = i if runs[i] != runs[first] else first
        if i - first >= RUN_MAX:
            return False
    for i in range(1, len(runs)):
        row, word, j = rows[i], words[i], i
        while (
            j > 0 and runs[j - 1] == runs[i] and (words[j - 1] > word or (words[j - 1] == word and rows[j - 1] > row))
        ):
            rows[j], words[j] = rows[j - 1], words[j - 1]
            j -= 1
        rows[j], words[j] = row, word
    return True


@maker
def _tied(words: Words) -> Ints:
    """Places (in order) of words that have an equal neighbour, each with the number of its run."""
    places = np.arange(len(words))
    return _runs(places, np.zeros(len(words), np.int64), words)


@maker
def _still_tied(tied: Ints, words: Words) -> Ints:
    return _runs(tied[:, 0].copy(), tied[:, 1].copy(), words)


@maker
def _runs(places: Ints, runs: Ints, words: Words) -> Ints:
    found = np.empty((len(words), 2), np.int64)
    count, run = 0, 0
    i = 0
    while i < len(words):
        end = i + 1
        while end < len(words) and words[end] == words[i] and runs[end] == runs[i]:
            end += 1
        if end - i > 1:
            for j in range(i, end):
                found[count, 0], found[count, 1] = places[j], run
                count += 1
            run += 1
        i = end
    return found[:count].copy()
