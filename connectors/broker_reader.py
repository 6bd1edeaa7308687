"""The reader of a category stream in a broker: batches from a ``Source``, slices to whoever reads.

Promises: slices of a partition meet exactly and end at ``until``; what was read is never read again; an error leaves
the positions where they were; records of another category under the same name are never handed out. Must not know:
the client library (connectors/redpanda.py gives the source).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from connectors import clock
from connectors.continuity import Fetched, Stitcher, gap
from connectors.log import CategoryInfo, Slice
from connectors.record_batch import Decoder
from schemas.errors import LogChanged, LogError, LogGap, LogUnreachable

LOOK_S = 2.0
"""Seconds after which a reader that follows looks whether the category is still the one that it began with, even if nothing has come."""


LATENCIES_KEPT = 64
"""Latencies of fetches that are kept for whoever asks."""


class PositionLost(Exception):
    """A source's word for: the broker does not have the offsets that come next."""


class Source(Protocol):
    """Batches of some partitions of one category, each partition from where it was told to start."""

    def fetch(self, timeout_ms: int) -> dict[int, list[Fetched]]:
        """What has come, per partition; waits at most so long. Raises ``PositionLost``, ``LogError``."""

    @property
    def answers(self) -> int:
        """Requests answered so far, with news or without."""

    @property
    def latencies(self) -> deque[float]:
        """Seconds that requests took which were answered with records, the latest last; whoever takes one out has it."""

    def fetch_on_demand(self) -> None:
        """From now on send no fetch before it is asked for. Without this the next one is under way while the last is worked on."""

    def look(self) -> tuple[str, int] | None:
        """Ask for the identity of the category ("": there is none such now) and its partitions; None when nobody answers."""

    def finish(self, partitions: Iterable[int]) -> None:
        """Fetch no more of these."""

    def close(self) -> None: ...


