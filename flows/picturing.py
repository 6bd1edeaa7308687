"""The way of the data of one projection as a picture: text for Mermaid, and for Graphviz (DOT)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LOG, STEP, TABLE = "log", "step", "table"
_MERMAID = {LOG: ('[("', '")]'), STEP: ('["', '"]'), TABLE: ('[/"', '"/]')}
_DOT = {LOG: "cylinder", STEP: "box", TABLE: "note"}
LINES_MAX = 8
"""Of a box; a picture is no list."""


@dataclass
class Picture:
    """Boxes by name (kind, lines of text), and arrows between them."""

    boxes: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)

    def box(self, name: str, kind: str, lines: list[str], after: str | None = None, arrow: str = "") -> str:
        shown = (
            lines if len(lines) <= LINES_MAX else [*lines[: LINES_MAX - 1], f"and {len(lines) - LINES_MAX + 1} more"]
        )
        self.boxes[name] = kind, shown
        if after is not None:
            self.arrows.append((after, name, arrow))
        return name

    def mermaid(self) -> str:
        lines = ["flowchart TD"]
        for name, (kind, texts) in self.boxes.items():
            left, right = _MERMAID[kind]
            lines.append(f"  {name}{left}{'<br/>'.join(map(_for_mermaid, texts))}{right}")
        for one, other, said in self.arrows:
            label = f'|"{_for_mermaid(said)}"|' if said else ""
            lines.append(f"  {one} -->{label} {other}")
        return "\n".join(lines)

    def dot(self) -> str:
        lines = ["digraph refold {", '  node [fontname="sans-serif"]', '  edge [fontname="sans-serif"]']
        for name, (kind, texts) in self.boxes.items():
            text = r"\n".join(map(_for_dot, texts))
            lines.append(f'  {name} [shape={_DOT[kind]}, label="{text}"]')
        for one, other, said in self.arrows:
            label = f' [label="{_for_dot(said)}"]' if said else ""
            lines.append(f"  {one} -> {other}{label}")
        return "\n".join([*lines, "}"])


def picture_of(facts: dict[str, Any]) -> Picture:
    """``facts``: as ``flows.explaining.explain`` gives them."""
    picture = Picture()
    shown = [f"{column['column']} {column['type']}" for column in facts["columns"]]
    picture.box("view", TABLE, [f"view {facts['projection']}", *shown], _way(picture, facts, ""), "commit")
    return picture


def _way(picture: Picture, facts: dict[str, Any], below: str) -> str:
    """The boxes up to the rows. ``below``: added to the names of those that each projection of a chain has."""
    if facts["below"]:
        return _rows(picture, facts, _way(picture, facts["below"], f"{below}_below"), below)
    ways = [_way_in(picture, number, reading) for number, reading in enumerate(facts["reads"])]
    if facts["waits"]:
        ways = [_join(picture, facts, ways)]
    (way,) = ways
    return _rows(picture, facts, way, below)


def _rows(picture: Picture, facts: dict[str, Any], way: str, below: str) -> str:
    if before := [f"{name} = {said}" for name, said in facts["derive"].items()] + _where(facts["where"]):
        way = picture.box(f"each{below}", STEP, before, way)
    way = _fold(picture, facts, way, below)
    if after := [f"{c['column']} = {c['is'].removeprefix('of the row: ')}" for c in facts["columns"] if _of_row(c)]:
        way = picture.box(f"finish{below}", STEP, after, way)
    if facts["having"]:
        way = picture.box(f"having{below}", STEP, [f"having {facts['having']}"], way)
    return way


def _way_in(picture: Picture, number: int, reading: dict[str, Any]) -> str:
    log = picture.box(f"log{number}", LOG, [reading["category"]])
    common = [column["column"] for column in reading["of_every_event"]]
    read = [f"{event['type']}: {_names(event['columns'])}" for event in reading["events"]]
    lines = [*read, *([f"and {', '.join(common)}"] if common else []), *_where(reading["where"])]
    decode = picture.box(f"decode{number}", STEP, lines, log)
    picture.box("dead", TABLE, ["dead letters"], decode, "cannot be decoded")
    return decode


def _join(picture: Picture, facts: dict[str, Any], ways: list[str]) -> str:
    on = [f"{pair['left']} = {pair['right']}" for pair in facts["waits"]["on"]]
    join = picture.box("join", STEP, [facts["waits"]["kind"].replace("_", " "), *on])
    for way in ways:
        picture.arrows.append((way, join, "in order of time"))
    picture.box("pending", TABLE, ["pending: what waits or is remembered"], join)
    picture.box("late", TABLE, ["late events"])
    picture.arrows += [(way, "late", "late") for way in ways]
    return join


def _fold(picture: Picture, facts: dict[str, Any], way: str, below: str) -> str:
    if facts["state"] is None and not facts["below"]:
        return way
    window = [f"window: {facts['window']['words']}"] if facts["window"] else []
    key = [f"key: {', '.join(column['column'] for column in facts['key'])}"] if facts["key"] else []
    where = "in one place" if facts["waits"] or facts["below"] else "in each partition"
    fold = picture.box(f"fold{below}", STEP, [f"fold {where}", *window, *key], way)
    if facts["below"]:
        picture.box(f"upstream{below}", TABLE, ["rows of the source"], fold)
        return fold
    if facts["window"] and not facts["waits"]:
        picture.box("late", TABLE, ["late events"], fold, "late")
    picture.box("partials", TABLE, ["partials"], fold)
    return (
        fold
        if facts["waits"]
        else picture.box("merge", STEP, ["merge", facts["merge"]["kind"].replace("_", " ")], fold)
    )


def _names(columns: list[dict[str, Any]]) -> str:
    return ", ".join(column["column"] for column in columns) or "no columns"


def _where(said: str | None) -> list[str]:
    return [f"where {said}"] if said else []


def _of_row(column: dict[str, str]) -> bool:
    return column["is"].startswith("of the row: ")


def _for_mermaid(text: str) -> str:
    """No character of a text may end its box, or begin markup."""
    return "".join(f"#{ord(c)};" if c in '#"<>&`|[]{}()\\' else c for c in text)


def _for_dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
