"""Matching of released rows, one after the other in their order. Numbers of rows are those in the tables that hold them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel

Ints = npt.NDArray[np.int64]
NONE = -1


@kernel
def latest_before(order: Ints, right: Ints, left: Ints, latest: Ints, first: int, found: Ints) -> None:
    """``order``: numbers of rows, first of the right side (whose first one is row ``first`` of its table), then of the left side.
    ``right``, ``left``: the key of each (-1: none); ``latest``: by key, the row that was last; ``found``: of each left row."""
    for i in range(len(order)):
        row = order[i]
        if row < len(right):
            if right[row] >= 0:
                latest[right[row]] = first + row
        else:
            key = left[row - len(right)]
            found[row - len(right)] = latest[key] if key >= 0 else NONE


@kernel
def link(keys: Ints, first: int, last: int, head: Ints, tail: Ints, following: Ints) -> None:
    """Put rows behind the others of their key."""
    for row in range(first, last):
        _append(keys[row], row, head, tail, following)


@kernel
def _append(key: int, row: int, head: Ints, tail: Ints, following: Ints) -> None:
    following[row] = NONE
    if key < 0:
        return
    if head[key] < 0:
        head[key] = row
    else:
        following[tail[key]] = row
    tail[key] = row


@kernel
def meet(
    order: Ints, start: int, rights: int, left_first: int, right_first: int, left_key: Ints, right_key: Ints, low: Ints,
    high: Ints, time: Ints, left_head: Ints, left_tail: Ints, left_next: Ints, right_head: Ints, right_tail: Ints,
    right_next: Ints, left_found: Ints, right_found: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Each row meets those of the other side that came before it, oldest first, and is put behind those of its own.

    ``order`` as above, from ``start`` on; the new rows follow ``left_first`` and ``right_first`` in their tables. ``low``, ``high``:
    between which times a left row looks for right ones, ``time``. Works until a row's pairs may not fit; returns how far it came, and
    how many pairs there are.
    """
    count = 0
    for i in range(start, len(order)):
        before = count
        if order[i] < rights:
            row = right_first + order[i]
            key = right_key[row]
            other = left_head[key] if key >= 0 else NONE
            while other >= 0:
                if low[other] <= time[row] <= high[other]:
                    if count == len(left_found):
                        return i, before
                    left_found[count], right_found[count] = other, row
                    count += 1
                other = left_next[other]
            _append(key, row, right_head, right_tail, right_next)
        else:
            row = left_first + order[i] - rights
            key = left_key[row]
            other = right_head[key] if key >= 0 else NONE
            while other >= 0:
                if low[row] <= time[other] <= high[row]:
                    if count == len(left_found):
                        return i, before
                    left_found[count], right_found[count] = row, other
                    count += 1
                other = right_next[other]
            _append(key, row, left_head, left_tail, left_next)
    return len(order), count
