"""What the tests of the whole pipeline share: a week of flights in a log, what plain Polars makes of it, the command line,
and questions to a store.

Promises: ``flights_log`` is made once and never written to (copy it with ``own_log``); nothing here waits for a time to
pass: ``until`` asks a question again and again, and fails when the process that should make it true has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa

from connectors import open_log, open_view
from connectors.log import APPENDS, Log, Reader, Slice
from connectors.manifest import Manifest, from_bytes
from connectors.partitioner import partition_of
from flows import run
from flows.cli import run_cli
from flows.flights import aircraft, arrivals_by_day, departures_by_hour
from flows.flights_facts import flight_facts
from flows.flights_feed import records
from schemas import Category
from schemas.flights import flights

Frame = pl.DataFrame
ROOT = Path(__file__).resolve().parent.parent
DAYS = 7
VIEWS = [departures_by_hour, arrivals_by_day, aircraft]
NAMES = [view.name for view in VIEWS]
PATIENCE_SECONDS = 90.0
"""After so long a question that should have become true is given up; nothing is measured with it."""


# -- a week of flights


@functools.cache
def facts() -> pl.DataFrame:
    """The facts behind the events, in the order of appending."""
    return flight_facts(limit_days=DAYS)


@functools.cache
def events() -> pa.Table:
    return records(facts())


@functools.cache
def flights_log() -> str:
    """An embedded log with all the events, in 4 partitions: for reading only."""
    directory = tempfile.mkdtemp(prefix="refold-test-log-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    append(directory, events())
    return directory


@functools.cache
def digests_of_all() -> dict[str, str]:
    """What every way of folding the whole log must come to."""
    with tempfile.TemporaryDirectory(prefix="refold-test-store-") as store:
        run(VIEWS, log=flights_log(), store=store, until="end", workers=1)
        return digests(store)


def own_log(directory: Path) -> str:
    """A copy of ``flights_log`` that a test may write to or break."""
    return str(shutil.copytree(flights_log(), directory / "log"))


def append(log: str, table: pa.Table, category: str = flights.name) -> None:
    with open_log(log) as opened:
        opened.append_batch(category, table)


def appends(values: list[bytes | None], *, partition: int | None = None, timestamp_ms: int | None = None) -> pa.Table:
    """Records of these values, all of one key."""
    rows = {"key": b"N1", "timestamp": timestamp_ms, "partition": partition}
    columns = [values if f.name == "value" else [rows[f.name]] * len(values) for f in APPENDS]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, APPENDS, strict=True)], schema=APPENDS)


# -- what plain Polars computes from the same facts


@functools.cache
def in_partitions() -> Frame:
    """The facts with their partition and the watermark of that partition before each of them."""
    keys = pa.array(facts()["subject"].cast(pl.Binary).to_list(), pa.binary())
    placed = facts().with_columns(pl.Series("partition", np.asarray(partition_of(keys, 4))))
    return placed.with_columns(pl.col("time").cum_max().shift(1).over("partition").alias("watermark"))


def windowed(type_name: str, every: str, lateness: pl.Expr) -> tuple[Frame, Frame]:
    """The facts of one type with their window: those in time, and those too late."""
    start = pl.col("time").dt.truncate(every)
    found = in_partitions().filter(pl.col("type") == type_name)
    found = found.with_columns(start.alias("window_start"), start.dt.offset_by(every).alias("window_end"))
    late = (pl.col("watermark") >= pl.col("window_end") + lateness).fill_null(False)
    return found.filter(~late), found.filter(late)


def finality(lateness: pl.Expr) -> pl.Expr:
    least = in_partitions().group_by("partition").agg(pl.col("time").max())["time"].min()
    return (pl.col("window_end") + lateness <= pl.lit(least)).alias("is_final")


def expected_departures() -> tuple[Frame, Frame]:
    lateness = pl.duration(minutes=30)
    there, late = windowed("FlightDeparted", "1h", lateness)
    delay = pl.col("delay_minutes")
    rows = there.group_by("window_start", "window_end", "origin", "carrier").agg(
        departures=pl.len(), mean_delay=delay.mean(), worst_delay=delay.abs().max(), very_late=(delay > 60).sum()
    )
    return rows.with_columns(finality(lateness)), late


def expected_arrivals() -> tuple[Frame, Frame]:
    lateness = pl.duration(hours=6)
    there, late = windowed("FlightArrived", "1d", lateness)
    delay = pl.col("delay_minutes")
    in_order = there.sort("time", "partition", maintain_order=True)  # within a partition facts stand in offset order
    rows = in_order.group_by("window_start", "window_end", "destination", maintain_order=True).agg(
        arrivals=pl.len(),
        on_time=(delay <= 15).sum(),
        mean_delay=delay.mean(),
        miles=pl.col("distance_miles").sum(),
        first_arrival=pl.col("time").min(),
        last_carrier=pl.col("carrier").last(),
    )
    return rows.with_columns(finality(lateness)), late


def expected_aircraft() -> tuple[Frame, Frame]:
    there = facts().filter(pl.col("type").is_in(["FlightDeparted", "FlightArrived"]))
    arrived = pl.col("type") == "FlightArrived"
    in_order = there.sort("time", maintain_order=True)  # all that happens to an aircraft lies in one partition
    rows = in_order.group_by(pl.col("subject").alias("tail_number"), maintain_order=True).agg(
        state=pl.col("type").cast(pl.String).last(),
        since=pl.col("time").last(),
        carrier=pl.col("carrier").last(),
        last_origin=pl.col("origin").last(),
        last_destination=pl.col("destination").last(),
        departures=(~arrived).sum(),
        arrivals=arrived.sum(),
        miles_arrived=pl.when(arrived.any()).then(pl.col("distance_miles").filter(arrived).sum()),
    )
    return rows, there.clear()


EXPECTED = {
    departures_by_hour.name: expected_departures,
    arrivals_by_day.name: expected_arrivals,
    aircraft.name: expected_aircraft,
}


# -- questions to a store


def digests(store: str | Path) -> dict[str, str]:
    return {name: open_view(store, name).digest for name in NAMES}


def manifests(store: str | Path, name: str, version: int = 1) -> list[Manifest]:
    """Every commit of a view that is still described, of all generations."""
    home = Path(store) / name / f"v{version}"
    return [from_bytes(path.read_bytes(), str(path)) for path in sorted(home.glob("g*/manifests/*.json"))]


def folded(manifest: Manifest) -> int:
    return counted(manifest)["folded"]


def counted(manifest: Manifest) -> dict[str, int]:
    """Records by what became of them, over all partitions."""
    places = [place for log in manifest.facts["log"].values() for place in log["partitions"]]
    return {name: sum(place["counts"][name] for place in places) for name in places[0]["counts"]}


def contents(directory: str | Path) -> dict[str, bytes | str]:
    """Every file of a directory tree, to see that nothing has changed. Locks are left out: they hold nothing."""
    found: dict[str, bytes | str] = {}
    for path in sorted(Path(directory).rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and path.name not in (".lock", ".files"):
            found[name] = path.read_bytes()
    return found


# -- the command line


@dataclass(frozen=True, slots=True)
class Said:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def here(*arguments: str | Path, **environment: str) -> Said:
    """A command within this process: quick, with signal handlers and environment put back afterwards."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["refold", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_cli()
        except SystemExit as done:
            return Said(int(done.code or 0), out.getvalue(), err.getvalue())
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


