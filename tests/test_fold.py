"""The law, without log or store: a view at a cut is a pure function of the records up to the cut.

Random logs, random slicings, interleavings, resumptions and neighbours; always the rows of the reference fold.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.changes import Parts
from connectors.log import RECORDS, Slice
from flows import Projection, agg, tumbling
from flows.fold import PartitionFold
from flows.merge import split_partials, table_specs
from flows.merging import merge_of
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from schemas import Category, Event
from schemas.canonical import encode
from schemas.errors import DataError

US = 1_000_000
SIZE_S, LATENESS_S = 10, 5


class Measured(Event):
    place: str
    number: int
    size: float | None = None
    note: str | None = None


class Moved(Event):
    place: str
    number: int | None = None


class Ignored(Event):
    number: str


things = Category("things", [Measured, Moved, Ignored])

windowed = Projection(
    name="windowed",
    category=things,
    events=[Measured, Moved],
    key={"place": "place", "big": pl.col("number") > 5},
    window=tumbling(dt.timedelta(seconds=SIZE_S)),
    allowed_lateness=dt.timedelta(seconds=LATENESS_S),
    columns={
        "n": agg.count(),
        "sizes": agg.count("size"),
        "total": agg.sum("number"),
        "mean_number": agg.mean("number"),
        "total_size": agg.sum("size"),
        "mean_size": agg.mean("size"),
        "least": agg.min("size"),
        "greatest": agg.max("size"),
        "first_note": agg.first("note"),
        "last_note": agg.last("note"),
        "least_note": agg.min("note"),
        "last_time": agg.last("event_time"),
        "odd": agg.count(where=pl.col("number") % 2 == 1),
    },
)
keyed = Projection(
    name="keyed",
    category=things,
    events=[Measured],
    key=["place"],
    columns={"n": agg.count(), "last_size": agg.last("size"), "total_size": agg.sum("size"), "most": agg.max("number")},
)
neighbour = Projection(name="neighbour", category=things, events=[Ignored], key=["number"], columns={"n": agg.count()})


def always(_: dict[str, Any]) -> bool:
    return True


def field(name: str) -> Any:
    return lambda event: event.get(name)


_TYPES = {
    "Measured": {"place": (str, True), "number": (int, True), "size": (float, False), "note": (str, False)},
    "Moved": {"place": (str, True), "number": (int, False)},
}
WINDOWED = reference.Spec(
    types=_TYPES,
    reads=("place", "number", "size", "note"),
    key=lambda e: (e["place"], None if e["number"] is None else e["number"] > 5),
    columns={
        "n": ("count", lambda e: 1, always),
        "sizes": ("count", field("size"), always),
        "total": ("sum", field("number"), always),
        "mean_number": ("mean", field("number"), always),
        "total_size": ("sum", field("size"), always),
        "mean_size": ("mean", field("size"), always),
        "least": ("min", field("size"), always),
        "greatest": ("max", field("size"), always),
        "first_note": ("first", field("note"), always),
        "last_note": ("last", field("note"), always),
        "least_note": ("min", field("note"), always),
        "last_time": ("last", field("event_time"), always),
        "odd": ("count", lambda e: 1, lambda e: e["number"] is not None and e["number"] % 2 == 1),
    },
    size_us=SIZE_S * US,
    lateness_us=LATENESS_S * US,
)
KEYED = reference.Spec(
    types={"Measured": _TYPES["Measured"]},
    reads=("place", "number", "size"),
    key=lambda e: (e["place"],),
    columns={
        "n": ("count", lambda e: 1, always),
        "last_size": ("last", field("size"), always),
        "total_size": ("sum", field("size"), always),
        "most": ("max", field("number"), always),
    },
    size_us=None,
)

texts = st.sampled_from(["a", "b", "é", "", "\x00", "\U0001f600", "z\u2028"])
sizes = st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, 1e16, -1e16, 5e-324, 1.5])
data = st.fixed_dictionaries(
    {},
    optional={
        "place": st.one_of(texts, st.just(5)),
        "number": st.one_of(st.integers(-10, 10), st.just(None), st.just("no"), st.just(2**55)),
        "size": st.one_of(sizes, st.integers(-3, 3), st.just("x")),
        "note": texts,
    },
)
good = st.fixed_dictionaries({"place": texts, "number": st.integers(-10, 10)}, optional={"size": sizes, "note": texts})
values = st.one_of(
    st.builds(
        lambda kind, time, body: json.dumps({"type": kind, "time": time, "data": body}).encode(),
        st.sampled_from(["Measured", "Measured", "Moved", "Ignored", "Unknown", "refold.progress"]),
        st.integers(-5, 90).map(lambda s: s * 1000),
        st.one_of(good, good, data),
    ),
    st.just(None),
    st.sampled_from(
        [b"", b"[]", b'{"type":"Measured"}', b'{"type":1,"time":5}', b'{"type":"Moved","time":1}{}', b"\xff{}"]
    ),
    st.just(b'{"type":"Measured","time":99999999999999,"data":{"place":"a","number":1}}'),
)
records = st.lists(st.tuples(st.integers(1, 3), values), max_size=60)
logs = st.lists(records, min_size=1, max_size=3)


Record = tuple[int, int, bytes | None]


def offsets_of(raw: list[tuple[int, bytes | None]]) -> list[Record]:
    """Records with gaps between offsets, as compaction and transactions leave them."""
    offset, found = -1, []
    for gap, value in raw:
        offset += gap
        found.append((offset, 90_000, value))
    return found


def slices(
    partition: int, rows: list[tuple[int, int, bytes | None]], start: int, end: int, cuts: list[int]
) -> list[Slice]:
    bounds = sorted({start, end, *(cut for cut in cuts if start < cut < end)})
    found = []
    for first, after in pairwise(bounds):
        part = [row for row in rows if first <= row[0] < after]
        n = len(part)
        columns = [
            pa.array([row[0] for row in part], pa.int64()),
            pa.array([row[1] for row in part], pa.int64()),
            pa.array([0] * n, pa.int8()),
            pa.nulls(n, pa.binary()),
            pa.array([row[2] for row in part], pa.binary()),
            pa.nulls(n, pa.binary()),
        ]
        found.append(Slice("things", partition, first, after, pa.record_batch(columns, schema=RECORDS)))
    return found


class View:
    """A view in memory: what a store would hold after the commits so far."""

    def __init__(self, projection: Projection, partitions: int) -> None:
        self.projection = projection
        self.progress = {("things", p): Progress(0) for p in range(partitions)}
        self.tables: dict[str, dict[bytes, dict[str, Any]]] = {spec.name: {} for spec in table_specs(projection)}
        self.merge = merge_of(projection, self.progress, None)

    def commit(self) -> None:
        specs = {spec.name: spec for spec in table_specs(self.projection)}
        for name, changed in self.merge.changes().items():
            before = b""
            for changes in [make() for make in changed.makers] if isinstance(changed, Parts) else [changed]:
                keys = encode([changes.upserts.column(c).combine_chunks() for c in specs[name].primary_key]).to_pylist()
                removed = changes.deletes.to_pylist() if changes.deletes is not None else []
                if isinstance(changed, Parts) and (keys or removed):
                    assert before < min([*keys, *removed])
                    before = max([*keys, *removed])
                for key in removed:
                    self.tables[name].pop(key, None)
                for key, row in zip(keys, changes.upserts.to_pylist(), strict=True):
                    self.tables[name][key] = row
        self.progress = {place: facts.copy() for place, facts in self.merge.progress.items()}

    def partials(self) -> pa.Table:
        spec = table_specs(self.projection)[1]
        return pa.Table.from_pylist(list(self.tables["partials"].values()), schema=spec.schema)

    def reopen(self) -> None:
        """A crash: whatever was not committed is gone."""
        self.merge = merge_of(self.projection, self.progress, lambda name: self.partials())

    def folds(self, partition: int) -> PartitionFold:
        place = ("things", partition)
        return PartitionFold(
            self.projection, *place, self.progress[place], split_partials(self.projection, self.partials()).get(place)
        )


def run(views: list[View], log: list[list[tuple[int, int, bytes | None]]], chance: random.Random) -> None:
    """Fold everything, with random slicing, interleaving, commits and crashes."""
    ends = [(rows[-1][0] + 1 if rows else 0) for rows in log]
    for life in range(3):
        pipelines = [PartitionPipeline(things, [view.folds(p) for view in views]) for p in range(len(log))]
        waiting = []
        for p, rows in enumerate(log):
            cuts = [chance.randint(0, max(ends[p], 1)) for _ in range(chance.randint(0, 5))]
            waiting.append(slices(p, rows, pipelines[p].position, ends[p], cuts))
        while any(waiting):
            p = chance.choice([p for p, queue in enumerate(waiting) if queue])
            pipelines[p].fold(waiting[p].pop(0))
            if chance.random() < 0.6:
                deliver(views, pipelines[p], chance)
            if chance.random() < 0.3:
                chance.choice(views).commit()
            if life < 2 and chance.random() < 0.15:
                break
        else:
            for pipeline in pipelines:
                deliver(views, pipeline, chance)
            for view in views:
                view.commit()
            return
        for view in views:
            view.reopen()


def deliver(views: list[View], pipeline: PartitionPipeline, chance: random.Random) -> None:
    for delta in pipeline.deltas():
        next(view for view in views if view.projection.title == delta.view).merge.add(delta)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b and type(a) is type(b)


def check(view: View, spec: reference.Spec, log: list[list[tuple[int, int, bytes | None]]]) -> None:
    expected = reference.fold(log, spec)
    actual = {}
    for row in view.tables["rows"].values():
        start = row.pop("window_start", None)
        if "window_end" in row:
            row["window_end"] = int(row["window_end"].timestamp() * US)
        us = None if start is None else int(start.timestamp() * US)
        if isinstance(row.get("last_time"), dt.datetime):
            row["last_time"] = int(row["last_time"].timestamp()) * US
        actual[(us, *(row.pop(name) for name in view.projection.key))] = row
    assert actual.keys() == expected.rows.keys()
    for group, row in expected.rows.items():
        for name, value in row.items():
            assert same(actual[group][name], value), (group, name, actual[group][name], value)
    assert {(row["partition"], row["offset"]) for row in view.tables["late"].values()} == {
        key[:2] for key in expected.late
    }
    assert {(row["partition"], row["offset"]) for row in view.tables["dead_letters"].values()} == expected.dead
    for facts, rows, fates in zip(view.progress.values(), log, expected.counts, strict=True):
        assert {name: n for name, n in facts.counts.items() if n and name != "read"} == fates
        assert facts.counts["read"] == len(rows)


@settings(max_examples=150, deadline=None)
@given(raw=logs, seed=st.integers(0, 2**32), block=st.sampled_from([1, 3, 1 << 16]))
def test_any_slicing_commits_and_crashes_give_the_reference_rows(
    raw: list[list[tuple[int, bytes | None]]], seed: int, block: int
) -> None:
    log = [offsets_of(rows) for rows in raw]
    chance = random.Random(seed)
    views = [View(windowed, len(log)), View(keyed, len(log))]
    if chance.random() < 0.5:
        views.append(View(neighbour, len(log)))
    with patch("flows.merge.BLOCK_GROUPS", block):
        run(views, log, chance)
    check(views[0], WINDOWED, log)
    check(views[1], KEYED, log)


def one_record(body: dict[str, Any]) -> bytes:
    return json.dumps({"type": "Measured", "time": 1000, "data": {"place": "a", "number": 1, **body}}).encode()


def fold_all(projection: Projection, rows: list[bytes]) -> View:
    view = View(projection, 1)
    log = [[(i, 90_000, value) for i, value in enumerate(rows)]]
    pipeline = PartitionPipeline(things, [view.folds(0)])
    for part in slices(0, log[0], 0, len(rows), []):
        pipeline.fold(part)
    deliver([view], pipeline, random.Random(0))
    view.commit()
    return view


def test_a_sum_beyond_int64_is_an_error_and_never_a_wrap() -> None:
    with pytest.raises(DataError, match=r"18,446,744,073,709,551,614"):
        fold_all(windowed, [one_record({"number": 2**63 - 1})] * 2)


def test_a_sum_may_pass_through_more_than_int64() -> None:
    rows = [
        one_record({"number": 2**63 - 1}),
        one_record({"number": 2**63 - 1}),
        one_record({"number": -(2**63)}),
    ]  # the last comes after a sum of nearly 2**64
    view = fold_all(
        Projection(name="t", category=things, events=[Measured], key=["place"], columns={"t": agg.sum("number")}), rows
    )
    assert [row["t"] for row in view.tables["rows"].values()] == [2**63 - 2]


def test_two_partitions_that_advance_unevenly_lose_nothing() -> None:
    """One partition read to its end before the other is begun: no event of the second is late because of the first."""
    first = [
        (i, 90_000, json.dumps({"type": "Moved", "time": i * 1000, "data": {"place": "a"}}).encode()) for i in range(80)
    ]
    log = [first, [(o, t, v) for o, t, v in first]]
    view = View(windowed, 2)
    for partition in (0, 1):
        pipeline = PartitionPipeline(things, [view.folds(partition)])
        for part in slices(partition, log[partition], 0, 80, [10, 20]):
            pipeline.fold(part)
        deliver([view], pipeline, random.Random(0))
        view.commit()
    assert not view.tables["late"]
    assert sum(row["n"] for row in view.tables["rows"].values()) == 160
    assert np.all([row["is_final"] == (row["window_end"].timestamp() <= 74) for row in view.tables["rows"].values()])
