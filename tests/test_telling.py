"""When a fold tells its view what changed, and that the view is the same whenever that was and however it was told."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import random
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.changes import Parts
from connectors.log import RECORDS, Slice
from flows import Projection, State, agg, python_fold, tumbling
from flows.changed import FEW, ChangedGroups
from flows.commits_ahead import FLUSH_S, CommitsAhead
from flows.fold import PartitionFold
from flows.merge import ViewMerge
from flows.merging import merge_of
from flows.partials import Partials
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from flows.windows import Tumbling
from schemas import Category, Event


class Seen(Event):
    name: str
    number: int
    text: str | None = None


things = Category("things", [Seen])


def projection(window: Tumbling | None = None) -> Projection:
    columns = {
        "n": agg.count(),
        "total": agg.sum("number"),
        "last_text": agg.last("text"),
        "all": agg.collect("number", limit=3),
    }
    return Projection(name="seen", category=things, events=[Seen], key=["name"], columns=columns, window=window)


class Sum(State):
    total: int = 0


def advance(state: Sum | None, event: Seen) -> Sum | None:
    if event.number < 0:
        msg = "refused"
        raise ValueError(msg)
    return Sum((state.total if state else 0) + event.number)


entities = Projection(name="sums", category=things, key=["name"], fold=python_fold(Sum, advance))
keyed, windowed = projection(), projection(tumbling(dt.timedelta(minutes=1)))


def records(first: int, values: list[bytes], partition: int = 0) -> Slice:
    n = len(values)
    columns = {
        "offset": pa.array(range(first, first + n), pa.int64()),
        "timestamp": pa.array([90_000] * n, pa.int64()),
        "value": pa.array(values, pa.binary()),
    }
    arrays = [columns.get(field.name, pa.nulls(n, field.type)) for field in RECORDS]
    if "timestamp_type" in RECORDS.names:
        arrays[RECORDS.names.index("timestamp_type")] = pa.array([0] * n, RECORDS.field("timestamp_type").type)
    return Slice("things", partition, first, first + n, pa.record_batch(arrays, schema=RECORDS))


def seen(name: str, number: int, text: str | None = None) -> bytes:
    data = {"name": name, "number": number} | ({} if text is None else {"text": text})
    return json.dumps({"type": "Seen", "time": 60_000, "data": data}).encode()


def pipeline(of: Projection, partition: int = 0) -> PartitionPipeline:
    return PartitionPipeline(things, [PartitionFold(of, "things", partition, Progress(0), None)])


@pytest.fixture
def ahead() -> CommitsAhead:
    """Of a view that commits at 100 seconds, at the earliest."""
    found = CommitsAhead()
    found.not_before(keyed.title, 100.0)
    return found


def at(seconds: float) -> object:
    return patch("flows.commits_ahead.monotonic", lambda: seconds)


# -- when


def test_while_no_commit_is_near_a_fold_without_windows_keeps_what_changed(ahead: CommitsAhead) -> None:
    folds = pipeline(keyed)
    folds.fold(records(0, [seen("a", 1)]))
    with at(100.0 - 2 * FLUSH_S):
        assert folds.deltas(ahead) == []
    folds.fold(records(1, [seen("b", 1)]))
    with at(100.0 - FLUSH_S / 2):
        (delta,) = folds.deltas(ahead)
    assert (delta.start, delta.progress.next_offset, delta.changed_groups) == (0, 2, 2)


def test_what_ends_is_told_whenever_the_commit_is(ahead: CommitsAhead) -> None:
    folds = pipeline(keyed)
    folds.fold(records(0, [seen("a", 1)]))
    with at(0.0):
        (delta,) = folds.deltas(ahead, end=True)
    assert delta.end
    assert delta.changed_groups == 1


def test_a_fold_with_windows_does_not_wait_as_it_forgets_what_it_told(ahead: CommitsAhead) -> None:
    folds = pipeline(windowed)
    folds.fold(records(0, [seen("a", 1)]))
    with at(0.0):
        assert len(folds.deltas(ahead)) == 1


def test_dead_letters_do_not_wait_as_they_gather(ahead: CommitsAhead) -> None:
    folds = pipeline(keyed)
    folds.fold(records(0, [seen("a", 1), b"no event"]))
    with at(0.0):
        (delta,) = folds.deltas(ahead)
    assert delta.dead_letters.num_rows == 1


def test_a_fold_does_not_wait_for_a_view_that_another_process_writes() -> None:
    folds = pipeline(keyed)
    folds.fold(records(0, [seen("a", 1)]))
    assert len(folds.deltas(CommitsAhead())) == 1


@given(
    st.integers(1, 400),
    st.lists(st.lists(st.integers(0, 399), max_size=9) | st.none(), max_size=9),
    st.sampled_from([7, FEW]),
)
def test_what_changed_since_the_last_time_is_known_once_and_in_order(
    known: int, steps: list[list[int] | None], growth: int
) -> None:
    changed, expected = ChangedGroups(), set()
    for step in steps:
        if step is None:
            assert changed.take(known).tolist() == sorted(expected)
            expected = set()
        else:
            ids = [i % known for i in step]
            changed.mark(np.array(ids, np.int64), known)
            expected |= set(ids)
        assert len(changed) == len(expected)
        known += growth  # groups come while others change
    assert changed.take(known).tolist() == sorted(expected)


# -- how

names = st.sampled_from(["a", "b", "c", "d", "", "é"])
events = st.builds(seen, names, st.integers(-9, 9), st.sampled_from([None, "x", ""]))
slices = st.lists(st.tuples(st.integers(0, 1), st.lists(events, max_size=6), st.booleans()), max_size=8)


HERE, ELSEWHERE, FAR = "in this process", "in another worker", "in another process"


def told(view: Projection, steps: list[tuple[int, list[bytes], bool]], where: str = HERE) -> dict[str, pa.Table]:
    """The changes of a view after these slices of two partitions, some followed by a delta. ``where``: it is written."""
    ahead = CommitsAhead()
    if where == HERE:
        ahead.not_before(view.title, 0.0)
    folds = [pipeline(view, partition) for partition in (0, 1)]
    merge = merge_of(view, {("things", partition): Progress(0) for partition in (0, 1)}, None)
    deltas = []
    for partition, values, tells in steps:
        folds[partition].fold(records(folds[partition].position, values, partition))
        deltas += folds[partition].deltas(ahead) if tells else []
    for one in folds:
        deltas += one.deltas(ahead, end=True)
    for delta in deltas:
        merge.add(pickle.loads(pickle.dumps(delta)) if where == FAR else delta)
    return tables(merge)


def apart(steps: list[tuple[int, list[bytes], bool]]) -> list[tuple[int, list[bytes], bool]]:
    """No name in two partitions."""
    return [(p, [v.replace(b'"name": "', b'"name": "%d' % p) for v in values], tells) for p, values, tells in steps]


def tables(merge: ViewMerge) -> dict[str, pa.Table]:
    found = {}
    for name, change in merge.changes().items():
        parts = [make() for make in change.makers] if isinstance(change, Parts) else [change]
        found[name] = pa.concat_tables([part.upserts for part in parts]).combine_chunks()
    return found


@given(steps=slices, block=st.integers(1, 5), view=st.sampled_from([keyed, windowed, entities]))
def test_a_view_is_the_same_whether_it_is_told_or_takes_over(
    steps: list[tuple[int, list[bytes], bool]], block: int, view: Projection
) -> None:
    """A partition of an entity is that of its name: only names differ between partitions then."""
    with patch("flows.merge.BLOCK_GROUPS", block):
        steps = apart(steps) if view is entities else steps
        here = told(view, steps)
        assert told(view, steps, ELSEWHERE) == here
        assert told(view, steps, FAR) == here


@given(steps=slices, block=st.integers(1, 5))
def test_groups_in_one_place_alone_are_what_merging_makes_of_them(
    steps: list[tuple[int, list[bytes], bool]], block: int
) -> None:
    with patch("flows.merge.BLOCK_GROUPS", block):
        for some in (steps, apart(steps)):
            found = told(keyed, some)
            with patch("flows.merge.found_alone", lambda *_: None):
                assert told(keyed, some) == found


def test_what_a_view_took_over_is_what_the_fold_had() -> None:
    lots = random.Random(7)
    fold = PartitionFold(keyed, "things", 0, Progress(0), None)
    folds, view = PartitionPipeline(things, [fold]), Partials(keyed)
    for first in (0, 500, 1000):
        folds.fold(records(first, [seen(str(lots.randrange(800)), lots.randrange(9)) for _ in range(500)]))
        delta = fold.delta() if first < 1000 else fold.last_delta(is_here=True)
        view.put(delta.groups, delta.told)
    every = np.arange(len(view))
    assert delta.groups.num_columns == 0, "nothing was copied"
    assert view.get(every).equals(fold._partials.get(every))


def test_what_a_view_was_told_stays_while_the_fold_goes_on() -> None:
    folds, view = pipeline(keyed), Partials(keyed)
    folds.fold(records(0, [seen("a", 1), seen("b", 2)]))
    (delta,) = folds.deltas()
    ids = view.put(delta.groups, delta.told)
    before = view.get(ids)
    folds.fold(records(2, [seen("a", 5), seen("c", 6)]))
    assert view.get(ids).equals(before)
