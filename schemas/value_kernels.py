"""The compiled kernels that take single JSON values apart: text, numbers, instants, and those that nobody wants.

They follow the grammar strictly and take only what is plain: text without escapes, whole numbers of up to 18 digits,
decimals of up to 18 without an exponent, true, false and null. For those the outcome is the exact parser's (see
schemas/json_columns.py); of anything else, right or wrong, they say ``NO``, and it is left to that parser.

Positions are addresses. ``at`` is where to look, ``end`` the first byte behind the record. Promises: no byte before ``at`` is read,
and none more than ``BLOCK`` behind ``end``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from schemas.compiled import inlined, kernel
from schemas.instants import NO_DAY, days_of
from schemas.wide import BLOCK, WORD, byte, head_of, odd_bytes, put_word, signed_word, trailing_zeros, word

Ints = npt.NDArray[np.int64]

NO = -1
DEPTH_MAX = 60
"""Of what nobody wants."""
INT_DIGITS_MAX = 18
FLOAT_DIGITS_MAX = 15
"""A number of so many digits, and a power of ten of so many, are exact in float64; their quotient is rounded once, correctly."""

CLOCK = np.uint64(int.from_bytes(b"00:00:00", "little"))
DIGITS = np.uint64(int.from_bytes(b"\x0f\x0f\0\x0f\x0f\0\x0f\x0f", "little"))
ABOVE_NINE = np.uint64(int.from_bytes(b"\6\6\0\6\6\0\6\6", "little"))
BYTE = np.uint64(0xFF)

QUOTIENT_BITS = 55
"""Two or one more than a float64 has, since the first of them may be 0."""
ONE, TOP_BIT = np.uint64(1), np.uint64(1 << 63)
POWERS_OF_FIVE = np.array([5**exponent for exponent in range(INT_DIGITS_MAX + 1)], np.uint64)
POWERS_OF_TEN = np.array([10.0**exponent for exponent in range(FLOAT_DIGITS_MAX + 1)])


@kernel
def space(at: int, end: int) -> int:
    """The first byte at or behind ``at`` that is not white space."""
    while at < end and (byte(at) == 32 or byte(at) == 10 or byte(at) == 13 or byte(at) == 9):
        at += 1
    return at


@kernel
def plain_end(at: int, end: int) -> int:
    """The first byte at or behind ``at`` that is not plain ASCII text; ``end`` when there is none before."""
    while at < end:
        odd = odd_bytes(at)
        if odd != 0:
            return min(at + trailing_zeros(odd), end)
        at += BLOCK
    return end


@kernel
def text_end(at: int, end: int) -> int:
    """``at``: behind the opening quote of a wanted text. Where its closing quote is; NO unless it is plain UTF-8."""
    while True:
        at = plain_end(at, end)
        if at >= end:
            return NO
        if byte(at) == 0x22:
            return at
        size = _utf8_size(at, end)
        if size == 0:
            return NO
        at += size


@kernel
def _utf8_size(at: int, end: int) -> int:
    """Bytes of the character beyond ASCII that begins at ``at``; 0 when it is none. Source: Unicode 15, table 3-7."""
    lead = byte(at)
    size = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
    if size == 0 or at + size > end:
        return 0
    low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
    if not low <= byte(at + 1) <= high:
        return 0
    for j in range(at + 2, at + size):
        if not 0x80 <= byte(j) <= 0xBF:
            return 0
    return size


@kernel
def _skip_text(at: int, end: int) -> int:
    """``at``: behind the opening quote of a text that nobody wants. Behind its closing quote, or NO."""
    while True:
        at = plain_end(at, end)
        if at >= end or byte(at) < 0x20:
            return NO
        if byte(at) == 0x22:
            return at + 1
        if byte(at) == 0x5C:
            if at + 1 >= end or not _is_short_escape(byte(at + 1)):
                return NO
            at += 2
        else:
            at += 1


@inlined
def _is_short_escape(code: int) -> bool:
    return (
        code == 0x22 or code == 0x5C or code == 0x2F or code == 0x62
        or code == 0x66 or code == 0x6E or code == 0x72 or code == 0x74
    )  # fmt: skip


@kernel
def _digits(at: int, end: int, number: int) -> tuple[int, int]:
    """``number`` with the digits at ``at`` behind it, and where these end. At most 18 of them are looked at."""
    limit = min(end, at + INT_DIGITS_MAX)
    while at < limit:
        digit = byte(at) - 48
        if digit < 0 or digit > 9:
            break
        number = number * 10 + digit
        at += 1
    return number, at


@kernel
def _digits_of_whole(at: int, end: int) -> tuple[int, int]:
    """The digits of a whole number, no zero before others, and where they end; NO when it is none or too long."""
    number, stop = _digits(at, end, np.int64(0))
    if stop == at or (stop < end and 48 <= byte(stop) <= 57) or (byte(at) == 48 and stop > at + 1):
        return number, NO
    return number, stop


@kernel
def whole_number(at: int, end: int) -> tuple[int, int]:
    """A whole number and where it ends, or NO; -0 is left to others."""
    negative = byte(at) == 0x2D
    number, stop = _digits_of_whole(at + negative, end)
    if stop < 0 or (negative and number == 0) or _goes_on(stop, end):
        return number, NO
    return -number if negative else number, stop


@inlined
def _goes_on(at: int, end: int) -> bool:
    """Whether a number has a fraction or an exponent from here on."""
    return at < end and (byte(at) == 0x2E or byte(at) == 0x65 or byte(at) == 0x45)


@kernel
def decimal_number(at: int, end: int) -> tuple[float, int]:
    """A number of at most 18 digits and where it ends, or NO; zeros with a sign and exponents are left to others."""
    negative = byte(at) == 0x2D
    first = at + negative
    number, stop = _digits_of_whole(first, end)
    if stop < 0:
        return 0.0, NO
    digits, decimals = stop - first, np.int64(0)
    if stop < end and byte(stop) == 0x2E:
        point = stop
        number, stop = _digits(point + 1, min(end, point + 2 + INT_DIGITS_MAX - digits), number)
        decimals = stop - point - 1
        if decimals == 0 or digits + decimals > INT_DIGITS_MAX:
            return 0.0, NO
    if (negative and number == 0) or _goes_on(stop, end):
        return 0.0, NO
    if digits + decimals <= FLOAT_DIGITS_MAX:
        return _signed(np.float64(number) / POWERS_OF_TEN[decimals], negative), stop
    return _signed(divided(np.uint64(number), decimals), negative), stop


@inlined
def _signed(value: float, negative: bool) -> float:
    return -value if negative else value


@kernel
def divided(number: np.uint64, decimals: int) -> float:
    """The float64 that is nearest to ``number / 10**decimals`` (ties to even); decimals up to 18.

    Long division by 5**decimals, bit by bit, gives more bits than a float64 has and whether anything is left; 2**decimals
    only moves the exponent.
    """
    if number == 0:
        return 0.0
    divisor, exponent = POWERS_OF_FIVE[decimals], -decimals
    while number < TOP_BIT:
        number, exponent = number << ONE, exponent - 1
    while divisor < TOP_BIT:
        divisor, exponent = divisor << ONE, exponent + 1
    bit = np.uint64(number >= divisor)
    quotient, rest = bit, number - bit * divisor
    for _ in range(QUOTIENT_BITS - 1):
        doubled = rest << ONE
        bit = np.uint64(rest >= TOP_BIT or doubled >= divisor)
        rest = doubled - bit * divisor  # modulo 2**64, where it fits again
        quotient = (quotient << ONE) | bit
    spare = ONE if quotient < np.uint64(1) << np.uint64(QUOTIENT_BITS - 1) else np.uint64(2)
    half, low = ONE << (spare - ONE), quotient & ((ONE << spare) - ONE)
    mantissa = quotient >> spare
    if low > half or (low == half and (rest != 0 or mantissa & ONE)):
        mantissa += ONE
    return math.ldexp(np.float64(mantissa), exponent + int(spare) - (QUOTIENT_BITS - 1))


@kernel
def _skip_number(at: int, end: int) -> int:
    """Behind a number that nobody wants, without an exponent and not long; or NO."""
    at += byte(at) == 0x2D
    if at >= end:
        return NO
    _, at = _digits_of_whole(at, end)
    if at >= 0 and at < end and byte(at) == 0x2E:
        first = at + 1
        _, at = _digits(first, end, np.int64(0))
        if at == first or (at < end and 48 <= byte(at) <= 57):
            return NO
    return NO if at < 0 or _goes_on(at, end) else at


@kernel
def word_end(at: int, end: int) -> int:
    """Behind ``true``, ``false`` or ``null``, or NO."""
    size = 5 if byte(at) == 0x66 else 4
    if at + size > end:
        return NO
    head = head_of(at, size)
    known = head == np.uint64(0x65757274) or head == np.uint64(0x65736C6166) or head == np.uint64(0x6C6C756E)
    return at + size if known else NO


@kernel
def is_null(at: int, end: int) -> bool:
    return byte(at) == 0x6E and word_end(at, end) > 0


@kernel
def _skip_scalar(at: int, end: int) -> int:
    lead = byte(at)
    if lead == 0x22:
        return _skip_text(at + 1, end)
    if lead == 0x2D or 48 <= lead <= 57:
        return _skip_number(at, end)
    return word_end(at, end)


@kernel
def _skip_name(at: int, end: int) -> int:
    """``at``: where a member's name must begin. Where its value begins, or NO."""
    if at >= end or byte(at) != 0x22:
        return NO
    at = _skip_text(at + 1, end)
    if at < 0:
        return NO
    at = space(at, end)
    if at >= end or byte(at) != 0x3A:
        return NO
    return space(at + 1, end)


