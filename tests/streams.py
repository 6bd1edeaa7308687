"""A stream in memory as a broker gives it, and what a log says of one, offset by offset: to compare a log with its copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from memory_log import CONTROL, PIECES, RECORD, REMOVED, Entry, MemoryLog, MemoryReader, slice_of

from connectors.log import CategoryInfo, Log, Slice
from connectors.overlap import slices
from schemas.errors import LogGap, UnknownCategory

NAME = "things"

entries = st.builds(
    Entry,
    value=st.none() | st.binary(max_size=3),
    timestamp=st.integers(-1, 2**41),
    key=st.none() | st.binary(max_size=2),
    kind=st.sampled_from([RECORD, RECORD, RECORD, CONTROL, REMOVED]),
    timestamp_type=st.integers(0, 1),
    leader_epoch=st.integers(0, 2),
)
streams = st.lists(st.lists(entries, max_size=16), min_size=1, max_size=3)


class Stream(MemoryLog):
    """Slices are of one leader each, as a broker's, and the offsets without a record in one are of one kind.

    ``identity`` and ``earliest`` may be set to what a log made again, or one with retention, would say.
    """

    identity = "in memory"
    earliest: Sequence[int] = ()
    there = True

    def __init__(self, partitions: Sequence[Sequence[Entry]], **how: Any) -> None:
        super().__init__(NAME, partitions, **how)

    def categories(self) -> list[str]:
        return [NAME] if self.there else []

    def describe(self, category: str) -> CategoryInfo:
        if category != NAME or not self.there:
            raise UnknownCategory(f"there is no category {category}")
        found = super().describe(category)
        return replace(found, identity=self.identity, earliest=tuple(self.earliest or found.earliest))

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> MemoryReader:
        earliest = self.describe(category).earliest
        if any(offset < earliest[p] for p, offset in start.items()):
            raise LogGap("these events are no longer in the log")
        inner = super().reader(category, start, until)
        reader = _SteadyReader(self, inner._positions, inner._ends, inner._lots)
        reader.follows = until is None
        return reader


class _SteadyReader(MemoryReader):
    follows = False

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        found = super().read(timeout_ms)
        if self.follows:
            self._ends = {p: self._log.ends[p] for p in self._ends}
        return found

    def _slice(self, partition: int) -> Slice:
        first, end = self._positions[partition], self._ends[partition]
        if self._lots is not None:
            end = min(end, first + self._lots.choice(PIECES))
        entries = self._log.partitions[partition]
        end = next((at for at in range(first, end) if _begins_another(entries, first, at)), end)
        self._positions[partition] = end
        return slice_of(NAME, partition, entries, first, end)


def _begins_another(entries: Sequence[Entry], first: int, at: int) -> bool:
    kinds = {entry.kind for entry in entries[first : at + 1]} - {RECORD}
    return len(kinds) > 1 or entries[at].leader_epoch != entries[first].leader_epoch


def facts_of(one: Slice) -> tuple[Any, ...]:
    return (one.partition, one.first_offset, one.next_offset, one.missing, one.leader_epoch, one.records.to_pylist())


def offset_by_offset(log: Log, begins: Sequence[int], ends: Sequence[int], name: str = NAME) -> list[tuple[Any, ...]]:
    """Every offset read alone."""
    places = [(p, at) for p, end in enumerate(ends) for at in range(begins[p], end)]
    return [facts_of(one) for p, at in places for one in slices(log, name, {p: at}, {p: at + 1})]


def at_once(log: Log, start: Mapping[int, int], until: Mapping[int, int], name: str = NAME) -> dict[int, Any]:
    """By partition: the records of a range, how many offsets were removed, and the last leader. Slices must meet."""
    found: dict[int, Any] = {p: ([], 0, None) for p in start}
    positions = dict(start)
    for one in slices(log, name, start, until):
        rows, missing, _ = found[one.partition]
        assert one.first_offset == positions[one.partition] < one.next_offset <= until[one.partition]
        positions[one.partition] = one.next_offset
        found[one.partition] = (rows + one.records.to_pylist(), missing + one.missing, one.leader_epoch)
    assert all(positions[p] == max(end, start[p]) for p, end in until.items())
    return found
