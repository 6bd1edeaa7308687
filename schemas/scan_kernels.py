"""The compiled scanner of JSON objects: one pass over each value, to the wanted members alone.

It *accepts* a record only when it follows the grammar and every wanted member is plain (schemas/value_kernels.py); anything else,
right or wrong, is left to the exact parser.

What is wanted is a tree of names: the members of a node are numbered one after the other. Positions are addresses.

Promises: no byte before a value is read, and none more than ``BEHIND`` behind it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.compiled import inlined, kernel
from schemas.dictionary import encode
from schemas.instants import FIRST_US, LAST_US
from schemas.value_kernels import (
    NO,
    decimal_number,
    instant_text,
    is_null,
    plain_end,
    skip_value,
    space,
    text_end,
    whole_number,
    word_end,
)
from schemas.wide import BLOCK, HALF, WORD, byte, differing_bytes, head_of, put_half, put_word, signed_word

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

OBJECT, TEXT, INT, FLOAT, BOOL, INSTANT = range(6)
"""Kinds of a wanted member. ``INSTANT``: RFC 3339 text or whole milliseconds, to microseconds."""
PRESENT = 1

MEMBERS_MAX = 60

FIRST, PARENT, HEAD, SIZE, AT, KIND, TARGET = range(7)
"""Columns of the table of names (int64): of the node with this number, its first member, and its parent; of a member, the first
8 bytes of its name, how many there are, where the name is in the text of all names, its kind, and what it is: of an object its
node, else its column. One row more than members; the members of node n are ``FIRST[n]`` to ``FIRST[n + 1]``."""
UNWANTED, END = -1, -2

EDGE_COLUMNS = 16
LENGTH, BELOW, MEMBER, NODE, SEEN, TAKEN, COLUMN, FROM, BESIDE, LAST, TRIES, SAME = range(12)
"""Columns of the table of edges (int64). What lies between two values is mostly what lay there in a record before: an *edge* is
such a literal, where it leads from and to, and the edge out of there that is tried first (``BELOW``). Edge 0 is where a record begins;
its length is the number of edges. ``TAKEN``, ``COLUMN``: kind and column of the member that is wanted. An edge only saves what
``_next`` would find out again, in the same place of the same bytes. (There is room for more columns: 128 bytes are two lines of a cache.)

All edges are in buckets as well, by where they lead from and their first bytes, each with the next in its bucket (``BESIDE``).

Where an unwanted value stays the same, an edge is learned that *spans* it, from where the edge to that value begins to the value
behind it: so it saves what skipping would find out again, too. ``LAST`` is where the edge to an unwanted value last began, ``TRIES``
how often it was looked whether what follows is what followed then, ``SAME`` how often it was, without a break.
"""
TRIES_MAX, SAME_MIN = 100, 8
MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
ROWS_AT_ONCE = 1024
EDGES_MAX = 4096
BUCKETS_BITS = 12
HEAD_BYTES = 5
"""Of a literal that say in which bucket it is; shorter ones have a bucket of their own."""
TABLE_WORDS = EDGES_MAX * EDGE_COLUMNS + (1 << BUCKETS_BITS)
"""Edges, and behind them the first edge of each bucket (0: none)."""
LITERAL_MAX = 2 * BLOCK
BEHIND = LITERAL_MAX


@kernel
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


@kernel
def _take(at: int, end: int, kind: int, number: int, size: int, recent: int) -> int:
    """Store the value of a wanted member; behind it, or NO. ``number``, ``size``: addresses of where it goes (numbers as their 64
    bits, texts as where they begin)."""
    if is_null(at, end):
        return at + 4
    if kind == TEXT:
        if byte(at) != 0x22:
            return NO
        stop = text_end(at + 1, end)
        if stop < 0:
            return NO
        put_word(number, np.uint64(at + 1))
        put_half(size, stop - at - 1)
        return stop + 1
    put_half(size, PRESENT)
    if kind == INSTANT:
        return _take_instant(at, end, number, recent)
    if kind == BOOL:
        put_word(number, np.uint64(byte(at) == 0x74))
        return word_end(at, end) if byte(at) == 0x74 or byte(at) == 0x66 else NO
    if kind == INT:
        whole, at = whole_number(at, end)
        put_word(number, np.uint64(whole))
        return at
    value, at = decimal_number(at, end)
    put_word(number, np.float64(value).view(np.uint64))
    return at


@kernel
def _take_instant(at: int, end: int, number: int, recent: int) -> int:
    if byte(at) == 0x22:
        us, at = instant_text(at + 1, end, recent)
    else:
        ms, at = whole_number(at, end)
        us = ms * 1000 if FIRST_US // 1000 <= ms <= LAST_US // 1000 else LAST_US + 1
    put_word(number, np.uint64(us))
    return at if FIRST_US <= us <= LAST_US else NO


@kernel
def _next(at: int, end: int, first: bool, node: int, seen: int, names: Ints, text: Bytes) -> tuple[int, int, int, int]:
    """From behind a value, or (``first``) behind the opening brace of the outermost object, to the next value.

    Where it begins (or NO), the node that it belongs to, the members seen so far, and which wanted member it is: ``UNWANTED``, or
    ``END`` for the end of the outermost object. A member that is there twice is left to others.
    """
    while True:
        at = space(at, end)
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
            at = space(at + 1, end)
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


@kernel
def _named(at: int, end: int, node: int, names: Ints, text: Bytes) -> tuple[int, int]:
    """``at``: where a member's name must begin. Where its value begins, or NO, and which wanted member of ``node`` it is."""
    if at >= end or byte(at) != 0x22:
        return NO, UNWANTED
    stop = plain_end(at + 1, end)
    if stop >= end or byte(stop) != 0x22:
        return NO, UNWANTED
    member = _member(at + 1, stop - at - 1, names, text, node)
    at = space(stop + 1, end)
    if at >= end or byte(at) != 0x3A:
        return NO, UNWANTED
    at = space(at + 1, end)
    return (at if at < end else NO), member


