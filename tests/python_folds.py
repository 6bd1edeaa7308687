"""Views with Python folds, in a module of their own: one that is as it should be, and some that are not pure in ways that nothing
sees before they run."""

from __future__ import annotations

import datetime as dt
from typing import Any

from flows import Projection, State, python_fold
from schemas import Category, Event


class OrderPlaced(Event):
    items: str


class OrderPaid(Event):
    amount: float


class OrderForgotten(Event):
    pass


orders = Category("orders", [OrderPlaced, OrderPaid, OrderForgotten])


class Order(State):
    items: str
    status: str = "placed"
    paid: float = 0.0
    since: dt.datetime | None = None


def advance(order: Order | None, event: Any) -> Order | None:
    if event.event_type == "OrderPlaced":
        return Order(event.items, since=event.event_time)
    if event.event_type == "OrderForgotten":
        return None
    if order is None:
        raise LookupError(f"nobody placed {event.subject}")
    order.paid += event.amount
    if order.paid < 0:
        raise ArithmeticError("less than nothing was paid")
    order.status = "paid"
    return order


def in_any_order(order: Order | None, event: Any) -> Order | None:
    if event.event_type != "OrderPlaced":
        return order
    return Order(",".join(set(event.items.split(","))))


def at_the_moment(order: Order | None, event: Any) -> Order | None:
    read = getattr(dt.datetime, "no" + "w")
    return Order("", since=read(dt.UTC))


def in_this_year(order: Order | None, event: Any) -> Order | None:
    return Order(str(getattr(dt.date, "to" + "day")().year))


def view(name: str, function: Any) -> Projection:
    return Projection(name=name, category=orders, key={"order": "subject"}, fold=python_fold(Order, function))


order_states = view("order_states", advance)
unordered = view("unordered", in_any_order)
timed = view("timed", at_the_moment)
dated = view("dated", in_this_year)
