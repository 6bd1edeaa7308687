"""Regard for the neighbours: never faster than asked, slower when fetches take longer, and the same view in any case."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import beside, digests_of_all, flights_log, here, own_log, until

from connectors import open_log, open_view
from connectors.archive import archive as copy_to
from connectors.broker_log import BrokerLog
from connectors.throttle import BURST_S, Governor, Rate, Throttle, parse_rate
from flows import rebuild, run
from flows.flights import aircraft
from flows.leaving_cores import NICENESS, leaving_cores
from schemas.errors import UsageError

# -- a rate


@given(
    st.floats(1.0, 1e7),
    st.lists(st.tuples(st.integers(1, 100_000), st.floats(0.0, 0.2)), min_size=1, max_size=60),
)
def test_no_more_is_read_in_any_time_than_the_rate_and_one_burst(per_s: float, work: list[tuple[int, float]]) -> None:
    """A reader that always waits as long as it is told, whatever its own work takes."""
    rate, now = Rate(per_s), 100.0
    reads: list[tuple[float, int]] = []
    for units, busy in work:
        now += rate.wait_s(now)
        reads.append((now, units))
        rate.took(units, now)
        now += busy
    for first in range(len(reads)):
        for last in range(first, len(reads)):
            # What is read at the very end is paid for after it.
            total = sum(units for _, units in reads[first:last])
            assert total <= per_s * (reads[last][0] - reads[first][0] + BURST_S) * 1.000001 + 1e-6


@pytest.mark.parametrize(
    ("text", "per_s", "unit"),
    [
        ("200000/s", 200_000, "events"),
        ("200k/s", 200_000, "events"),
        ("1.5M", 1_500_000, "events"),
        ("20MB/s", 20_000_000, "bytes"),
        ("8MiB/s", 8 << 20, "bytes"),
        ("200,000/s", 200_000, "events"),
    ],
)
def test_a_rate_is_written_as_people_write_it(text: str, per_s: float, unit: str) -> None:
    assert parse_rate(text) == Rate(per_s, unit)


@pytest.mark.parametrize("text", ["", "fast", "-1/s", "0", "10 furlongs", "5/min"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no rate"):
        parse_rate(text)


# -- a governor


def governed(latencies: list[float], began: Governor | None = None, now: float = 0.0) -> Governor:
    governor = began or Governor()
    for number, latency in enumerate(latencies):
        governor.note([latency], now + number * 0.01)
    return governor


def test_it_learns_at_ease_and_then_goes_on_at_full_speed() -> None:
    governor = Governor()
    assert (governor.share, governor.unhurried_s) == (1.0, None), "an archive has no fetches: no reason to wait"
    governed([0.010], governor)
    assert governor.share == Governor.CALM
    governed([0.010] * 3, governor)
    assert (governor.share, governor.unhurried_s) == (1.0, 0.010)


@given(st.floats(0.001, 0.2), st.floats(2.5, 20.0), st.integers(1, 200))
def test_it_backs_off_while_fetches_take_longer_and_comes_back(unhurried: float, times: float, slow: int) -> None:
    governor = governed([unhurried] * 4)
    governed([unhurried * times] * 4 * slow, governor)
    assert Governor.LEAST <= governor.share < 1.0, "it never stops altogether"
    assert governor.share == pytest.approx(max(Governor.DOWN**slow, Governor.LEAST))
    governed([unhurried] * 4 * 30, governor)
    assert governor.share == 1.0


@given(st.lists(st.floats(0.0, 10.0), max_size=300))
def test_its_share_is_a_share_whatever_it_is_told(latencies: list[float]) -> None:
    assert Governor.LEAST <= governed(latencies).share <= 1.0


def test_one_slow_fetch_is_nothing() -> None:
    governor = governed([0.010] * 4 + [0.010, 0.9, 0.010, 0.010])
    assert governor.share == 1.0


def test_a_broker_that_became_slower_for_good_is_got_used_to() -> None:
    governor = governed([0.010] * 4)
    governed([0.040] * 40, governor)
    assert governor.share < 0.2
    governed([0.040] * 4, governor, now=Governor.AGAIN_S + 1.0)
    assert governor.unhurried_s == 0.040
    governed([0.040] * 80, governor, now=Governor.AGAIN_S + 1.1)
    assert governor.share == 1.0


def test_what_it_does_is_said() -> None:
    stop = threading.Event()
    assert Throttle(stop).words == Throttle(stop, governor=Governor()).words == ""
    assert Throttle(stop, Rate(20_000.0)).words == "at most 20,000 events/s"
    words = Throttle(stop, governor=governed([0.004] * 4 + [0.016] * 4)).words
    assert words == "governed: fetch 16.0 ms (unhurried 4.0 ms), at 60% of full speed"


# -- rebuilds


class Slow:
    """A log whose readers tell latencies that somebody made up."""

    def __init__(self, log: Any, lots: Any) -> None:
        self._log, self._lots = log, lots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Any:
        reader = self._log.reader(category, start, until)
        reader.latencies = lambda: [self._lots.choice([0.001, 0.002, 0.05]) for _ in range(3)]
        return reader


@given(st.randoms(use_true_random=False), st.sampled_from([None, Rate(3e5), Rate(4e7, "bytes")]), st.booleans())
@settings(max_examples=5)
def test_a_rebuild_that_is_held_back_is_the_same_view(
    tmp_path_factory: pytest.TempPathFactory, lots: Any, rate: Rate | None, is_governed: bool
) -> None:
    with open_log(str(flights_log())) as log:
        store = tmp_path_factory.mktemp("store")
        found = rebuild(aircraft, log=Slow(log, lots), store=store, rate=rate, governed=is_governed, workers=2)
    assert found is not None and found.digest == digests_of_all()["aircraft"]


def test_a_rebuild_that_waits_stops_at_once(tmp_path: Path) -> None:
    log, stop = own_log(tmp_path), threading.Event()
    done: list[Any] = []

    def work() -> None:
        done.append(rebuild(aircraft, log=log, store=tmp_path / "store", rate=Rate(0.001), stop=stop, workers=1))

    with beside(work, stop.set) as thread:
        until(lambda: any((tmp_path / "store").glob("aircraft/v1/g1")), thread)
    assert done == [None]


def test_the_command_takes_a_rate(tmp_path: Path) -> None:
    log, store = own_log(tmp_path), tmp_path / "store"
    run([aircraft], log=log, store=store, until="end")
    said = here("rebuild", "aircraft", "--max-rate", "1MB", "--log", log, "--store", store, "--max-rate", "500k/s")
    assert said.code == 0 and "rebuilt == live" in said.out and "at most 500,000 events/s" in said.err
    assert here("rebuild", "aircraft", "--max-rate", "soon", "--log", log, "--store", store).code == 2


def test_priority_is_given_back() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    seen = []
    with leaving_cores(True):
        threads = [threading.Thread(target=lambda: seen.append(os.getpriority(os.PRIO_PROCESS, 0)))]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [max(before, NICENESS)]
    with leaving_cores(False):
        assert os.getpriority(os.PRIO_PROCESS, 0) in (before, NICENESS)


@pytest.mark.broker
def test_a_rebuild_from_a_broker_learns_what_a_fetch_takes(
    broker_log: Any, topic: Callable[..., str], tmp_path: Path
) -> None:
    name = topic(2)
    view = aircraft.over(type(aircraft.category)(name, aircraft.category.events))
    with open_log(str(flights_log())) as log:
        copy(log, broker_log, name)
    watched: list[Any] = []
    found = rebuild(view, log=broker_log, store=tmp_path / "store", workers=1, watch=watched.append)
    assert found is not None and found.digest == rebuild_ungoverned(view, broker_log, tmp_path)
    assert watched[0].throttle.governor.share > 0


def rebuild_ungoverned(view: Any, log: Any, tmp_path: Path) -> str:
    found = rebuild(view, log=log, store=tmp_path / "other", workers=1, governed=False)
    assert found is not None
    return found.digest


def copy(log: Any, other: Any, name: str) -> None:
    """All flights, with the keys and values that they have."""
    import pyarrow as pa

    from connectors.log import APPENDS
    from connectors.overlap import slices

    info = log.describe("flights")
    for part in slices(log, "flights", dict.fromkeys(range(info.partitions), 0), dict(enumerate(info.ends))):
        records = part.records
        columns = [records["key"], records["value"], records["timestamp"], pa.nulls(len(records), pa.int32())]
        other.append_batch(name, pa.table(columns, schema=APPENDS))


@pytest.mark.broker
def test_from_an_archive_the_broker_is_not_asked_for_history(
    broker_log: Any, broker: str, topic: Callable[..., str], tmp_path: Path
) -> None:
    name = topic(2)
    view = aircraft.over(type(aircraft.category)(name, aircraft.category.events))
    with open_log(str(flights_log())) as log:
        copy(log, broker_log, name)
    copy_to(broker_log, name, tmp_path / "archive")
    ends = broker_log.describe(name).ends
    asked: list[dict[int, int]] = []
    real = BrokerLog.reader

    def reader(self: Any, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Any:
        asked.append(dict(start))
        return real(self, category, start, until)

    with mock.patch.object(BrokerLog, "reader", reader), open_log(f"redpanda://{broker}", tmp_path / "archive") as both:
        found = rebuild(view, log=both, store=tmp_path / "store", workers=1)
    assert found is not None and sum(found.cut[name]) == sum(ends)
    assert all(at >= ends[p] - 1 for start in asked for p, at in start.items()), (
        "but for the last record that both have"
    )
    assert open_view(tmp_path / "store", "aircraft").digest == found.digest
