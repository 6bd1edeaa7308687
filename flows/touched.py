"""The groups that a commit must look at, of all places together, put into order.

Every place (a partition of a category) says which of its groups changed. The same group may be there in several places, or in others
where it did not change. ``Touched`` finds the distinct groups in canonical order, and the id of each in every place: what is
made of them is then in the order of the table already. Many groups are first dealt to blocks that follow each other in
that order, so that each block can be put into order, and done with, by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.sorting import sorted_order
from flows.partials import Partials

Ints = npt.NDArray[np.int64]

SAMPLES = 64
"""Keys that are looked at for each block, to find where it should begin: its size is then what was asked for, give or take an eighth."""
DEALERS = 2
"""Threads that deal groups to blocks, each those of a place."""


@dataclass(frozen=True, slots=True)
class Touched:
    """``groups``: distinct canonical keys, ascending. ``ids[p]``: the id of each in place ``p``, -1 where it is not there."""

    groups: pa.BinaryArray
    ids: list[Ints]

    @classmethod
    def of(cls, places: Sequence[Partials], given: Sequence[Ints], is_all: Sequence[bool]) -> Touched:
        """``given[p]``: ids of place ``p``, none twice. ``is_all[p]``: no other group of that place can be among these groups."""
        keys = _keys(places, given)
        order = sorted_order(keys)
        ordered = keys.take(pa.array(order))
        is_new = np.ones(len(ordered), np.bool_)
        is_new[1:] = np.asarray(pc.not_equal(ordered[1:], ordered[:-1]))
        groups = ordered if is_new.all() else ordered.filter(pa.array(is_new))
        number = np.empty(len(ordered), np.int64)  # of its group, for each id given
        number[order] = np.cumsum(is_new) - 1
        ends = np.cumsum([len(ids) for ids in given])
        numbers = [number[end - len(ids) : end] for ids, end in zip(given, ends, strict=True)]
        return cls(groups, [_ids(groups, *one) for one in zip(places, given, numbers, is_all, strict=True)])


def blocks(places: Sequence[Partials], given: Sequence[Ints], count: int) -> list[list[Ints]]:
    """``given`` (as for ``Touched.of``) in blocks of about so many ids; every key of a block is before every one of the next."""
    total = sum(len(ids) for ids in given)
    if total <= count:
        return [list(given)]
    step = max(count // SAMPLES, 1)
    sample = _keys(places, [ids[step // 2 :: step].copy() for ids in given])  # in one piece, as kernels know arrays
    bounds = sample.take(pa.array(sorted_order(sample)[SAMPLES::SAMPLES]))
    if not len(bounds):
        return [list(given)]
    with ThreadPoolExecutor(DEALERS) as pool:
        dealt = pool.map(lambda place, ids: place.table.dealt(ids, bounds), places, given)
        return [list(block) for block in zip(*dealt, strict=True) if any(len(ids) for ids in block)]


def _keys(places: Sequence[Partials], given: Sequence[Ints]) -> pa.BinaryArray:
    keys = [part.table.keys(ids) for part, ids in zip(places, given, strict=True)]
    return pa.concat_arrays([pa.array([], pa.binary()), *keys])


def _ids(groups: pa.BinaryArray, place: Partials, given: Ints, numbers: Ints, is_all: bool) -> Ints:
    """The id of each group in a place, of which ``given`` are those of the groups with these ``numbers``."""
    ids = np.full(len(groups), -1, np.int64)
    ids[numbers] = given
    if not is_all:
        others = np.flatnonzero(ids < 0)
        ids[others] = place.table.find(groups.take(pa.array(others)))
    return ids