@inlined
def _of(edges: int, edge: int, column: int) -> int:
    return signed_word(edges + (edge * EDGE_COLUMNS + column) * WORD)


@inlined
def _set(edges: int, edge: int, column: int, value: int) -> None:
    put_word(edges + (edge * EDGE_COLUMNS + column) * WORD, np.uint64(value))


@inlined
def _bucket(edges: int, state: int, head: np.uint64) -> np.int64:
    """Its address."""
    mixed = (head ^ np.uint64(state) * MULTIPLIERS[1]) * MULTIPLIERS[0]
    return edges + (EDGES_MAX * EDGE_COLUMNS + np.int64(mixed >> np.uint64(64 - BUCKETS_BITS))) * WORD


@inlined
def _leads(edge: int, at: int, end: int, edges: int, literals: int) -> bool:
    """Whether its literal is at ``at``."""
    size, literal = _of(edges, edge, LENGTH), literals + edge * LITERAL_MAX
    if at + size > end:
        return False
    if size <= BLOCK:
        return differing_bytes(at, literal) & _low_bits(size) == 0
    behind = differing_bytes(at + BLOCK, literal + BLOCK) & _low_bits(size - BLOCK)
    return differing_bytes(at, literal) == 0 and behind == 0


@kernel
def _follow(at: int, end: int, state: int, edges: int, literals: int) -> int:
    """The edge out of ``state`` whose literal is at ``at``; 0 when there is none."""
    edge = _of(edges, state, BELOW)
    if edge == 0 or _leads(edge, at, end, edges, literals):
        return edge
    for head in (head_of(at, HEAD_BYTES), np.uint64(0)):
        edge = signed_word(_bucket(edges, state, head))
        while edge != 0:
            if _of(edges, edge, FROM) == state and _leads(edge, at, end, edges, literals):
                if _of(edges, edge, SAME) != SAME_MIN:  # else the edge that spans more goes first
                    _set(edges, state, BELOW, edge)
                return edge
            edge = _of(edges, edge, BESIDE)
    return 0


