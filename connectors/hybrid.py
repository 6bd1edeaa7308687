"""A log and its archive, read as one: history from the archive, everything after the archive's end from the log.

    with open_log("redpanda://host:9092", archive="data/archive") as log: ...

So what retention removed from the log can still be folded, and a view folded from the log alone is the same view, digest for
digest. A category that only one of the two has is read from that one.

Promises: slices of a partition meet exactly, also where the archive ends; where both have a category, it is one stream, and the last
record that both hold is the same in both (``connectors.overlap``), or it is ``LogChanged``. Appending goes to the log. Writes
nothing to the archive, which may grow meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from connectors.appending import Appending
from connectors.broker_reader import BrokerReader
from connectors.local import LocalLog, check_start
from connectors.log import DEFAULT_PARTITIONS, CategoryInfo, Log, Reader, Slice
from connectors.overlap import check_identity, check_overlap, check_stream
from connectors.topic_settings import TopicSettings
from schemas.errors import UnknownCategory, UsageError

Ends = dict[int, int]


class HybridLog(Appending):
    """The log ``live`` and the archive in a directory; closing it closes both. Implements ``connectors.log.Log``."""

    def __init__(self, live: Log, archive: str | Path) -> None:
        """Raises ``UsageError`` when there is no such directory: a path with a slip in it should not pass for an empty archive."""
        if not Path(archive).is_dir():
            do = f"make it:  refold archive CATEGORY --to {archive}"
            raise UsageError("there is no archive", where=str(archive), do=do)
        self._live, self._archive = live, LocalLog(archive)
        self.url = f"{live.url} with archive {archive}"
        self._checked: set[tuple[str, str]] = set()  # name and identity of categories whose overlap is the same

    def categories(self) -> list[str]:
        """Those of the log and those that are only in the archive, sorted."""
        return sorted({*self._live.categories(), *self._archive.categories()})

    def describe(self, category: str) -> CategoryInfo:
        """It begins where the archive does and ends where the log does.

        Raises ``UnknownCategory`` (neither has it), ``LogChanged`` (they hold two streams of one name), ``LogGap`` (the log begins
        after the archive's end), ``UsageError`` (the archive's directory has a category of its own under this name).
        """
        ours = self._archived(category)
        try:
            theirs = self._live.describe(category)
        except UnknownCategory:
            if ours is None:
                raise
            return ours
        if ours is None:
            return theirs
        check_stream(ours, theirs)
        if (category, ours.identity) not in self._checked:
            check_overlap(self._archive, self._live, ours, theirs)
            self._checked.add((category, ours.identity))
        return replace(theirs, earliest=ours.earliest)

    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """Make it in the log."""
        return self._live.create(category, partitions)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Reader:
        """See ``Log.reader``."""
        info, ours = self.describe(category), self._archived(category)
        if ours is None:
            return self._live.reader(category, start, until)
        for partition, offset in start.items():
            check_start(info, partition, offset)
        if not self._is_live(category):
            return self._archive.reader(category, start, until)
        return HybridReader(self._live, self._archive, ours, start, until)

    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]:
        """Append to the log."""
        return self._live.append_batch(category, batch)

    def settings(self, category: str) -> TopicSettings | None:
        """Those of the log."""
        return self._live.settings(category)

    def records_without_producer_id(self, category: str, last: int) -> dict[int, int]:
        """Those of the log."""
        return self._live.records_without_producer_id(category, last)

    def close(self) -> None:
        self._archive.close()
        self._live.close()

    def _is_live(self, category: str) -> bool:
        try:
            return bool(self._live.describe(category))
        except UnknownCategory:
            return False

    def _archived(self, category: str) -> CategoryInfo | None:
        return self._archive.describe(category) if self._archive.archived(category) else None


class HybridReader:
    """Reads the archive first, all partitions to its ends, and then the log. Implements ``connectors.log.Reader``.

    The archive may grow while it is read: what it has by then is read from it, because the log may have lost it.
    """

    def __init__(
        self,
        live: Log,
        archive: Log,
        archived: CategoryInfo,
        start: Mapping[int, int],
        until: Mapping[int, int] | None,
    ) -> None:
        """``archived``: what the archive knows of the category."""
        self._live, self._archive, self._archived = live, archive, archived
        self._until = None if until is None else dict(until)
        self._positions = dict(start)
        self._reader, self._ends_of_archive = self._next_reader()

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        """See ``Reader.read``."""
        ends = self._ends_of_archive
        if ends is not None and all(self._positions[p] >= end for p, end in ends.items()):
            read, (self._reader, self._ends_of_archive) = self._reader, self._next_reader()
            read.close()
        slices = self._reader.read(timeout_ms)
        self._positions |= self._reader.positions()
        return slices

    def positions(self) -> dict[int, int]:
        """See ``Reader.positions``."""
        return dict(self._positions)

    def latencies(self) -> list[float]:
        """Those of fetches from the log; none while the archive is read."""
        return self._reader.latencies() if isinstance(self._reader, BrokerReader) else []

    def close(self) -> None:
        self._reader.close()

    def _next_reader(self) -> tuple[Reader, Ends | None]:
        """One of what the archive still has, and its ends; or else one of the log, and None."""
        name = self._archived.name
        until = self._until or {}
        # Of a partition that is at its end nothing may be asked any more: the log may not have those offsets.
        wanted = {p: at for p, at in self._positions.items() if p not in until or at < until[p]}
        ends = self._archive.describe(name).ends
        start = {p: at for p, at in wanted.items() if at < ends[p]}
        if wanted and not start:
            return self._live_reader(name, wanted), None
        pinned = {p: min(ends[p], until.get(p, ends[p])) for p in start}
        return self._archive.reader(name, start, pinned), pinned

    def _live_reader(self, name: str, start: Ends) -> Reader:
        reader = self._live.reader(name, start, self._until)
        try:
            # An identity never comes back: if it is the archive's now, it was so when the reader looked.
            check_identity(self._archived, self._live.describe(name))
        except BaseException:
            reader.close()
            raise
        return reader
