"""Hopping and calendar windows: what they are, beside definitions that one can check by hand. (Sessions: test_sessions.py.)"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_windows import DAY_US, US, local_window, zone_of
from test_fold import Measured, Moved, fold_all, things

from connectors import open_log, open_view
from flows import Projection, agg, calendar, hopping, run, session, tumbling
from flows import calendars as implementation
from flows.status import summary
from flows.windows import Window
from schemas.errors import UsageError
from schemas.instants import FIRST_US, LAST_US

SECOND, HOUR = dt.timedelta(seconds=1), dt.timedelta(hours=1)


def moved(time_ms: int) -> bytes:
    return json.dumps({"type": "Moved", "time": time_ms, "data": {"place": "a", "number": 1}}).encode()


def rows(window: Window, times_ms: list[int], lateness: dt.timedelta) -> dict[int, dict[str, Any]]:
    """The rows of a view of these events, by window start in milliseconds."""
    projection = Projection(
        name="t",
        category=things,
        events=[Moved],
        key=["place"],
        window=window,
        allowed_lateness=lateness,
        columns={"n": agg.count(), "total": agg.sum("number"), "first": agg.first("event_time")},
    )
    view = fold_all(projection, [moved(time) for time in times_ms])
    return {int(row["window_start"].timestamp() * 1000): row for row in view.tables["rows"].values()}


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(-20_000, 60_000), max_size=40),
    step=st.integers(1, 7),
    steps=st.integers(1, 5),
    slack=st.integers(0, 6),
)
def test_hopping_is_the_sum_of_shifted_tumbling(times: list[int], step: int, steps: int, slack: int) -> None:
    """Windows of a multiple of the step are sums of tumbling ones; those that are longer hold what lies between two such."""
    size = step * steps + min(slack, step - 1)
    found = rows(hopping(SECOND * size, SECOND * step), times, HOUR)
    small = rows(tumbling(SECOND), times, HOUR)
    starts = {
        start
        for time in times
        for start in range(-420_000, 420_000, step * 1000)
        if start <= time < start + size * 1000
    }
    assert found.keys() == starts
    for start, row in found.items():
        inside = [small[at] for at in range(start, start + size * 1000, 1000) if at in small]
        assert row["n"] == row["total"] == sum(part["n"] for part in inside)
        assert row["first"] == min(part["first"] for part in inside)
        assert row["window_end"] - row["window_start"] == SECOND * size


def test_more_windows_than_are_laid_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many are, is nobody's business."""
    times = [(at * 37) % 5000 for at in range(200)]
    at_once = rows(hopping(SECOND, SECOND / 20), times, HOUR)
    monkeypatch.setattr("flows.hops.FOLDED_TOGETHER", 60)
    assert rows(hopping(SECOND, SECOND / 20), times, HOUR) == at_once


