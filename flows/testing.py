"""A test kit for projections: events in, rows out, without a log, a store or a broker.

    from flows.testing import fold_events

    def test_cancelled_orders_earn_nothing():
        rows = fold_events(revenue, [OrderPlaced(subject="o1", time=T, amount=5.0), OrderCancelled(subject="o1", time=T)])
        assert rows["amount"].to_list() == [0.0]

The events go through the same encoding, decoding, fold and merge as in a run. In what order partitions are read, and in which
batches, may not matter to a view: say so with ``order`` and ``batch``, and compare.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.changes import Parts
from connectors.chunks import key_of
from connectors.log import RECORDS, CategoryInfo, Slice
from connectors.partitioner import partition_of
from flows.facts import begin
from flows.fold import PartitionFold
from flows.merge import Place, ViewMerge, table_specs
from flows.merging import merge_of
from flows.pipeline import PartitionPipeline
from flows.projection import Projection
from schemas import Category, Event
from schemas.envelope import milliseconds_of
from schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress marker, here in every partition (or in the one that is named): nothing that happened before ``time`` comes after."""

    time: dt.datetime


TABLES = ("rows", "late", "dead_letters")

Item = Event | Progress
Offsets = Sequence[int]


def fold_events(
    projection: Projection,
    events: Iterable[Item] | Mapping[int, Iterable[Item]],
    *,
    partitions: int | None = None,
    batch: int | None = None,
    order: Sequence[int] = (),
    cut: Offsets | Mapping[str, Offsets] | None = None,
    table: str = "rows",
) -> pl.DataFrame:
    """The rows of a view of these events, in order of primary key.

    ``events``: in the order of appending, each in the partition of its subject, as a log would put it; or a mapping that says which
    partition has which. ``partitions``: how many there are (default: 1, or as many as are named). ``batch``: records read at once
    (default: all). ``order``: partitions in the order in which they take turns, again and again (default: one after the other). ``cut``:
    next offsets of each partition to fold to, by category where there are several (default: all). ``table``: ``late`` or
    ``dead_letters`` instead of the rows. Raises ``UsageError`` (an event of no category of the projection, a cut that is none), and
    what a fold raises.
    """
    streams = _streams(projection, events, partitions)
    infos = {name: _info(name, places) for name, places in streams.items()}
    standing = begin(projection, infos, None)
    merge = merge_of(projection, standing.progress, None)
    pipelines = {
        place: PartitionPipeline(
            _category(projection, place[0]), [PartitionFold(projection.reading(place[0]), *place, progress, None)]
        )
        for place, progress in standing.progress.items()
    }
    ends = _ends(infos, cut)
    for found in _taking_turns(streams, ends, batch, order):
        place = (found.category, found.partition)
        pipelines[place].fold(found)
        _pass_on(pipelines[place], merge)
    for pipeline in pipelines.values():
        _pass_on(pipeline, merge, end=True)
    return _frame(projection, merge, table)


def _pass_on(pipeline: PartitionPipeline, merge: ViewMerge, *, end: bool = False) -> None:
    for delta in pipeline.deltas(end=end):
        merge.add(delta)


# -- events to streams


def _streams(
    projection: Projection, events: Iterable[Item] | Mapping[int, Iterable[Item]], partitions: int | None
) -> dict[str, list[pa.RecordBatch]]:
    """By category, the records of each partition."""
    given = events if isinstance(events, Mapping) else None
    count = partitions or (max(given, default=0) + 1 if given else 1)
    places: dict[str, list[list[dict[str, Any]]]] = {
        one.name: [[] for _ in range(count)] for one in projection.categories
    }
    for partition, item in _placed(given if given is not None else events, count):
        for category in _categories(projection, item):
            for at in _partitions(partition, item, count):
                records = places[category.name][at]
                records.append({**_record(category, item), "offset": len(records), "timestamp_type": 0})
    return {name: [pa.RecordBatch.from_pylist(rows, RECORDS) for rows in found] for name, found in places.items()}


