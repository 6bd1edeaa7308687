"""Sessions: what they are when nothing is late, and that nothing but the log decides when something is."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fold import Measured, Record, View, always, check, deliver, field, offsets_of, run, slices, things

from flows import Projection, agg, session
from flows.pipeline import PartitionPipeline

US, GAP_S = 1_000_000, 10
COLUMNS = {
    "n": agg.count(),
    "total": agg.sum("number"),
    "total_size": agg.sum("size"),
    "mean_size": agg.mean("size"),
    "least": agg.min("size"),
    "first_note": agg.first("note"),
    "last_note": agg.last("note"),
    "greatest_note": agg.max("note"),
}
PLAIN = {
    "n": ("count", lambda e: 1, always),
    "total": ("sum", field("number"), always),
    "total_size": ("sum", field("size"), always),
    "mean_size": ("mean", field("size"), always),
    "least": ("min", field("size"), always),
    "first_note": ("first", field("note"), always),
    "last_note": ("last", field("note"), always),
    "greatest_note": ("max", field("note"), always),
}


def visits(lateness_s: int, *key: str) -> Projection:
    return Projection(
        name="visits",
        category=things,
        events=[Measured],
        key=key,
        window=session(dt.timedelta(seconds=GAP_S)),
        allowed_lateness=dt.timedelta(seconds=lateness_s),
        columns=COLUMNS,
    )


def spec(lateness_s: int, *key: str) -> reference.Spec:
    fields = {"place": (str, True), "number": (int, True), "size": (float, False), "note": (str, False)}
    return reference.Spec(
        types={"Measured": fields},
        reads=tuple(fields),
        key=lambda event: tuple(event[name] for name in key),
        columns=PLAIN,
        size_us=None,
        gap_us=GAP_S * US,
        lateness_us=lateness_s * US,
    )


def measured(time_s: int, place: str = "a", **more: Any) -> bytes:
    body = {"place": place, "number": 1, **more}
    return json.dumps({"type": "Measured", "time": time_s * 1000, "data": body}).encode()


values = st.builds(
    measured,
    st.integers(-60, 80),
    st.sampled_from(["a", "a", "b"]),
    size=st.sampled_from([0.1, 0.2, 0.3, 1e16, -1e16, -0.0]),
    note=st.sampled_from(["x", "y", "z"]),
)
"""Close enough to make sessions grow, meet and be bridged all the time."""
records = st.lists(st.tuples(st.integers(1, 2), values), max_size=40)
logs = st.lists(records, min_size=1, max_size=3)


def partials_of(view: View) -> dict[bytes, dict[str, Any]]:
    return view.tables["partials"]


def fresh(projection: Projection, log: Sequence[list[Record]]) -> View:
    """In one go: one slice a partition, one commit."""
    view = View(projection, len(log))
    for number, rows in enumerate(log):
        pipeline = PartitionPipeline(things, [view.folds(number)])
        for part in slices(number, rows, 0, rows[-1][0] + 1 if rows else 0, []):
            pipeline.fold(part)
        deliver([view], pipeline, random.Random(0))
    view.commit()
    return view


@settings(max_examples=120, deadline=None)
@given(
    raw=logs,
    seed=st.integers(0, 2**32),
    lateness_s=st.sampled_from([0, 5, 30, 300]),
    keyed=st.booleans(),
    block=st.sampled_from([1, 3, 1 << 16]),
)
def test_any_slicing_commits_and_crashes_give_the_same_sessions(
    raw: list[list[tuple[int, bytes]]], seed: int, lateness_s: int, keyed: bool, block: int
) -> None:
    """Those of the reference, and the partials of a fold in one go."""
    log, key = [offsets_of(rows) for rows in raw], ("place",) if keyed else ()
    view = View(visits(lateness_s, *key), len(log))
    with patch("flows.merge.BLOCK_GROUPS", block):
        run([view], log, random.Random(seed))
    assert partials_of(view) == partials_of(fresh(view.projection, log))
    check(view, spec(lateness_s, *key), log)


def cut(times: list[int]) -> list[tuple[int, int, int]]:
    """The definition for what is known at once: sort, and cut where two neighbours are a gap apart. Start, end, number of events."""
    found: list[tuple[int, int, int]] = []
    for time in sorted(times):
        if found and time < found[-1][1]:
            start, _, n = found.pop()
            found.append((start, time + GAP_S, n + 1))
        else:
            found.append((time, time + GAP_S, 1))
    return found


@settings(max_examples=100, deadline=None)
@given(times=st.lists(st.integers(-300, 300), max_size=60), partitions=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_when_nothing_is_late_they_are_cut_where_a_gap_is(times: list[int], partitions: int, seed: int) -> None:
    """Whatever the order of events, and whichever partition each is in."""
    chance = random.Random(seed)
    raw: list[list[tuple[int, bytes | None]]] = [[] for _ in range(partitions)]
    for time in times:
        chance.choice(raw).append((1, measured(time)))
    view = View(visits(10_000), partitions)
    run([view], [offsets_of(rows) for rows in raw], chance)
    assert sorted(
        (int(row["window_start"].timestamp()), int(row["window_end"].timestamp()), row["n"])
        for row in view.tables["rows"].values()
    ) == cut(times)


@pytest.mark.parametrize("order", ["ascending", "descending", "gaps last", "halves", "random"])
def test_bridges_upon_bridges(order: str) -> None:
    """However many sessions an order of events makes on the way, in the end it is one; its float sum depends on the order alone."""
    times = list(range(0, 9 * 64, 9))
    orders = {
        "ascending": times,
        "descending": times[::-1],
        "gaps last": times[::2] + times[1::2],  # each event of the second half bridges, one upon the other
        "halves": [times[at] for at in sorted(range(64), key=lambda at: (at + 1) & -(at + 1))],  # bridges in a tree
        "random": random.Random(1).sample(times, len(times)),
    }
    rows = [measured(time, size=0.1 * at, note=str(at)) for at, time in enumerate(orders[order])]
    log = [offsets_of([(1, row) for row in rows])]
    view = fresh(visits(10_000), log)
    assert [row["n"] for row in view.tables["rows"].values()] == [64]
    check(view, spec(10_000), log)


def test_what_is_final_is_let_go_of() -> None:
    """Little is kept of sessions that can never change again, however many there were; nothing in the view's partials."""
    rows = [measured(time, place=str(time)) for time in range(0, 4000, 2)]
    log = [offsets_of([(1, row) for row in rows])]
    view = View(visits(0, "place"), 1)
    pipeline = PartitionPipeline(things, [view.folds(0)])
    for part in slices(0, log[0], 0, 2000, list(range(0, 2000, 100))):
        pipeline.fold(part)
        deliver([view], pipeline, random.Random(0))
        view.commit()
        assert len(pipeline.folds[0]._partials) < 200
        assert len(view.merge._keys) < 1300
    assert len(partials_of(view)) == sum(not row["is_final"] for row in view.tables["rows"].values()) < 20
    assert np.sum([row["n"] for row in view.tables["rows"].values()]) == 2000
