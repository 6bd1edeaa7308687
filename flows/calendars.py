"""Calendar windows: days, weeks (from Monday) and months of a time zone, whatever its clocks do.

A day begins at the first instant at which the local clock shows its date: at midnight; at the first of two midnights, where the clock
was set back over it; where there is no midnight, when the clock was set forward over it. A day that a zone skipped has no
instant and no window. A week begins with its Monday and a month with its first day (or with the day after a skipped one).

Zones come from the package ``tzdata``, never from the host. What a view's definition holds is not the version of that package but
a digest of the zone's offsets and when they change: a release that changes other zones, names or abbreviations changes no
definition, and one that changes this zone's clock changes it, so that a run refuses to go on with half of its days cut otherwise.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import io
import re
import struct
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from flows.windows import Window
from schemas.compiled import maker
from schemas.errors import UsageError
from schemas.instants import FIRST_US, LAST_US

Ints = npt.NDArray[np.int64]

UNITS = ("day", "week", "month")
DAY_S = 86_400
US_PER_S = 1_000_000
BLOCK_US = 3_652 * DAY_S * US_PER_S
"""Bounds are found for about ten years at a time."""
MARGIN_DAYS = 70
"""Days around a block whose bounds its windows may need: a month before and two after, and clocks that are a day off."""
EPOCH = dt.date(1970, 1, 1).toordinal()
MONDAY = 4
"""1970-01-05, the first Monday, in days since the epoch."""
FIRST, LAST = 1 - EPOCH, dt.date.max.toordinal() - EPOCH


@dataclass(frozen=True, slots=True)
class Calendar(Window):
    """Windows from one local day, week or month to the next."""

    unit: str
    zone: str

    def starts(self, event_time: Ints) -> Ints:
        return self._bounds(event_time, 0)

    def ends(self, starts: Ints) -> Ints:
        return self._bounds(starts, 1)

    def render(self) -> dict[str, Any]:
        return {"kind": "calendar", "unit": self.unit, "zone": self.zone, "rules": rules_digest(self.zone)}

    def _bounds(self, time: Ints, which: int) -> Ints:
        """The last bound up to each instant (0), or the next one (1). Bounds belong to the zone: no other instant has a say."""
        if not len(time):
            return time
        if (
            time.min() < FIRST_US or time.max() > LAST_US
        ):  # of records without an event time, or the start of the first window
            time = np.clip(time, FIRST_US, LAST_US)
        first, last = int(time.min()) // BLOCK_US, int(time.max()) // BLOCK_US
        if first == last:
            return _looked_up(time, bounds(self.zone, self.unit, first), which)
        blocks = time // BLOCK_US
        found = np.empty(len(time), np.int64)
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            found[here] = _looked_up(time[here], bounds(self.zone, self.unit, block), which)
        return found


def calendar(unit: str, *, zone: str = "UTC") -> Calendar:
    """``calendar("day", zone="Europe/Berlin")``: from midnight to midnight in Berlin, 23 to 25 hours long.

    ``unit``: "day", "week" (from Monday) or "month". Raises ``UsageError`` for another one, and for an unknown zone.
    """
    if unit not in UNITS:
        raise UsageError(f"a calendar window of one `{unit}`", do=f"give one of {', '.join(UNITS)}")
    _zone(zone)
    return Calendar(unit, zone)


@maker
def _looked_up(time: Ints, bounds: Ints, which: int) -> Ints:
    """``bounds`` begin at or before the least time and end behind the greatest. Neighbours mostly share a window."""
    found = np.empty(len(time), np.int64)
    at = 0
    for i in range(len(time)):
        if not bounds[at] <= time[i] < bounds[at + 1]:
            at = np.searchsorted(bounds, time[i], side="right") - 1
        found[i] = bounds[at + which]
    return found


@cache
def bounds(zone: str, unit: str, block: int) -> Ints:
    """Where the units of a zone begin, ascending, for instants of a block, and some around."""
    first = block * BLOCK_US // (DAY_S * US_PER_S) - MARGIN_DAYS
    last = (block + 1) * BLOCK_US // (DAY_S * US_PER_S) + MARGIN_DAYS
    clock = _zone(zone)
    found = np.array([_begin(clock, day) for day in _first_days(unit, first, last)], np.int64)
    return np.unique(found)  # a day that was skipped begins and ends at once


def _first_days(unit: str, first: int, last: int) -> list[int]:
    """The days from ``first`` to ``last`` with which a unit begins; days count from the epoch."""
    if unit == "week":
        return list(range(first + (MONDAY - first) % 7, last + 1, 7))
    if unit == "day":
        return list(range(first, last + 1))
    days = np.arange(first, last + 1).astype("M8[D]")
    return np.flatnonzero(days == days.astype("M8[M]").astype("M8[D]")).__add__(first).tolist()


def _begin(clock: ZoneInfo, day: int) -> int:
    """The first instant at which the clock shows this date or a later one."""
    midnight = dt.datetime.fromordinal(
        min(max(day, FIRST), LAST) + EPOCH
    )  # beyond the calendar offsets stay what they are
    early, late = (_offset_us(clock, midnight.replace(fold=fold)) for fold in (0, 1))
    midnight_us = day * DAY_S * US_PER_S
    if early >= late:  # an ordinary midnight, or the first of two
        return midnight_us - early
    return _jump(clock, midnight_us - late, midnight_us - early, early)


def _jump(clock: ZoneInfo, before: int, after: int, offset: int) -> int:
    """When, behind ``before`` and up to ``after``, the clock was set forward from this offset."""
    while after - before > 1:
        middle = (before + after) // 2
        wall = (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=middle)).replace(tzinfo=clock)  # noqa: DTZ001
        if _offset_us(clock, clock.fromutc(wall)) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset_us(clock: ZoneInfo, wall: dt.datetime) -> int:
    offset = clock.utcoffset(wall)
    assert offset is not None
    return offset // dt.timedelta(microseconds=1)


# -- zones


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo.from_file(io.BytesIO(_file(name)), key=name)


@cache
def zone_names() -> list[str]:
    return (resources.files("tzdata") / "zones").read_text().split()


def _file(name: str) -> bytes:
    if name not in zone_names():
        close = difflib.get_close_matches(name, zone_names(), 1)
        hint = f"did you mean `{close[0]}`?" if close else "give a name of the IANA database, for example Europe/Berlin"
        raise UsageError(f"there is no time zone `{name}`", do=hint)
    return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


@cache
def rules_digest(zone: str) -> str:
    """A digest of the zone's offsets from UTC and of when they change, of all that decides where its days begin."""
    return hashlib.blake2b(_rules(_file(zone)).encode(), digest_size=8).hexdigest()


