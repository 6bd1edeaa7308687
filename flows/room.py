"""Room for more behind the end of an array that grows.

A large array that becomes twice as long with each step has been copied once over in the end, into memory that the system
must make ready first, a page at a time, and that takes longer than the copying. So a large one gets far more room at once:
what nobody has written to yet is addresses, and no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_BYTES = 1 << 22
"""From here on zeros come from the system as addresses alone."""
TIMES, TIMES_LARGE = 2, 8
SPARE_BYTES_MAX = 1 << 28
"""More than this is too many addresses: then twice as long will do."""


def room_for(count: int, item_bytes: int) -> int:
    """How many items an array of zeros should have room for that must hold ``count``."""
    twice = TIMES * count
    if twice * item_bytes < LARGE_BYTES:
        return twice
    return max(twice, min(TIMES_LARGE * count, count + SPARE_BYTES_MAX // item_bytes))


def with_room(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The same items and zeros behind them, at least ``count`` in all: the array itself where it is so long already."""
    if count <= len(array):
        return array
    larger = np.zeros(room_for(count, array.itemsize), array.dtype)
    larger[: len(array)] = array
    return larger
