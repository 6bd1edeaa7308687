"""Hopping windows: a record is folded into each of its windows that is still open, in offset order within each.

A record's windows are the newest, which starts at the last multiple of the step, and those a step earlier each that have not ended by its
event time. The earlier a window the sooner it closes, so those that are lost are the last of this row.

Groups are looked up once for each distinct (newest window, key) of some rows and each of its windows, not for each row: a row
finds the ids of all its windows side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.grouping import distinct_rows
from flows.windows import Hopping
from schemas.compiled import maker
from schemas.dictionary import plain
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]

FOLDED_TOGETHER = 1 << 20
"""Rows times windows that are laid out at once: bounds memory, whatever the size and the step."""


class Hops:
    """The windows of records: ``newest`` start, how ``many`` it has, how many of these are ``open``."""

    def __init__(self, window: Hopping, time: Ints, newest: Ints, marks: Ints, lateness_us: int) -> None:
        """``marks``: the watermark before each record."""
        self._window, self.newest = window, newest
        self.many, self.open = _counted(time, newest, marks, window.size_us, window.step_us, lateness_us)

    @property
    def some_are_lost(self) -> bool:
        return bool((self.open < self.many).any())

    def lost(self, rows: Ints) -> tuple[Ints, Ints]:
        """Records among ``rows``, and the starts of the windows that they came too late for, ascending."""
        return _lost(rows, self.newest, self.many, self.open, self._window.step_us)

    def groups(
        self, rows: Ints | None, keys: Sequence[pa.Array], intern: Callable[[list[pa.Array]], Ints]
    ) -> Iterator[tuple[Ints, Ints]]:
        """Ids of groups and the positions (in ``rows``, None: all) that belong to them, to be folded one after the other.

        ``keys``: at these rows. ``intern``: the id of each row of (window start, *key).
        """
        newest, open_ = (self.newest, self.open) if rows is None else (self.newest[rows], self.open[rows])
        together = max(1, FOLDED_TOGETHER // max(1, int(open_.max(initial=0))))
        for first in range(0, len(open_), together):
            here = slice(first, first + together)
            parts = [key.slice(first, together) for key in keys]
            ids, positions = self._groups(newest[here], open_[here], parts, intern)
            yield ids, positions + first

    def _groups(
        self, newest: Ints, open_: Ints, keys: Sequence[pa.Array], intern: Callable[[list[pa.Array]], Ints]
    ) -> tuple[Ints, Ints]:
        pairs, firsts = distinct_rows([pa.array(newest), *keys])
        most = _most(pairs, open_, len(firsts))  # open windows of a pair: those of the row that has most
        pair, back = _laid_out(most)
        rows = pa.array(firsts[pair])
        starts = pa.array(newest[firsts[pair]] - back * self._window.step_us).cast(TIMESTAMP)
        ids = intern([starts, *(plain(key.take(rows)) for key in keys)])
        return _spread(pairs, open_, np.cumsum(most) - most, ids)


@maker
def _counted(time: Ints, newest: Ints, marks: Ints, size: int, step: int, lateness: int) -> tuple[Ints, Ints]:
    many, still = np.empty(len(time), np.int64), np.empty(len(time), np.int64)
    for i in range(len(time)):
        behind = time[i] - newest[i]
        many[i] = (size - behind + step - 1) // step
        still[i] = many[i]
        first = newest[i] - (many[i] - 1) * step
        if marks[i] >= first + size + lateness:  # else all are open; the watermark may be the least of all numbers
            left = newest[i] + size + lateness - marks[i]
            still[i] = (left + step - 1) // step if left > 0 else 0
    return many, still


@maker
def _lost(rows: Ints, newest: Ints, many: Ints, still: Ints, step: int) -> tuple[Ints, Ints]:
    count = 0
    for row in rows:
        count += many[row] - still[row]
    records, starts = np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for row in rows:
        for back in range(many[row] - 1, still[row] - 1, -1):
            records[at], starts[at] = row, newest[row] - back * step
            at += 1
    return records, starts


@maker
def _most(pairs: Ints, still: Ints, count: int) -> Ints:
    most = np.zeros(count, np.int64)
    for i in range(len(pairs)):
        most[pairs[i]] = max(most[pairs[i]], still[i])
    return most


@maker
def _laid_out(most: Ints) -> tuple[Ints, Ints]:
    """For each window of each pair: the pair, and how many steps back the window is."""
    pair, back = np.empty(most.sum(), np.int64), np.empty(most.sum(), np.int64)
    at = 0
    for p in range(len(most)):
        for b in range(most[p]):
            pair[at], back[at] = p, b
            at += 1
    return pair, back


@maker
def _spread(pairs: Ints, still: Ints, firsts: Ints, groups: Ints) -> tuple[Ints, Ints]:
    """``groups``: the ids of each pair's windows side by side, from ``firsts`` on."""
    ids, rows = np.empty(still.sum(), np.int64), np.empty(still.sum(), np.int64)
    at = 0
    for i in range(len(pairs)):
        for back in range(still[i]):
            ids[at], rows[at] = groups[firsts[pairs[i]] + back], i
            at += 1
    return ids, rows
