"""Windows: which stretch of event time a row of the view covers. All in microseconds since the epoch, half-open."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.compiled import maker
from schemas.errors import UsageError

_US = dt.timedelta(microseconds=1)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Windows of one size, side by side, one of them starting at the epoch."""

    size_us: int

    def starts(self, event_time: Ints) -> Ints:
        return _starts(event_time, self.size_us)

    def render(self) -> dict[str, int | str]:
        return {"kind": "tumbling", "size_us": self.size_us}


@maker
def _starts(event_time: Ints, size: int) -> Ints:
    """Neighbours mostly share a window: a division is needed only where one has left it."""
    starts = np.empty(len(event_time), np.int64)
    start, end = np.int64(0), np.int64(0)
    for i in range(len(event_time)):
        time = event_time[i]
        if not start <= time < end:
            start = time - time % size  # floors: right before the epoch too
            end = start + size
        starts[i] = start
    return starts


def tumbling(size: dt.timedelta) -> Tumbling:
    """``tumbling(timedelta(hours=1))``: [00:00, 01:00), [01:00, 02:00), ... in UTC."""
    if size <= dt.timedelta(0):
        raise UsageError(f"a window of size {size}", do="give a positive timedelta")
    return Tumbling(size // _US)
