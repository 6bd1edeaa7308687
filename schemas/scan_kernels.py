"""The compiled scanner of JSON objects: one pass over each value, to the wanted members alone.

It follows the grammar strictly and *accepts* a value only when every wanted member is plain: text without escapes,
whole numbers of up to 18 digits, decimals of up to 15, true, false and null. For those the outcome is the exact
parser's (see schemas/json_columns.py); anything else, right or wrong, is left to that parser.

What is wanted is a tree of names: the members of a node are numbered one after the other. Positions are addresses.

Promises: no byte before a value is read, and none more than ``BEHIND`` behind it.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import numpy.typing as npt

from schemas.dictionary import encode
from schemas.instants import FIRST_US, LAST_US, NO_DAY, days_of
from schemas.wide import BLOCK, WORD, byte, differing_bytes, head_of, odd_bytes, trailing_zeros

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

OBJECT, TEXT, INT, FLOAT, BOOL, INSTANT = range(6)
"""Kinds of a wanted member. ``INSTANT``: RFC 3339 text or whole milliseconds, to microseconds."""
PRESENT = 1

DEPTH_MAX = 60
MEMBERS_MAX = 60
INT_DIGITS_MAX = 18
FLOAT_DIGITS_MAX = 15
"""A number of so many digits, and a power of ten of so many, are exact in float64; their quotient is rounded once, correctly."""
NO = -1

QUOTIENT_BITS = 55
"""Two or one more than a float64 has, since the first of them may be 0."""
ONE, TOP_BIT = np.uint64(1), np.uint64(1 << 63)
POWERS_OF_FIVE = np.array([5**exponent for exponent in range(INT_DIGITS_MAX + 1)], np.uint64)
POWERS_OF_TEN = np.array([10.0**exponent for exponent in range(FLOAT_DIGITS_MAX + 1)])


FIRST, PARENT, HEAD, SIZE, AT, KIND, TARGET = range(7)
"""Columns of the table of names (int64): of the node with this number, its first member, and its parent; of a member, the first
8 bytes of its name, how many there are, where the name is in the text of all names, its kind, and what it is: of an object its
node, else its column. One row more than members; the members of node n are ``FIRST[n]`` to ``FIRST[n + 1]``."""
UNWANTED, END = -1, -2

LENGTH, MEMBER, NODE, SEEN, BELOW, BESIDE = range(6)
"""Columns of the table of edges (int64). What lies between two values is mostly what lay there in a record before: an *edge* is
such a literal, where it leads to, and the first edge below (out of there) and the next beside it. Edge 0 is where a record begins;
its length is the number of edges. An edge only saves what ``_next`` would find out again, in the same place of the same bytes."""
ROWS_AT_ONCE = 1024
EDGES_MAX = 1024
LITERAL_MAX = 2 * BLOCK
BEHIND = LITERAL_MAX


@nb.njit(nogil=True, cache=True)
def _space(at: int, end: int) -> int:
    """The first byte at or behind ``at`` that is not white space."""
    while at < end and (byte(at) == 32 or byte(at) == 10 or byte(at) == 13 or byte(at) == 9):
        at += 1
    return at


@nb.njit(nogil=True, cache=True)
def _plain_end(at: int, end: int) -> int:
    """The first byte at or behind ``at`` that is not plain ASCII text; ``end`` when there is none before."""
    while at < end:
        odd = odd_bytes(at)
        if odd != 0:
            return min(at + trailing_zeros(odd), end)
        at += BLOCK
    return end


@nb.njit(nogil=True, cache=True)
def _text_end(at: int, end: int) -> int:
    """``at``: behind the opening quote of a wanted text. Where its closing quote is; NO unless it is plain UTF-8."""
    while True:
        at = _plain_end(at, end)
        if at >= end:
            return NO
        if byte(at) == 0x22:
            return at
        size = _utf8_size(at, end)
        if size == 0:
            return NO
        at += size


@nb.njit(nogil=True, cache=True)
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


@nb.njit(nogil=True, cache=True)
def _skip_text(at: int, end: int) -> int:
    """``at``: behind the opening quote of a text that nobody wants. Behind its closing quote, or NO."""
    while True:
        at = _plain_end(at, end)
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


@nb.njit(nogil=True, cache=True, inline="always")
def _is_short_escape(code: int) -> bool:
    return (
        code == 0x22 or code == 0x5C or code == 0x2F or code == 0x62
        or code == 0x66 or code == 0x6E or code == 0x72 or code == 0x74
    )  # fmt: skip


@nb.njit(nogil=True, cache=True)
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


@nb.njit(nogil=True, cache=True)
def _whole(at: int, end: int) -> tuple[int, int]:
    """The digits of a whole number, no zero before others, and where they end; NO when it is none or too long."""
    number, stop = _digits(at, end, np.int64(0))
    if stop == at or (stop < end and 48 <= byte(stop) <= 57) or (byte(at) == 48 and stop > at + 1):
        return number, NO
    return number, stop


@nb.njit(nogil=True, cache=True)
def _int(at: int, end: int) -> tuple[int, int]:
    """A whole number and where it ends, or NO; -0 is left to others."""
    negative = byte(at) == 0x2D
    number, stop = _whole(at + negative, end)
    if stop < 0 or (negative and number == 0) or _goes_on(stop, end):
        return number, NO
    return -number if negative else number, stop


@nb.njit(nogil=True, cache=True, inline="always")
def _goes_on(at: int, end: int) -> bool:
    """Whether a number has a fraction or an exponent from here on."""
    return at < end and (byte(at) == 0x2E or byte(at) == 0x65 or byte(at) == 0x45)


@nb.njit(nogil=True, cache=True)
def _float(at: int, end: int) -> tuple[float, int]:
    """A number of at most 18 digits and where it ends, or NO; zeros with a sign and exponents are left to others."""
    negative = byte(at) == 0x2D
    first = at + negative
    number, stop = _whole(first, end)
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


@nb.njit(nogil=True, cache=True, inline="always")
def _signed(value: float, negative: bool) -> float:
    return -value if negative else value


@nb.njit(nogil=True, cache=True)
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


@nb.njit(nogil=True, cache=True)
def _skip_number(at: int, end: int) -> int:
    """Behind a number that nobody wants, without an exponent and not long; or NO."""
    at += byte(at) == 0x2D
    if at >= end:
        return NO
    _, at = _whole(at, end)
    if at >= 0 and at < end and byte(at) == 0x2E:
        first = at + 1
        _, at = _digits(first, end, np.int64(0))
        if at == first or (at < end and 48 <= byte(at) <= 57):
            return NO
    return NO if at < 0 or _goes_on(at, end) else at


@nb.njit(nogil=True, cache=True)
def _word_end(at: int, end: int) -> int:
    """Behind ``true``, ``false`` or ``null``, or NO."""
    size = 5 if byte(at) == 0x66 else 4
    if at + size > end:
        return NO
    head = head_of(at, size)
    known = head == np.uint64(0x65757274) or head == np.uint64(0x65736C6166) or head == np.uint64(0x6C6C756E)
    return at + size if known else NO


@nb.njit(nogil=True, cache=True)
def _is_null(at: int, end: int) -> bool:
    return byte(at) == 0x6E and _word_end(at, end) > 0


@nb.njit(nogil=True, cache=True)
def _skip_scalar(at: int, end: int) -> int:
    lead = byte(at)
    if lead == 0x22:
        return _skip_text(at + 1, end)
    if lead == 0x2D or 48 <= lead <= 57:
        return _skip_number(at, end)
    return _word_end(at, end)


@nb.njit(nogil=True, cache=True)
def _skip_name(at: int, end: int) -> int:
    """``at``: where a member's name must begin. Where its value begins, or NO."""
    if at >= end or byte(at) != 0x22:
        return NO
    at = _skip_text(at + 1, end)
    if at < 0:
        return NO
    at = _space(at, end)
    if at >= end or byte(at) != 0x3A:
        return NO
    return _space(at + 1, end)


