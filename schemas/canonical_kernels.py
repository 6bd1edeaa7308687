"""The loops of ``schemas/canonical.py``: each handles one column of all rows.

Writers get a ``cursor`` a row and leave it behind the value; ``offsets`` were computed before, so writes fit. Readers
get ``cursor`` and ``ends`` a row and never read at or behind a row's end; a final ``False`` says "this is no encoding".
A mask of length 0 means that every value is there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.compiled import inlined, kernel, maker
from schemas.wide import WORD, copy, no_zero, word

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


@kernel
def add_text_sizes(data: Bytes, starts: Ints, valid: Mask, offsets: Ints) -> bool:
    """Add each value's encoded size to ``offsets[i + 1]``; False where ``starts`` lie outside the data."""
    for i in range(len(starts) - 1):
        if starts[i] < 0 or starts[i + 1] < starts[i] or starts[i + 1] > len(data):
            return False
    is_plain = _is_plain(data, starts)
    for i in range(len(starts) - 1):
        size = 1
        if len(valid) == 0 or valid[i]:
            size = 3 + starts[i + 1] - starts[i]
            if not is_plain:
                for j in range(starts[i], starts[i + 1]):
                    size += data[j] == 0
        offsets[i + 1] += size
    return True


@kernel
def _is_plain(data: Bytes, starts: Ints) -> bool:
    """Whether no byte is 0: then a value is written as it is."""
    zeros = 0
    for j in range(np.uint64(starts[0]), np.uint64(starts[-1])):
        zeros += data[j] == 0
    return zeros == 0


@kernel
def put_text(data: Bytes, starts: Ints, valid: Mask, out: Bytes, cursor: Ints) -> None:
    is_plain = _is_plain(data, starts)
    for i in range(len(cursor)):
        at = np.uint64(cursor[i])  # unsigned: an index that may count from the end is looked at each time
        if len(valid) > 0 and not valid[i]:
            out[at] = 0
            cursor[i] += 1
            continue
        out[at] = 1
        at += np.uint64(1)
        first, end = np.uint64(starts[i]), np.uint64(starts[i + 1])
        if is_plain:
            for j in range(end - first):
                out[at + j] = data[first + j]
            at += end - first
        else:
            for j in range(first, end):
                out[at] = data[j]
                at += np.uint64(1)
                if data[j] == 0:
                    out[at] = 0xFF
                    at += np.uint64(1)
        out[at] = 0
        out[at + np.uint64(1)] = 0
        cursor[i] = np.int64(at + np.uint64(2))


@kernel
def put_bools(bits: Bytes, valid: Mask, out: Bytes, cursor: Ints) -> None:
    for i in range(len(cursor)):
        at = cursor[i]
        if len(valid) > 0 and not valid[i]:
            out[at] = 0
            cursor[i] = at + 1
            continue
        out[at] = 1
        out[at + 1] = bits[i]
        cursor[i] = at + 2


@kernel
def put_words(words: Words, valid: Mask, out: Bytes, cursor: Ints) -> None:
    """Write the 64-bit words of each row, big-endian."""
    for i in range(len(cursor)):
        at = np.uint64(cursor[i])
        if len(valid) > 0 and not valid[i]:
            out[at] = 0
            cursor[i] += 1
            continue
        out[at] = 1
        at += np.uint64(1)
        for k in range(words.shape[1]):
            for j in range(8):
                out[at + np.uint64(j)] = np.uint8((words[i, k] >> np.uint64(56 - 8 * j)) & np.uint64(0xFF))
            at += np.uint64(8)
        cursor[i] = np.int64(at)


@kernel
def put_lists(lengths: Ints, valid: Mask, sizes: Ints, out: Bytes, cursor: Ints, inner: Ints) -> None:
    """Write what is around the items, of which ``sizes`` are the encoded ones; ``inner`` becomes their cursor."""
    item = 0
    for i in range(len(cursor)):
        at = cursor[i]
        out[at] = valid[i]
        at += 1
        if valid[i]:
            for _ in range(lengths[i]):
                out[at] = 1
                inner[item] = at + 1
                at += 1 + sizes[item]
                item += 1
            out[at] = 0
            at += 1
        cursor[i] = at


