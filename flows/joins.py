"""Sources of a projection other than a category as it is: joins of two, or one in order of time.

    as_of(flights, aircraft, on={"tail_number": "subject"})
        each event of the left stream beside the latest one of the right stream with the same key *as of its event time*
        (an event of the same instant counts); what the right stream never said is null

    interval_join(orders, payments, on="order", lower=timedelta(0), upper=timedelta(minutes=30))
        each pair whose right event is between ``lower`` and ``upper`` of the left one, both included. A bound is a ``timedelta``
        from the left event's time, an instant said by the left event (``upper="expires"``, or an expression), or None: none

    in_order(clicks)
        no join: the events of one stream, but all partitions together in order of time, for a fold whose key is not theirs

A stream is a category, or ``stream(category, SomeEvent, where=..., prefix="seller_")``: some of its event types, filtered, its columns
under other names. A joined row has the fields of both, ``subject`` and ``event_type`` of the left event, and as ``event_time`` that of
the later one; of a stream with a prefix also ``<prefix>subject``, ``<prefix>event_type`` and ``<prefix>event_time``.

How they are joined, in whatever order the partitions are read: ``flows.ordered_merge``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from flows.expressions import render
from schemas import Category, Event
from schemas.errors import UsageError
from schemas.event import TIMESTAMP, Field

_US = dt.timedelta(microseconds=1)
OF_EVERY_EVENT = {"subject": pa.string(), "event_type": pa.string(), "event_time": TIMESTAMP}
AS_OF, INTERVAL, IN_ORDER = "as_of", "interval", "in_order"
Bound = dt.timedelta | str | pl.Expr | None


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One side of a join: some events of a category, their columns named ``prefix`` + name."""

    category: Category
    events: tuple[type[Event], ...]
    where: pl.Expr | None = None
    prefix: str = ""

    def fields(self) -> dict[str, pa.DataType]:
        """The types of the fields by their own names. Raises ``UsageError`` where two events disagree."""
        found: dict[str, pa.DataType] = {}
        for event in self.events:
            for field in event.fields:
                if found.setdefault(field.name, field.type) != field.type:
                    msg = f"`{field.name}` of category {self.category.name} is of two types"
                    raise UsageError(msg, do="join the event types one by one:  stream(category, SomeEvent)")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Join:
    """``on``: pairs of columns, left and right, by their own names. ``lower``, ``upper``: of an interval join."""

    kind: str
    left: Stream
    right: Stream | None
    on: tuple[tuple[str, str], ...]
    lower: Bound = None
    upper: Bound = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (self.left,) if self.right is None else (self.left, self.right)

    def names(self) -> dict[str, tuple[int, str]]:
        """What a joined row has beside its time: name to (0 for left, 1 for right; the name there)."""
        found: dict[str, tuple[int, str]] = {}
        for side, stream in enumerate(self.streams):
            own = {stream.prefix + name: (side, name) for name in stream.fields()}
            if stream.prefix:
                own |= {stream.prefix + name: (side, name) for name in OF_EVERY_EVENT}
            if side == 0:
                own |= {name: (side, name) for name in ("subject", "event_type")}
            if both := sorted((own.keys() & found.keys()) | (own.keys() & {"event_time"})):
                msg = f"both streams of the join have a column `{both[0]}`"
                raise UsageError(msg, do='give one of them a prefix:  stream(category, prefix="right_")')
            found |= own
        return found

    def fields(self) -> dict[str, Field]:
        """The columns of a joined row as fields of an event."""
        types = [{**stream.fields(), **OF_EVERY_EVENT} for stream in self.streams]
        return {name: Field(name, types[side][own], True) for name, (side, own) in self.names().items()}

    def render(self, where: str) -> dict[str, Any]:
        """Canonical text; of the streams only what is not in their own definitions."""
        bounds = {"lower": self.lower, "upper": self.upper} if self.kind == INTERVAL else {}
        said = {name: _render_bound(bound, f"{where}, {name} of the join") for name, bound in bounds.items()}
        prefixes = [stream.prefix for stream in self.streams]
        return {"kind": self.kind, "on": [list(pair) for pair in self.on], "prefixes": prefixes, **said}

    @property
    def reach_us(self) -> int | None:
        """How long before the left event the right one may be; None where that is not the same for all."""
        return self.lower // _US if isinstance(self.lower, dt.timedelta) else None

    def bound(self, which: str) -> pl.Expr | None:
        """The bound as an expression over the left event; None where there is none."""
        bound: Bound = getattr(self, which)
        if isinstance(bound, dt.timedelta):
            return pl.col("event_time") + pl.lit(bound)
        return pl.col(bound) if isinstance(bound, str) else bound


