"""What is in JSON records that nobody has described: which members there are, of what types, how often.

A *path* is a tuple of member names. Lists are one value: what is in them is not looked at.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
DEPTH_MAX = 3
NO_SCALARS = frozenset(("null", "list", "object"))
OBJECT_MEMBERS_MAX, FEW_MEMBERS, PRESENT_MIN = 60, 8, 0.25
"""An object with more different members than this is taken for a map: its members are data, not fields. So is one with more than
a few of which each is, in the mean, in a smaller share of the objects than this."""
VALUES_KEPT = 1_000
"""Distinct values of a member that are counted; with more it has many."""
INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$")
DATE = re.compile(r"\d{4}-\d\d-\d\d$")
MS_FROM, MS_TO = 10**12, 4 * 10**12
"""Whole numbers that may be milliseconds since the epoch: the years 2001 to 2096."""


@dataclass
class Member:
    """``kinds``: how many values of each kind (null, bool, int, float, text, instant, date, milliseconds, list, object)."""

    kinds: Counter[str] = field(default_factory=Counter)
    values: Counter[Any] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        return sum(self.kinds.values())

    @property
    def valued(self) -> int:
        return self.records - self.kinds["null"]

    def share(self, *kinds: str) -> float:
        """How many of the values that are there are of these kinds."""
        return sum(self.kinds[kind] for kind in kinds) / self.valued if self.valued else 0.0

    @property
    def has_many_values(self) -> bool:
        return len(self.values) >= VALUES_KEPT

    def python_type(self) -> str | None:
        """What an event class would call it; None for what it cannot hold: lists, objects, or values of several types."""
        found = {kind for kind, count in self.kinds.items() if count} - {"null"}
        found = {"int" if kind == "milliseconds" else kind for kind in found}
        for kinds, name in (
            ({"bool"}, "bool"),
            ({"int"}, "int"),
            ({"int", "float"}, "float"),
            ({"instant"}, "dt.datetime"),
            ({"date"}, "dt.date"),
            ({"text", "instant", "date"}, "str"),
        ):
            if found and found <= kinds:
                return name
        return None


def members(records: Iterable[Mapping[str, Any]]) -> dict[Path, Member]:
    """Every member of the records, those of objects within them too, in order of first appearance."""
    found: dict[Path, Member] = {}
    top: dict[str, _Node] = {}
    for record in records:
        _look(record, top, (), found)
    return found


@dataclass(slots=True)
class _Node:
    """A member, and those within it."""

    member: Member
    path: Path
    within: dict[str, _Node] = field(default_factory=dict)


def _look(record: Mapping[str, Any], nodes: dict[str, _Node], above: Path, found: dict[Path, Member]) -> None:
    for name, value in record.items():
        node = nodes.get(name)
        if node is None:
            path = (*above, name)
            node = nodes[name] = _Node(Member(), path)
            found[path] = node.member
        kind, member = kind_of(value), node.member
        member.kinds[kind] += 1
        if kind not in NO_SCALARS and (value in member.values or not member.has_many_values):
            member.values[value] += 1
        if kind == "object" and len(node.path) < DEPTH_MAX:
            _look(value, node.within, node.path, found)


def leaves(found: Mapping[Path, Member]) -> dict[Path, Member]:
    """Those that hold a value of their own. An object that is looked into is its members, unless they differ from record to record."""
    within = Counter(path[:-1] for path in found)
    maps = {path for path, count in within.items() if path and _is_map(path, count, found)}
    heads = [*dict.fromkeys(path[0] for path in found)]
    return {
        path: member
        for path, member in sorted(found.items(), key=lambda one: heads.index(one[0][0]))
        if not any(path[:depth] in maps for depth in range(1, len(path)))
        and not (path not in maps and within[path] and not member.valued > member.kinds["object"])
    }


def _is_map(path: Path, members: int, found: Mapping[Path, Member]) -> bool:
    inside = sum(member.records for inner, member in found.items() if inner[:-1] == path)
    present = inside / (members * found[path].kinds["object"])
    return members > OBJECT_MEMBERS_MAX or (members > FEW_MEMBERS and present < PRESENT_MIN)


def kind_of(value: Any) -> str:
    """The kind of one JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "milliseconds" if MS_FROM <= value < MS_TO else "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return _kind_of_text(value)
    return "object" if isinstance(value, dict) else "list"


def _kind_of_text(text: str) -> str:
    if text[4:5] == "-":  # so do all instants and dates, and few other texts
        if INSTANT.match(text) and _parses(dt.datetime.fromisoformat, text):
            return "instant"
        if DATE.match(text) and _parses(dt.date.fromisoformat, text):
            return "date"
    return "text"


def _parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
