"""Definitions that are lawful and may still hurt: what ``refold check`` warns of, and ``refold explain`` says.

Only what is certain from the definition: of each it is said what will happen, and what to write in its place.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from flows.joins import INTERVAL, Join
from flows.projection import BUILT_IN, Projection


@dataclass(frozen=True, slots=True)
class Risk:
    what: str
    do: str


def risks_of(projection: Projection) -> list[Risk]:
    return [*_unbounded_joins(projection), *_float_keys(projection), *_growing(projection), *_unread(projection)]


def _unbounded_joins(projection: Projection) -> Iterator[Risk]:
    join = projection.bottom.source
    if not isinstance(join, Join) or join.kind != INTERVAL:
        return
    assert join.right is not None
    if join.upper is None:
        yield Risk(
            f"the events of `{join.left.category.name}` are kept for ever: the join has no upper bound",
            "say until when a right event may follow:  interval_join(..., upper=timedelta(hours=1))",
        )
    if not isinstance(join.lower, dt.timedelta):
        why = "has no lower bound" if join.lower is None else "has a lower bound that every left event says for itself"
        yield Risk(
            f"the events of `{join.right.category.name}` are kept for ever: the join {why}",
            "say how long before a left event a right one may be:  interval_join(..., lower=timedelta(hours=-1))",
        )


def _float_keys(projection: Projection) -> Iterator[Risk]:
    for name, kind in zip(projection.key, projection.key_types, strict=True):
        if pa.types.is_floating(kind):
            yield Risk(
                f"the key column `{name}` is {kind}: values that differ in the last bit, and 0.0 and -0.0, are rows of their own",
                f'group by whole numbers:  key={{"{name}": (pl.col(...) * 100).round(0).cast(pl.Int64, strict=False)}}',
            )


def _growing(projection: Projection) -> Iterator[Risk]:
    """Sets that nothing ever ends. ``collect`` and ``top`` have a limit, and windows become final."""
    if projection.window or projection.upstream:
        return
    for name, aggregation in projection.columns.items():
        if aggregation.kind == "count_distinct" and projection.types[f"input:{name}"] != pa.bool_():
            yield Risk(
                f"the column `{name}` keeps every different value for ever: there is no window",
                "count in windows:  window=calendar('day')",
            )


def _unread(projection: Projection) -> Iterator[Risk]:
    """Event types that can only add nulls: no field of theirs is read, and nothing counts or looks at events as such."""
    if projection.source or projection.upstream or projection.fold or projection.select or len(projection.events) < 2:
        return
    if any(not roots or roots & BUILT_IN.keys() for roots in _roots_of_columns(projection)):
        return
    for event in projection.events:
        if event.fields and not {field.name for field in event.fields} & set(projection.reads):
            yield Risk(
                f"no field of event type {event.type_name} is read: its events make rows and add nothing but nulls to them",
                f"leave it out of events=, or read a field of it: {', '.join(field.name for field in event.fields)}",
            )


def _roots_of_columns(projection: Projection) -> Iterator[set[str]]:
    """For each column, the names of what it reads of an event, derived columns followed to what they are made of."""
    made: dict[str, set[str]] = {}
    for name, expression in projection.derive.items():
        made[name] = _followed(set(expression.meta.root_names()), made)
    for aggregation in projection.columns.values():
        said = [aggregation.input, aggregation.where, *aggregation.further.values()]
        roots = {root for expression in said if expression is not None for root in expression.meta.root_names()}
        yield _followed(roots, made)


def _followed(roots: set[str], made: dict[str, set[str]]) -> set[str]:
    return {name for root in roots for name in made.get(root, {root})}
