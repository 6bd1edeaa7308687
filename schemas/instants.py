"""Text to instants and dates: RFC 3339 and ``YYYY-MM-DD``, exactly and for whole columns.

Accepted: ``2013-01-31T23:59:60.123456789+05:30`` with ``T``, ``t`` or a space, ``Z`` or ``z`` or an offset, any number
of digits of a second (below the microsecond they are cut, never rounded). A leap second is the second after :59.
Years 0001 to 9999. Anything else, also a text without a time zone, is invalid. Source: RFC 3339, section 5.6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import kernel, maker
from schemas.json_scan import buffers

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FIRST_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since the epoch."""
NO_DAY = np.iinfo(np.int64).min
LAST_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z."""


def instants(texts: pa.StringArray) -> tuple[Ints, Mask]:
    """Microseconds since the epoch, and where they are valid (a null text is not)."""
    return _instants(*buffers(texts))


def milliseconds(numbers: pa.Int64Array) -> tuple[Ints, Mask]:
    """Milliseconds since the epoch to microseconds; valid within years 0001 to 9999."""
    valid = np.asarray(numbers.is_valid())
    ms = np.asarray(numbers.fill_null(0))
    valid &= (ms >= FIRST_US // 1000) & (ms <= LAST_US // 1000)
    return np.where(valid, ms, 0) * 1000, valid


def dates(texts: pa.StringArray) -> tuple[Ints, Mask]:
    """Days since the epoch, and where they are valid."""
    return _dates(*buffers(texts))


@kernel
def _digits(data: npt.NDArray[np.uint8], at: int, count: int) -> Any:
    """The number in ``count`` digits at ``at``, or -1. The caller has checked the length."""
    value = np.int64(0)
    for j in range(at, at + count):
        d = np.int64(data[j]) - 48
        if d < 0 or d > 9:
            return -1
        value = value * 10 + d
    return value


@kernel
def _days(data: npt.NDArray[np.uint8], at: int) -> int:
    """Days since the epoch of the ten bytes ``YYYY-MM-DD``; the smallest int64 where they are no date."""
    if data[at + 4] != 0x2D or data[at + 7] != 0x2D:
        return NO_DAY
    return days_of(_digits(data, at, 4), _digits(data, at + 5, 2), _digits(data, at + 8, 2))


@kernel
def days_of(y: int, m: int, d: int) -> int:
    """Days since the epoch of a date of the years 1 to 9999; ``NO_DAY`` where there is no such date."""
    if y < 1 or m < 1 or m > 12 or d < 1:
        return NO_DAY
    leap = y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)
    longest = 29 if m == 2 and leap else 28 if m == 2 else 30 if m in (4, 6, 9, 11) else 31
    if d > longest:
        return NO_DAY
    # Days from civil, proleptic Gregorian: H. Hinnant, "chrono-compatible low-level date algorithms".
    if m <= 2:
        y -= 1
    era = y // 400
    yoe = y - era * 400
    doy = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    doe = yoe * 365 + yoe // 4 - yoe // 100 + doy
    return era * 146097 + doe - 719468


@maker
def _dates(data: npt.NDArray[np.uint8], offsets: Ints) -> tuple[Ints, Mask]:
    n = len(offsets) - 1
    out, valid = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    for i in range(n):
        if offsets[i + 1] - offsets[i] == 10:
            days = _days(data, offsets[i])
            if days != NO_DAY:
                out[i], valid[i] = days, True
    return out, valid


@maker
def _instants(data: npt.NDArray[np.uint8], offsets: Ints) -> tuple[Ints, Mask]:
    n = len(offsets) - 1
    out, valid = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    for i in range(n):
        us = instant(data, offsets[i], offsets[i + 1])
        if FIRST_US <= us <= LAST_US:
            out[i], valid[i] = us, True
    return out, valid


@kernel
def instant(data: npt.NDArray[np.uint8], start: int, end: int) -> int:
    no = np.iinfo(np.int64).min
    if end - start < 20:
        return no
    days = _days(data, start)
    separator = data[start + 10]
    if days == no or not (separator == 0x54 or separator == 0x74 or separator == 0x20):
        return no
    h, m, s = _digits(data, start + 11, 2), _digits(data, start + 14, 2), _digits(data, start + 17, 2)
    if h < 0 or h > 23 or m < 0 or m > 59 or s < 0 or s > 60 or data[start + 13] != 0x3A or data[start + 16] != 0x3A:
        return no
    at, micros = start + 19, np.int64(0)
    if data[at] == 0x2E:
        at += 1
        first, scale = at, 100_000
        while at < end and 48 <= data[at] <= 57:
            micros += (np.int64(data[at]) - 48) * scale
            scale //= 10
            at += 1
        if at == first:
            return no
    offset = _offset_minutes(data, at, end)
    if offset == no:
        return no
    return ((days * 24 + h) * 60 + m - offset) * 60_000_000 + s * 1_000_000 + micros


@kernel
def _offset_minutes(data: npt.NDArray[np.uint8], at: int, end: int) -> int:
    no = np.iinfo(np.int64).min
    if end - at == 1 and (data[at] == 0x5A or data[at] == 0x7A):
        return 0
    if end - at != 6 or data[at + 3] != 0x3A or not (data[at] == 0x2B or data[at] == 0x2D):
        return no
    h, m = _digits(data, at + 1, 2), _digits(data, at + 4, 2)
    if h < 0 or h > 23 or m < 0 or m > 59:
        return no
    return (h * 60 + m) * (1 if data[at] == 0x2B else -1)
