"""The open sessions of one partition: which events of a key belong together, found event by event in offset order.

An event touches a session when it is less than a gap away from one of its events. It touches none and begins one; or one, which it
extends; or two, which it bridges: what the earlier one holds is merged with what the later one holds, and then the event is
folded. It cannot touch three, since a session is at least a gap long. So a session is a function of the partition's records, and so is what
was added to what, in which order.

One pass over a slice finds for each row its session and its *level*: how many bridges lie, one upon the other, between what was
there before the slice and this row's session. Rows of one level are folded at once; between two levels their sessions are merged.
There are as many levels as bridges upon bridges, not as bridges, and mostly there is one or two.

``Sessions`` stands where ``Partials`` stands for windows whose bounds are known ahead: numbers of sessions are its ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.accumulators import State
from flows.grouping import distinct_rows, renumber
from flows.groups import GroupTable
from flows.partials import GROUP, NO_GROUPS, decode_prefix, extended, key_part, no_states, partial_fields
from flows.projection import Projection
from flows.told import Told
from flows.windows import Session
from schemas.canonical import encode
from schemas.compiled import kernel
from schemas.dictionary import plain
from schemas.event import TIMESTAMP

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NONE = -1
UNTOLD = np.iinfo(np.int64).min
"""The start of a session that the view has not heard of."""


class Sessions:
    """``start``, ``end`` and ``key`` (number in ``keys``) of each session; a key's sessions are a list from the latest to the ``older``."""

    def __init__(self, projection: Projection) -> None:
        assert isinstance(projection.window, Session)
        self.projection, self._gap = projection, projection.window.gap_us
        self.schema = pa.schema([GROUP, *partial_fields(projection)])
        self._clear()

    def _clear(self) -> None:
        self.keys = GroupTable()
        self._count = 0
        self._absorbed: list[Ints] = []  # by others, since the last delta
        self._newest, self._recent = (
            np.empty(0, np.int64),
            np.empty(0, np.int64),
        )  # of each key: the latest, the last touched
        self.start, self.end, self.key, self.older, self.level, self._told = (np.empty(0, np.int64) for _ in range(6))
        self.states: list[State] = no_states(self.projection)

    def __len__(self) -> int:
        return self._count

    def portions(self, keys: Sequence[pa.Array], time: Ints) -> Iterator[tuple[Ints, Ints | None]]:
        """Sessions, and the positions of the rows that belong to them (None: all): portions to be folded one after the other.

        Rows are in offset order, and so they are within each session.
        """
        ids, levels, bridges = self._assign(self._key_ids(keys, len(time)), time)
        if not len(bridges):
            yield ids, None
            return
        order, bridges = np.argsort(levels, kind="stable"), bridges[np.argsort(bridges[:, 2], kind="stable")]
        numbers = np.arange(levels.max() + 2)
        at, bridged = np.searchsorted(levels[order], numbers), np.searchsorted(bridges[:, 2], numbers)
        for level in numbers[:-1]:
            self._merge(bridges[bridged[level] : bridged[level + 1]])
            some = order[at[level] : at[level + 1]]
            yield ids[some], some

    def load(self, batch: pa.RecordBatch) -> None:
        """Take over the partials that a view has stored (schema ``self.schema``)."""
        groups, n = batch.column("group"), len(batch)
        (starts,) = decode_prefix(groups)
        keys = self.keys.intern(key_part(groups))
        self._make_room(n)
        self.start[:n], self.key[:n], self._told[:n] = starts, keys, starts
        self.end[:n] = np.asarray(batch.column("window_end").cast(pa.int64()))
        columns = iter(batch.columns[2:])
        for state in self.states:
            for array in state.values():
                array[:n] = next(columns).to_numpy(zero_copy_only=False)
        self._count = n
        self._link()

    def told(self, ids: Ints) -> Told:
        """Partials of those sessions that are still there, and the groups under which the view knows others that are not (their ids are
        not those of the view)."""
        ids = ids[self.key[ids] != NONE]
        moved = ids[(self._told[ids] != UNTOLD) & (self._told[ids] != self.start[ids])]
        absorbed = np.concatenate([np.empty(0, np.int64), *self._absorbed])
        absorbed, self._absorbed = absorbed[self._told[absorbed] != UNTOLD], []
        gone = [
            self._groups(self._told[moved], self.key[moved]),
            self._groups(self._told[absorbed], self.older[absorbed]),
        ]
        self._told[ids] = self.start[ids]
        columns = [self._groups(self.start[ids], self.key[ids]), pa.array(self.end[ids]).cast(TIMESTAMP)]
        for array in (array for state in self.states for array in state.values()):
            columns.append(pa.array(array[ids], self.schema.field(len(columns)).type, from_pandas=False))
        return pa.record_batch(columns, schema=self.schema), pa.concat_arrays(gone), None

    handed_over = told
    """The view keeps sessions under other ids: it cannot have all of these as they are."""

    def ended(self, until: int) -> Ints:
        """Sessions that end at or before ``until``, and those that are no more."""
        here = slice(self._count)
        return np.flatnonzero((self.end[here] <= until) | (self.key[here] == NONE))

    def drop(self, ids: Ints) -> None:
        """Forget sessions. Ids change."""
        there = np.ones(self._count, np.bool_)
        there[ids] = False
        keep = np.flatnonzero(there)
        if not len(keep):
            self._clear()
            return
        groups, self.keys = self.keys.keys(self.key[keep]), GroupTable()
        self.start, self.end, self._told = self.start[keep], self.end[keep], self._told[keep]
        self.key, self.older, self.level = self.keys.intern(groups), np.empty_like(keep), np.zeros_like(keep)
        self.states = [{field: array[keep] for field, array in state.items()} for state in self.states]
        self._count, self._newest, self._recent = len(keep), np.empty(0, np.int64), np.empty(0, np.int64)
        self._link()

    # -- within

    def _key_ids(self, keys: Sequence[pa.Array], n: int) -> Ints:
        """The number of each row's key."""
        if not keys:
            return np.zeros(n, np.int64) + self.keys.intern(pa.array([b""], pa.binary()))
        ids, firsts = distinct_rows(keys)
        rows = pa.array(firsts)
        renumber(ids, self.keys.intern(encode([plain(key.take(rows)) for key in keys])))
        return ids

    def _assign(self, keys: Ints, time: Ints) -> tuple[Ints, Ints, Ints]:
        """Session and level of each row, and the bridges: (earlier, later, level)."""
        n = len(time)
        self._make_room(n)
        ids, levels, bridges = np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 3), np.int64)
        self._count, bridged = _assign(
            keys, time, self._gap, self._newest, self._recent, self.start, self.end, self.key, self.older, self.level, self._told,
            self._count, ids, levels, bridges,
        )  # fmt: skip
        self.level[ids] = 0  # every session of another level has a row of its own: the bridge
        return ids, levels, bridges[:bridged]

    def _make_room(self, more: int) -> None:
        """For so many sessions more, and for all keys."""
        if len(self.keys) > len(self._newest):
            known = len(self._newest)
            self._newest, self._recent = (extended(a, 2 * len(self.keys)) for a in (self._newest, self._recent))
            self._newest[known:] = self._recent[known:] = NONE
        if self._count + more > len(self.start):
            size = max(1024, 2 * self._count, self._count + more)
            self.start, self.end, self.key, self.older, self.level, self._told = (
                extended(array, size) for array in (self.start, self.end, self.key, self.older, self.level, self._told)
            )
            self.states = [{field: extended(array, size) for field, array in state.items()} for state in self.states]

    def _link(self) -> None:
        """The lists of all keys, anew: of sessions that are all there."""
        self._make_room(0)
        order = np.argsort(self.start[: self._count], kind="stable")
        _link(order, self.key, self.older, self._newest)

    def _merge(self, bridges: Ints) -> None:
        if not len(bridges):
            return
        earlier, later = bridges[:, 0], bridges[:, 1]
        for acc, state in zip(self.projection.accumulators, self.states, strict=True):
            into = {field: array[earlier] for field, array in state.items()}
            acc.merge(into, {field: array[later] for field, array in state.items()})
            for field, array in into.items():
                state[field][earlier] = array
        self._absorbed.append(later)

    def _groups(self, starts: Ints, keys: Ints) -> pa.BinaryArray:
        if not len(starts):
            return NO_GROUPS
        prefixes = encode([pa.array(starts).cast(TIMESTAMP)])
        return pc.binary_join_element_wise(prefixes, self.keys.keys(keys), b"")


