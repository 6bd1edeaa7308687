"""An entity of a Python fold lives in one partition: between partitions there is no order to fold its events in.

Events of one entity that lie in several partitions need a place where all of them come together in an order that follows from
the log alone: ``source=in_order(...)``. Without it such an entity is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.projection import Projection
from flows.touched import Touched
from schemas.canonical import decode
from schemas.errors import DataError


def check_one_partition(projection: Projection, touched: Touched, places: Sequence[tuple[str, int]]) -> None:
    """Raises ``DataError`` when a group has partials in two of the ``places``; the first group in order of key is named.

    Partials of entities that were deleted count: whether it is an error must not depend on when somebody looked.
    """
    there = np.stack([ids >= 0 for ids in touched.ids])
    twice = np.flatnonzero(there.sum(axis=0) > 1)
    if not len(twice):
        return
    group = int(twice[0])
    values = [column[0].as_py() for column in decode(touched.groups.slice(group, 1), projection.key_types)]
    key = ", ".join(f"{name}={value!r}" for name, value in zip(projection.key, values, strict=True))
    holding = [f"{category}/{number}" for (category, number), here in zip(places, there[:, group], strict=True) if here]
    raise DataError(
        f"view {projection.title} has a Python fold, and events of one entity are in several partitions",
        where=f"{key} in {' and '.join(holding)}",
        why="a Python fold takes the events of an entity in offset order; between partitions there is none",
        do="key it by what the events are partitioned by (mostly the subject)\n"
        "or fold all partitions in one order:  source=in_order(category)",
    )
