"""Memory for the bytes of large columns, used again as soon as nobody holds what was in it.

Each slice has some megabytes of keys and values, and is gone after its fold. Memory that was given back meanwhile comes back as fresh
pages, which the system clears one by one: more work than what is put into them.

Promises: memory is used again only when nothing refers to it any more, neither a column nor anything made from its bytes
without a copy. For one thread.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

KEPT_MAX = 8
"""Keys and values of a few slices."""
KEPT_BYTES_MAX = 1 << 25
"""Of one piece: larger ones are rare, and not worth keeping."""
ROUNDED_BYTES = 1 << 20


class Pages:
    """Pieces of memory (uint8 arrays), each of which is either held by somebody or here to be taken."""

    def __init__(self) -> None:
        self._kept: list[npt.NDArray[np.uint8]] = []

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """At least ``size`` bytes, whatever they hold."""
        fitting = [place for place in range(len(self._kept)) if self._kept[place].size >= size and self._is_free(place)]
        return self._kept[min(fitting, key=lambda place: self._kept[place].size)] if fitting else self._new(size)

    def _new(self, size: int) -> npt.NDArray[np.uint8]:
        found = np.empty(-(-size // ROUNDED_BYTES) * ROUNDED_BYTES, np.uint8)
        if found.size > KEPT_BYTES_MAX:
            return found
        if len(self._kept) == KEPT_MAX:
            self._kept.pop(0)  # lives on with whoever has it
        self._kept.append(found)
        return found

    def _is_free(self, place: int) -> bool:
        """Two references: that of the list, and that of the question."""
        return sys.getrefcount(self._kept[place]) == 2
