"""One aggregation, by the engine's own fold and merge, in memory: what the examples in ``flows/agg.py`` call ``fold``."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from connectors.log import RECORDS, Slice
from flows import Projection
from flows.agg import Aggregation
from flows.fold import PartitionFold
from flows.merge import ViewMerge
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from schemas import Category, Event

BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
NOW_MS = 1_600_000_000_000


def fold(aggregation: Aggregation, **fields: list[Any]) -> Any:
    """The value of a column with this aggregation after events with these fields, a second apart, in one partition."""
    kinds = {name: next((type(v) for v in values if v is not None), str) for name, values in fields.items()}
    happened = type(
        "Happened",
        (Event,),
        {"__annotations__": {name: kind | None for name, kind in kinds.items()}, **dict.fromkeys(fields)},
    )
    category = Category("examples", [happened])
    rows = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]
    events = [happened(subject="s", time=BEGIN + dt.timedelta(seconds=n), **row) for n, row in enumerate(rows)]
    values = category.encode(events)["value"].combine_chunks().cast(pa.binary())
    n = len(values)
    columns = [
        pa.array(range(n), pa.int64()),
        pa.array([NOW_MS] * n, pa.int64()),
        pa.array([0] * n, pa.int8()),
        pa.nulls(n, pa.binary()),
        values,
        pa.nulls(n, pa.binary()),
    ]
    projection = Projection(name="example", category=category, key=["subject"], columns={"found": aggregation})
    place, progress = ("examples", 0), Progress(0)
    pipeline = PartitionPipeline(category, [PartitionFold(projection, *place, progress, None)])
    pipeline.fold(Slice("examples", 0, 0, n, pa.record_batch(columns, schema=RECORDS)))
    merge = ViewMerge(projection, {place: progress}, None)
    for delta in pipeline.deltas(end=True):
        merge.add(delta)
    return merge.changes()["rows"].upserts["found"][0].as_py()
