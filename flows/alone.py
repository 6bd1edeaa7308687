"""Groups that are each in one place alone, as where a view is keyed by what its events are partitioned by: there is nothing to merge.

What the place has of such a group is both its partial and, as it is, the state that its row is made of. So it is gathered once for
both, in one pass over the groups, from the arrays of all places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.accumulators import State
from flows.partials import ITEM_BYTES, Partials
from flows.touched import Touched
from schemas.compiled import maker
from schemas.wide import word

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alone:
    """The number of the place of each group, and its state there: arrays for each accumulator, not to be written to."""

    places: Ints
    states: list[State]


def found_alone(touched: Touched, places: Sequence[Partials]) -> Alone | None:
    """None where some group is in several places."""
    n = len(touched.groups)
    rows = [np.flatnonzero(ids >= 0) for ids in touched.ids]
    if sum(map(len, rows)) != n:  # every group is somewhere
        return None
    at, ids = np.empty(n, np.int64), np.empty(n, np.int64)
    for number, (here, theirs) in enumerate(zip(rows, touched.ids, strict=True)):
        at[here], ids[here] = number, theirs[here]
    states = [part.states for part in places]
    return Alone(at, [_gathered_state([state[i] for state in states], at, ids) for i in range(len(states[0]))])


def _gathered_state(states: Sequence[State], at: Ints, ids: Ints) -> State:
    return {field: _gathered([state[field] for state in states], at, ids) for field in states[0]}


def _gathered(arrays: Sequence[npt.NDArray[Any]], at: Ints, ids: Ints) -> npt.NDArray[Any]:
    kind = arrays[0].dtype
    if not kind.hasobject and kind.itemsize == ITEM_BYTES:
        return _words(np.array([array.ctypes.data for array in arrays], np.int64), at, ids).view(kind)
    found = np.empty(len(ids), kind)
    for number, array in enumerate(arrays):
        here = np.flatnonzero(at == number)
        found[here] = array[ids[here]]
    return found


@maker
def _words(addresses: Ints, at: Ints, ids: Ints) -> npt.NDArray[np.uint64]:
    """The word ``ids[i]`` of the array at ``addresses[at[i]]``, for each i."""
    found = np.empty(len(ids), np.uint64)
    for i in range(len(ids)):
        found[i] = word(addresses[at[i]] + 8 * ids[i])
    return found