def _rules(data: bytes) -> str:
    """The offsets of a TZif file (RFC 8536) as text: the first, each change, and the rule for the time after the last.

    Names of offsets, and changes that are none (of the name alone), are left out.
    """
    start = 44 + _sizes(data, 0, 4)[0]
    size, changes, types = _sizes(data, start, 8)
    at = start + 44
    times = struct.unpack_from(f">{changes}q", data, at)
    kinds = struct.unpack_from(f">{changes}B", data, at + 8 * changes)
    offsets = [struct.unpack_from(">i", data, at + 9 * changes + 6 * kind)[0] for kind in range(types)]
    known, lines = offsets[0], [str(offsets[0])]
    for time, kind in zip(times, kinds, strict=True):
        if offsets[kind] != known:
            known = offsets[kind]
            lines.append(f"{time} {known}")
    names, comma, rule = data[at + size :].decode().strip().partition(",")
    return "\n".join([*lines, re.sub(r"<[^>]*>|[A-Za-z]+", "*", names) + comma + rule])


def _sizes(data: bytes, at: int, width: int) -> tuple[int, int, int]:
    """Of the block whose header is there: the bytes behind the header, changes, and kinds of time."""
    utc, standard, leaps, changes, types, characters = struct.unpack_from(">6I", data, at + 20)
    size = changes * (width + 1) + types * 6 + characters + leaps * (width + 4) + standard + utc
    return size, changes, types
