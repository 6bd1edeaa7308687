"""Windows: which stretch of event time a row of the view covers. All in microseconds since the epoch, half-open.

    tumbling(timedelta(hours=1))                        side by side, aligned to the epoch
    hopping(timedelta(hours=1), timedelta(minutes=5))   overlapping: an event falls into several (flows/hops.py)
    session(timedelta(minutes=30))                      as long as events keep coming (flows/sessions.py)
    calendar("day", zone="Europe/Berlin")               from local midnight to local midnight (flows/calendars.py)

The rest of the program asks a window three things: where it ``starts`` for an event, where it ``ends``, and for how long a row may
still change after its end (``hold_us``).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import maker
from schemas.errors import UsageError

_US = dt.timedelta(microseconds=1)
_LONGEST = dt.timedelta(days=366 * 10_000)
"""Beyond it instants leave 64 bits."""
Ints = npt.NDArray[np.int64]


class Window:
    """What all kinds of windows have."""

    @property
    def hold_us(self) -> int:
        """How long after its end, the allowed lateness aside, an event in time may still change a row."""
        return 0

    def starts(self, event_time: Ints) -> Ints:
        """The start of the window of each event; of several, of the one that starts (and ends) last."""
        raise NotImplementedError

    def ends(self, starts: Ints) -> Ints:
        """The ends of windows that start there."""
        raise NotImplementedError

    def render(self) -> dict[str, Any]:
        """Its part of the canonical definition."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Tumbling(Window):
    """Windows of one size, side by side, one of them starting at the epoch."""

    size_us: int

    def starts(self, event_time: Ints) -> Ints:
        return _starts(event_time, self.size_us)

    def ends(self, starts: Ints) -> Ints:
        return starts + self.size_us

    def render(self) -> dict[str, Any]:
        return {"kind": "tumbling", "size_us": self.size_us}


@dataclass(frozen=True, slots=True)
class Hopping(Window):
    """Windows of one size, one of them starting at every multiple of ``step_us``."""

    size_us: int
    step_us: int

    def starts(self, event_time: Ints) -> Ints:
        return _starts(event_time, self.step_us)

    def ends(self, starts: Ints) -> Ints:
        return starts + self.size_us

    def render(self) -> dict[str, Any]:
        return {"kind": "hopping", "size_us": self.size_us, "step_us": self.step_us}


@dataclass(frozen=True, slots=True)
class Session(Window):
    """Windows that last as long as events of the key come less than a gap apart. An event alone is one from its time on.

    An event in time may touch a session that ended up to a gap before it became late, and so a row is held for that long.
    """

    gap_us: int

    @property
    def hold_us(self) -> int:
        return self.gap_us

    def starts(self, event_time: Ints) -> Ints:
        return event_time

    def ends(self, starts: Ints) -> Ints:
        """Of sessions of one event."""
        return starts + self.gap_us

    def render(self) -> dict[str, Any]:
        return {"kind": "session", "gap_us": self.gap_us}


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
    return Tumbling(_microseconds(size, f"a window of size {size}"))


def hopping(size: dt.timedelta, step: dt.timedelta) -> Hopping:
    """``hopping(timedelta(hours=1), timedelta(minutes=15))``: [00:00, 01:00), [00:15, 01:15), ... in UTC.

    Any size that is not less than the step; it need not be a multiple of it.
    """
    size_us = _microseconds(size, f"a window of size {size}")
    step_us = _microseconds(step, f"a step of {step}")
    if size_us < step_us:
        raise UsageError(
            f"windows of {size} every {step}: events between them would be in none",
            do="give a size that is not less than the step",
        )
    return Hopping(size_us, step_us)


def session(gap: dt.timedelta) -> Session:
    """``session(timedelta(minutes=30))``: events of a key of which each comes less than half an hour after the one before.

    It ends a gap after its last event; an event exactly then begins the next one.
    """
    return Session(_microseconds(gap, f"a gap of {gap}"))


def _microseconds(length: dt.timedelta, words: str) -> int:
    if not dt.timedelta(0) < length <= _LONGEST:
        raise UsageError(words, do="give a positive timedelta of less than ten thousand years")
    return length // _US