@inlined
def _low_bits(count: int) -> np.uint64:
    return (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@kernel
def _learn(
    at: int, size: int, state: int, member: int, node: int, seen: int, names: Ints, edges: int, literals: int
) -> int:  # fmt: skip
    """Remember a way from ``state`` to a next value; the new edge, or 0 when there is no room."""
    edge = _of(edges, 0, LENGTH)
    if size > LITERAL_MAX or edge == EDGES_MAX:
        return 0
    _set(edges, 0, LENGTH, edge + 1)
    for j in range(0, size, WORD):
        put_word(literals + edge * LITERAL_MAX + j, head_of(at + j, min(size - j, WORD)))
    _set(edges, edge, LENGTH, size)
    _set(edges, edge, MEMBER, member)
    _set(edges, edge, NODE, node)
    _set(edges, edge, SEEN, seen)
    if member >= 0:
        _set(edges, edge, TAKEN, names[member, KIND])
        _set(edges, edge, COLUMN, names[member, TARGET])
    for column in (BELOW, LAST, TRIES, SAME):
        _set(edges, edge, column, 0)
    _set(edges, edge, FROM, state)
    bucket = _bucket(edges, state, head_of(at, HEAD_BYTES) if size >= HEAD_BYTES else np.uint64(0))
    _set(edges, edge, BESIDE, signed_word(bucket))
    put_word(bucket, np.uint64(edge))
    _set(edges, state, BELOW, edge)
    return edge


@kernel
def _span(
    edge: int, began: int, at: int, state: int, member: int, node: int, seen: int, names: Ints, edges: int, literals: int
) -> None:  # fmt: skip
    """``edge``, out of ``state``, was followed at ``began`` to an unwanted value, and the next value (or the end) is at ``at``."""
    size, last, tries = at - began, _of(edges, edge, LAST), _of(edges, edge, TRIES)
    if tries == TRIES_MAX or size > LITERAL_MAX or 2 * _of(edges, 0, LENGTH) > EDGES_MAX:
        return
    same = _of(edges, edge, SAME) + 1 if last != 0 and _are_same(began, last, size) else 0
    _set(edges, edge, LAST, began)
    _set(edges, edge, SAME, same)
    _set(edges, edge, TRIES, TRIES_MAX if same == SAME_MIN else tries + 1)
    if same == SAME_MIN:
        _learn(began, size, state, member, node, seen, names, edges, literals)


@kernel
def _are_same(one: int, other: int, size: int) -> bool:
    for j in range(size):
        if byte(one + j) != byte(other + j):
            return False
    return True


@kernel
def _object(
    at: int, end: int, names: Ints, text: Bytes, edges: int, literals: int, number: int, size: int, rows: int, recent: int
) -> int:  # fmt: skip
    """Scan the object whose opening brace is before ``at``; behind it, or NO.

    ``number``, ``size``: addresses of where the value of the first column goes; those of the other columns go so many ``rows`` behind.
    """
    state, node, seen, first = 0, 0, np.int64(0), True
    # The edge to the unwanted value that was just skipped (0: none was), from where it leads, and where it began.
    skipped, origin, began = 0, 0, at
    while True:
        before, here = at, state
        edge = _follow(at, end, state, edges, literals) if state >= 0 else 0
        if edge:
            at, state, member = at + _of(edges, edge, LENGTH), edge, _of(edges, edge, MEMBER)
            node, seen = _of(edges, edge, NODE), _of(edges, edge, SEEN)
        else:
            at, node, seen, member = _next(at, end, first, node, seen, names, text)
            if at < 0:
                return NO
            if state >= 0:
                state = _learn(before, at - before, state, member, node, seen, names, edges, literals) or NO
        if skipped > 0:
            _span(skipped, began, at, origin, member, node, seen, names, edges, literals)
        first, skipped, origin, began = False, state if member == UNWANTED else 0, here, before
        if member == END:
            return at
        if at >= end:
            return NO
        if edge and byte(at) <= 0x20:
            at = space(at, end)  # of which there was none, or less, where the edge was learned
            if at >= end:
                return NO
        if member == UNWANTED:
            stop = plain_end(at + 1, end) if byte(at) == 0x22 else end
            at = stop + 1 if stop < end and byte(stop) == 0x22 else skip_value(at, end)
        else:
            kind, column = (
                (_of(edges, edge, TAKEN), _of(edges, edge, COLUMN))
                if edge
                else (names[member, KIND], names[member, TARGET])
            )
            at = _take(at, end, kind, number + column * rows * WORD, size + column * rows * HALF, recent)
        if at < 0 or at >= end:
            return NO


@kernel
def scan(
    base: int, offsets: Ints, names: Ints, text: Bytes, numbers: Words, sizes: npt.NDArray[np.int32],
    coded: Ints, codes: npt.NDArray[np.int32], firsts: Ints, slots: npt.NDArray[np.int32], counts: Ints,
    accepted: npt.NDArray[np.bool_], edges: Ints, literals: Bytes, recent: Ints,
) -> None:  # fmt: skip
    """Scan all values; whether each was accepted. Of the others no output counts.

    ``base``: the address of bytes, ``BEHIND`` of which may be read behind the last value. ``offsets``: where the values are,
    ascending. ``numbers`` (columns x rows): the bits of a number, or the address of a text. ``sizes``: the bytes of a text,
    ``PRESENT`` for others; -1 where there is nothing (set before). Texts of the columns ``coded`` get codes, a row of ``codes``,
    ``firsts``, ``slots`` and ``counts`` for each (see ``schemas.dictionary.encode``), while their bytes are still near.
    ``edges``: ``TABLE_WORDS``, ``literals``: ``EDGES_MAX`` times ``LITERAL_MAX``, whatever is in them; ``recent``: three zeros.
    What is done for each value goes by addresses: an array passed to a function that is not inlined is seven numbers put on the stack.
    """
    n = len(offsets) - 1
    # Edge 0 and the buckets are cleared; the rest is as good as not there.
    edges[:EDGE_COLUMNS] = edges[EDGES_MAX * EDGE_COLUMNS :] = 0
    edges[LENGTH] = 1
    ways, literal, remembered = edges.ctypes.data, literals.ctypes.data, recent.ctypes.data
    number, size = numbers.ctypes.data, sizes.ctypes.data
    for first in range(0, n, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, n)
        for row in range(first, last):
            at, end = base + offsets[row], base + offsets[row + 1]
            if at < end and byte(at) == 0x7B:
                place, measure = number + row * WORD, size + row * HALF
                stop = _object(at + 1, end, names, text, ways, literal, place, measure, n, remembered)
                accepted[row] = stop == end
            if not accepted[row]:
                sizes[:, row] = -1
        for k in range(len(coded)):
            begins = numbers[coded[k]].view(np.int64)
            counts[k] = encode(begins, sizes[coded[k]], first, last, codes[k], firsts[k], slots[k], counts[k])
