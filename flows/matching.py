"""How the rows of two sides find each other, when they come in the order of time: the state of a join.

Each kind takes the rows whose turn has come, says which go together, and keeps those that later ones may still meet. What is kept when
all rows before a frontier have come depends on these rows and the frontier alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.chunks import contiguous
from flows import join_kernels as kernels
from flows.groups import GroupTable
from flows.join_kernels import NONE
from flows.joins import AS_OF, INTERVAL, Join
from flows.waiting import Held, Mask, ints_of
from schemas.canonical import encode

Ints = npt.NDArray[np.int64]
EVER, NEVER = np.iinfo(np.int64).max, np.iinfo(np.int64).min
_SOME = 1 << 16


@dataclass(frozen=True, slots=True)
class Matches:
    """Rows of the sides that go together, in order: tables and numbers of their rows (-1: none); ``time``: of the later one."""

    tables: Sequence[pa.Table]
    rows: Sequence[Ints]
    time: Ints


class InOrder:
    """One side: every row for itself, and nothing to keep."""

    kept: Sequence[Held] = ()

    def match(self, released: Sequence[pa.Table]) -> Matches:
        (rows,) = released
        return Matches([rows], [np.arange(len(rows))], ints_of(rows, "event_time"))

    def needed(self, frontier: int) -> Sequence[Mask]:
        return ()

    def keep(self, masks: Sequence[Mask]) -> None:
        return


class AsOf:
    """Of the right side the latest row of each key."""

    def __init__(self, join: Join, seen: Sequence[pa.Table]) -> None:
        self._on = [f"on:{i}" for i in range(len(join.on))]
        self._left, self._right = (Held(side.schema) for side in seen)  # of the left one nothing is kept
        self._clear()
        self.match([seen[0].slice(0, 0), seen[1]])

    def _clear(self) -> None:
        self._keys, self._latest = GroupTable(), np.empty(0, np.int64)

    @property
    def kept(self) -> Sequence[Held]:
        return (self._left, self._right)

    def match(self, released: Sequence[pa.Table]) -> Matches:
        left, right = released
        first = len(self._right)
        self._right.append(right)
        found = self._find(left, right, first)
        return Matches([left, self._right.table], [np.arange(len(left)), found], ints_of(left, "event_time"))

    def _find(self, left: pa.Table, right: pa.Table, first: int) -> Ints:
        right_key, left_key = (key_ids(self._keys, side, self._on) for side in (right, left))
        self._latest = grown(self._latest, len(self._keys))
        found = np.full(len(left), NONE, np.int64)
        kernels.latest_before(turns(left, right), right_key, left_key, self._latest, first, found)
        return found

    def needed(self, frontier: int) -> Sequence[Mask]:
        there = np.zeros(len(self._right), np.bool_)
        there[self._latest[self._latest >= 0]] = True
        return (np.empty(0, np.bool_), there)

    def keep(self, masks: Sequence[Mask]) -> None:
        self._right.keep(masks[1])
        table = self._right.table
        self._clear()
        self._find(table.slice(0, 0), table, 0)


class Interval:
    """Both sides, as long as a row of the other one may come that is near enough."""

    def __init__(self, join: Join, seen: Sequence[pa.Table]) -> None:
        self._on = [f"on:{i}" for i in range(len(join.on))]
        self._has = {which: join.bound(which) is not None for which in ("lower", "upper")}
        self._reach = join.reach_us
        self.kept: Sequence[Held] = [Held(side.schema) for side in seen]
        for held, side in zip(self.kept, seen, strict=True):
            held.append(side)
        self._link()

    def match(self, released: Sequence[pa.Table]) -> Matches:
        firsts = [len(held) for held in self.kept]
        for held, rows in zip(self.kept, released, strict=True):
            held.append(rows)
        self._take_in(released)
        found = self._meet(turns(*released), len(released[1]), firsts)
        time = np.maximum(self._time[0][found[0]], self._time[1][found[1]])
        return Matches([held.table for held in self.kept], found, time)

    def needed(self, frontier: int) -> Sequence[Mask]:
        left = (self._high >= frontier) & (self._low != EVER) & (self._key[0] >= 0)
        right = self._key[1] >= 0
        if self._reach is not None:
            right &= self._time[1] >= frontier + self._reach
        return left, right

    def keep(self, masks: Sequence[Mask]) -> None:
        for held, mask in zip(self.kept, masks, strict=True):
            held.keep(mask)
        self._link()

    def _link(self) -> None:
        """Find out of all kept rows what is known of rows."""
        self._keys = GroupTable()
        self._key, self._time, self._next = ([np.empty(0, np.int64)] * 2 for _ in range(3))
        self._head, self._tail = ([np.empty(0, np.int64)] * 2 for _ in range(2))
        self._low, self._high = np.empty(0, np.int64), np.empty(0, np.int64)
        self._take_in([held.table for held in self.kept])
        for side in (0, 1):
            n = len(self._key[side])
            kernels.link(self._key[side], 0, n, self._head[side], self._tail[side], self._next[side])

    def _take_in(self, sides: Sequence[pa.Table]) -> None:
        """Keys, times and bounds of new rows; they are not linked yet."""
        for side, rows in enumerate(sides):
            self._key[side] = np.concatenate([self._key[side], key_ids(self._keys, rows, self._on)])
            self._time[side] = np.concatenate([self._time[side], ints_of(rows, "event_time")])
            self._next[side] = np.concatenate([self._next[side], np.full(len(rows), NONE)])
        self._low = np.concatenate([self._low, self._bound(sides[0], "lower", NEVER, EVER)])
        self._high = np.concatenate([self._high, self._bound(sides[0], "upper", EVER, NEVER)])
        for side in (0, 1):
            self._head[side] = grown(self._head[side], len(self._keys))
            self._tail[side] = grown(self._tail[side], len(self._keys))

    def _bound(self, left: pa.Table, which: str, without: int, unknown: int) -> Ints:
        """The bound of each left row; one that says none meets no one."""
        if not self._has[which]:
            return np.full(len(left), without, np.int64)
        return np.asarray(contiguous(left.column(which)).cast(pa.int64()).fill_null(unknown))

    def _meet(self, order: Ints, rights: int, firsts: Sequence[int]) -> Sequence[Ints]:
        at, parts = 0, [(np.empty(0, np.int64), np.empty(0, np.int64))]
        room = max(2 * len(order), _SOME)
        while at < len(order):
            left, right = np.empty(room, np.int64), np.empty(room, np.int64)
            came, count = kernels.meet(
                order, at, rights, *firsts, *self._key, self._low, self._high, self._time[1],
                self._head[0], self._tail[0], self._next[0], self._head[1], self._tail[1], self._next[1], left, right,
            )  # fmt: skip
            room, at = (2 * room if came == at else room), came
            parts.append((left[:count], right[:count]))
        return [np.concatenate([part[side] for part in parts]) for side in (0, 1)]


Matching = InOrder | AsOf | Interval


def matching(join: Join, seen: Sequence[pa.Table]) -> Matching:
    """The state of a join that has seen these rows (of each side, in order)."""
    if join.kind == AS_OF:
        return AsOf(join, seen)
    return Interval(join, seen) if join.kind == INTERVAL else InOrder()


def turns(left: pa.Table, right: pa.Table) -> Ints:
    """The order of the rows of both sides, each in its own order: numbers in (right rows, left rows). At one instant the right side
    comes first, so that what it says holds for the left one."""
    return np.argsort(np.concatenate([ints_of(right, "event_time"), ints_of(left, "event_time")]), kind="stable")


def key_ids(keys: GroupTable, rows: pa.Table, on: Sequence[str]) -> Ints:
    """The number of each row's key; -1 where a part of it is null, which is equal to nothing."""
    columns = [contiguous(rows.column(name)) for name in on]
    if not len(rows):
        return np.empty(0, np.int64)
    ids = keys.intern(encode(columns))
    for column in columns:
        if column.null_count:
            ids[np.asarray(column.is_null())] = NONE
    return ids


def grown(array: Ints, size: int) -> Ints:
    """With room for so many, none of them known."""
    if size <= len(array):
        return array
    larger = np.full(max(2 * len(array), size, 1024), NONE, np.int64)
    larger[: len(array)] = array
    return larger
