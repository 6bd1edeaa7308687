"""How far a replay has come with each partition, and which is so far ahead that it should wait for the others.

A row is final when *all* partitions have passed its window, so what is read of one partition long before the others is kept until
they have come as far: with one worker far ahead of another, most of the history at once. The slowest is never held, and whoever waits
would have had nothing to do in the end, so waiting takes no time.

Measured by the share of its records that a partition is through with, as partitions of one length of time may have very different numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

LEAD_SHARE = 1 / 64
"""Of its records, by which a partition may be ahead of the slowest."""
LEAD_RECORDS = 1 << 18
"""So many in any case: slices are long."""

Place = tuple[str, int]


class PaceOfReading:
    """Of the partitions that this process reads. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bounds: dict[Place, tuple[int, int]] = {}
        self._read: dict[Place, int] = {}

    def begin(self, place: Place, first: int, end: int) -> None:
        """A partition that is read from one offset to another; one that has nothing to be read is waited for by nobody."""
        if first < end:
            with self._lock:
                self._bounds[place], self._read[place] = (first, end), first

    def moved(self, place: Place, next_offset: int) -> None:
        with self._lock:
            if place in self._read:
                self._read[place] = next_offset

    def end(self, place: Place) -> None:
        with self._lock:
            self._bounds.pop(place, None)
            self._read.pop(place, None)

    def ahead_of(self, places: Iterable[Place]) -> Place | None:
        """The slowest of all, if the slowest of these is too far ahead of it."""
        with self._lock:
            mine = [place for place in places if place in self._read]
            if not mine:
                return None
            slowest = min(self._read, key=self._share)
            lead = min(map(self._share, mine)) - self._share(slowest)
            is_far = lead > LEAD_SHARE and all(lead * self._records(place) > LEAD_RECORDS for place in mine)
            return slowest if is_far else None

    def _share(self, place: Place) -> float:
        return (self._read[place] - self._bounds[place][0]) / self._records(place)

    def _records(self, place: Place) -> int:
        first, end = self._bounds[place]
        return end - first