@kernel
def skip_value(at: int, end: int) -> int:
    """Behind a value that nobody wants, of whatever kind; or NO. ``at`` < ``end``."""
    if byte(at) != 0x7B and byte(at) != 0x5B:
        return _skip_scalar(at, end)
    depth, objects = 0, np.uint64(0)  # a bit a level, the innermost lowest: whether it is an object
    while at < end:
        opened = byte(at) == 0x7B or byte(at) == 0x5B
        if opened:
            if depth == DEPTH_MAX:
                return NO
            depth += 1
            objects = (objects << np.uint64(1)) | np.uint64(byte(at) == 0x7B)
            at = space(at + 1, end)
        else:
            at = _skip_scalar(at, end)
            if at < 0:
                return NO
        at, depth, objects = _after(at, end, depth, objects, opened)
        if at < 0 or depth == 0:
            return at
    return NO


@kernel
def _after(at: int, end: int, depth: int, objects: np.uint64, opened: bool) -> tuple[int, int, np.uint64]:
    """Behind a value or an opening bracket: close what closes here, and go to where the next value begins."""
    first = opened
    while True:
        at = space(at, end)
        if at >= end:
            return NO, depth, objects
        is_object = objects & np.uint64(1)
        if byte(at) == (0x7D if is_object else 0x5D):
            at, depth, objects, first = at + 1, depth - 1, objects >> np.uint64(1), False
            if depth == 0:
                return at, depth, objects
            continue
        if not first:
            if byte(at) != 0x2C:
                return NO, depth, objects
            at = space(at + 1, end)
        if is_object:
            at = _skip_name(at, end)
        return at, depth, objects