def _placed(events: Any, count: int) -> Iterator[tuple[int | None, Item]]:
    if not isinstance(events, Mapping):
        yield from ((None, item) for item in events)
        return
    if any(not 0 <= partition < count for partition in events):
        raise UsageError(
            f"partitions {sorted(events)}, and there are {count}", do="number them from 0, or give partitions="
        )
    yield from ((partition, item) for partition, items in events.items() for item in items)


def _partitions(given: int | None, item: Item, count: int) -> list[int]:
    """Where an item goes; a progress marker for which nothing is said, to all."""
    if given is not None:
        return [given]
    if isinstance(item, Progress):
        return [*range(count)]
    if item.subject is None:
        return [0]
    return [int(partition_of(pa.array([item.subject.encode()], pa.binary()), count)[0])]


def _categories(projection: Projection, item: Item) -> list[Category]:
    if isinstance(item, Progress):
        return list(projection.categories)
    found = [category for category in projection.categories if type(item) in category.events]
    if not found:
        known = ", ".join(event.__name__ for category in projection.categories for event in category.events)
        raise UsageError(
            f"{type(item).__name__} is no event type of what {projection.title} reads", do=f"give one of {known}"
        )
    return found[:1]


def _category(projection: Projection, name: str) -> Category:
    return next(category for category in projection.categories if category.name == name)


def _record(category: Category, item: Item) -> dict[str, Any]:
    table = category.progress(item.time, 1) if isinstance(item, Progress) else category.encode([item])
    (row,) = table.select(["key", "value", "timestamp"]).to_pylist()
    return {**row, "timestamp": row["timestamp"] if row["timestamp"] is not None else milliseconds_of(item.time)}


def _info(name: str, places: list[pa.RecordBatch]) -> CategoryInfo:
    return CategoryInfo(name, "in memory", (0,) * len(places), tuple(len(records) for records in places))


# -- reading


def _ends(infos: Mapping[str, CategoryInfo], cut: Offsets | Mapping[str, Offsets] | None) -> dict[Place, int]:
    ends = {(name, p): end for name, info in infos.items() for p, end in enumerate(info.ends)}
    if cut is None:
        return ends
    named = cut if isinstance(cut, Mapping) else {next(iter(infos)): cut}
    asked = {(name, p): int(end) for name, offsets in named.items() for p, end in enumerate(offsets)}
    if set(asked) != set(ends) or any(not 0 <= end <= ends[place] for place, end in asked.items()):
        has = {name: list(info.ends) for name, info in infos.items()}
        raise UsageError(f"no cut of these events: {cut}", do=f"give a next offset for each partition, up to {has}")
    return asked


def _taking_turns(
    streams: Mapping[str, list[pa.RecordBatch]], ends: Mapping[Place, int], batch: int | None, order: Sequence[int]
) -> Iterator[Slice]:
    at, turns = dict.fromkeys(ends, 0), cycle(order or (0,))
    while left := [place for place in ends if at[place] < ends[place]]:
        turn = next(turns)
        place = next((place for place in left if place[1] == turn), left[0])
        (name, partition), first = place, at[place]
        after = min(first + (batch or ends[place]), ends[place])
        yield Slice(name, partition, first, after, streams[name][partition].slice(first, after - first))
        at[place] = after


def _frame(projection: Projection, merge: ViewMerge, table: str) -> pl.DataFrame:
    specs = {spec.name: spec for spec in table_specs(projection) if spec.name in TABLES}
    if table not in specs:
        raise UsageError(f"no table {table!r}", do=f"ask for one of {', '.join(TABLES)}")
    found = merge.changes()[table]
    made = [maker() for maker in found.makers] if isinstance(found, Parts) else [found]
    rows = pa.concat_tables([specs[table].schema.empty_table(), *(change.upserts for change in made)])
    return pl.DataFrame(rows.take(pc.sort_indices(key_of(rows, specs[table].primary_key))))
