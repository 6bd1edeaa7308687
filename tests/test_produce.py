"""``refold produce``: JSON lines to events, checked against their classes, with nothing lost before a line that is wrong."""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import command, here

from connectors import open_log, open_view
from connectors.overlap import slices
from flows import Projection, agg, run, tumbling
from flows.event_lines import events_of, parse_event
from flows.feeding import BATCH, feed, mark_progress
from schemas import Category, Event
from schemas.errors import UsageError

T = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


class Sent(Event):
    what: str
    count: int
    weight: float | None = None
    fragile: bool | None = None
    due: dt.date | None = None
    packed: dt.datetime | None = None


class Lost(Event):
    what: str


parcels = Category("parcels", events=[Sent, Lost])
only = Category("only", events=[Lost])
by_what = Projection(
    name="by_what",
    category=parcels,
    events=[Sent],
    key=["what"],
    window=tumbling(dt.timedelta(hours=1)),
    columns={"n": agg.count(), "count": agg.sum("count")},
)
views = [by_what]


def line(**said: Any) -> str:
    return json.dumps(
        {"type": "Sent", "subject": "p1", "time": "2024-01-01T00:00:00Z", "what": "x", "count": 1, **said}
    )


SENT = st.builds(
    Sent,
    subject=st.none() | st.text(max_size=5),
    time=st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)),
    what=st.text(max_size=5),
    count=st.integers(-(2**63), 2**63 - 1),
    weight=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    fragile=st.none() | st.booleans(),
    due=st.none() | st.dates(),
    packed=st.none() | st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)),
)


@given(SENT, st.booleans())
def test_an_event_that_was_written_as_a_line_is_the_same_event(event: Sent, nested: bool) -> None:
    said = {
        "type": "Sent",
        "time": event.time.isoformat(),
        **({"subject": event.subject} if event.subject is not None else {}),
    }
    said |= {"data": event.data()} if nested else event.data()
    assert parse_event(parcels, json.dumps(said), "line 1") == event


def test_what_a_line_may_leave_out() -> None:
    event = parse_event(only, '{"time": 1704067200000, "what": "x"}', "line 1")
    assert event == Lost(subject=None, time=T, what="x")
    assert [number for number, _ in events_of(parcels, ["", line(), "  \n", line()])] == [2, 4]


@pytest.mark.parametrize(
    ("text", "field", "words", "do"),
    [
        ("{", "", "no JSON", "one JSON object a line"),
        ("[1]", "", "no JSON object", "one JSON object a line"),
        (line(type="Send"), "type", "no event type of category parcels", "did you mean Sent?"),
        (line(type=None), "type", "its type is missing", "Sent, Lost"),
        (line(time=None), "time", "its time is missing", "time zone"),
        (line(time="2024-01-01T00:00:00"), "time", "no instant with a time zone", "2024-01-01T00:00:00Z"),
        (line(time=True), "time", "no instant", "milliseconds"),
        (line(subject=7), "subject", "is no text", "quotes"),
        (line(cuont=1), "cuont", "no such field", "did you mean count?"),
        (line(what=None), "what", "must have it", "a value"),
        (line(count="1"), "count", "is no int64", "int64"),
        (line(count=True), "count", "is no int64", "int64"),
        (line(count=2**63), "count", "64 bits", "smaller"),
        (line(weight="heavy"), "weight", "is no double", "double"),
        ('{"type": "Sent", "time": 0, "what": "x", "count": 1, "weight": 1e999}', "weight", "inf", "finite"),
        (line(fragile=1), "fragile", "is no bool", "bool"),
        (line(due="tomorrow"), "due", "is no date", "2024-01-01"),
        (line(packed="noon"), "packed", "no instant", "2024"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_with_its_field(text: str, field: str, words: str, do: str) -> None:
    with pytest.raises(UsageError) as raised:
        list(events_of(parcels, [line(), text]))
    error = raised.value
    assert words in error.what and do in (error.do or "")
    assert error.where == (f"line 2, field `{field}`" if field else "line 2")


def keys_of(log: str, name: str = "parcels") -> list[bytes | None]:
    with open_log(log) as opened:
        info = opened.describe(name)
        found = slices(opened, name, dict.fromkeys(range(info.partitions), 0), dict(enumerate(info.ends)))
        return [key for part in found for key in part.records["key"].to_pylist()]


def test_batches_lose_nothing_and_stand_in_order(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with open_log(log) as opened:
        opened.create("parcels", 1)
        told: list[int] = []
        fed = feed(opened, parcels, [line(count=number) for number in range(2 * BATCH + 3)], told=told.append)
        assert (fed.events, fed.cut, fed.until, told) == (
            2 * BATCH + 3,
            {"parcels": (2 * BATCH + 3,)},
            T,
            [BATCH, 2 * BATCH, 2 * BATCH + 3],
        )
        found = [*slices(opened, "parcels", {0: 0}, {0: 2 * BATCH + 3})]
    values = [value for part in found for value in part.records["value"].to_pylist()]
    counts = [json.loads(value)["data"]["count"] for value in values]
    assert counts == [*range(2 * BATCH + 3)]


def test_what_comes_before_a_wrong_line_is_appended(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with open_log(log) as opened, pytest.raises(UsageError, match="no such field") as raised:
        feed(opened, parcels, [line(), line(), line(cuont=1), line()])
    assert "2 events" in str(raised.value)
    assert len(keys_of(log)) == 2


@pytest.fixture
def flows_of_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_FLOWS", "test_produce")


def test_the_command_appends_and_markers_make_rows_final(
    tmp_path: Path, flows_of_this_module: None, monkeypatch: Any
) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    times = [f"2024-01-01T0{hour}:00:00Z" for hour in range(3)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(line(time=time) for time in times)))
    said = here("produce", "parcels", "--log", log, "--key", "what", "--markers")
    assert said.code == 0 and said.out.startswith("parcels: 3 events appended; the log is at parcels[0:"), said
    assert sorted(keys_of(str(log)), key=str) == sorted([b"x"] * 3 + [None] * 4, key=str)
    run([by_what], log=str(log), store=store, until="end", workers=1)
    assert open_view(store, "by_what").scan().collect()["is_final"].to_list() == [True, True, False]
    monkeypatch.setattr(sys, "stdin", io.StringIO(line(cuont=2)))
    said = here("produce", "parcels", "--log", log)
    assert said.code == 2 and "line 1, field `cuont`" in said.err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert json.loads(here("produce", "parcels", "--json", "--log", log).out) == {
        "category": "parcels",
        "events": 0,
        "cut": None,
    }
    said = here("produce", "parcel", "--log", log)
    assert said.code == 2 and "did you mean parcels?" in said.err
    assert command("produce")


@pytest.mark.broker
def test_a_broker_takes_them_as_well(broker_log: Any, new_name: Any) -> None:
    category = Category(new_name(), events=[Lost])
    texts = [json.dumps({"time": number, "what": f"w{number}", "subject": f"s{number % 5}"}) for number in range(50)]
    fed = feed(broker_log, category, texts)
    assert fed.cut == {category.name: broker_log.describe(category.name).ends} and fed.events == 50
    assert broker_log.records_without_producer_id(category.name, 100) == {}, "written by an idempotent producer"
    cut = mark_progress(broker_log, category, T)
    assert sum(cut[category.name]) == 50 + len(cut[category.name])
