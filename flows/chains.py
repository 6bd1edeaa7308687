"""A projection of another projection's rows: what may follow what, and which columns there are to see.

    daily = Projection(
        name="daily", source=hourly, key=["origin"], window=calendar("day", zone="America/New_York"),
        columns={"departures": agg.sum("departures"), "busiest": agg.max("departures")},
    )

The rows of ``hourly`` at the cut, those that are not final included, are to ``daily`` what events are to ``hourly``: its columns, with
``window_start``, ``window_end`` and ``is_final``, are the fields, and ``event_time`` is the start of a row's window. A window needs a
time, and so a source that has windows. Rows are folded in order of the source's primary key: that is what ``first``, ``last``
and sums of floats go by. No row is late; how long events are waited for is said once, at the bottom of the chain.

How it is folded, and when a row of it is final: ``flows.chained_merge``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pyarrow as pa

from flows.joins import Join
from flows.windows import Hopping, Session
from schemas import Category
from schemas.errors import UsageError
from schemas.event import TIMESTAMP, Field

if TYPE_CHECKING:
    from flows.projection import Projection

EVENT_TIME = "event_time"


def part_of(upstream: Projection, name: str, version: int) -> Projection:
    """The same definition as a part of another view, under that one's name."""
    found = copy.copy(upstream)
    found.name, found.version = name, version
    found.sides = {category: part_of(side, name, version) for category, side in upstream.sides.items()}
    found.upstream = part_of(upstream.upstream, name, version) if upstream.upstream else None
    found.bottom = found.upstream.bottom if found.upstream else found
    return found


def fields_of(source: Join | Projection | None) -> dict[str, Field]:
    """The columns of a source's rows as fields of an event."""
    if isinstance(source, Join):
        return source.fields()
    return {field.name: Field(field.name, field.type, True) for field in source.schema} if source else {}


def category_of(source: Join | Projection | None) -> Category:
    """The category that a source begins with."""
    assert source is not None
    return source.left.category if isinstance(source, Join) else source.category


def built_in(upstream: Projection) -> dict[str, pa.DataType]:
    """What its rows have beside their columns."""
    return {EVENT_TIME: TIMESTAMP} if upstream.window else {}


def check(projection: Projection, upstream: Projection | None) -> None:
    """Raises ``UsageError`` for what cannot follow a projection, or be followed."""
    if upstream is None:
        return
    if upstream.select or upstream.fold:
        kind = "an event table" if upstream.select else "a Python fold"
        raise _wrong(projection, f"source= is {kind}", "fold columns= first, or fold the category itself a second time")
    given = {
        "select=": projection.select,
        "fold=": projection.fold,
        "allowed_lateness=": projection.allowed_lateness_us,
    }
    if beside := [name for name, value in given.items() if value]:
        do = "give key, window and columns; events are waited for where they are folded, in the source"
        raise _wrong(projection, f"{', '.join(beside)} of a projection's rows", do)
    if isinstance(projection.window, Hopping | Session):
        raise _wrong(
            projection, "a hopping or session window over a projection's rows", "give tumbling(...) or calendar(...)"
        )
    if projection.window and not upstream.window:
        raise _wrong(
            projection,
            "a window over rows that have no time: the source has no window",
            "give the source a window, or put a column that it has into the key",
        )
    if upstream.window and EVENT_TIME in upstream.schema.names:
        raise _wrong(
            projection,
            "the source has a column `event_time`, and its rows have the time of their window",
            "rename the column there",
        )


def _wrong(projection: Projection, what: str, do: str) -> UsageError:
    return UsageError(what, where=f"projection {projection.title}", do=do)