def finish(arguments: list[str], *, cwd: str | Path = ROOT, **environment: str) -> Said:
    """A command in a process of its own, to its end."""
    done = subprocess.run(
        arguments, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    return Said(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def started(arguments: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs beside the test, with all its children; it never outlives the test.

    However busy the machine is, it has time to commit when it is asked to stop, unless ``environment`` says otherwise.
    """
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={"REFOLD_STOP_SECONDS": str(PATIENCE_SECONDS), **os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(question: Callable[[], bool], process: subprocess.Popen[str] | threading.Thread | None = None) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not question():
        if isinstance(process, subprocess.Popen) and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode}: {process.communicate()}")
        assert not isinstance(process, threading.Thread) or process.is_alive(), "the thread has ended"
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain"
        time.sleep(0.01)  # between two questions, not instead of one


# -- a run beside the test, in a thread


def following(views: list[Any], **how: Any) -> contextlib.AbstractContextManager[threading.Thread]:
    """``run`` in a thread until the block ends; what it raised is raised here."""
    stop = threading.Event()
    return beside(lambda: run(views, stop=stop, **how), stop.set)


@contextlib.contextmanager
def beside(work: Callable[[], object], stop: Callable[[], object]) -> Iterator[threading.Thread]:
    """``work`` in a thread until the block ends, when it is told to ``stop``; what it raised is raised here."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield thread
    finally:
        stop()
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "the work did not stop"
    if raised:
        raise raised[0]


# -- the same log, handed over in another way


class Chopped:
    """A log whose readers give their slices in small pieces, and the partitions in any order."""

    def __init__(self, log: Log, seed: int, records_max: int) -> None:
        self._log, self._seed, self._records_max = log, seed, records_max

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Reader:
        inner = self._log.reader(category, start, until)
        return _ChoppedReader(inner, random.Random(f"{self._seed} {sorted(start)}"), self._records_max)


class _ChoppedReader:
    def __init__(self, inner: Reader, lots: random.Random, records_max: int) -> None:
        self._inner, self._lots, self._records_max = inner, lots, records_max
        self._positions = inner.positions()
        self._waiting: list[Slice] = []

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        if not self._waiting:
            self._waiting = self._inner.read(timeout_ms)
        taken = [found for found in self._waiting if self._lots.random() < 0.7]
        pieces = [self._piece(found) for found in taken]
        for piece in pieces:
            self._positions[piece.partition] = piece.next_offset
        return pieces

    def _piece(self, found: Slice) -> Slice:
        """The beginning of a slice; the rest waits."""
        self._waiting.remove(found)
        size = self._lots.randint(1, self._records_max)
        if size >= found.records.num_rows:
            return found
        middle = found.records.column("offset")[size].as_py()
        self._waiting.append(replace(found, first_offset=middle, held=found.records.slice(size), stored=None))
        return replace(found, next_offset=middle, held=found.records.slice(0, size), stored=None)

    def positions(self) -> dict[int, int]:
        return dict(self._positions)

    def close(self) -> None:
        self._inner.close()


def in_topic(name: str) -> list[Any]:
    """The example views over another topic."""
    category = Category(name, flights.events)
    return [view.over(category) for view in VIEWS]
