"""The canonical text of a projection: everything that turns bytes into rows, the same text for the same meaning.

Fingerprints are made of it, so what a projection does not use is not in it, and the text of what existed before stays as it was.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from connectors.manifest import render_schema
from flows.agg import Aggregation
from flows.expressions import render
from schemas import Category, Event
from schemas.event import Field

if TYPE_CHECKING:
    from flows.projection import Projection

_US = dt.timedelta(microseconds=1)


def definition_of(projection: Projection) -> str:
    place = f"projection {projection.title}"
    text = {
        **_source(projection, place),
        "key": _steps(projection.key, f"{place}, key"),
        "window": projection.window.render() if projection.window else None,
        "allowed_lateness_us": projection.allowed_lateness_us if projection.window else None,
        "columns": _columns(projection, place),
        **_further(projection, place),
    }
    return json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False)


def _source(projection: Projection, place: str) -> dict[str, Any]:
    if projection.upstream:
        return {"source": {"projection": json.loads(projection.upstream.definition)}}
    if projection.source is None:
        return _category(projection.category, projection.events, projection.reads)
    sides = [
        {**_category(side.category, side.events, side.reads), **_further(side, place)}
        for side in projection.sides.values()
    ]
    said = projection.source.render(place)
    return {"source": {**said, "streams": sides, "allowed_lateness_us": projection.allowed_lateness_us}}


def _category(category: Category, events: Sequence[type[Event]], reads: Sequence[str]) -> dict[str, Any]:
    envelope = category.envelope
    return {
        "category": category.name,
        "envelope": {part: str(getattr(envelope, part)) for part in ("name", "type", "time", "subject", "data")},
        "max_ahead_us": category.max_ahead // _US,
        "events": {event.type_name: _fields(event, reads) for event in events},
    }


def _fields(event: type[Event], reads: Sequence[str]) -> dict[str, Any]:
    return {f.name: _field(f) for f in event.fields if f.name in reads}


def _field(field: Field) -> str:
    place = "" if field.at is None else f" at {json.dumps(field.path)}"
    return f"{field.type}{'' if field.nullable else ' required'}{place}"


def _columns(projection: Projection, place: str) -> dict[str, Any]:
    return {
        name: {
            "aggregation": aggregation.kind,
            "input": None if aggregation.input is None else render(aggregation.input, f"{place}, column `{name}`"),
            "where": None if aggregation.where is None else render(aggregation.where, f"{place}, column `{name}`"),
            "type": _type(acc.result),
            **_extras(aggregation, f"{place}, column `{name}`"),
        }
        for (name, aggregation), acc in zip(
            projection.columns.items(), projection.accumulators[: len(projection.columns)], strict=True
        )
    }


def _extras(aggregation: Aggregation, where: str) -> dict[str, Any]:
    """What only some aggregations have: said where it is there, so that the text of the others stays as it is."""
    further = {part: render(expression, where) for part, expression in aggregation.further.items()}
    return {name: found for name, found in (("further", further), ("options", dict(aggregation.options))) if found}


def _type(kind: pa.DataType) -> str:
    return render_schema(pa.schema([("", kind)]))[0][1] if pa.types.is_nested(kind) else str(kind)


def _further(projection: Projection, place: str) -> dict[str, Any]:
    """What a projection may have or not: absent where it is not used."""
    conditions = {"where": projection.where, "having": projection.having}
    found: dict[str, Any] = {
        kind: render(said, f"{place}, {kind}") for kind, said in conditions.items() if said is not None
    }
    if projection.fold:
        found["fold"] = projection.fold.definition()
    steps = {"derive": projection.derive, "select": projection.select, "finish": projection.finish}
    return found | {kind: _steps(named, f"{place}, {kind}") for kind, named in steps.items() if named}


def _steps(named: Any, where: str) -> list[list[str]]:
    return [[name, render(said, f"{where} `{name}`")] for name, said in named.items()]
