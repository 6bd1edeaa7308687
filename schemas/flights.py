"""Event types of the category `flights`: what happens to the flights of an aircraft.

The subject is the aircraft's tail number, so that everything that happens to one aircraft lies in one partition. A type
requires what its fact cannot be told without; the rest may be missing from a report. Times are instants; delays are
minutes, negative when early. Knows nothing of where the facts come from.
"""

from __future__ import annotations

import datetime as dt

from schemas.category import Category
from schemas.event import Event


class FlightScheduled(Event):
    """A flight was put on the schedule."""

    carrier: str
    flight: int
    origin: str
    destination: str
    scheduled_departure: dt.datetime
    scheduled_arrival: dt.datetime
    distance_miles: int | None = None


class FlightDeparted(Event):
    """A flight left its gate at ``time``."""

    carrier: str
    origin: str
    flight: int | None = None
    destination: str | None = None
    distance_miles: int | None = None
    delay_minutes: float | None = None


class FlightArrived(Event):
    """A flight reached its gate at ``time``. No ``delay_minutes``: it was diverted on its way."""

    carrier: str
    destination: str
    flight: int | None = None
    origin: str | None = None
    distance_miles: int | None = None
    air_minutes: float | None = None
    delay_minutes: float | None = None


class FlightCancelled(Event):
    """A flight that was to depart at ``time`` did not."""

    carrier: str
    origin: str
    flight: int | None = None
    destination: str | None = None


flights = Category("flights", events=[FlightScheduled, FlightDeparted, FlightArrived, FlightCancelled])
