"""What ``refold inspect`` shows: words for people, and Python to paste."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Any

from flows.display import instant
from flows.inspecting import Inspection, Shape
from flows.naming import class_name, class_names, field_names, quoted
from flows.shapes import Member, Path
from flows.status_text import size

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
        yield from _fields(shape)
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


def _fields(shape: Shape) -> Iterator[str]:
    names, width = field_names(shape.fields), max((len(dotted(path)) for path in shape.fields), default=0)
    for path, member in shape.fields.items():
        yield f"    {dotted(path):<{width}}  {_field(member, _as(path, member, names))}"


def _as(path: Path, member: Member, names: dict[Path, str]) -> str:
    if path not in names:
        return f"   ({_why_not(member)})"
    return "" if (names[path],) == path else f"   (in Python: {names[path]})"


def _why_not(member: Member) -> str:
    return "not one type that an event class can have" if member.valued else "always null"


def dotted(path: Path) -> str:
    return ".".join(path)


def _field(member: Member, note: str) -> str:
    kinds = "/".join(kind for kind, count in member.kinds.items() if count and kind != "null") or "null"
    nulls = f"  {member.kinds['null'] / member.records:.1%} null" if member.kinds["null"] else ""
    some = (
        ""
        if member.has_many_values or len(member.values) > 4
        else f"  {', '.join(repr(value) for value in member.values)}"
    )
    return f"{kinds}{nulls}{some}{note}"


# -- Python


def python(found: Inspection) -> str:
    """Event classes and a ``Category``, ready to paste."""
    classes = class_names(shape.name for shape in found.types)
    shapes = [(classes[shape.name], shape) for shape in found.types] or [
        (class_name(found.category), Shape("", 0, {}, {}))
    ]
    body = "\n\n".join(_class(name, shape) for name, shape in shapes)
    names = ", ".join(name for name, _ in shapes)
    envelope = "" if found.guess.said == "cloudevents()" else f", envelope={found.guess.said}"
    head = f"{HEAD.format(category=found.category)}{_imports(body, envelope)}"
    return (
        f'{head}\n\n\n{body}\n\n{variable(found.category)} = Category("{found.category}", events=[{names}]{envelope})\n'
    )


def _imports(body: str, envelope: str) -> str:
    needed = ["At"] if "Annotated[" in body else []
    needed += [name for name in ("RECORD_KEY", "RECORD_TIME", "constant", "plain") if name in envelope]
    names = sorted(["Category", "Event", *needed], key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    lines = ["import datetime as dt"] if "dt." in body else []
    lines += ["from typing import Annotated"] if "At" in needed else []
    return "\n".join([*lines, *([""] if lines else []), f"from schemas import {', '.join(names)}"])


def _class(name: str, shape: Shape) -> str:
    own = [] if shape.name in ("", name) else [f"    type_name = {quoted(shape.name)}"]
    names = field_names(shape.fields)
    required = [
        _declared(path, called, shape) for path, called in names.items() if not shape.fields[path].kinds["null"]
    ]
    optional = [_declared(path, called, shape) for path, called in names.items() if shape.fields[path].kinds["null"]]
    left_out = [
        f"    # {dotted(path)!r} is left out: {_why_not(member)}"
        for path, member in shape.fields.items()
        if path not in names
    ]
    inside = [*own, *required, *optional, *left_out]
    if not (required or optional or own):
        inside.append("    pass")
    return f"class {name}(Event):\n" + "\n".join(inside) + "\n"


def _declared(path: Path, name: str, shape: Shape) -> str:
    member = shape.fields[path]
    kind, missing = (
        (f"{member.python_type()} | None", " = None") if member.kinds["null"] else (member.python_type(), "")
    )
    if path != (name,):
        kind = f"Annotated[{kind}, At({', '.join(map(quoted, path))})]"
    return f"    {name}: {kind}{missing}"


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
                dotted(path): {
                    "path": path,
                    "kinds": dict(member.kinds),
                    "null_share": member.kinds["null"] / member.records,
                    "python": member.python_type(),
                }
                for path, member in shape.fields.items()
            },
        }
        for shape in found.types
    ]
    return {**told, "envelope": {"python": found.guess.said, "sure": found.guess.sure}, "types": types}


def _plain(found: Inspection) -> dict[str, Any]:
    """The plain facts by name."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}
