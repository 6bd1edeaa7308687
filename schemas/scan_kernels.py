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
from schemas.wide import BLOCK, WORD, byte, differing_bytes, head_of

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

LENGTH, MEMBER, NODE, SEEN, BELOW, BESIDE = range(6)
"""Columns of the table of edges (int64). What lies between two values is mostly what lay there in a record before: an *edge* is
such a literal, where it leads to, and the first edge below (out of there) and the next beside it. Edge 0 is where a record begins;
its length is the number of edges. An edge only saves what ``_next`` would find out again, in the same place of the same bytes."""
ROWS_AT_ONCE = 1024
EDGES_MAX = 1024
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
def _take(
    at: int, end: int, kind: int, column: int, row: int, numbers: Words, sizes: npt.NDArray[np.int32], recent: Ints
) -> int:
    """Store the value of a wanted member; behind it, or NO. Numbers as their 64 bits, texts as where they begin."""
    if is_null(at, end):
        return at + 4
    if kind == TEXT:
        if byte(at) != 0x22:
            return NO
        stop = text_end(at + 1, end)
        if stop < 0:
            return NO
        numbers[column, row], sizes[column, row] = np.uint64(at + 1), stop - at - 1
        return stop + 1
    sizes[column, row] = PRESENT
    if kind == INSTANT:
        return _take_instant(at, end, column, row, numbers, recent)
    if kind == BOOL:
        numbers[column, row] = np.uint64(byte(at) == 0x74)
        return word_end(at, end) if byte(at) == 0x74 or byte(at) == 0x66 else NO
    if kind == INT:
        number, at = whole_number(at, end)
        numbers[column, row] = np.uint64(number)
        return at
    value, at = decimal_number(at, end)
    numbers[column, row] = np.float64(value).view(np.uint64)
    return at


@kernel
def _take_instant(at: int, end: int, column: int, row: int, numbers: Words, recent: Ints) -> int:
    if byte(at) == 0x22:
        us, at = instant_text(at + 1, end, recent)
    else:
        ms, at = whole_number(at, end)
        us = ms * 1000 if FIRST_US // 1000 <= ms <= LAST_US // 1000 else LAST_US + 1
    numbers[column, row] = np.uint64(us)
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


@kernel
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


@inlined
def _low_bits(count: int) -> np.uint64:
    return (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@kernel
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


@kernel
def _object(
    at: int, end: int, names: Ints, text: Bytes, edges: Ints, literals: Bytes, room: int, row: int,
    numbers: Words, sizes: npt.NDArray[np.int32], recent: Ints,
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
            stop = plain_end(at + 1, end) if byte(at) == 0x22 else end
            at = stop + 1 if stop < end and byte(stop) == 0x22 else skip_value(at, end)
        else:
            at = _take(at, end, names[member, KIND], names[member, TARGET], row, numbers, sizes, recent)
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
    """
    n = len(offsets) - 1
    edges[0, LENGTH] = 1
    room = literals.ctypes.data
    for first in range(0, n, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, n)
        for row in range(first, last):
            at, end = base + offsets[row], base + offsets[row + 1]
            if at < end and byte(at) == 0x7B:
                accepted[row] = (
                    _object(at + 1, end, names, text, edges, literals, room, row, numbers, sizes, recent) == end
                )
            if not accepted[row]:
                sizes[:, row] = -1
        for k in range(len(coded)):
            begins = numbers[coded[k]].view(np.int64)
            counts[k] = encode(begins, sizes[coded[k]], first, last, codes[k], firsts[k], slots[k], counts[k])
