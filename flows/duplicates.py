"""Events that were appended twice, as far as their ids tell."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from connectors.log import CategoryInfo, Log
from connectors.overlap import slices
from schemas.json_columns import Path, read_columns


@dataclass(frozen=True, slots=True)
class Duplicates:
    """``events``: those that have the id of an earlier one, of ``looked_at``. ``example``: an id that is there more than once."""

    events: int
    looked_at: int
    example: str | None


def duplicates(log: Log, info: CategoryInfo, path: Path, last: int) -> Duplicates:
    """Among the last so many offsets of all partitions. Records without an id are left out. Raises ``LogUnreachable``, ``LogError``."""
    start = {p: max(end - last, info.earliest[p]) for p, end in enumerate(info.ends)}
    until = dict(enumerate(info.ends))
    ids = pa.chunked_array([_ids(found.records, path) for found in slices(log, info.name, start, until)], pa.string())
    counted = ids.value_counts()
    if not len(counted):
        return Duplicates(0, 0, None)
    counts, values = counted.field("counts"), counted.field("values")
    repeated = values.filter(pc.greater(counts, 1))
    return Duplicates(len(ids) - len(counted), len(ids), repeated[0].as_py() if len(repeated) else None)


def _ids(records: pa.RecordBatch, path: Path) -> pa.Array:
    values = records.column("value").drop_null()
    if not len(values):
        return pa.array([], pa.string())
    return read_columns(values, {path: pa.string()}).columns[path].cast(pa.string()).drop_null()
