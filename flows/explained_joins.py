"""What of an ordered projection waits for its turn, and how long what was seen is kept."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl

from flows.explained_words import duration, expression_words
from flows.joins import AS_OF, INTERVAL, Join
from flows.projection import Projection
from flows.said import as_expression

_US = dt.timedelta(microseconds=1)


def waiting_of(projection: Projection) -> dict[str, Any] | None:
    """How the events of the categories find each other, and when it is their turn; None where nothing waits."""
    join = projection.source
    if not isinstance(join, Join):
        return None
    lateness = projection.allowed_lateness_us
    less = f", less {duration(lateness)}," if lateness else ""
    names = " and ".join(projection.sides)
    return {
        "kind": join.kind,
        "on": [{"left": left, "right": right} for left, right in join.on],
        "words": _joined(join),
        "frontier": f"an event waits until the least watermark of all partitions of {names}{less} is beyond its time; "
        "a partition without events, or one that stands still, holds everything back",
    }


def kept_of(projection: Projection) -> list[dict[str, Any]]:
    """What is remembered of each category after its turn has come."""
    join = projection.source
    if not isinstance(join, Join) or join.right is None:
        return []
    left, right = (stream.category.name for stream in join.streams)
    if join.kind == AS_OF:
        return [
            _kept(left, "nothing: what the other side has said before is known when its turn comes", False),
            _kept(right, "the latest event of each key, for ever: as many as there are keys", True),
        ]
    return [_kept(left, *_until_upper(join)), _kept(right, *_until_lower(join))]


def _kept(category: str, words: str, for_ever: bool) -> dict[str, Any]:
    return {"category": category, "words": words, "for_ever": for_ever}


def _joined(join: Join) -> str:
    if join.right is None:
        return f"the events of {join.left.category.name}, of all partitions together, in order of time"
    left, right = (stream.category.name for stream in join.streams)
    same = " and ".join(f"{left}.{one} = {right}.{other}" for one, other in join.on)
    if join.kind == INTERVAL:
        limits = {"not before": _bound(join, "lower"), "not after": _bound(join, "upper")}
        bounds = " and ".join(f"{word} {bound}" for word, bound in limits.items() if bound) or "at any time"
        return f"each event of {left} with each of {right} with {same}, the latter {bounds}"
    return f"each event of {left} with the latest of {right} as of its time, {same}; nulls where there is none"


def _bound(join: Join, which: str) -> str | None:
    """In words about the left event; None where there is no bound."""
    said = getattr(join, which)
    if isinstance(said, dt.timedelta):
        return _beside(said // _US)
    bound = join.bound(which)
    return None if bound is None else f"what the former says ({expression_words(bound)})"


def _beside(us: int) -> str:
    return f"{duration(abs(us))} {'before' if us < 0 else 'after'} the former" if us else "the former"


def _until_upper(join: Join) -> tuple[str, bool]:
    if join.upper is None:
        return "each event, for ever: there is no upper bound", True
    if isinstance(join.upper, dt.timedelta):
        return _until(join.upper // _US), False
    assert isinstance(join.upper, str | pl.Expr)
    return (
        f"each event, until the frontier has passed what it says ({expression_words(as_expression(join.upper))})",
        False,
    )


def _until_lower(join: Join) -> tuple[str, bool]:
    if join.reach_us is None:
        return "each event, for ever: no length of time says how long before a left event it may be", True
    return _until(-join.reach_us), False


def _until(us: int) -> str:
    after = f"{duration(abs(us))} {'before' if us < 0 else 'after'} its time" if us else "its time"
    return f"each event, until the frontier has passed {after}"