@nb.njit(nogil=True, cache=True)
def _skip_value(at: int, end: int) -> int:
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
            at = _space(at + 1, end)
        else:
            at = _skip_scalar(at, end)
            if at < 0:
                return NO
        at, depth, objects = _after(at, end, depth, objects, opened)
        if at < 0 or depth == 0:
            return at
    return NO


@nb.njit(nogil=True, cache=True)
def _after(at: int, end: int, depth: int, objects: np.uint64, opened: bool) -> tuple[int, int, np.uint64]:
    """Behind a value or an opening bracket: close what closes here, and go to where the next value begins."""
    first = opened
    while True:
        at = _space(at, end)
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
            at = _space(at + 1, end)
        if is_object:
            at = _skip_name(at, end)
        return at, depth, objects


@nb.njit(nogil=True, cache=True)
def _member(at: int, size: int, names: Ints, text: Bytes, node: int) -> int:
    """The wanted member of ``node`` that has this name, or NO."""
    head = np.int64(head_of(at, size))
    for member in range(names[node, FIRST], names[node + 1, FIRST]):
        if names[member, HEAD] == head and names[member, SIZE] == size:
            same = True
            for j in range(WORD, size):
                same &= byte(at + j) == text[names[member, AT] + j]
            if same:
                return member
    return NO