class BrokerReader:
    """Implements ``connectors.log.Reader``.

    ``describe`` tells what the log knows of the category now, ``connect`` gives a source that starts at the given
    offsets, ``timeout_ms`` is how long the broker may stay silent.
    """

    def __init__(
        self,
        start: Mapping[int, int],
        until: Mapping[int, int],
        describe: Callable[[], CategoryInfo],
        connect: Callable[[Mapping[int, int]], Source],
        timeout_ms: int,
    ) -> None:
        self._describe, self._timeout_ms = describe, timeout_ms
        self._info = info = describe()
        for partition, offset in start.items():
            _check_start(info, partition, offset)
        self._stitchers = {
            partition: Stitcher(info.name, partition, offset, until.get(partition), info.compacted)
            for partition, offset in start.items()
        }
        self._decoder = Decoder()
        self._unconfirmed: list[tuple[int, list[Fetched]]] = []
        self._silent_since: float | None = None
        self._follows, self._looked = not until, clock.monotonic()
        self._source = connect(start)
        self._finish()

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        """See ``Reader.read``."""
        slices = self._take()
        if not slices and not self._is_at_end:
            self._fetch(timeout_ms)
            slices = self._take()
        return slices

    def positions(self) -> dict[int, int]:
        """See ``Reader.positions``."""
        return {partition: stitcher.position for partition, stitcher in self._stitchers.items()}

    def latencies(self) -> list[float]:
        """Seconds that fetches took which came since this was asked.

        Who asks wants to know of the broker: so from the first time on no fetch is under way beside the work on what came before.
        """
        self._source.fetch_on_demand()
        found, waiting = [], self._source.latencies
        while waiting:
            found.append(waiting.popleft())
        return found

    def close(self) -> None:
        self._source.close()

    @property
    def _is_at_end(self) -> bool:
        return all(stitcher.is_at_end for stitcher in self._stitchers.values())

    def _take(self) -> list[Slice]:
        slices: list[Slice] = []
        for stitcher in self._stitchers.values():
            try:
                made = self._take_one(stitcher)
            except LogError:
                if slices:
                    break  # these are good and already counted; the next call will meet the error first
                raise
            if made is not None:
                slices.append(made)
        self._finish()
        return slices

    def _take_one(self, stitcher: Stitcher) -> Slice | None:
        try:
            return stitcher.take(self._decoder)
        except LogGap:
            # The topic may have been set to compact since this reader began.
            if stitcher.may_have_holes or not self._describe().compacted:
                raise
            stitcher.may_have_holes = True
            return stitcher.take(self._decoder)

    def _finish(self) -> None:
        self._source.finish(partition for partition, stitcher in self._stitchers.items() if stitcher.is_at_end)

    def _fetch(self, timeout_ms: int) -> None:
        answers = self._source.answers
        if not self._unconfirmed:
            try:
                self._unconfirmed.extend(self._source.fetch(timeout_ms).items())
            except PositionLost as lost:
                raise self._moved() from lost
        had = bool(self._unconfirmed)
        is_due = self._follows and clock.monotonic() - self._looked > LOOK_S
        confirmed = not (had or is_due) or self._confirm()
        self._mind_silence(answered=confirmed and (had or self._source.answers != answers))

    def _confirm(self) -> bool:
        """Hand what was fetched to the stitchers, once it is sure whose it is; False when nobody answers.

        Fetches go by name. An identity never comes back, so if it is still the same now, all fetched before was its.
        """
        if self._info.identity or self._follows:
            found = self._source.look()
            if found is None:
                return False
            self._looked = clock.monotonic()
            identity, partitions = found
            self._check_identity(identity or self._describe().identity)
            self._check_partitions(partitions)
        for partition, batches in self._unconfirmed:
            self._stitchers[partition].add(batches)
        self._unconfirmed.clear()
        return True

    def _mind_silence(self, *, answered: bool) -> None:
        """Raise when nothing was answered for longer than the time-out; a healthy broker answers even without news."""
        now = clock.monotonic()
        if answered or self._silent_since is None:
            self._silent_since = None if answered else now
        elif (now - self._silent_since) * 1000 > self._timeout_ms:
            self._silent_since = None
            self._check_identity(self._describe().identity)
            msg = f"no broker answers for {self._info.name}"
            raise LogUnreachable(msg, do="see whether all brokers run, then start again")

    def _check_identity(self, identity: str) -> None:
        if identity and self._info.identity and identity != self._info.identity:
            raise _changed(self._info.name, "it was deleted and made again while it was being read")

    def _check_partitions(self, now: int) -> None:
        """Who follows would never read the new ones. (A cut has as many partitions as there were when it was pinned.)"""
        if self._follows and now > self._info.partitions:
            msg = f"`{self._info.name}` had {self._info.partitions} partitions and has {now} now"
            why = "keys move between partitions when their number changes, and final rows may open again"
            do = "fold the view again from the log as it is now:  refold rebuild VIEW"
            raise LogChanged(msg, where=f"category {self._info.name}", why=why, do=do)

    def _moved(self) -> LogError:
        """What it means that the broker does not have the offsets at which we stand."""
        info = self._describe()
        self._check_identity(info.identity)
        for partition, position in self.positions().items():
            if position < info.earliest[partition]:
                return gap(info.name, partition, position, info.earliest[partition])
        return _changed(info.name, "its end was cut off: records that were read are gone")


def _check_start(info: CategoryInfo, partition: int, offset: int) -> None:
    where = f"{info.name}/{partition}"
    if not 0 <= partition < info.partitions:
        raise _changed(where, f"the category has {info.partitions} partitions")
    if offset < info.earliest[partition]:
        raise gap(info.name, partition, offset, info.earliest[partition])
    if offset > info.ends[partition]:
        raise _changed(where, f"it ends at {info.ends[partition]:,}, before offset {offset:,}")


def _changed(where: str, why: str) -> LogChanged:
    msg = "the log is not the one that was read before"
    return LogChanged(msg, where=where, why=why, do="rebuild the view from this log")
