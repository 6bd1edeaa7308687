"""The worked example: three views of the flights that left New York in 2013.

departures_by_hour   departures and delays by origin, carrier and hour
arrivals_by_day      arrivals by destination and day
aircraft             the present state of each aircraft
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from flows import Projection, agg, dataflow, tumbling
from schemas.flights import FlightArrived, FlightDeparted, flights

departures_by_hour = Projection(
    name="departures_by_hour",
    version=1,
    category=flights,
    events=[FlightDeparted],
    key=["origin", "carrier"],
    window=tumbling(timedelta(hours=1)),
    allowed_lateness=timedelta(minutes=30),
    columns={
        "departures": agg.count(),
        "mean_delay": agg.mean("delay_minutes"),
        "worst_delay": agg.max(pl.col("delay_minutes").abs()),
        "very_late": agg.count(where=pl.col("delay_minutes") > 60),
    },
)

arrivals_by_day = Projection(
    name="arrivals_by_day",
    version=1,
    category=flights,
    events=[FlightArrived],
    key=["destination"],
    window=tumbling(timedelta(days=1)),
    allowed_lateness=timedelta(hours=6),
    columns={
        "arrivals": agg.count(),
        "on_time": agg.count(where=pl.col("delay_minutes") <= 15),
        "mean_delay": agg.mean("delay_minutes"),
        "miles": agg.sum("distance_miles"),
        "first_arrival": agg.first("event_time"),
        "last_carrier": agg.last("carrier"),
    },
)

aircraft = Projection(
    name="aircraft",
    version=1,
    category=flights,
    events=[FlightDeparted, FlightArrived],
    key={"tail_number": "subject"},
    columns={
        "state": agg.last("event_type"),
        "since": agg.last("event_time"),
        "carrier": agg.last("carrier"),
        "last_origin": agg.last("origin"),
        "last_destination": agg.last("destination"),
        "departures": agg.count(where=pl.col("event_type") == "FlightDeparted"),
        "arrivals": agg.count(where=pl.col("event_type") == "FlightArrived"),
        "miles_arrived": agg.sum("distance_miles", where=pl.col("event_type") == "FlightArrived"),
    },
)

views = [departures_by_hour, arrivals_by_day, aircraft]
flow = dataflow(*views)
