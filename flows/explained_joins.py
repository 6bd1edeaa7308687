"""What of an ordered projection waits for its turn, and how long what was seen is kept."""

from __future__ import annotations

import datetime as dt
from typing import Any

from flows.explained_words import duration, expression_words
from flows.joins import AS_OF, INTERVAL, Join
from flows.projection import Projection

_US = dt.timedelta(microseconds=1)


def waiting_of(projection: Projection) -> dict[str, Any] | None:
    """How the events of the categories find each other, and when it is their turn; None where nothing waits."""
    join = projection.source
    if join is None:
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
    if join is None or join.right is None:
        return []
    left, right = (stream.category.name for stream in join.streams)
    if join.kind == AS_OF:
        return [
            _kept(left, "not at all: what the other side said before is known when its turn comes", False),
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
        bounds = f"not before {_bound(join, 'lower')} and not after {_bound(join, 'upper')}"
        return f"each pair of {left} and {right} with {same}, {right} {bounds}"
    return f"each event of {left} with the latest of {right} as of its time, {same}; nulls where there is none"


def _bound(join: Join, which: str) -> str:
    said = getattr(join, which)
    if said is None:
        return "any time"
    if isinstance(said, dt.timedelta):
        return f"{join.left.category.name}'s time {'-' if said < dt.timedelta(0) else '+'} {duration(abs(said // _US))}"
    bound = join.bound(which)
    assert bound is not None
    return f"what {join.left.category.name} says: {expression_words(bound)}"


def _until_upper(join: Join) -> tuple[str, bool]:
    if join.upper is None:
        return "for ever: there is no upper bound", True
    if isinstance(join.upper, dt.timedelta):
        return _until(join.upper // _US), False
    return f"until the frontier has passed {_bound(join, 'upper')}", False


def _until_lower(join: Join) -> tuple[str, bool]:
    if join.reach_us is None:
        return "for ever: no length of time says how long before a left event it may be", True
    return _until(-join.reach_us), False


def _until(us: int) -> str:
    after = f"{duration(abs(us))} {'before' if us < 0 else 'after'} its time" if us else "its time"
    return f"until the frontier has passed {after}"