@nb.njit(nogil=True, cache=True)
def _take(at: int, end: int, kind: int, column: int, row: int, numbers: Words, sizes: npt.NDArray[np.int32]) -> int:
    """Store the value of a wanted member; behind it, or NO. Numbers as their 64 bits, texts as where they begin."""
    if _is_null(at, end):
        return at + 4
    if kind == TEXT:
        if byte(at) != 0x22:
            return NO
        stop = _text_end(at + 1, end)
        if stop < 0:
            return NO
        numbers[column, row], sizes[column, row] = np.uint64(at + 1), stop - at - 1
        return stop + 1
    sizes[column, row] = PRESENT
    if kind == INSTANT:
        return _take_instant(at, end, column, row, numbers)
    if kind == BOOL:
        numbers[column, row] = np.uint64(byte(at) == 0x74)
        return _word_end(at, end) if byte(at) == 0x74 or byte(at) == 0x66 else NO
    if kind == INT:
        number, at = _int(at, end)
        numbers[column, row] = np.uint64(number)
        return at
    value, at = _float(at, end)
    numbers[column, row] = np.float64(value).view(np.uint64)
    return at


@nb.njit(nogil=True, cache=True)
def _take_instant(at: int, end: int, column: int, row: int, numbers: Words) -> int:
    if byte(at) == 0x22:
        us, at = _instant(at + 1, end)
    else:
        ms, at = _int(at, end)
        us = ms * 1000 if FIRST_US // 1000 <= ms <= LAST_US // 1000 else LAST_US + 1
    numbers[column, row] = np.uint64(us)
    return at if FIRST_US <= us <= LAST_US else NO


@nb.njit(nogil=True, cache=True, inline="always")
def _pair(at: int) -> int:
    """The number in the two digits at ``at``; 100 or more when they are none."""
    tens, ones = byte(at) - 48, byte(at + 1) - 48
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else 100


@nb.njit(nogil=True, cache=True)
def _instant(at: int, end: int) -> tuple[int, int]:
    """``at``: behind the opening quote. Microseconds, and behind the closing quote, or NO.

    Only ``2013-01-31T23:59:59Z`` with a fraction or none: other forms are left to others.
    """
    if at + 21 > end:
        return 0, NO
    year, month, day = _pair(at) * 100 + _pair(at + 2), _pair(at + 5), _pair(at + 8)
    hour, minute, second = _pair(at + 11), _pair(at + 14), _pair(at + 17)
    marks = byte(at + 4) == 0x2D and byte(at + 7) == 0x2D and byte(at + 10) == 0x54
    marks &= byte(at + 13) == 0x3A and byte(at + 16) == 0x3A
    if not marks or _pair(at + 2) > 99 or year < 1 or year > 9999 or hour > 23 or minute > 59 or second > 59:
        return 0, NO
    days = days_of(year, month, day)
    if days == NO_DAY:
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


@nb.njit(nogil=True, cache=True)
def _next(at: int, end: int, first: bool, node: int, seen: int, names: Ints, text: Bytes) -> tuple[int, int, int, int]:
    """From behind a value, or (``first``) behind the opening brace of the outermost object, to the next value.

    Where it begins (or NO), the node that it belongs to, the members seen so far, and which wanted member it is: ``UNWANTED``, or
    ``END`` for the end of the outermost object. A member that is there twice is left to others.
    """
    while True:
        at = _space(at, end)
        if at >= end:
            return NO, node, seen, UNWANTED
        if byte(at) == 0x7D:
            at += 1
            if node == 0:
                return at, node, seen, END
            node, first = names[node, PARENT], False
            continue
        if not first:
            if byte(at) != 0x2C:
                return NO, node, seen, UNWANTED
            at = _space(at + 1, end)
        at, member = _named(at, end, node, names, text)
        if at < 0 or member < 0:
            return at, node, seen, UNWANTED
        bit = np.int64(1) << member
        if seen & bit:
            return NO, node, seen, member
        seen |= bit
        if names[member, KIND] != OBJECT:
            return at, node, seen, member
        if byte(at) != 0x7B:
            return NO, node, seen, member
        at, node, first = at + 1, names[member, TARGET], True


@nb.njit(nogil=True, cache=True)
def _named(at: int, end: int, node: int, names: Ints, text: Bytes) -> tuple[int, int]:
    """``at``: where a member's name must begin. Where its value begins, or NO, and which wanted member of ``node`` it is."""
    if at >= end or byte(at) != 0x22:
        return NO, UNWANTED
    stop = _plain_end(at + 1, end)
    if stop >= end or byte(stop) != 0x22:
        return NO, UNWANTED
    member = _member(at + 1, stop - at - 1, names, text, node)
    at = _space(stop + 1, end)
    if at >= end or byte(at) != 0x3A:
        return NO, UNWANTED
    at = _space(at + 1, end)
    return (at if at < end else NO), member


