"""The projections of the story of a view's life, over the topic named in STORY_TOPIC: for commands in processes of their own."""

from __future__ import annotations

import os

from flows import Projection, agg
from schemas import Category, Event


class Charged(Event):
    customer: str
    plan: str
    cents: int


charges = Category(os.environ.get("STORY_TOPIC", "charges"), events=[Charged])


def revenue(version: int, key: str) -> Projection:
    columns = {"n": agg.count(), "cents": agg.sum("cents")}
    return Projection(name="revenue", version=version, category=charges, key=[key], columns=columns)


by_customer, by_plan = revenue(1, "customer"), revenue(2, "plan")
