"""``new``: a projection, its event classes and a test for it, written from what is in the topic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from flows.inspected import python, variable
from flows.inspecting import LATENESS_US, Inspection, Shape
from flows.naming import class_names, field_names
from schemas.errors import UsageError

KEYS_MAX = 200
"""A text with no more values than this is taken for something to group by."""
LOST_MAX = 0.001
"""The share of events that the suggested allowed lateness may lose."""
US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Homes:
    """Where the three files go, and under which names the modules are imported."""

    events: Path
    view: Path
    test: Path
    events_module: str
    view_module: str

    @classmethod
    def of(cls, view: str, category: str, into: Path | None, here: Path) -> Homes:
        """In refold's own tree when it is worked in, or else (and with ``into``) in one directory."""
        if into is None and (here / "flows/cli.py").is_file():
            name = variable(category)
            paths = (here / f"schemas/{name}.py", here / f"flows/{view}.py", here / f"tests/test_{view}.py")
            return cls(*paths, f"schemas.{name}", f"flows.{view}")
        place, events = into or here, f"{variable(category)}_events"
        return cls(place / f"{events}.py", place / f"{view}.py", place / f"test_{view}.py", events, view)


def write_view(view: str, found: Inspection, homes: Homes) -> list[Path]:
    """Write the files; those of the events only if there is none yet. Raises ``UsageError`` (a name that is none, a file that is there)."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", view):
        raise UsageError(f"no name of a view: {view!r}", do="use lower-case letters, digits and _")
    if not found.types:
        raise UsageError(
            f"category {found.category} holds no events",
            do="append some, or look again:  refold inspect " + found.category,
        )
    for path in (homes.view, homes.test):
        if path.exists():
            raise UsageError("there is such a file already", where=str(path), do="choose another name")
    texts = {homes.events: python(found), homes.view: _view(view, found, homes), homes.test: _test(view, found, homes)}
    written = [path for path in texts if not path.exists()]
    try:
        for path in written:
            fs.make_dir(path.parent)
            fs.write_file(path, texts[path].encode())
    except OSError as error:
        msg = "the files cannot be written"
        raise UsageError(
            msg, where=str(homes.view.parent), why=str(error.strerror), do="choose another --into"
        ) from error
    return written


def _main(found: Inspection) -> Shape:
    """The most frequent type that has a number, or the most frequent."""
    return next((shape for shape in found.types if _numbers(shape)), found.types[0])


def _class(shape: Shape, found: Inspection) -> str:
    return class_names(one.name for one in found.types)[shape.name]


def _numbers(shape: Shape) -> list[str]:
    return [
        name for path, name in field_names(shape.fields).items() if shape.fields[path].python_type() in ("int", "float")
    ]


def _key(shape: Shape) -> str | None:
    """A field to group by."""
    named = [(shape.fields[path], name) for path, name in field_names(shape.fields).items()]
    texts = (
        (len(one.values), name)
        for one, name in named
        if one.python_type() == "str" and not one.kinds["null"] and 1 < len(one.values) <= KEYS_MAX
    )
    return min(texts, default=(0, None))[1]


def _allowed_s(found: Inspection) -> int:
    fits = [us for name, us in LATENESS_US.items() if found.late[name] <= LOST_MAX * max(found.read, 1)]
    return (fits[0] if fits else max(LATENESS_US.values())) // US_PER_S


def _columns(shape: Shape) -> dict[str, str]:
    numbers = [name for name in _numbers(shape) if name != _key(shape)][:1]
    found = {"events": "agg.count()"}
    for name in numbers:
        found |= {f"sum_{name}": f'agg.sum("{name}")', f"last_{name}": f'agg.last("{name}")'}
    return found


def _view(view: str, found: Inspection, homes: Homes) -> str:
    shape, key = _main(found), _key(_main(found))
    event, category = _class(shape, found), variable(found.category)
    columns = "\n".join(f'        "{name}": {said},' for name, said in _columns(shape).items())
    grouped = f'key=["{key}"]' if key else 'key={"entity": "subject"}'
    return f'''"""`{view}`: {shape.name} by {key or "subject"} and hour."""

from __future__ import annotations

from datetime import timedelta

from flows import Projection, agg, tumbling
from {homes.events_module} import {", ".join(sorted([event, category], key=str.lower))}

{view} = Projection(
    name="{view}",
    version=1,
    category={category},
    events=[{event}],
    {grouped},
    window=tumbling(timedelta(hours=1)),
    allowed_lateness=timedelta(seconds={_allowed_s(found)}),  # {LOST_MAX:.1%} of the events looked at come later, at most
    columns={{
{columns}
    }},
)
'''


_VALUES: Mapping[str, str] = {
    "str": '"x"',
    "int": "1",
    "float": "1.5",
    "bool": "True",
    "dt.datetime": "AT",
    "dt.date": "AT.date()",
}


def _test(view: str, found: Inspection, homes: Homes) -> str:
    shape = _main(found)
    event = _class(shape, found)
    required = [
        f"{name}={_VALUES[shape.fields[path].python_type() or 'str']}"
        for path, name in field_names(shape.fields).items()
        if not shape.fields[path].kinds["null"]
    ]
    arguments = ", ".join(['subject="one"', "time=AT", *required])
    return f'''"""What `{view}` makes of its events."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.testing import fold_events
from {homes.events_module} import {event}
from {homes.view_module} import {view}

AT = datetime(2024, 1, 1, tzinfo=UTC)


def test_events_of_one_hour_are_one_row() -> None:
    rows = fold_events({view}, [{event}({arguments})] * 2)
    assert rows["events"].to_list() == [2]
'''