@nb.njit(nogil=True, cache=True)
def _follow(at: int, end: int, state: int, edges: Ints, room: int) -> int:
    """The edge out of ``state`` whose literal is at ``at``; 0 when there is none. ``room``: the address of the literals."""
    edge = edges[state, BELOW]
    while edge != 0:
        size = edges[edge, LENGTH]
        if at + size <= end:
            literal = room + edge * LITERAL_MAX
            if size <= BLOCK:
                if differing_bytes(at, literal) & _low_bits(size) == 0:
                    return edge
            elif (
                differing_bytes(at, literal) == 0
                and differing_bytes(at + BLOCK, literal + BLOCK) & _low_bits(size - BLOCK) == 0
            ):
                return edge
        edge = edges[edge, BESIDE]
    return 0


@nb.njit(nogil=True, cache=True, inline="always")
def _low_bits(count: int) -> np.uint64:
    return (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@nb.njit(nogil=True, cache=True)
def _learn(
    at: int, size: int, state: int, member: int, node: int, seen: int, edges: Ints, literals: Bytes
) -> int:  # fmt: skip
    """Remember a way from ``state`` to a next value; the new edge, or 0 when there is no room."""
    edge = edges[0, LENGTH]
    if size > LITERAL_MAX or edge == len(edges):
        return 0
    edges[0, LENGTH] = edge + 1
    for j in range(size):
        literals[edge * LITERAL_MAX + j] = byte(at + j)
    edges[edge, LENGTH], edges[edge, MEMBER], edges[edge, NODE], edges[edge, SEEN] = size, member, node, seen
    edges[edge, BESIDE], edges[state, BELOW] = edges[state, BELOW], edge
    return edge


@nb.njit(nogil=True, cache=True)
def _object(
    at: int, end: int, names: Ints, text: Bytes, edges: Ints, literals: Bytes, room: int, row: int,
    numbers: Words, sizes: npt.NDArray[np.int32],
) -> int:  # fmt: skip
    """Scan the object whose opening brace is before ``at``; behind it, or NO."""
    state, node, seen, first = 0, 0, np.int64(0), True
    while True:
        edge = _follow(at, end, state, edges, room) if state >= 0 else 0
        if edge:
            at, state, member = at + edges[edge, LENGTH], edge, edges[edge, MEMBER]
            node, seen = edges[edge, NODE], edges[edge, SEEN]
        else:
            before = at
            at, node, seen, member = _next(at, end, first, node, seen, names, text)
            if at < 0:
                return NO
            if state >= 0:
                state = _learn(before, at - before, state, member, node, seen, edges, literals) or NO
        first = False
        if member == END:
            return at
        if at >= end:
            return NO
        if member == UNWANTED:
            stop = _plain_end(at + 1, end) if byte(at) == 0x22 else end
            at = stop + 1 if stop < end and byte(stop) == 0x22 else _skip_value(at, end)
        else:
            at = _take(at, end, names[member, KIND], names[member, TARGET], row, numbers, sizes)
        if at < 0 or at >= end:
            return NO


@nb.njit(nogil=True, cache=True)
def scan(
    base: int, offsets: Ints, names: Ints, text: Bytes, numbers: Words, sizes: npt.NDArray[np.int32],
    coded: Ints, codes: npt.NDArray[np.int32], firsts: Ints, slots: npt.NDArray[np.int32], counts: Ints,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Scan all values; whether each was accepted. Of the others no output counts.

    ``base``: the address of bytes, ``BEHIND`` of which may be read behind the last value. ``offsets``: where the values are,
    ascending. ``numbers`` (columns x rows): the bits of a number, or the address of a text. ``sizes``: the bytes of a text,
    ``PRESENT`` for others; -1 where there is nothing (set before). Texts of the columns ``coded`` get codes, a row of ``codes``,
    ``firsts``, ``slots`` and ``counts`` for each (see ``schemas.dictionary.encode``), while their bytes are still near.
    """
    n = len(offsets) - 1
    accepted = np.zeros(n, np.bool_)
    edges, literals = np.zeros((EDGES_MAX, 6), np.int64), np.zeros(EDGES_MAX * LITERAL_MAX, np.uint8)
    edges[0, LENGTH] = 1
    room = literals.ctypes.data
    for first in range(0, n, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, n)
        for row in range(first, last):
            at, end = base + offsets[row], base + offsets[row + 1]
            if at < end and byte(at) == 0x7B:
                accepted[row] = _object(at + 1, end, names, text, edges, literals, room, row, numbers, sizes) == end
            if not accepted[row]:
                sizes[:, row] = -1
        for k in range(len(coded)):
            begins = numbers[coded[k]].view(np.int64)
            counts[k] = encode(begins, sizes[coded[k]], first, last, codes[k], firsts[k], slots[k], counts[k])
    return accepted