@kernel
def _assign(
    keys: Ints, time: Ints, gap: int, newest: Ints, recent: Ints,
    start: Ints, end: Ints, key: Ints, older: Ints, level: Ints, told: Ints, count: int,
    ids: Ints, levels: Ints, bridges: Ints,
) -> tuple[int, int]:  # fmt: skip
    """``newest`` and ``recent`` have room for all keys; the arrays of sessions, and ``bridges``, for as many more as there are rows.

    Returns how many sessions and bridges there are. A session that is no more has no key (NONE), and its key in ``older``.
    """
    bridged = 0
    for i in range(len(time)):
        t, k = time[i], keys[i]
        newer, at = NONE, newest[k]
        if (
            recent[k] != NONE and start[recent[k]] >= t + gap
        ):  # a log that goes back in time does not begin at its end each time
            newer, at = recent[k], older[recent[k]]
        while at != NONE and start[at] >= t + gap:
            newer, at = at, older[at]
        if at == NONE or end[at] <= t:
            start[count], end[count], key[count], older[count], level[count], told[count] = t, t + gap, k, at, 0, UNTOLD
            at = count
            count += 1
            if newer == NONE:
                newest[k] = at
            else:
                older[newer] = at
        elif older[at] != NONE and end[older[at]] > t:
            before = older[at]
            level[before] = max(level[before], level[at]) + 1
            bridges[bridged, 0], bridges[bridged, 1], bridges[bridged, 2] = before, at, level[before]
            bridged += 1
            end[before] = end[at]
            key[at], older[at] = NONE, k
            if newer == NONE:
                newest[k] = before
            else:
                older[newer] = before
            at = before
        else:
            start[at] = min(start[at], t)
            end[at] = max(end[at], t + gap)
        recent[k] = at
        ids[i], levels[i] = at, level[at]
    return count, bridged


@kernel
def _link(order: Ints, key: Ints, older: Ints, newest: Ints) -> None:
    """``order``: sessions by start, ascending."""
    for i in range(len(order)):
        at = order[i]
        older[at] = newest[key[at]]
        newest[key[at]] = at
