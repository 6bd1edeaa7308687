"""What ``refold inspect`` shows: words for people, and Python to paste."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Any

from flows.display import instant
from flows.guessing import class_name
from flows.inspecting import Inspection, Shape
from flows.shapes import Member
from flows.status_text import size
from schemas.event import ENVELOPE_FIELDS

RESERVED = {*ENVELOPE_FIELDS, "type", "event_time", "event_type"}
EXAMPLE_CHARACTERS = 300
HEAD = '''"""Event types of the category `{category}`, as its records show them.

A field without `| None` was in every record that was looked at; an event that lacks it will be a dead letter.
"""

from __future__ import annotations

'''


def lines(found: Inspection) -> Iterator[str]:
    """For people."""
    part = "" if found.read >= found.total else f"  (read {found.read:,} of {found.total:,}; --all reads everything)"
    yield f"{found.category}  {found.total:,} records in {len(found.partitions)} partitions{part}"
    yield f"  envelope     {found.guess.said}   ({found.guess.sure:.0%} of the records looked at fit it)"
    if found.times_us:
        yield f"  event time   {instant(found.times_us[0])} to {instant(found.times_us[1])}"
    whole = size(round(found.bytes[0] * found.total))
    yield f"  values       {found.bytes[0]:,.0f} bytes on average, 99 % up to {found.bytes[1]:,.0f} ({whole} in all)"
    yield f"  partitions   {_partitions(found)}"
    yield f"  keys         {_keys(found)}"
    yield f"  lateness     {_lateness(found)}"
    if found.repeated_ids is not None:
        yield f"  ids          {found.repeated_ids:,} events have the id of another one"
    if found.tombstones or found.bad:
        yield f"  no events    {found.tombstones:,} tombstones, {found.bad:,} values that are no JSON object"
    for shape in found.types:
        yield f"  {shape.name}  {shape.records:,} records{_versions(shape)}"
        width = max((len(name) for name in shape.fields), default=0)
        yield from (f"    {name:<{width}}  {_field(name, member)}" for name, member in shape.fields.items())
    yield f"  for example  {found.example[:EXAMPLE_CHARACTERS]}"


def _partitions(found: Inspection) -> str:
    mean = found.total / len(found.partitions) if found.partitions else 0
    skew = max(found.partitions) / mean if mean else 0.0
    return f"{min(found.partitions):,} to {max(found.partitions):,} records; the fullest has {skew:.2f} times the mean"


def _keys(found: Inspection) -> str:
    keyed = found.read - found.without_key
    top = ", ".join(f"{key!r} {count / keyed:.1%}" for key, count in found.top_keys) if keyed else ""
    none = f"{found.without_key:,} records have none; " if found.without_key else ""
    return f"{none}{found.distinct_keys:,} different{f'; the most frequent: {top}' if top else ''}"


def _lateness(found: Inspection) -> str:
    if not found.times_us:
        return "no event times"
    lost = [f"{allowed} loses {count:,}" for allowed, count in found.late.items()]
    return "allowed " + ", ".join(lost)


def _versions(shape: Shape) -> str:
    if not shape.versions:
        return ""
    return f"  data versions {', '.join(f'{name}: {count:,}' for name, count in sorted(shape.versions.items()))} (of those looked at)"


def _field(name: str, member: Member) -> str:
    kinds = "/".join(kind for kind, count in member.kinds.items() if count and kind != "null") or "null"
    nulls = f"  {member.kinds['null'] / member.records:.1%} null" if member.kinds["null"] else ""
    some = (
        ""
        if member.has_many_values or len(member.values) > 4
        else f"  {', '.join(repr(value) for value in member.values)}"
    )
    why = why_not(name, member)
    return f"{kinds}{nulls}{some}{f'   ({why})' if why else ''}"


def why_not(name: str, member: Member) -> str | None:
    """Why an event class cannot have the field."""
    if not name.isidentifier() or keyword.iskeyword(name):
        return "no name in Python: an event class cannot have it"
    if name in RESERVED:
        return "a name of the envelope: an event class cannot have it"
    if member.python_type() is None:
        return "not one type that an event class can have"
    return None


# -- Python


def python(found: Inspection) -> str:
    """Event classes and a ``Category``, ready to paste."""
    shapes = [(class_name(shape.name), shape) for shape in found.types] or [
        (class_name(found.category), Shape("", 0, {}, {}))
    ]
    body = "\n\n".join(_class(name, shape) for name, shape in shapes)
    names = ", ".join(name for name, _ in shapes)
    envelope = "" if found.guess.said == "cloudevents()" else f", envelope={found.guess.said}"
    needed = [name for name in ("RECORD_KEY", "RECORD_TIME", "constant", "plain") if f"{name}" in envelope]
    imports = f"from schemas import {', '.join(['Category', 'Event', *needed])}"
    dates = "import datetime as dt\n\n" if "dt." in body else ""
    head = HEAD.format(category=found.category)
    return f'{head}{dates}{imports}\n\n\n{body}\n\n{variable(found.category)} = Category("{found.category}", events=[{names}]{envelope})\n'


def _class(name: str, shape: Shape) -> str:
    own = [] if shape.name in ("", name) else [f'    type_name = "{shape.name}"']
    fields = [(field, member, why_not(field, member)) for field, member in shape.fields.items()]
    required = [_declared(field, member) for field, member, why in fields if not why and not member.kinds["null"]]
    optional = [
        f"{_declared(field, member)} | None = None" for field, member, why in fields if not why and member.kinds["null"]
    ]
    left_out = [f"    # {field!r} is left out: {why}" for field, _, why in fields if why]
    inside = [*own, *required, *optional, *left_out]
    if not (required or optional or own):
        inside.append("    pass")
    return f"class {name}(Event):\n" + "\n".join(inside) + "\n"


def _declared(name: str, member: Member) -> str:
    return f"    {name}: {member.python_type()}"


def variable(category: str) -> str:
    """The name of a category as a name in Python."""
    name = "".join(letter if letter.isalnum() else "_" for letter in category.lower()).strip("_") or "events"
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"category_{name}"


def facts(found: Inspection) -> dict[str, Any]:
    """As JSON values."""
    told = {name: value for name, value in _plain(found).items() if name not in ("guess", "types")}
    types = [
        {
            "type": shape.name,
            "records": shape.records,
            "versions": shape.versions,
            "fields": {
                name: {
                    "kinds": dict(member.kinds),
                    "null_share": member.kinds["null"] / member.records,
                    "python": member.python_type(),
                }
                for name, member in shape.fields.items()
            },
        }
        for shape in found.types
    ]
    return {**told, "envelope": {"python": found.guess.said, "sure": found.guess.sure}, "types": types}


def _plain(found: Inspection) -> dict[str, Any]:
    """The plain facts by name."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}