def stream(category: Category, *events: type[Event], where: str | pl.Expr | None = None, prefix: str = "") -> Stream:
    """Some event types of a category (all of them when none is named), for a join."""
    condition = pl.col(where) if isinstance(where, str) else where
    return Stream(category, events or category.events, condition, prefix)


def as_of(left: Category | Stream, right: Category | Stream, *, on: str | Sequence[str] | Mapping[str, str]) -> Join:
    """Temporal join: each left event with the latest right one of its key as of its event time."""
    return _join(AS_OF, left, right, on)


def interval_join(
    left: Category | Stream,
    right: Category | Stream,
    *,
    on: str | Sequence[str] | Mapping[str, str],
    lower: Bound,
    upper: Bound,
) -> Join:
    """All pairs of a left and a right event of one key, the right one not before ``lower`` and not after ``upper``.

    Left events are kept until the frontier of both streams has passed ``upper``, right ones until it has passed what ``lower`` allows:
    without a bound, or with a ``lower`` that an event says, they are kept for ever.
    """
    both = isinstance(lower, dt.timedelta) and isinstance(upper, dt.timedelta)
    if both and lower > upper:  # type: ignore[operator]
        raise UsageError(f"an interval join from {lower} to {upper}", do="lower must not be above upper")
    return _join(INTERVAL, left, right, on, lower, upper)


def in_order(of: Category | Stream) -> Join:
    """One stream, all of its partitions together, in the order of (event time, partition, offset)."""
    return Join(IN_ORDER, of if isinstance(of, Stream) else stream(of), None, ())


def _join(
    kind: str,
    left: Category | Stream,
    right: Category | Stream,
    on: str | Sequence[str] | Mapping[str, str],
    lower: Bound = None,
    upper: Bound = None,
) -> Join:
    names = [on] if isinstance(on, str) else on
    pairs = tuple(names.items()) if isinstance(names, Mapping) else tuple((name, name) for name in names)
    one, other = (side if isinstance(side, Stream) else stream(side) for side in (left, right))
    if one.category.name == other.category.name:
        msg = f"a join of category `{one.category.name}` with itself"
        raise UsageError(msg, do="join two categories")
    if not pairs:
        raise UsageError("a join on nothing", do='name the columns that must be equal:  on={"seller": "id"}')
    join = Join(kind, one, other, pairs, lower, upper)
    _check_on(join)
    join.names()
    return join


def _check_on(join: Join) -> None:
    types = [{**stream.fields(), **OF_EVERY_EVENT} for stream in join.streams]
    for pair in join.on:
        for side, name in enumerate(pair):
            if name not in types[side]:
                msg = f"no event of category `{join.streams[side].category.name}` has a field `{name}`"
                raise UsageError(msg, where="on= of a join", do=f"known are {', '.join(types[side])}")
        if types[0][pair[0]] != types[1][pair[1]]:
            msg = f"`{pair[0]}` is {types[0][pair[0]]} and `{pair[1]}` is {types[1][pair[1]]}"
            raise UsageError(msg, where="on= of a join", do="join columns of one type")


def _render_bound(bound: Bound, where: str) -> Any:
    if bound is None:
        return None
    if isinstance(bound, dt.timedelta):
        return bound // _US
    return render(pl.col(bound) if isinstance(bound, str) else bound, where)