@maker
def take_bools(data: Bytes, cursor: Ints, ends: Ints) -> tuple[Mask, Mask, bool]:
    """The values, which are there, and whether all was well; moves ``cursor``."""
    n = len(cursor)
    values, valid = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for i in range(n):
        there, ok = _present(data, cursor, ends, i, 1)
        if not ok:
            return values, valid, False
        if there:
            if data[cursor[i]] > 1:
                return values, valid, False
            valid[i], values[i] = True, data[cursor[i]] == 1
            cursor[i] += 1
    return values, valid, True


@maker
def take_words(data: Bytes, cursor: Ints, ends: Ints, width: int) -> tuple[Words, Mask, bool]:
    """``width`` big-endian 64-bit words a row (zeros for null); moves ``cursor``."""
    n = len(cursor)
    words, valid = np.zeros((n, width), np.uint64), np.zeros(n, np.bool_)
    for i in range(n):
        there, ok = _present(data, cursor, ends, i, 8 * width)
        if not ok:
            return words, valid, False
        if there:
            valid[i] = True
            for k in range(width):
                word = np.uint64(0)
                for j in range(8):
                    word = (word << np.uint64(8)) | np.uint64(data[cursor[i] + j])
                words[i, k] = word
                cursor[i] += 8
    return words, valid, True


@maker
def text_sizes(data: Bytes, cursor: Ints, ends: Ints) -> tuple[Ints, Mask, bool, bool]:
    """The decoded size of row ``i``'s value at ``[i + 1]``, which are there, whether all are as they were written (no byte was 0), and
    whether all was well; leaves ``cursor`` behind the encoded value."""
    n = len(cursor)
    sizes, valid, is_plain = np.zeros(n + 1, np.int64), np.zeros(n, np.bool_), True
    for i in range(n):
        there, ok = _present(data, cursor, ends, i, 2)
        if not ok:
            return sizes, valid, is_plain, False
        if there:
            valid[i] = True
            size, after = _text_end(data, cursor[i], ends[i])
            if after < 0:
                return sizes, valid, is_plain, False
            is_plain &= after - cursor[i] == size + 2
            sizes[i + 1] = size
            cursor[i] = after
    return sizes, valid, is_plain, True


@maker
def take_text(data: Bytes, cursor: Ints, valid: Mask, offsets: Ints, is_plain: bool) -> Bytes:
    """The decoded bytes of all values, which ``text_sizes`` has checked; ``cursor`` is behind each of them."""
    out = np.empty(offsets[-1], np.uint8)
    for i in range(len(valid)):
        size = offsets[i + 1] - offsets[i]
        if is_plain and size:
            copy(out.ctypes.data + offsets[i], data.ctypes.data + cursor[i] - 2 - size, size)
            continue
        at = cursor[i] - 3  # the last byte of the value, backwards from its terminator
        to = offsets[i + 1] - 1
        while to >= offsets[i]:
            if data[at] == 0xFF and data[at - 1] == 0:
                at -= 1
            out[to] = data[at]
            to -= 1
            at -= 1
    return out


@inlined
def _present(data: Bytes, cursor: Ints, ends: Ints, i: int, size: int) -> tuple[bool, bool]:
    """Step over the first byte: is a value there, and is that byte good and followed by ``size`` more?"""
    at = cursor[i]
    if at < 0 or at >= ends[i] or ends[i] > len(data) or data[at] > 1:
        return False, False
    cursor[i] = at + 1
    there = data[at] == 1
    return there, not there or at + 1 + size <= ends[i]


@kernel
def _text_end(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Decoded size and the position behind the terminator; (0, -1) where the bytes are no encoded text."""
    size = 0
    while at < end:
        if at + WORD <= end and no_zero(word(data.ctypes.data + at)):
            size += WORD
            at += WORD
            continue
        if data[at] != 0:
            size += 1
            at += 1
            continue
        if at + 1 >= end:
            return 0, -1
        if data[at + 1] == 0:
            return size, at + 2
        if data[at + 1] != 0xFF:
            return 0, -1
        size += 1
        at += 2
    return 0, -1
