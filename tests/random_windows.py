"""Windows of all kinds for random projections, each beside the same said for the reference fold.

Event times of random records lie around 1970-01-01 and 02, and a few in 2999: the zones are those that did something then.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from reference import EPOCH, Windows

from flows import calendar, hopping, session, tumbling
from flows.windows import Window

US = {"us": 1, "ms": 1000, "s": 1_000_000}
DAY_US = 86_400 * US["s"]
SCAN_US = 30 * US["s"]
"""No clock shows a date for a shorter time than this before it is set back."""


@dataclass(frozen=True)
class Windowed:
    """A window for a projection, and the same for its ``Spec``."""

    window: Window
    spec: dict[str, Any]


def length(us: int) -> dt.timedelta:
    return dt.timedelta(microseconds=us)


def side_by_side(size_us: int) -> Windowed:
    return Windowed(tumbling(length(size_us)), {"size_us": size_us})


def overlapping(size_us: int, step_us: int) -> Windowed:
    return Windowed(hopping(length(size_us), length(step_us)), {"size_us": None, "windows": hops(size_us, step_us)})


def local(unit: str, zone: str) -> Windowed:
    return Windowed(calendar(unit, zone=zone), {"size_us": None, "windows": local_windows(unit, zone)})


def sessions(gap_us: int) -> Windowed:
    return Windowed(session(length(gap_us)), {"size_us": None, "gap_us": gap_us})


def hops(size: int, step: int) -> Windows:
    """Every window [k * step, k * step + size) that the time is in."""
    return lambda time: [
        (k * step, k * step + size)
        for k in range((time - size) // step - 1, time // step + 2)
        if k * step <= time < k * step + size
    ]


def local_windows(unit: str, zone: str) -> Windows:
    return lambda time: [local_window(unit, zone_of(zone), time)]


def local_window(unit: str, zone: ZoneInfo, time: int) -> tuple[int, int]:
    """From the first instant that shows the first date of a unit (or a later date) to that of the next unit."""
    days = {"day": 3, "week": 10, "month": 34}[unit]
    around = range(time // DAY_US - days, time // DAY_US + days)
    begins = [first_instant(zone, day) for day in around if begins_unit(unit, dt.date(1970, 1, 1) + dt.timedelta(day))]
    return max(us for us in begins if us <= time), min(us for us in begins if us > time)


@cache
def zone_of(name: str) -> ZoneInfo:
    """Of the package, as the engine has it: what this machine has may be of another year."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def begins_unit(unit: str, day: dt.date) -> bool:
    return unit == "day" or (unit == "week" and day.isoweekday() == 1) or (unit == "month" and day.day == 1)


@cache
def first_instant(zone: ZoneInfo, day: int) -> int:
    """Found by looking at the clock again and again: the first instant at which it shows this date or a later one."""
    date = dt.date(1970, 1, 1) + dt.timedelta(day)

    def is_there(us: int) -> bool:
        return (EPOCH + dt.timedelta(microseconds=us)).astimezone(zone).date() >= date

    us = day * DAY_US - DAY_US
    assert not is_there(us), "no clock is a day ahead of UTC"
    while not is_there(us + SCAN_US):
        us += SCAN_US
    before, after = us, us + SCAN_US
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if is_there(middle) else (middle, after)
    return after


WINDOWS = [
    *map(side_by_side, [1 * US["ms"], 7 * US["s"], 10 * US["s"], 60 * US["s"], 86_400 * US["s"]]),
    overlapping(10 * US["s"], 5 * US["s"]),
    overlapping(10 * US["s"], 3 * US["s"]),  # three or four windows an event
    overlapping(60 * US["s"], 7 * US["s"]),
    overlapping(5 * US["s"], 5 * US["s"]),
    overlapping(86_400 * US["s"] + 1, 40_000 * US["s"]),
    local("day", "Africa/Monrovia"),  # 44 minutes and 30 seconds behind
    local("day", "Pacific/Kiritimati"),
    local("week", "Europe/Amsterdam"),
    local("month", "America/New_York"),
    *map(sessions, [1, 1000 * US["ms"], 3 * US["s"], 10 * US["s"], 10 * US["s"] + 1, 60 * US["s"]]),
]
