"""What a fold tells its view: a delta.

Everything in it is absolute (partials, not increments), so a delta may be sent late, joined with others or repeated without
changing the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from flows.partials import NO_GROUPS
from flows.progress import Progress
from flows.told import GroupsHere, GroupsSent
from schemas.event import TIMESTAMP

_PLACE = [
    pa.field("category", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
]
LATE = pa.schema(
    [
        *_PLACE,
        pa.field("window_start", TIMESTAMP, nullable=False),
        pa.field("event_time", TIMESTAMP, nullable=False),
        pa.field("watermark", TIMESTAMP, nullable=False),  # of the partition, before the record
        pa.field("event_type", pa.string()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
"""Late events, one row per record and window it was too late for."""
DEAD_LETTERS = pa.schema(
    [
        *_PLACE,
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Records that could not be decoded or folded."""


@dataclass(slots=True)
class Delta:
    """What one partition has to say to its view. ``start`` is the position that the previous delta ended at."""

    view: str
    category: str
    partition: int
    start: int
    progress: Progress
    groups: pa.RecordBatch
    late: pa.Table
    dead_letters: pa.Table
    end: bool = False
    gone: pa.BinaryArray = field(default_factory=lambda: NO_GROUPS)
    """Groups that are no more, to be removed before the others are put: sessions that moved or became one with others."""
    told: GroupsHere | GroupsSent | None = None
    """Which groups ``groups`` are of, without their keys then: by the ids of the fold, which has them from its partials and then in order
    of appearance; None where it forgets some, or does not tell of all."""

    @property
    def changed_groups(self) -> int:
        """Or rows of an event table: how many it tells of."""
        return self.groups.num_rows if self.told is None else len(self.told.ids)
