"""A rebuild replaces a view by what its log says now, and never by less of the same log."""

from __future__ import annotations

import datetime as dt
import shutil
import threading
from pathlib import Path

import polars as pl
import pytest

from connectors import open_log, open_view
from flows import Projection, agg, rebuild, run, tumbling, verify
from flows.delta import Delta
from flows.job import Arrival, Job
from schemas import Category, Event
from schemas.errors import LogChanged


class Paid(Event):
    amount: int


payments = Category("payments", [Paid])
totals = Projection(
    name="totals",
    category=payments,
    key={"payer": "subject"},
    window=tumbling(dt.timedelta(minutes=1)),
    columns={"n": agg.count(), "amount": agg.sum("amount")},
)
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def pay(log: Path, count: int) -> None:
    events = [Paid(subject=f"p{i % 7}", time=START + dt.timedelta(seconds=i), amount=i) for i in range(count)]
    with open_log(str(log)) as opened:
        opened.append(payments, events)


def amount(store: Path) -> int:
    return int(open_view(store, "totals").scan().select(pl.col("amount").sum()).collect().item())


def test_a_topic_made_again_stops_the_run_and_a_rebuild_takes_the_new_one_in(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 500)
    run([totals], log=str(log), store=store, until="end")
    before = open_view(store, "totals").digest
    shutil.rmtree(log)
    pay(log, 100)  # fewer events than the view has folded: its cut lies beyond the end of this log
    with pytest.raises(LogChanged, match="created again"):
        run([totals], log=str(log), store=store, until="end")
    answer = verify(totals, log=str(log), store=store)
    assert answer is not None and not answer.ok
    assert "created again" in answer.log_changes[0]
    assert open_view(store, "totals").digest == before
    rebuild(totals, log=str(log), store=store)
    assert amount(store) == sum(range(100))
    found = verify(totals, log=str(log), store=store)
    assert found is not None
    assert found.ok


def test_a_log_that_was_cut_shorter_is_taken_in_by_a_rebuild(tmp_path: Path) -> None:
    """What the live view stands at is not there any more: nothing to wait for."""
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 50)
    shutil.copytree(log, tmp_path / "shorter")
    pay(log, 30)
    run([totals], log=str(log), store=store, until="end")
    with pytest.raises(LogChanged, match="shorter"):
        run([totals], log=str(tmp_path / "shorter"), store=store, until="end")
    assert rebuild(totals, log=str(tmp_path / "shorter"), store=store) is not None
    assert amount(store) == sum(range(50))


def test_a_stopped_rebuild_leaves_the_live_view_as_it_was(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 50)
    run([totals], log=str(log), store=store, until="end")
    path, stop = open_view(store, "totals").path, threading.Event()
    stop.set()
    assert rebuild(totals, log=str(log), store=store, stop=stop) is None
    assert open_view(store, "totals").path == path
    assert rebuild(totals, log=str(log), store=store) is not None
    assert amount(store) == sum(range(50))


def test_a_rebuild_reaches_what_the_live_view_has_folded_meanwhile(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 50)
    run([totals], log=str(log), store=store, until="end")
    jobs: list[Job] = []

    def watch(job: Job) -> None:
        """When the first fold of the rebuild is over, and before it takes over, the live view moves on."""
        close = job.close

        def close_and_move_on() -> None:
            close()
            if len(jobs) == 1:
                pay(log, 30)
                run([totals], log=str(log), store=store, until="end")

        jobs.append(job)
        job.close = close_and_move_on  # type: ignore[method-assign]

    manifest = rebuild(totals, log=str(log), store=store, watch=watch)
    assert manifest is not None
    assert len(jobs) == 2
    assert amount(store) == sum(range(50)) + sum(range(30))
    assert sum(manifest.cut["payments"]) == 80


def test_a_stopped_rebuild_goes_on_where_it_stood(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 500)
    run([totals], log=str(log), store=store, until="end")
    before = open_view(store, "totals")
    stop = threading.Event()

    def stop_after_the_first_slice(job: Job) -> None:
        fold = job.fold

        def fold_and_stop(arrival: Arrival) -> list[tuple[str, Delta | None]]:
            stop.set()
            return fold(arrival)

        job.fold = fold_and_stop  # type: ignore[method-assign]

    assert rebuild(totals, log=str(log), store=store, workers=1, stop=stop, watch=stop_after_the_first_slice) is None
    jobs: list[Job] = []
    after = rebuild(totals, log=str(log), store=store, watch=jobs.append)
    assert after is not None
    assert sum(jobs[0].begins.values()) > 0
    assert after.digest == before.digest
    assert after.cut == before.cut


def test_a_stopped_rebuild_of_another_log_or_definition_begins_anew(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 200)
    stop = threading.Event()
    stop.set()
    rebuild(totals, log=str(log), store=store, stop=stop)
    shutil.rmtree(log)
    pay(log, 100)
    assert rebuild(totals, log=str(log), store=store) is not None
    assert amount(store) == sum(range(100))


def test_a_verification_that_was_stopped_says_nothing(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    pay(log, 50)
    run([totals], log=str(log), store=store, until="end")
    stop = threading.Event()
    stop.set()
    assert verify(totals, log=str(log), store=store, stop=stop) is None
