"""Which groups a fold tells its view of, where both have the same ids for them: no key is looked up, and mostly none is even copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.groups import GroupTable
from flows.key_list import KeyList

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupsHere:
    """Groups that a fold tells a view of by their ids in its list of keys. Sent to another process they become ``GroupsSent``."""

    ids: Ints
    keys: KeyList

    def are_taken_over_by(self, table: GroupTable) -> bool:
        return table.share(self.keys)

    def __reduce__(self) -> tuple[type[GroupsSent], tuple[Ints, pa.BinaryArray]]:
        return GroupsSent, (self.ids, self.keys.keys(self.ids))


@dataclass(frozen=True, slots=True)
class GroupsSent:
    """The same with the keys of these groups alone."""

    ids: Ints
    keys: pa.BinaryArray

    def are_taken_over_by(self, table: GroupTable) -> bool:
        return table.follow(self.keys, self.ids)
