"""Which groups a fold tells its view of, where both have the same ids for them: no key is looked up, and mostly none is even copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.groups import GroupTable
from flows.key_list import KeyList

if TYPE_CHECKING:
    from flows.partials import Partials

Ints = npt.NDArray[np.int64]
Told = tuple[pa.RecordBatch, pa.BinaryArray, "GroupsHere | GroupsSent | None"]
"""Partials of groups, the keys of groups that are no more, and which groups the partials are of (None: they have their keys)."""


@dataclass(frozen=True, slots=True)
class GroupsHere:
    """Groups that a fold tells a view of by their ids in its list of keys. Sent to another process they become ``GroupsSent``."""

    ids: Ints
    keys: KeyList
    all: Partials | None = None
    """Of all groups, from a fold that has ended: the view takes them over as they are."""

    def are_taken_over_by(self, table: GroupTable) -> bool:
        return table.share(self.keys)

    def __reduce__(self) -> tuple[type[GroupsSent], tuple[Ints, pa.BinaryArray]]:
        assert self.all is None, "only where the view is in this process"
        return GroupsSent, (self.ids, self.keys.keys(self.ids))


@dataclass(frozen=True, slots=True)
class GroupsSent:
    """The same with the keys of these groups alone."""

    ids: Ints
    keys: pa.BinaryArray

    def are_taken_over_by(self, table: GroupTable) -> bool:
        return table.follow(self.keys, self.ids)
