"""The groups that a commit must look at, of all places together, put into order once.

Every place (a partition of a category) says which of its groups changed. The same group may be there in several places, or in others
where it did not change. ``Touched`` finds the distinct groups in canonical order, and the id of each in every place: what is
made of them is then in the order of the table already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.sorting import sorted_order
from flows.partials import Partials

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Touched:
    """``groups``: distinct canonical keys, ascending. ``ids[p]``: the id of each in place ``p``, -1 where it is not there."""

    groups: pa.BinaryArray
    ids: list[Ints]

    @classmethod
    def of(cls, places: Sequence[Partials], given: Sequence[Ints]) -> Touched:
        """``given[p]``: ids of place ``p``, none twice."""
        keys = pa.concat_arrays(
            [pa.array([], pa.binary()), *(part.table.keys(ids) for part, ids in zip(places, given, strict=True))]
        )
        order = sorted_order(keys)
        ordered = keys.take(pa.array(order))
        is_new = np.ones(len(ordered), np.bool_)
        is_new[1:] = np.asarray(pc.not_equal(ordered[1:], ordered[:-1]))
        groups = ordered if is_new.all() else ordered.filter(pa.array(is_new))
        number = np.empty(len(ordered), np.int64)  # of its group, for each id given
        number[order] = np.cumsum(is_new) - 1
        ends = np.cumsum([len(ids) for ids in given])
        numbers = [number[end - len(ids) : end] for ids, end in zip(given, ends, strict=True)]
        return cls(groups, [_ids(groups, *one) for one in zip(places, given, numbers, strict=True)])

    def parts(self, count: int) -> Iterator[Touched]:
        """The same, so many groups at a time; at least one part."""
        for first in range(0, max(len(self.groups), 1), count):
            yield Touched(self.groups.slice(first, count), [ids[first : first + count] for ids in self.ids])


def _ids(groups: pa.BinaryArray, place: Partials, given: Ints, numbers: Ints) -> Ints:
    """The id of each group in a place, of which ``given`` are those of the groups with these ``numbers``."""
    ids = np.full(len(groups), -1, np.int64)
    ids[numbers] = given
    if len(given) < len(place):  # else there is no other group in this place
        others = np.flatnonzero(ids < 0)
        ids[others] = place.table.find(groups.take(pa.array(others)))
    return ids
