"""A point in the life of a view, as people write it: the number of a commit, a cut, an event time, or so long ago.

    12                                  the commit of that number, in the live generation
    flights[0:120 1:98] orders[0:7]     a cut, as every command prints it (thousands separators may be there)
    2013-03-10 02:00                    an event time, UTC unless it has a zone
    1h                                  so much event time (s, m, h, d) before the newest watermark

And the view itself, ``name`` or ``name@version``.

Readers import this module: it is light.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

from connectors.manifest import Cut
from schemas.errors import UsageError

_US = dt.timedelta(microseconds=1)
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_STREAM = re.compile(r"([A-Za-z0-9._\-]+)\[([^\]]*)\]")
FORMS = 'a commit ("12"), a cut ("flights[0:120 1:98]"), an event time ("2013-03-10 02:00") or a span before the newest ("1h")'


def view_name(view: str) -> tuple[str, int | None]:
    """``name`` or ``name@version`` in two. Raises ``UsageError``."""
    name, at, version = view.partition("@")
    if at and not version.isdecimal():
        raise UsageError(f"`{version}` is no version", where=view, do=f"give a number:  {name}@2")
    return name, int(version) if at else None


@dataclass(frozen=True, slots=True)
class Commit:
    """By its number in the live generation."""

    seq: int


@dataclass(frozen=True, slots=True)
class AtCut:
    cut: Cut


@dataclass(frozen=True, slots=True)
class AtTime:
    """Event time, microseconds since the epoch."""

    time_us: int


@dataclass(frozen=True, slots=True)
class Ago:
    """Event time before the newest watermark, microseconds."""

    span_us: int


Point = Commit | AtCut | AtTime | Ago


def point(seq: int | None, cut: Cut | None, time: dt.datetime | None) -> Point | None:
    """The point that is given, if any. Raises ``UsageError`` for more than one, and for a time without a zone."""
    given: list[Point] = []
    given += [Commit(seq)] if seq is not None else []
    given += [AtCut(cut)] if cut is not None else []
    given += [AtTime(_microseconds(time))] if time is not None else []
    if len(given) > 1:
        raise UsageError("a view at two points at once", do="give one of cut, seq and time")
    return given[0] if given else None


def _microseconds(time: dt.datetime) -> int:
    if time.tzinfo is None:
        raise UsageError(f"the event time {time} has no time zone", do="give it one:  datetime(..., tzinfo=UTC)")
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // _US


def parse_point(text: str) -> Point:
    """Raises ``UsageError`` for anything else than the forms above."""
    said = text.strip()
    if said.isdecimal():
        return Commit(int(said))
    if "[" in said:
        return AtCut(parse_cut(said))
    if (span := parse_span_us(said)) is not None:
        return Ago(span)
    try:
        time = dt.datetime.fromisoformat(said)
    except ValueError:
        raise UsageError(f"no point in the life of a view: {text!r}", do=f"give {FORMS}") from None
    return AtTime(_microseconds(time if time.tzinfo else time.replace(tzinfo=dt.UTC)))


def parse_span_us(text: str) -> int | None:
    """``90s``, ``15m``, ``1h``, ``7d`` in microseconds; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
    if found is None or found[2] not in _UNITS:
        return None
    return dt.timedelta(**{_UNITS[found[2]]: float(found[1])}) // _US


def parse_cut(text: str) -> Cut:
    """``category[0:12 1:34] ...``, every partition once. Raises ``UsageError``."""
    streams = _STREAM.findall(text)
    if not streams or _STREAM.sub("", text).strip():
        raise UsageError(f"no cut: {text!r}", do="write  category[0:12 1:34], a next offset for each partition")
    return {name: _offsets(name, inside) for name, inside in streams}


def cut_text(cut: Cut) -> str:
    """A cut as ``parse_cut`` reads it."""
    return " ".join(
        f"{name}[{' '.join(f'{p}:{at:,}' for p, at in enumerate(offsets))}]" for name, offsets in cut.items()
    )


def shown(path: Path) -> str:
    """A path as it is told: relative to where one stands, when it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def instant_text(us: int) -> str:
    """Microseconds since the epoch as UTC text."""
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _offsets(name: str, inside: str) -> list[int]:
    places = re.findall(r"(\d+):([\d,_]+)", inside)
    if [int(partition) for partition, _ in places] != [*range(len(places))] or re.sub(
        r"\d+:[\d,_]+", "", inside
    ).strip():
        raise UsageError(f"no cut of `{name}`: [{inside}]", do=f"write each partition in turn:  {name}[0:12 1:34]")
    return [int(re.sub("[,_]", "", offset)) for _, offset in places]
