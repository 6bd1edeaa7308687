"""``refold status``: what an operator must know to act."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pipelines import here

from connectors import open_log, open_view
from connectors.clock import now_ms
from connectors.generation import Version
from connectors.table import open_writer
from flows import Projection, agg, run, tumbling
from flows.log_ends import time_paths
from flows.merge import table_specs
from flows.running import rebuild
from flows.status import standing, standings
from flows.status_text import duration, lines, size
from schemas import Category, Event
from schemas.envelope import RECORD_TIME, constant, plain

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE_US = 60_000_000


class Weighed(Event):
    scale: str
    grams: int


weights = Category("weights", events=[Weighed])


def by_hour(version: int = 1, category: Category = weights) -> Projection:
    return Projection(
        name="by_hour",
        version=version,
        category=category,
        key=["scale"],
        window=tumbling(timedelta(hours=1)),
        columns={"n": agg.count()},
    )


def append(log: str, minutes: range, category: Category = weights) -> None:
    with open_log(log) as opened:
        if category.name not in opened.categories():
            opened.create(category.name, 1)
        events = [Weighed(subject="s", time=START + timedelta(minutes=at), scale="s", grams=at) for at in minutes]
        opened.append(category, events)


def told(log: str, store: Path, *names: str) -> list[dict[str, Any]]:
    with open_log(log) as opened:
        return [standing(view, opened) for view in standings(store, names)]


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = str(tmp_path / "log")
    append(path, range(0, 200, 10))
    return path


def test_how_far_a_view_is_behind_in_events_and_in_event_time(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    append(log, range(200, 260, 10))
    (facts,) = told(log, store)
    (place,) = facts["partitions"]
    assert (place["next_offset"], place["end"], place["lag_records"]) == (20, 26, 6)
    assert place["lag_us"] == 60 * MINUTE_US, "from 3:10, the watermark, to 4:10"
    assert facts["open_windows"] == 1
    assert (facts["is_current"], facts["is_running"]) == (True, False)
    assert any("6 events" in line and "1.0 h" in line for line in lines(facts))


@pytest.mark.parametrize(
    "envelope",
    [plain(type="kind", time="at.ms"), plain(type=constant("Weighed"), time=RECORD_TIME)],
    ids=["path", "record"],
)
def test_event_time_is_found_where_the_envelope_has_it(tmp_path: Path, envelope: Any) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    other = Category("other", events=[Weighed], envelope=envelope)
    append(log, range(10), other)
    run([by_hour(category=other)], log=log, store=store, until="end")
    append(log, range(10, 15), other)
    ((place,),) = [facts["partitions"] for facts in told(log, store)]
    assert place["lag_us"] == 5 * MINUTE_US


def test_records_without_a_time_leave_it_open(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    columns = {"key": [b"k"] * 30, "value": [b"no json"] * 30, "timestamp": [None] * 30, "partition": [0] * 30}
    kinds = {"key": pa.binary(), "value": pa.binary(), "timestamp": pa.int64(), "partition": pa.int32()}
    with open_log(log) as opened:
        opened.append_batch("weights", pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()}))
    (facts,) = told(log, store)
    assert [(place["lag_records"], place["lag_us"]) for place in facts["partitions"]] == [(30, None)]
    assert any("30 events    " in line for line in lines(facts))


def test_the_parts_of_a_join_have_a_place_of_time_each() -> None:
    envelope = {"time": "('a', 'b')"}
    streams = [
        {"category": "left", "envelope": envelope},
        {"category": "right", "envelope": {"time": "_FromRecord(what='record time')"}},
    ]
    joined = {"source": {"projection": {"source": {"streams": streams}}}}
    assert time_paths(joined) == {"left": ("a", "b"), "right": None}


def test_who_writes_is_told_and_not_disturbed(log: str, tmp_path: Path) -> None:
    store, projection = tmp_path / "store", by_hour()
    run([projection], log=log, store=store, until="end")
    with open_writer(store, "by_hour", 1, table_specs(projection)):
        (facts,) = told(log, store)
        assert facts["is_running"]
        assert "serving, running" in next(lines(facts))


def test_the_rate_is_that_of_recent_commits(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until={"weights": [4]})
    run([by_hour()], log=log, store=store, until={"weights": [20]})
    generation, now = open_view(store, "by_hour").generation, now_ms() / 1000
    for seq, seconds in ((1, 6.0), (2, 2.0)):
        os.utime(generation.manifest_path(seq), (now - seconds, now - seconds))
    assert told(log, store)[0]["records_per_s"] == pytest.approx(16 / 4.0, rel=0.01)
    for seq in (1, 2):
        os.utime(generation.manifest_path(seq), (now - 600, now - 600 + seq))
    (facts,) = told(log, store)
    assert facts["records_per_s"] == 0.0
    assert facts["committed_s_ago"] == pytest.approx(598, abs=30)


def test_a_rebuild_under_way_is_shown_with_percent_and_time_left(log: str, tmp_path: Path) -> None:
    store, projection = tmp_path / "store", by_hour()
    run([projection], log=log, store=store, until="end")
    half = open_view(store, "by_hour").manifest
    seen: list[dict[str, Any]] = []
    with open_writer(store, "by_hour", 1, table_specs(projection), building=True) as writer:
        assert told(log, store)[0]["rebuilds"][0]["percent"] == 0.0
        writer.commit({}, {**half.facts, "cut": {"weights": [5]}})
        now = now_ms() / 1000
        os.utime(writer.generation.lock, (now - 10, now - 10))
        os.utime(writer.generation.manifest_path(1), (now, now))
        (facts,) = told(log, store)
        seen += facts["rebuilds"]
        assert any(line.strip().startswith("rebuild running: 25 % committed (5 of 20 events") for line in lines(facts))
    (found,) = seen
    assert (found["records"], found["of_records"], found["percent"]) == (5, 20, 25.0)
    assert found["seconds_left"] == pytest.approx(30, rel=0.05)
    assert told(log, store)[0]["rebuilds"] == [], "an abandoned one is not running"


def test_every_version_is_told_or_the_one_that_is_named(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    rebuild(by_hour(2), log=log, store=store)
    assert [(facts["version"], facts["is_current"]) for facts in told(log, store)] == [(1, True), (2, False)]
    assert [facts["version"] for facts in told(log, store, "by_hour@2")] == [2]


def test_watching_goes_on_until_it_is_stopped(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    from subprocess import PIPE, Popen
    from sys import executable

    command = [
        executable,
        "-m",
        "flows.cli",
        "status",
        "--watch",
        "--interval",
        "0.1",
        "--log",
        log,
        "--store",
        str(store),
    ]
    with Popen(command, stdout=PIPE, text=True) as child:
        assert child.stdout is not None
        heads = 0
        for line in child.stdout:
            heads += line.startswith("by_hour@1")
            if heads == 3:
                child.terminate()
                break
        child.stdout.read()
        assert child.wait(20) == 0


def test_status_as_json_is_what_python_gets(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    (facts,) = json.loads(here("status", "--json", "--log", log, "--store", str(store)).out)
    (ours,) = told(log, store)
    assert set(facts) == set(ours)
    assert facts["partitions"] == ours["partitions"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.4 s"), (12.4, "12 s"), (90, "1.5 min"), (7200, "2.0 h"), (864_000, "10.0 d")],
)
def test_durations_are_said_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999 bytes"), (18_200_000, "18.2 MB"), (1_500, "1.5 kB")])
def test_sizes_are_said_in_a_fitting_unit(count: int, text: str) -> None:
    assert size(count) == text


def test_a_version_is_current_when_the_link_leads_to_it(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([by_hour()], log=log, store=store, until="end")
    home = Version.of(store, "by_hour", 1)
    assert home.is_current()
    home.current.unlink()
    assert not home.is_current()
