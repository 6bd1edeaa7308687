"""A look at the bytes of JSON values before any parser sees them, and their joining into lines.

The bulk JSON parser is fast but not per record: it joins, splits and shifts records that are not one object each
(measured, see ARCHITECTURE.md). It is exact for a run of values that each begin with ``{``, end with ``}``, and hold
no raw newline. These kernels find out which values are such, and make the others so where that is the same value:
a raw newline between tokens is white space and becomes a space; inside a string it is an error of the JSON grammar.
(The parser is iterative: a value of a million brackets does not exhaust the stack.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import inlined, kernel, maker

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def buffers(values: pa.BinaryArray) -> tuple[Bytes, Ints]:
    """The bytes and the ``len + 1`` absolute offsets of a binary array (sliced or not); null values are empty."""
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32, count=values.offset + len(values) + 1)[values.offset :]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return raw, ends.astype(np.int64)


@maker
def object_shaped(data: Bytes, offsets: Ints) -> npt.NDArray[np.bool_]:
    """Which values begin with ``{``, end with ``}`` and hold no raw newline within a string."""
    n = len(offsets) - 1
    result = np.zeros(n, np.bool_)
    for i in range(n):
        first, last = offsets[i], offsets[i + 1] - 1
        while first <= last and _is_space(data[first]):
            first += 1
        while last > first and _is_space(data[last]):
            last -= 1
        if last <= first or data[first] != 0x7B or data[last] != 0x7D:
            continue
        inside = data[first:last]
        result[i] = not _has_newline(inside) or _newlines_are_space(data, first, last + 1)
    return result


@inlined
def _has_newline(value: Bytes) -> bool:
    """Over a slice, and without a branch: this becomes vector instructions."""
    found = np.uint8(0)
    for j in range(len(value)):
        found |= np.uint8(value[j] == 10) | np.uint8(value[j] == 13)
    return found != 0


@inlined
def _is_space(byte: int) -> bool:
    return byte == 32 or byte == 9 or byte == 10 or byte == 13


@kernel
def _newlines_are_space(data: Bytes, start: int, end: int) -> bool:
    in_string, j = False, start
    while j < end:
        c = data[j]
        if in_string:
            if c == 10 or c == 13:
                return False
            if c == 0x22:
                in_string = False
            elif c == 0x5C:
                j += 1
                if j < end and (data[j] == 10 or data[j] == 13):
                    return False
        elif c == 0x22:
            in_string = True
        j += 1
    return True


@maker
def lines(data: Bytes, offsets: Ints, rows: Ints) -> Bytes:
    """The values at ``rows`` (all object-shaped), one a line. Their raw newlines lie between tokens: they become spaces."""
    size = 0
    for r in rows:
        size += offsets[r + 1] - offsets[r] + 1
    out = np.empty(size, np.uint8)
    at = 0
    for r in rows:
        value = data[offsets[r] : offsets[r + 1]]
        n = len(value)
        line = out[at : at + n]
        for j in range(n):
            line[j] = value[j]
        if _has_newline(value):
            for j in range(n):
                if line[j] == 10 or line[j] == 13:
                    line[j] = 32
        out[at + n] = 10
        at += n + 1
    return out


@maker
def picked(data: Bytes, offsets: Ints, rows: Ints) -> Bytes:
    """The values at ``rows``, end to end."""
    size = 0
    for r in rows:
        size += offsets[r + 1] - offsets[r]
    out = np.empty(size, np.uint8)
    at = 0
    for r in rows:
        n = offsets[r + 1] - offsets[r]
        out[at : at + n] = data[offsets[r] : offsets[r + 1]]
        at += n
    return out
