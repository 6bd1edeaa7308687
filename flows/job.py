"""A job: some projections, a log, and where each view's writer and standing come from. The engine drives it.

Everything is opened on first use, in the worker that needs it, so that importing or building a flow opens nothing.
A job remembers the first error that happened in any of its parts: engines wrap exceptions, users should not see that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from connectors.clock import monotonic
from connectors.log import CategoryInfo, Log, Reader, Slice
from connectors.table import Writer
from connectors.throttle import Throttle
from flows.commits_ahead import FLUSH_S, CommitsAhead
from flows.committer import Committer, Pace
from flows.delta import Delta
from flows.facts import Cut, Standing, begin, check_definition, check_log, standing_of
from flows.fold import PartitionFold
from flows.merge import Place, split_partials
from flows.pace_of_reading import PaceOfReading
from flows.pipeline import CHANGED_GROUPS_MAX, PartitionPipeline
from flows.projection import Projection
from schemas import Category
from schemas.errors import Superseded, UsageError

REST_S = 0.1
"""How long a worker rests at a time before it looks whether it should stop."""
CATCH_UP_S = 0.01
"""How long one rests that is ahead of others: briefly, as a worker may have views to write, too."""
END = "end"


Done = TypeVar("Done")


class Target(Protocol):
    """Where a view is kept during a job."""

    @property
    def projection(self) -> Projection: ...

    def settled(self) -> Target:
        """The same, with the projection's columns in the order in which they were committed."""

    def load(self) -> tuple[Mapping[str, Any], pa.Table] | None:
        """Facts and partials of the newest commit; None before the first."""

    def open(self) -> Writer: ...

    def close(self, writer: Writer) -> None: ...


