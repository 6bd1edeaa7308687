"""One category of an ordered projection, as an event table: what is needed of each event, to wait until it is its turn.

The columns after ``partition`` and ``offset``: ``event_time``; ``on:<i>``, the columns of the join; ``lower`` and ``upper``,
the bounds that a left event says; ``own:<name>``, what the projection reads. An event is late for its instant iff the watermark
of its partition before it is beyond its time by more than the allowed lateness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.joins import INTERVAL, Join
from flows.said import Said
from flows.windows import Window
from schemas import Category, Event

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Instant(Window):
    """The shortest window: an event's own microsecond."""

    def starts(self, event_time: Ints) -> Ints:
        return event_time

    def ends(self, starts: Ints) -> Ints:
        return starts + 1

    def render(self) -> dict[str, Any]:
        return {"kind": "instant"}


@dataclass(frozen=True, slots=True)
class Side:
    """What a projection asks of one category."""

    category: Category
    events: tuple[type[Event], ...]
    where: pl.Expr | None
    select: dict[str, Said]


def sides_of(join: Join, reads: Sequence[str]) -> list[Side]:
    """``reads``: names of joined rows. The left side is the first."""
    names = join.names()
    sides = []
    for number, stream in enumerate(join.streams):
        select: dict[str, Said] = {"event_time": "event_time"}
        select |= {f"on:{i}": pair[number] for i, pair in enumerate(join.on)}
        if number == 0 and join.kind == INTERVAL:
            bounds = {which: join.bound(which) for which in ("lower", "upper")}
            select |= {which: bound for which, bound in bounds.items() if bound is not None}
        needed = sorted({own for side, own in (names[name] for name in reads if name in names) if side == number})
        select |= {f"own:{own}": own for own in needed}
        sides.append(Side(stream.category, stream.events, stream.where, select))
    return sides