@inlined
def _pair(at: int) -> int:
    """The number in the two digits at ``at``; 100 or more when they are none."""
    tens, ones = byte(at) - 48, byte(at + 1) - 48
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else 100


@kernel
def _day(at: int, recent: int) -> int:
    """Days since the epoch of ``2013-01-31T`` at ``at``; NO_DAY where it is none. ``recent``: the address of three words that
    remember the last one: its first 8 bytes, its last 2, and the days."""
    head, rest = word(at), np.uint64(byte(at + 8) << 8 | byte(at + 9))
    if head != word(recent) or rest != word(recent + WORD):
        if byte(at + 4) != 0x2D or byte(at + 7) != 0x2D or _pair(at) > 99 or _pair(at + 2) > 99:
            return NO_DAY
        days = days_of(_pair(at) * 100 + _pair(at + 2), _pair(at + 5), _pair(at + 8))
        put_word(recent, head)
        put_word(recent + WORD, rest)
        put_word(recent + 2 * WORD, np.uint64(days))
    return signed_word(recent + 2 * WORD) if byte(at + 10) == 0x54 else NO_DAY


@kernel
def instant_text(at: int, end: int, recent: int) -> tuple[int, int]:
    """``at``: behind the opening quote. Microseconds, and behind the closing quote, or NO.

    Only ``2013-01-31T23:59:59Z`` with a fraction or none: other forms are left to others. ``recent``: see ``_day``; zeros at first.
    """
    if at + 21 > end:
        return 0, NO
    days = _day(at, recent)
    clock = word(at + 11) ^ CLOCK  # each digit as a number in its byte, the colons as zeros
    if days == NO_DAY or clock & ~DIGITS != 0 or (clock + ABOVE_NINE) & ~DIGITS != 0:
        return 0, NO
    pairs = clock * np.uint64(10) + (clock >> np.uint64(8))  # the two-digit numbers in bytes 0, 3 and 6
    hour, minute = np.int64(pairs & BYTE), np.int64((pairs >> np.uint64(24)) & BYTE)
    second = np.int64((pairs >> np.uint64(48)) & BYTE)
    if hour > 23 or minute > 59 or second > 59:
        return 0, NO
    micros, at = np.int64(0), at + 19
    if byte(at) == 0x2E:
        first, scale = at + 1, 100_000
        at = first
        while at < end and 48 <= byte(at) <= 57:
            micros += (byte(at) - 48) * scale
            scale //= 10
            at += 1
        if at == first:
            return 0, NO
    if at + 2 > end or byte(at) != 0x5A or byte(at + 1) != 0x22:
        return 0, NO
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros, at + 2
