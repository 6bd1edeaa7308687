"""Commits come: not too often, and never not at all."""

from __future__ import annotations

import contextlib
import itertools
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import flights_log

from flows import Projection, committer, running
from flows.job import End
from flows.pacing import FIRST_COMMIT_S_MAX, Pacing
from schemas.flights import FlightDeparted, flights

seconds = st.floats(0.01, 100)


@given(interval=seconds, rate=st.integers(0, 10**9))
def test_the_first_commit_comes_however_much_changes(interval: float, rate: int) -> None:
    """Changes that go on must not put it off for ever: what it waits for grows with them."""
    pacing = Pacing(interval, 50.0)
    latest = max(interval, FIRST_COMMIT_S_MAX)
    assert not pacing.is_due(50.0 + 0.99 * interval, rate)
    assert pacing.is_due(50.0 + 1.01 * latest, int(rate * latest))


@given(interval=seconds, took=seconds, changed=st.integers(0, 10**9))
def test_committing_takes_a_tenth_of_the_time_whatever_has_changed(interval: float, took: float, changed: int) -> None:
    pacing = Pacing(interval, 0.0)
    pacing.committed(100.0, 100.0 + took)
    pause = max(interval, 9 * took)
    assert not pacing.is_due(100.0 + took + 0.99 * pause, changed)
    assert pacing.is_due(100.0 + took + 1.01 * pause, changed)


def test_a_replay_does_not_commit_millions_of_groups_after_a_second() -> None:
    assert not Pacing(1.0, 0.0).is_due(2.0, 2_500_000)
    assert Pacing(1.0, 0.0).is_due(2.0, 50_000)


@given(took=seconds)
def test_a_run_that_ends_by_itself_commits_more_seldom_but_does_not_pause_longer_than_half_a_minute_for_that(
    took: float,
) -> None:
    follows, ends = Pacing(None, 0.0), Pacing(None, 0.0, ends=True)
    assert follows.is_due(1.01, 0)
    assert not ends.is_due(4.99, 0)
    assert ends.is_due(5.01, 0)
    ends.committed(100.0, 100.0 + took)
    pause = max(5.0, 9 * took, min(29 * took, 30.0))
    assert not ends.is_due(100.0 + took + 0.99 * pause, 0)
    assert ends.is_due(100.0 + took + 1.01 * pause, 0)


@given(interval=seconds, took=seconds)
def test_who_says_how_often_gets_it_also_where_the_run_ends_by_itself(interval: float, took: float) -> None:
    pacing = Pacing(interval, 0.0, ends=True)
    assert pacing.is_due(1.01 * interval, 0)
    pacing.committed(100.0, 100.0 + took)
    assert pacing.is_due(100.0 + took + 1.01 * max(interval, 9 * took), 0)


@pytest.mark.parametrize("bound", [committer.KEPT_BYTES_MAX, 1])
def test_what_a_view_only_gathers_makes_it_commit(bound: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However seldom it would: rows of events, late events and dead letters stay in memory until then."""
    monkeypatch.setattr(committer, "KEPT_BYTES_MAX", bound)
    told = Projection(name="told", version=1, category=flights, events=[FlightDeparted], select=["carrier"])
    job = running._job([told], flights_log(), tmp_path, "end", None, committer.Pace(), threading.Event())
    view, (reader, partitions) = job.committer("told@1"), job.reader(flights.name, 0, 1)
    assert reader is not None
    with contextlib.closing(reader), contextlib.closing(view):
        arrivals = [*itertools.chain.from_iterable(iter(reader.read, [])), End(flights.name, partitions[0])]
        for _, delta in itertools.chain.from_iterable(map(job.fold, arrivals)):
            assert delta is not None
            view.add(delta)
        assert view.is_due() == (bound == 1)
    job.close()
