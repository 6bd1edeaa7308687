"""Commits come: not too often, and never not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.pacing import FIRST_COMMIT_S_MAX, Pacing

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
