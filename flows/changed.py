"""The groups that changed, since a fold last told of them or since the last commit of a view.

A list of ids while they are few, marks among all groups when they are many: what a small commit does must not depend on how many
groups there are; and what a replay changes, nearly all of them, must not be kept eight bytes each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows import kernels
from flows.room import with_room

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FEW = 64
"""One in so many groups is few: quicker to sort than to tick off among all."""
_NONE = np.empty(0, np.int64)


class ChangedGroups:
    """All are marked, so that each is counted, and listed, once, however often it changes."""

    def __init__(self) -> None:
        self._marks: Mask = np.zeros(0, np.bool_)  # may be longer than there are groups
        self._forget()

    def _forget(self) -> None:
        self._listed: list[Ints] | None = []  # None: too many
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def mark(self, ids: Ints, known: int) -> None:
        """``known``: how many groups there are by now."""
        self._marks = with_room(self._marks, known)
        fresh = np.empty(len(ids), np.int64)
        count = kernels.mark(ids, self._marks, fresh)
        self._count += count
        if FEW * self._count >= known:
            self._listed = None
        elif self._listed is not None:
            self._listed.append(fresh[:count].copy())

    def take(self, known: int) -> Ints:
        """The distinct ids, ascending; from now on none has changed."""
        listed = self._listed
        ids = np.flatnonzero(self._marks[:known]) if listed is None else np.sort(np.concatenate([_NONE, *listed]))
        self._marks[ids] = False
        self._forget()
        return ids


def union(some: Ints, others: Ints, known: int) -> Ints:
    """The distinct ids among these, ascending, of so many that there are."""
    if FEW * (len(some) + len(others)) < known:
        return np.unique(np.concatenate([some, others]))  # a small commit does not look through all groups
    there = np.zeros(known, np.bool_)
    there[some] = True
    there[others] = True
    return np.flatnonzero(there)