@pytest.mark.parametrize(
    ("make", "what", "do"),
    [
        (lambda: tumbling(SECOND * 0), "a window of size 0:00:00", "positive"),
        (lambda: hopping(-SECOND, SECOND), "a window of size -1 day", "positive"),
        (lambda: hopping(SECOND, SECOND * 0), "a step of 0:00:00", "positive"),
        (lambda: hopping(SECOND, SECOND * 2), "events between them would be in none", "not less than the step"),
        (lambda: hopping(dt.timedelta.max, SECOND), "a window of size 999999999 days", "ten thousand years"),
        (lambda: session(SECOND * 0), "a gap of 0:00:00", "positive"),
        (lambda: calendar("year"), "a calendar window of one `year`", "day, week, month"),
        (lambda: calendar("day", zone="Europe/Berlim"), "no time zone `Europe/Berlim`", "did you mean `Europe/Berlin`"),
        (lambda: calendar("day", zone="../../etc/passwd"), "no time zone", "IANA"),
        (lambda: calendar("day", zone="localtime"), "no time zone `localtime`", "IANA"),
    ],
)
def test_a_window_that_cannot_be_is_refused(make: Any, what: str, do: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert what in error.value.what
    assert do in (error.value.do or "")


@pytest.mark.parametrize(
    ("window", "final_s", "late", "lost", "rows"),
    [
        (tumbling(SECOND * 10), 95, 2, 0, 2),
        (hopping(SECOND * 100, SECOND * 10), 95, 1, 6, 16),
        (session(SECOND * 20), 75, 2, 0, 2),  # a session may be touched for its gap after its end
    ],
)
def test_the_status_says_what_is_final_and_what_was_lost(
    tmp_path: Path, window: Window, final_s: int, late: int, lost: int, rows: int
) -> None:
    """Events at 30 s and -50 s come when the watermark is at 100 s, with 5 s allowed: late for those windows that ended by 95 s."""
    projection = Projection(
        name="t",
        category=things,
        events=[Moved],
        window=window,
        allowed_lateness=SECOND * 5,
        columns={"n": agg.count()},
    )
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    with open_log(str(tmp_path / "log")) as log:
        log.create("things", partitions=1)
        log.append(things, [Moved(subject="s", time=epoch + SECOND * at, place="a") for at in (100, 30, -50)])
        run([projection], log=log, store=tmp_path / "store", until="end")
    view = open_view(tmp_path / "store", "t")
    facts = summary(view)
    assert (facts["late_events"], facts["lost_contributions"], len(view.late().collect())) == (late, lost, rows)
    assert facts["final_until_us"] == final_s * US["s"]


# -- calendars


def us(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * US["s"]


@pytest.mark.parametrize(
    ("unit", "zone", "inside", "start", "end"),
    [
        ("day", "UTC", "2024-02-29T23:59:59Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
        ("day", "Europe/Berlin", "2024-03-31T12:00:00Z", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z"),  # 23 hours
        ("day", "Europe/Berlin", "2024-10-27T12:00:00Z", "2024-10-26T22:00:00Z", "2024-10-27T23:00:00Z"),  # 25 hours
        ("day", "Australia/Lord_Howe", "2024-10-05T20:00:00Z", "2024-10-05T13:30:00Z", "2024-10-06T13:00:00Z"),
        # No midnight: from the jump on.
        ("day", "America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        ("day", "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z"),
        # Two midnights, a minute after the first of which the clock was set back over it: the first one counts.
        ("day", "America/St_Johns", "2006-10-29T03:00:00Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"),
        ("day", "America/St_Johns", "2006-10-29T02:29:59Z", "2006-10-28T02:30:00Z", "2006-10-29T02:30:00Z"),
        # A day that was left out, and one that was there twice as long.
        ("day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
        ("day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ("day", "Pacific/Kwajalein", "1969-09-30T20:00:00Z", "1969-09-29T13:00:00Z", "1969-10-01T12:00:00Z"),
        ("week", "Europe/Berlin", "2024-12-31T00:00:00Z", "2024-12-29T23:00:00Z", "2025-01-05T23:00:00Z"),
        ("week", "UTC", "1970-01-01T00:00:00Z", "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z"),
        ("month", "Asia/Tokyo", "2023-12-31T15:00:00Z", "2023-12-31T15:00:00Z", "2024-01-31T15:00:00Z"),
        ("month", "America/New_York", "2024-03-31T12:00:00Z", "2024-03-01T05:00:00Z", "2024-04-01T04:00:00Z"),
    ],
)  # fmt: skip
def test_what_clocks_do(unit: str, zone: str, inside: str, start: str, end: str) -> None:
    window = calendar(unit, zone=zone)
    for time in (us(inside), us(start), us(end) - 1):
        starts = window.starts(np.array([time]))
        assert (starts.tolist(), window.ends(starts).tolist()) == ([us(start)], [us(end)])


@settings(max_examples=80, deadline=None)
@given(
    zone=st.sampled_from(implementation.zone_names()),
    unit=st.sampled_from(["day", "day", "week", "month"]),
    time=st.integers(us("1840-01-01T00:00:00Z"), us("2120-01-01T00:00:00Z")),
)
def test_bounds_are_what_looking_at_the_clock_says(zone: str, unit: str, time: int) -> None:
    window = calendar(unit, zone=zone)
    starts = window.starts(np.array([time]))
    assert (starts[0], window.ends(starts)[0]) == local_window(unit, zone_of(zone), time)


@settings(max_examples=100, deadline=None)
@given(
    zone=st.sampled_from(implementation.zone_names()),
    unit=st.sampled_from(["day", "week", "month"]),
    times=st.lists(st.integers(FIRST_US, LAST_US) | st.integers(-DAY_US, DAY_US) | st.just(LAST_US + 1), max_size=20),
)
def test_windows_follow_each_other_whatever_else_is_looked_up(zone: str, unit: str, times: list[int]) -> None:
    window = calendar(unit, zone=zone)
    found = np.array(times, np.int64)
    starts = window.starts(found)
    ends = window.ends(starts)
    for time, start, end in zip(times, starts.tolist(), ends.tolist(), strict=True):
        assert start <= min(time, LAST_US) < end
        assert end - start <= 33 * DAY_US
        assert window.starts(np.array([end - 1])).tolist() == [start] or end > LAST_US
        assert window.starts(np.array([end])).tolist() == [end] or end > LAST_US


def test_the_definition_names_the_rules_of_the_zone_and_nothing_else_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names of offsets and other zones do not matter; when an offset begins does, also by the rule for the years to come."""
    berlin = implementation._file("Europe/Berlin")
    known = calendar("day", zone="Europe/Berlin").render()
    assert known == {"kind": "calendar", "unit": "day", "zone": "Europe/Berlin", "rules": known["rules"]}
    assert implementation.rules_digest("Europe/Paris") != known["rules"]

    def digest_of(data: bytes) -> str:
        monkeypatch.setattr(implementation, "_file", lambda name: data)
        implementation.rules_digest.cache_clear()
        return implementation.rules_digest("Europe/Berlin")

    try:
        assert digest_of(berlin.replace(b"CEST", b"BEST")) == known["rules"]
        assert digest_of(berlin.replace(b"M10.5.0", b"M11.5.0")) != known["rules"]
        first = int.to_bytes(2**64 - 2422054408, 8, "big")  # when local mean time ended
        assert berlin.count(first) == 1
        assert digest_of(berlin.replace(first, int.to_bytes(2**64 - 2422054407, 8, "big"))) != known["rules"]
    finally:
        implementation.rules_digest.cache_clear()


def test_a_projection_of_another_zone_or_unit_is_another_one() -> None:
    def fingerprint(window: Window) -> str:
        return Projection(
            name="t", category=things, events=[Measured], window=window, columns={"n": agg.count()}
        ).fingerprint

    windows = [
        calendar("day"),
        calendar("week"),
        calendar("day", zone="Asia/Tokyo"),
        tumbling(HOUR * 24),
        hopping(HOUR * 24, HOUR * 24),
        hopping(HOUR * 24, HOUR * 12),
        session(HOUR * 24),
    ]
    assert len({fingerprint(window) for window in windows}) == len(windows)
