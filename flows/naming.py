"""Names in Python for what records call otherwise: event classes of event types, fields of members."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Mapping

from flows.shapes import Member, Path
from schemas.event import ENVELOPE_FIELDS

RESERVED = frozenset(
    {*ENVELOPE_FIELDS, "type", "event_time", "event_type", "type_name", "data_version", "fields", "data"}
)
"""What an event class or a row of every event has already."""
IMPORTED = frozenset({"Annotated", "At", "Category", "Event"})
"""Names that the module of event classes imports."""


def class_name(text: str) -> str:
    """``order.placed-v2`` as a name of a class: ``OrderPlacedV2``."""
    words = re.findall(r"[A-Za-z0-9]+", text) or ["Nameless"]
    joined = "".join(word[:1].upper() + word[1:] for word in words)
    return joined if joined[0].isalpha() and joined not in IMPORTED else f"Event{joined}"


def class_names(types: Iterable[str]) -> dict[str, str]:
    """Each event type and its class; no two types have one class."""
    found: dict[str, str] = {}
    for name in types:
        found[name] = _unlike(class_name(name), found.values())
    return found


def field_names(fields: Mapping[Path, Member]) -> dict[Path, str]:
    """The members that an event class can have, with their names in it: their own ones where Python has such names."""
    usable = [path for path, member in fields.items() if member.python_type() is not None]
    plain: dict[Path, str] = {path: path[0] for path in usable if len(path) == 1 and _is_name(path[0])}
    others: dict[Path, str] = {}
    for path in usable:
        if path not in plain:
            others[path] = _unlike(_name(path), [*plain.values(), *others.values()])
    return {path: plain.get(path) or others[path] for path in usable}


def quoted(text: str) -> str:
    """As Python writes it."""
    return json.dumps(text, ensure_ascii=False)


def _is_name(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and not keyword.iskeyword(name) and name not in RESERVED


def _name(path: Path) -> str:
    words = "_".join(re.sub(r"\W+", "_", name).strip("_") for name in path).strip("_") or "field"
    name = words if words.isidentifier() else f"field_{words}"
    return name if _is_name(name) else f"{name}_"


def _unlike(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number when there is such a one."""
    known, number = {*taken}, 2
    tried = name
    while tried in known:
        tried, number = f"{name}_{number}", number + 1
    return tried
