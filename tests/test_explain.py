"""``refold explain``: what it says, held against the things that do the work."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexmark import joined, queries
from pipelines import VIEWS, flights_log, here
from python_folds import order_states
from random_projection import Pair, pairs

from connectors import open_view
from flows import Projection, agg, as_of, calendar, hopping, in_order, interval_join, run, session, stream, tumbling
from flows.explained_text import lines_of
from flows.explained_words import duration, instant_words
from flows.explaining import explain, starts_of, stored_of
from flows.flights import aircraft, departures_by_hour
from flows.groups import GroupTable
from flows.matching import EVER, matching
from flows.partials import Partials
from flows.picturing import LINES_MAX, Picture, picture_of
from flows.sessions import Sessions
from flows.state_size import memory_of, state_of
from schemas import Category, Event
from schemas.canonical import encode
from schemas.event import TIMESTAMP
from schemas.flights import flights

HOUR = dt.timedelta(hours=1)
MINUTE = dt.timedelta(minutes=1)
US = dt.timedelta(microseconds=1)
INSTANTS = st.integers(-(10**15), 10**16)


class Opened(Event):
    item: str | None = None
    price: float
    until: dt.datetime | None = None


class Bid(Event):
    item: str | None = None
    amount: int


auctions, bids = Category("auctions", [Opened]), Category("bids", [Bid])
on_item = {"item": "item"}


def joined_by(lower: Any, upper: Any) -> Projection:
    source = interval_join(auctions, stream(bids, prefix="bid_"), on=on_item, lower=lower, upper=upper)
    return Projection(name="pairs", source=source, select=["item", "bid_amount"], allowed_lateness=MINUTE)


latest = Projection(
    name="latest", source=as_of(stream(bids, prefix="bid_"), auctions, on=on_item), key=["bid_item"],
    window=tumbling(HOUR), columns={"n": agg.count(), "dearest": agg.max("price")},
)  # fmt: skip
of_items = Projection(
    name="of_items", category=bids, key=["item"], window=hopping(HOUR, 5 * MINUTE), derive={"cents": pl.col("amount") * 100},
    where=pl.col("cents") > 5, columns={"_sum": agg.sum("cents"), "best": agg.top(3, by="amount", of="subject")},
    finish={"twice": pl.col("_sum") * 2}, having=pl.col("twice") > 3,
)  # fmt: skip
visits = Projection(
    name="visits", category=bids, key={"who": "subject"}, window=session(30 * MINUTE), allowed_lateness=MINUTE,
    columns={"items": agg.count_distinct("item"), "last": agg.last("item"), "usual": agg.median("amount")},
)  # fmt: skip
table = Projection(name="bids_table", category=bids, select=["event_time", "amount"])
in_turn = Projection(name="in_turn", source=in_order(bids), key=["item"], columns={"n": agg.count()})
daily = Projection(
    name="daily", source=departures_by_hour, key=["origin"], window=calendar("day"), columns={"n": agg.sum("departures")},
)  # fmt: skip
NEXMARK = [value for module in (queries, joined) for value in vars(module).values() if isinstance(value, Projection)]
OURS = [
    daily,
    *VIEWS,
    joined_by(None, "until"),
    joined_by(-MINUTE, MINUTE),
    latest,
    of_items,
    visits,
    table,
    in_turn,
    order_states,
]
ALL = {f"{number}-{projection.name}": projection for number, projection in enumerate([*OURS, *NEXMARK])}

every_projection = pytest.mark.parametrize("projection", ALL.values(), ids=ALL)


def text(projection: Projection) -> str:
    """Without line breaks."""
    return " ".join(" ".join(lines_of(explain(projection))).split())


# -- what is read, and the columns


@every_projection
def test_what_is_read_is_what_the_definition_says_and_the_columns_are_the_views(projection: Projection) -> None:
    facts = explain(projection)
    definition = json.loads(projection.definition)
    while "projection" in definition.get("source", {}):
        definition = definition["source"]["projection"]
    streams = definition["source"]["streams"] if "source" in definition else [definition]
    assert [reading["category"] for reading in facts["reads"]] == [said["category"] for said in streams]
    for reading, said in zip(facts["reads"], streams, strict=True):
        read = {
            event["type"]: {c["column"]: f"{c['type']}{' required' * c['required']}" for c in event["columns"]}
            for event in reading["events"]
        }
        assert read == said["events"]
    assert [(c["column"], c["type"]) for c in facts["columns"]] == [(f.name, str(f.type)) for f in projection.schema]
    assert facts["fingerprint"] == projection.fingerprint
    json.dumps(facts)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_whatever_can_be_defined_can_be_explained(pair: Pair) -> None:
    facts = explain(pair.projection)
    said = " ".join(lines_of(facts))
    assert all(column["column"] in said for column in facts["columns"])
    check_mermaid(picture_of(facts).mermaid())


def test_words_of_a_windowed_view() -> None:
    said = text(departures_by_hour)
    assert said.startswith("departures_by_hour@1: one row for each window, origin and carrier reads category flights")
    assert "FlightDeparted: carrier string, required; origin string, required; delay_minutes double or null" in said
    assert "an event at 2026-03-29 01:30 UTC falls into [2026-03-29 01:00 UTC, 2026-03-29 02:00 UTC), 1 h long" in said
    assert "the watermark of its partition before it has reached the end of its window + 30 min" in said
    assert "the watermark of every partition has reached window_end + 30 min" in said
    assert "very_late int64: count() where (delay_minutes > 60)" in said
    assert (
        "merge each partition has a partial result of each row, in offset order; they merge in order of partition"
        in said
    )
    assert "a commit rewrites the recent chunks" in said


def test_words_of_a_keyed_view() -> None:
    said = text(aircraft)
    assert "A partial is a group (none is ever final) in a partition that has events of it" in said
    assert "a commit rewrites most chunks" in said
    assert " window " not in said and " late " not in said


def test_words_of_what_comes_before_and_after_the_fold() -> None:
    said = text(of_items)
    assert "derives cents = (amount * 100) where only events for which it is true: (cents > 5)" in said
    assert "twice int64: of the row: (_sum * 2)" in said
    assert "not shown: _sum" in said
    assert "having only rows for which it is true: (twice > 3)" in said
    assert said.count("(cents > 5)") == 1
    assert "falls into 12 windows, from [2026-03-29 00:35 UTC, 2026-03-29 01:35 UTC) to [2026-03-29 01:30 UTC" in said


def test_words_of_sessions() -> None:
    said = text(visits)
    assert "alone, is a session [2026-03-29 01:30 UTC, 2026-03-29 02:00 UTC)" in said
    assert "every partition has reached window_end + 31 min" in said  # the gap holds it, too
    assert "items: n int64, entries bytes (16 bytes, and every different value, without a bound)" in said


def test_words_of_a_python_fold() -> None:
    said = text(order_states)
    assert "all events of a key must be in one partition, and a key that turns up in two is an error" in said
    assert "fold advance, one event after the other; an event at which it raises is a dead letter" in said


def test_words_of_a_join() -> None:
    said = text(joined_by(-MINUTE, "until"))
    assert "the latter not before 1 min before the former and not after what the former says (until)" in said
    assert "least watermark of all partitions of auctions and bids, less 1 min, is beyond its time" in said
    assert "kept of auctions: each event, until the frontier has passed what it says (until)" in said
    assert "kept of bids: each event, until the frontier has passed 1 min after its time" in said
    assert "WARNING" not in said
    assert "folded in one place" in said
    assert "kept of auctions: the latest event of each key, for ever: as many as there are keys" in text(latest)


def test_words_of_a_projection_of_a_projection() -> None:
    said = text(daily)
    assert "reads the rows of its source, which it folds itself, those that are not final included" in said
    assert "no row of the source that starts before window_end can change any more, or come" in said
    assert "the source: one row for each window, origin and carrier reads category flights" in said
    assert said.count("rows lie in files") == 1, "the rows of the source are not committed"
    endless = Projection(name="e", source=joined_sums, key=["item"], columns={"n": agg.sum("n")})
    assert text(endless).count("the events of `auctions` are kept for ever") == 1


joined_sums = Projection(
    name="sums", source=interval_join(auctions, stream(bids, prefix="bid_"), on=on_item, lower=None, upper=None), key=["item"],
    columns={"n": agg.count()},
)  # fmt: skip


# -- time


def test_a_day_of_23_hours_is_told_as_one() -> None:
    days = Projection(name="d", category=bids, window=calendar("day", zone="Europe/Berlin"), columns={"n": agg.count()})
    assert "falls into [2026-03-28 23:00 UTC, 2026-03-29 22:00 UTC), 23 h long" in text(days)


@settings(max_examples=100, deadline=None)
@given(time=INSTANTS, size=st.integers(1, 10**6), steps=st.integers(1, 50))
def test_the_windows_of_an_event_are_those_that_hold_it(time: int, size: int, steps: int) -> None:
    step = max(1, size // steps)
    found = list(starts_of(hopping(size * US, step * US), time))
    near = range((time - size) // step * step - step, time + 2 * step, step)
    assert found == [start for start in near if start <= time < start + size]


def test_very_many_windows_are_counted_and_not_made() -> None:
    many = Projection(name="m", category=bids, window=hopping(1000 * HOUR, US), columns={"n": agg.count()})
    assert "falls into 3,600,000,000,000 windows" in text(many)


@given(st.integers(-(10**17), 10**17))
def test_a_duration_says_all_of_it(us: int) -> None:
    units = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
    said = duration(us)
    parts = re.findall(r"([\d,]+) (\w+)", said)
    whole = sum(int(count.replace(",", "")) * units[unit] for count, unit in parts)
    assert (-whole if said.startswith("-") else whole) == us


@given(INSTANTS)
def test_an_instant_says_all_of_it(us: int) -> None:
    assert (
        dt.datetime.fromisoformat(instant_words(us).replace(" UTC", "+00:00"))
        == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + us * US
    )


# -- what is kept

BOUNDS = st.none() | st.integers(-90, 90).map(lambda minutes: minutes * MINUTE)


@settings(max_examples=60, deadline=None)
@given(lower=BOUNDS | st.just("until"), upper=BOUNDS | st.just("until"))
def test_a_side_is_kept_for_ever_just_when_the_join_never_lets_go_of_it(lower: Any, upper: Any) -> None:
    if isinstance(lower, dt.timedelta) and isinstance(upper, dt.timedelta) and lower > upper:
        lower, upper = upper, lower
    projection = joined_by(lower, upper)
    assert projection.source is not None
    rows = [
        pa.table(
            [pa.array([_of(field, n)], field.type) for n, field in enumerate(side.folded_schema)],
            schema=side.folded_schema,
        )
        for side in projection.sides.values()
    ]
    needed = matching(projection.source, rows).needed(EVER - 10**13)
    facts = explain(projection)
    assert [kept["for_ever"] for kept in facts["kept"]] == [bool(mask[0]) for mask in needed]
    assert len(facts["warnings"]) == sum(kept["for_ever"] for kept in facts["kept"])


def _of(field: pa.Field, number: int) -> Any:
    return "a" if field.type == pa.string() else number


# -- state


def groups_of(projection: Projection, n: int) -> pa.BinaryArray:
    starts = [pa.array(np.arange(n) * 10**10).cast(TIMESTAMP)] if projection.window else []
    keys = [pa.array([f"{i:08}" for i in range(n)]) for _ in projection.key]
    return encode([*starts, *keys])


def arrays_of(table: GroupTable) -> list[npt.NDArray[Any]]:
    both = [*vars(table).values(), *vars(table._list).values()]
    return [value for value in both if isinstance(value, np.ndarray)]


@pytest.mark.parametrize("projection", [departures_by_hour, aircraft, of_items, order_states], ids=lambda p: p.name)
@pytest.mark.parametrize("n", [1_100, 2_049, 20_000])
def test_the_memory_said_is_that_of_the_arrays(projection: Projection, n: int) -> None:
    state = state_of(projection)
    assert state is not None
    partials = Partials(projection)
    for first in range(0, n, 1000):
        partials.intern(groups_of(projection, n).slice(first, 1000))
    arrays = [array for values in partials.states for array in values.values()]
    owned = arrays_of(partials.table)
    taken = sum(array.nbytes for array in [*arrays, partials.window_start, partials.window_end, *owned])
    least, most = memory_of(state, n)
    texts = 8 * len(projection.key) * n
    assert least / state["copies"] + texts <= taken <= most / state["copies"] + 2 * texts


def test_the_memory_of_sessions_is_that_of_the_arrays() -> None:
    n, state = 5_000, state_of(visits)
    assert state is not None
    partials = Sessions(visits)
    keys = [pa.array([f"{i:08}" for i in range(n)])]
    list(partials.portions(keys, np.arange(n)))
    arrays = [array for values in partials.states for array in values.values()]
    owned = [value for value in vars(partials).values() if isinstance(value, np.ndarray)]
    owned += arrays_of(partials.keys)
    least, most = memory_of(state, n)
    assert (
        least / state["copies"] <= sum(array.nbytes for array in [*arrays, *owned]) <= most / state["copies"] + 16 * n
    )


def test_an_event_table_keeps_nothing() -> None:
    assert explain(table)["state"] is None
    assert "none: rows are not touched again" in text(table)


# -- pictures

LABEL = r'"[^"#<>&`|\[\]{}()\\]*(?:(?:#\d+;|<br/>)[^"#<>&`|\[\]{}()\\]*)*"'
BOX = re.compile(rf"  (\w+)(?:\[\({LABEL}\)\]|\[/{LABEL}/\]|\[{LABEL}\])")
ARROW = re.compile(rf"  (\w+) -->(?:\|{LABEL}\|)? (\w+)")


def check_mermaid(said: str) -> None:
    """Every line is a box or an arrow between two of them, and no text ends its box."""
    head, *lines = said.splitlines()
    assert head == "flowchart TD"
    boxes = [found[1] for line in lines if (found := BOX.fullmatch(line))]
    arrows = [found.groups() for line in lines if (found := ARROW.fullmatch(line))]
    assert len(boxes) + len(arrows) == len(lines)
    assert len(set(boxes)) == len(boxes)
    assert {end for arrow in arrows for end in arrow} == set(boxes)


@every_projection
def test_a_picture_is_one_that_can_be_drawn(projection: Projection) -> None:
    picture = picture_of(explain(projection))
    check_mermaid(picture.mermaid())
    logs = [name for name in picture.boxes if name.startswith("log")]
    assert len(logs) == len(projection.categories)
    reached = {"view"}
    while more := {one for one, other, _ in picture.arrows if other in reached} - reached:
        reached |= more
    assert set(logs) < reached, "what is read leads to the view"
    dot = picture.dot()
    assert dot.count('"') - dot.count('\\"') == 4 + 2 * len(picture.boxes) + 2 * sum(bool(a[2]) for a in picture.arrows)
    assert dot.count(" -> ") == len(picture.arrows)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1), min_size=1, max_size=12)
)
def test_no_text_breaks_out_of_its_box(texts: list[str]) -> None:
    picture = Picture()
    picture.box("a", "step", texts)
    picture.box("b", "log", ["b"], "a", texts[0])
    check_mermaid(picture.mermaid())
    (label,) = re.findall(r'a \[shape=box, label="((?:[^"\\]|\\.)*)"\]', picture.dot())
    shown = [line.replace('\\"', '"').replace("\0", "\\") for line in label.replace("\\\\", "\0").split("\\n")]
    assert shown == (
        texts if len(texts) <= LINES_MAX else [*texts[: LINES_MAX - 1], f"and {len(texts) - LINES_MAX + 1} more"]
    )


# -- the command


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("explain") / "store"
    run([departures_by_hour, aircraft], log=flights_log(), store=place, until="end")
    return place


def test_the_command_opens_neither_log_nor_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "store"
    damaged.write_text("no store")
    said = here("explain", "aircraft", REFOLD_STORE=str(damaged), REFOLD_LOG="redpanda://nowhere:1")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("aircraft@1: one row for each tail_number")
    words, picture = said.out.split("\n```mermaid\n")
    assert "stored" not in words
    check_mermaid(picture.removesuffix("```\n").rstrip())
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_command_says_what_is_stored(store: Path) -> None:
    found = json.loads(here("explain", "departures_by_hour", "--store", str(store), "--json").out)["stored"]
    view = open_view(store, "departures_by_hour")
    assert found["same_definition"]
    assert found["rows"] == {name: table.rows for name, table in view.manifest.tables.items()}
    assert found["commit"] == view.seq
    state = state_of(departures_by_hour)
    assert state is not None
    assert found["memory_bytes"][0] == found["rows"]["partials"] * state["bytes"] * 2
    said = " ".join(here("explain", "departures_by_hour", "--store", str(store)).out.split())
    assert f"partials {found['rows']['partials']:,}" in said
    assert f"{found['memory_bytes'][0]:,} to {found['memory_bytes'][1]:,} bytes" in said


def test_a_view_that_is_not_there_yet_is_no_error(store: Path) -> None:
    said = here("explain", "arrivals_by_day", "--store", str(store))
    assert said.code == 0
    assert "stored    nothing: this version has not been committed there" in said.out


def test_another_definition_of_the_same_version_is_told(store: Path) -> None:
    changed = Projection(name="aircraft", category=flights, key=["subject"], columns={"n": agg.count()})
    assert not stored_of(changed, store)["same_definition"]
    assert "another definition of this version" in " ".join(
        lines_of({**explain(changed), "stored": stored_of(changed, store)})
    )


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_a_picture_alone(form: str) -> None:
    said = here("explain", "aircraft", "--format", form)
    picture = picture_of(explain(aircraft))
    assert said.out.rstrip("\n") == getattr(picture, form)()


def test_a_projection_that_is_not_known() -> None:
    said = here("explain", "aircrafts")
    assert said.code == 2
    assert "did you mean aircraft?" in said.err