@dataclass(frozen=True, slots=True)
class End:
    """A source has reached the end of a partition, or was asked to stop."""

    category: str
    partition: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing came: time to pass on what waits."""

    category: str
    partitions: tuple[int, ...]


Arrival = Slice | End | Tick


@dataclass
class Job:
    """``until``: None follows, "end" stops at the ends seen on start, a cut stops exactly there."""

    targets: Sequence[Target]
    open_log: Callable[[], Log]
    until: str | Cut | None = None
    origin: str | Cut | None = None
    pace: Pace = field(default_factory=Pace)
    stop: threading.Event = field(default_factory=threading.Event)
    on_error: Callable[[Exception], None] | None = None
    error: Exception | None = None
    positions: dict[Place, int] = field(default_factory=dict)
    begins: dict[Place, int] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    must_match: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Facts of committed views that this job folds again: definition and log must still be theirs."""
    throttle: Throttle | None = None
    """What holds the readers back, for the neighbours' sake."""
    raw: bool = False
    """Decode every record, whatever columns a log keeps beside its records."""

    def __post_init__(self) -> None:
        self._opening = threading.RLock()
        self._log: Log | None = None
        self._standings: dict[str, Standing] = {}
        self._infos: dict[str, CategoryInfo] = {}
        self._pipelines: dict[Place, PartitionPipeline] = {}
        self._flushed: dict[Place, float] = {}
        self._arrived = monotonic()
        self._pace_of_reading = PaceOfReading()
        self._workers: dict[Place, int] = {}  # who reads it
        self.commits_ahead = CommitsAhead()
        self._commits = 0  # under way
        self._quiet = threading.Condition()
        self.categories = _categories([target.projection for target in self.targets])
        self.views = {target.projection.title: target for target in self.targets}

    def attempt(self, work: Callable[[], Done], otherwise: Done) -> Done:
        """Do a part's work. The first error of any part is remembered and ends the others; nothing more is committed.

        Without ``on_error`` the part itself ends quietly: an engine that meets an exception prints its own trace.
        """
        if self.error is not None:
            return otherwise
        try:
            return work()
        except Exception as error:
            if self.error is None:
                self.error = error
                if self.on_error:
                    self.on_error(error)
            return otherwise

    # -- opening

    def open(self) -> Log:
        with self._opening:
            if self._log is None:
                log = self.open_log()
                try:
                    self._stand(log)
                except BaseException:
                    log.close()
                    raise
                self._log = log
            return self._log

    def _stand(self, log: Log) -> None:
        """Find out where everything stands. Another worker may have tried before, and failed halfway."""
        self._pipelines.clear()
        self._infos = {name: log.describe(name) for name in self.categories}
        self.views = {title: target.settled() for title, target in self.views.items()}
        for title, target in self.views.items():
            self._standings[title] = self._standing(target, log)
        self._set_ends()

    def _standing(self, target: Target, log: Log) -> Standing:
        projection = target.projection
        infos = {category.name: self._infos[category.name] for category in projection.categories}
        if committed := self.must_match.get(projection.title):
            check_definition(projection, committed)
            check_log(projection, standing_of(committed), infos, log)
        loaded = target.load()
        if loaded is None:
            standing, partials = begin(projection, infos, self.origin), None
        else:
            facts, partials = loaded
            check_definition(projection, facts)
            standing = standing_of(facts)
            check_log(projection, standing, infos, log)
        found = split_partials(projection.bottom, partials) if partials is not None else {}
        for place, progress in standing.progress.items():
            fold = PartitionFold(projection.reading(place[0]), *place, progress, found.get(place))
            if place not in self._pipelines:
                self._pipelines[place] = PartitionPipeline(self.categories[place[0]], [], raw=self.raw)
            self._pipelines[place].join(fold)
        return standing

    def _set_ends(self) -> None:
        for name, info in self._infos.items():
            ends = self.until[name] if isinstance(self.until, dict) else info.ends
            self.ends.update({(name, p): end for p, end in enumerate(ends)})
        self.begins.update({place: pipeline.position for place, pipeline in self._pipelines.items()})
        self.positions.update(self.begins)

    # -- reading, on the worker that owns the partitions

    def reader(self, category: str, worker: int, workers: int) -> tuple[Reader | None, list[int]]:
        """A reader of this worker's share of the partitions, and that share."""
        log = self.open()
        mine = [p for p in range(self._infos[category].partitions) if p % workers == worker]
        start = {p: self._pipelines[(category, p)].position for p in mine}
        until = {p: max(self.ends[(category, p)], start[p]) for p in mine} if self.until is not None else None
        reader = log.reader(category, start, until) if mine else None
        for p, end in (until or {}).items():
            self._workers[(category, p)] = worker
            self._pace_of_reading.begin((category, p), start[p], end)
        return (self.throttle.over(reader) if reader and self.throttle else reader), mine

    def is_done(self, category: str, partition: int, next_offset: int) -> bool:
        return self.until is not None and next_offset >= self.ends[(category, partition)]

    def seconds_without_arrivals(self) -> float:
        return monotonic() - self._arrived

    def lets_others_catch_up(self, category: str, partitions: Iterable[int], worker: int) -> bool:
        """Whether a replay of these partitions is too far ahead of others; rests a little if another worker reads those."""
        slowest = self._pace_of_reading.ahead_of((category, p) for p in partitions)
        if slowest is not None and self._workers[slowest] != worker:
            self.stop.wait(CATCH_UP_S)
        return slowest is not None

    # -- folding, on the same worker

    def fold(self, arrival: Arrival) -> list[tuple[str, Delta | None]]:
        """Deltas by view; a None asks a view whether a commit is due."""
        if isinstance(arrival, Slice):
            place = (arrival.category, arrival.partition)
            self._arrived = monotonic()
            self._pipelines[place].fold(arrival)
            self.positions[place] = arrival.next_offset
            self._pace_of_reading.moved(place, arrival.next_offset)
            waited = monotonic() - self._flushed.get(place, 0.0) > FLUSH_S
            return self._deltas(place, at_least=0 if waited else CHANGED_GROUPS_MAX)
        if isinstance(arrival, End):
            place = (arrival.category, arrival.partition)
            last = self._deltas(place, end=True)
            self._pace_of_reading.end(place)
            del self._pipelines[place]  # the last commit needs what it held
            return last
        sent = [found for p in arrival.partitions for found in self._deltas((arrival.category, p))]
        return sent + [(view, None) for view in self.views]

    def _deltas(self, place: Place, *, end: bool = False, at_least: int = 0) -> list[tuple[str, Delta | None]]:
        if at_least == 0:
            self._flushed[place] = monotonic()
        deltas = self._pipelines[place].deltas(self.commits_ahead, end=end, at_least=at_least)
        return [(delta.view, delta) for delta in deltas]

    # -- committing, on the worker that owns the view

    @contextmanager
    def committing(self) -> Iterator[None]:
        """A commit is under way: other workers of this process rest meanwhile."""
        with self._quiet:
            self._commits += 1
        try:
            yield
        finally:
            with self._quiet:
                self._commits -= 1
                self._quiet.notify_all()

    def await_commits(self) -> None:
        """Rest while a commit is under way. The engine would hold a worker back anyway, but awake, and take a core from the commit."""
        with self._quiet:
            while self._commits and not self.stop.is_set() and self.error is None:
                self._quiet.wait(REST_S)

    def committer(self, view: str) -> Committer:
        self.open()
        target = self.views[view]
        writer = target.open()
        try:
            self._check_unmoved(view, writer)
            standing, ends = self._standings[view], self.until is not None
            committer = Committer(target.projection, writer, standing, self.pace, target.close, ends=ends)
            self.commits_ahead.not_before(view, committer.due())
            return committer
        except BaseException:
            target.close(writer)
            raise

    def _check_unmoved(self, view: str, writer: Writer) -> None:
        """What was loaded before the writer held its lock must still be the newest."""
        if writer.manifest is not None and writer.manifest.cut != self._standings[view].cut:
            msg = "another run committed after this one had looked where the view stands"
            raise Superseded(msg, where=f"view {view}", do="start the run again: it goes on from there")

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def _categories(projections: Sequence[Projection]) -> dict[str, Category]:
    found: dict[str, Category] = {}
    for projection in projections:
        for category in projection.categories:
            if found.setdefault(category.name, category) is not category:
                raise UsageError(
                    f"two different definitions of category `{category.name}`", do="declare it once and import it"
                )
    return found
