"""Reading one entity's row, and one's own writes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import following, until
from table_model import flip

from connectors import chunks, open_log, open_view
from connectors.changes import Changes
from connectors.lookup import find_row, key_values
from connectors.manifest import TableSpec
from connectors.table import open_writer
from flows import Projection, agg, promote, rebuild, run, tumbling
from schemas import Category, Event
from schemas.canonical import encode
from schemas.errors import NotReached, StoreDamaged, UsageError
from schemas.event import TIMESTAMP

T = datetime(2024, 1, 1, tzinfo=UTC)


class Put(Event):
    shelf: str
    box: int


things = Category("things", events=[Put])
shelves = Projection(name="shelves", category=things, key=["shelf"], columns={"n": agg.count(), "box": agg.last("box")})
hours = Projection(
    name="hours", category=things, key=["shelf"], window=tumbling(timedelta(hours=1)), columns={"n": agg.count()}
)


def put(log: str, first: int, last: int) -> Any:
    events = [
        Put(subject=f"s{i % 7}", time=T + timedelta(minutes=i), shelf=f"s{i % 7}", box=i) for i in range(first, last)
    ]
    with open_log(log) as opened:
        return opened.append(things, events)


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = str(tmp_path / "log")
    put(path, 0, 100)
    return path


# -- one row


KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "number": (pa.int64(), st.integers(-40, 40)),
    "text": (pa.string(), st.sampled_from(["", "x", "xy", "é", "\U0010ffff"])),
    "instant": (TIMESTAMP, st.integers(-9, 9).map(lambda second: T + timedelta(seconds=second, microseconds=1))),
    "day": (pa.date32(), st.integers(-9, 9).map(lambda day: (T + timedelta(days=day)).date())),
    "flag": (pa.bool_(), st.booleans()),
    "real": (pa.float64(), st.sampled_from([0.5, 0.0, -0.0, float("inf"), float("nan")])),
    "money": (pa.decimal128(38, 2), st.integers(-9, 9).map(lambda cents: Decimal(cents) / 100)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_rows", [4, 1024])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_row_is_found_where_it_is_and_not_where_it_is_not(
    tmp_path_factory: pytest.TempPathFactory, kind: str, chunk_rows: int, data: st.DataObject
) -> None:
    """Over many small chunks, and over one of many row groups."""
    store = tmp_path_factory.mktemp("store")
    schema = pa.schema([("a", KINDS[kind][0]), ("b", pa.string()), ("v", pa.int64())])
    spec = TableSpec("rows", schema, ("a", "b"), chunk_rows=chunk_rows)
    one = st.tuples(st.none() | KINDS[kind][1], st.none() | KINDS["text"][1])

    def same(key: Any) -> Any:
        """Keys that are one: as their encoding says."""
        columns = [pa.array([value], of) for value, of in zip(key, (KINDS[kind][0], pa.string()), strict=True)]
        return encode(columns)[0].as_py()

    rows = {same(key): key for key in data.draw(st.lists(one, max_size=60))}
    made = pa.Table.from_pylist([{"a": a, "b": b, "v": v} for v, (a, b) in enumerate(rows.values())], schema)
    with mock.patch.dict(chunks.WRITER, {"row_group_size": 3}), open_writer(store, "view", 1, [spec]) as writer:
        table = writer.commit({"rows": Changes(made)}, {"cut": {"t": [1]}}).tables["rows"]
    places = {key: v for v, key in enumerate(rows)}
    for a, b in [*rows.values(), *data.draw(st.lists(one, max_size=20))]:
        found = find_row(table, store / "view/v1/data", key_values(table, [a], {"b": b}))
        assert (found and found["v"]) == places.get(same((a, b))), (a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_one_column_of_any_type(kind: str, tmp_path: Path) -> None:
    of, values = KINDS[kind]
    seen: list[Any] = [None]

    @settings(max_examples=20, database=None)
    @given(values)
    def collect(value: Any) -> None:
        seen.append(value)

    collect()
    rows = {encode([pa.array([value], of)])[0].as_py(): value for value in seen}
    schema = pa.schema([("a", of), ("v", pa.int64())])
    made = pa.Table.from_pylist([{"a": value, "v": v} for v, value in enumerate(rows.values())], schema)
    with open_writer(tmp_path, "view", 1, [TableSpec("rows", schema, ("a",), chunk_rows=4)]) as writer:
        table = writer.commit({"rows": Changes(made)}, {"cut": {"t": [1]}}).tables["rows"]
    for v, value in enumerate(rows.values()):
        found = find_row(table, tmp_path / "view/v1/data", {"a": value})
        assert found is not None and found["v"] == v


def test_a_key_may_be_said_in_order_or_by_name(log: str, tmp_path: Path) -> None:
    run([shelves, hours], log=log, store=tmp_path, until="end", workers=1)
    view = open_view(tmp_path, "shelves")
    assert view.get("s3") == view.get(shelf="s3") == {"shelf": "s3", "n": 14, "box": 94}
    assert view.get("nowhere") is None
    windowed = open_view(tmp_path, "hours")
    row = windowed.get(T, "s1")
    assert row is not None and (row["n"], row["window_start"]) == (9, T)
    assert windowed.get(window_start=T, shelf="s1") == row
    for key, named in [
        ((), {}),
        (("s3",), {}),
        ((T, "s1", 3), {}),
        ((T,), {"window_start": T}),
        ((), {"shelf": "s1", "x": 1}),
    ]:
        with pytest.raises(UsageError, match="window_start, shelf"):
            windowed.get(*key, **named)
    with pytest.raises(UsageError, match="no value of key column `shelf`"):
        view.get(3)


def test_a_damaged_chunk_is_told_and_not_read(log: str, tmp_path: Path) -> None:
    run([shelves], log=log, store=tmp_path, until="end", workers=1)
    view = open_view(tmp_path, "shelves")
    flip(view.generation.version.data / view.manifest.tables["rows"].chunks[0].file, 99)
    with pytest.raises(StoreDamaged):
        view.get("s3")


# -- one's own writes


def test_what_was_appended_is_read_as_soon_as_the_view_has_it(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([shelves], log=log, store=store, until="end", workers=1)
    view = open_view(store, "shelves")
    with following([shelves], log=log, store=store):
        for turn in range(5):
            cut = put(log, 100 + turn, 101 + turn)
            row = view.wait(cut, timeout=60).get(f"s{(100 + turn) % 7}")
            assert row is not None and row["box"] == 100 + turn
    assert view.cut != cut, "the view that one had stays what it was"


def test_a_view_that_does_not_come_so_far_is_told_where_it_stands(log: str, tmp_path: Path) -> None:
    run([shelves], log=log, store=tmp_path, until="end", workers=1)
    view = open_view(tmp_path, "shelves")
    assert view.wait(view.cut, timeout=0) is view
    cut = put(log, 100, 101)
    with pytest.raises(NotReached, match="has not come so far") as raised:
        view.wait(cut, timeout=0.0)
    assert "things/" in str(raised.value) and "refold status shelves" in str(raised.value)
    with pytest.raises(UsageError, match="reads nothing of others"):
        view.wait({"others": [1]})


def test_who_waits_for_what_is_current_goes_on_with_another_version(log: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([shelves], log=log, store=store, until="end", workers=1)
    view, pinned = open_view(store, "shelves"), open_view(store, "shelves", 1)
    cut = put(log, 100, 101)
    second = shelves.but(version=2)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(view.wait(cut, timeout=60)))
    waiting.start()
    rebuild(second, log=log, store=store, workers=1)
    promote("shelves", 2, store=store)
    waiting.join()
    assert found[0].version == 2
    with pytest.raises(NotReached):
        pinned.wait(cut, timeout=0.0)
    until(lambda: open_view(store, "shelves").version == 2)
