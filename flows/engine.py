"""The Bytewax dataflow: the only module that imports Bytewax.

    read (a source per category) -> fold (on the worker that read) -> commit (a sink per view)

The engine moves slices and deltas, never single events, and only deltas cross between workers. Its own recovery store is
not used: the table is the checkpoint, so positions and state come from the newest manifest.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.log import Reader
from flows.delta import Delta
from flows.job import Arrival, End, Job, Tick
from flows.memory import sparing, sparing_commit
from schemas.errors import RefoldError

EPOCH = timedelta(seconds=1)
"""Back-pressure acts between epochs, and a worker that it holds back spins. In one process workers rest during commits instead
(``Job.await_commits``); for other processes a second of deltas is the most that may wait."""
READ_WAIT_MS = 20
"""How long a source waits for data before it lets the other steps of its worker run."""
IDLE_WAIT_MS = 100
"""The same when nothing has come to any source for a while: to look often is to take time from the neighbours."""
IDLE_AFTER_S = 1.0
WEB_API = "BYTEWAX_DATAFLOW_API_ENABLED"


def build(job: Job, name: str = "refold") -> Dataflow:
    """The dataflow of a job. Building it opens nothing."""
    flow = Dataflow(name)
    streams = [op.input(f"read_{category}", flow, _Source(job, category)) for category in job.categories]
    folded = [op.flat_map(f"fold_{i}", stream, _Fold(job)) for i, stream in enumerate(streams)]
    op.output("commit", op.merge("views", *folded), _Sink(job))
    return flow


def default_workers() -> int:
    """A worker per core, at most four: more only wait for the interpreter."""
    return min(os.cpu_count() or 1, 4)


def execute(job: Job, *, workers: int | None = None, process: int | None = None, addresses: Sequence[str] = ()) -> None:
    """Run a job to its end, or until it is asked to stop. Raises the error of the part that failed first."""
    # The engine's web API binds every interface as soon as this variable is there, whatever its value.
    os.environ.pop(WEB_API, None)
    froze = not gc.get_freeze_count()
    if froze:
        gc.freeze()  # what is there by now stays: not worth looking through again and again
    try:
        with sparing():
            cli_main(
                build(job),
                workers_per_process=workers or default_workers(),
                process_id=process,
                addresses=list(addresses) or None,
                epoch_interval=EPOCH,
            )
    except BaseException as error:  # the engine's panics are no Exceptions
        if not (job.error is None and job.stop.is_set() and _is_lost(error, process)):
            raise _cause(job, error, process) from None
    finally:
        if froze:
            gc.unfreeze()
        job.close()
    if job.error is not None:
        raise job.error


def _cause(job: Job, error: BaseException, process: int | None) -> BaseException:
    """The error of the part that failed first; in a cluster, a panic without one means that a process was lost."""
    if job.error is not None:
        return job.error
    if _is_lost(error, process):
        msg = "another process of the cluster has ended"
        return RefoldError(msg, do="start all of them again: they go on from the last commit")
    return error


def _is_lost(error: BaseException, process: int | None) -> bool:
    return process is not None and type(error).__name__ == "PanicException"


class _Fold:
    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, arrival: Arrival) -> Iterable[tuple[str, Delta | None]]:
        return self._job.attempt(lambda: self._job.fold(arrival), [])


class _Source(DynamicSource[Arrival]):
    def __init__(self, job: Job, category: str) -> None:
        self._job, self._category = job, category

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partitions:
        return _Partitions(self._job, self._category, worker_index, worker_count)


class _Partitions(StatelessSourcePartition[Arrival]):
    """One worker's share of a category's partitions."""

    def __init__(self, job: Job, category: str, worker: int, workers: int) -> None:
        self._job, self._category, self._worker = job, category, worker
        nothing: tuple[Reader | None, list[int]] = (None, [])
        self._reader, partitions = job.attempt(lambda: job.reader(category, worker, workers), nothing)
        self._open = set(partitions)

    def next_batch(self) -> Iterable[Arrival]:
        arrivals = self._job.attempt(self._arrivals, None) if self._open else None
        if arrivals is None:
            raise StopIteration
        return arrivals

    def _arrivals(self) -> list[Arrival]:
        if self._job.stop.is_set():
            return self._end(sorted(self._open))
        self._job.await_commits()
        if self._job.lets_others_catch_up(self._category, self._open, self._worker):
            return []
        assert self._reader is not None
        is_idle = self._job.seconds_without_arrivals() > IDLE_AFTER_S
        slices: list[Arrival] = list(self._reader.read(timeout_ms=IDLE_WAIT_MS if is_idle else READ_WAIT_MS))
        positions = self._reader.positions()
        done = [p for p in sorted(self._open) if self._job.is_done(self._category, p, positions[p])]
        idle: list[Arrival] = [] if slices else [Tick(self._category, tuple(sorted(self._open)))]
        return slices + idle + self._end(done)

    def _end(self, partitions: list[int]) -> list[Arrival]:
        self._open -= set(partitions)
        return [End(self._category, p) for p in partitions]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class _Sink(FixedPartitionedSink[Any, None]):
    """A partition per view, whichever worker has it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def list_parts(self) -> list[str]:
        return list(self._job.views)

    def part_fn(self, item_key: str) -> int:
        return sorted(self._job.views).index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _View:
        return _View(self._job, for_part)


class _View(StatefulSinkPartition[Any, None]):
    def __init__(self, job: Job, view: str) -> None:
        self._job, self._name = job, view
        self._committer = job.attempt(lambda: job.committer(view), None)

    def write_batch(self, values: list[Delta | None]) -> None:
        self._job.attempt(lambda: self._write(values), None)

    def _write(self, values: list[Delta | None]) -> None:
        assert self._committer is not None
        for delta in values:
            if delta is not None:
                self._committer.add(delta)
        if self._committer.is_due():
            with self._job.committing(), sparing_commit():
                self._committer.commit()
        self._job.commits_ahead.not_before(self._name, self._committer.due())

    def snapshot(self) -> None:
        return None

    def close(self) -> None:
        # The last commit waits until here: the workers that have nothing left to read are gone by then, and no core is lost to
        # them. Also called when another part has failed: nothing is committed then, only let go.
        if self._committer is not None:
            try:
                self._job.attempt(self._committer.finish, None)
            finally:
                self._committer.close()
