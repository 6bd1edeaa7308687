"""Words for what a definition is made of: durations, instants, windows, expressions, aggregations."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from flows.agg import Aggregation
from flows.expressions import render
from flows.windows import Window

_UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001
_PLAIN_COLUMN = re.compile(r'(?<![\w"\\])col\("([A-Za-z_][A-Za-z0-9_]*)"\)')


def duration(us: int) -> str:
    """``1 h 30 min``; ``0 s`` of none."""
    parts, rest = [], abs(us)
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return ("-" if us < 0 else "") + (" ".join(parts) or "0 s")


def instant_words(us: int) -> str:
    """``2026-03-29 01:30 UTC``, with seconds where there are any."""
    time = _EPOCH + dt.timedelta(microseconds=us)
    text = time.isoformat(sep=" ")
    return f"{text[:-3] if not time.second and not time.microsecond else text} UTC"


def window_words(window: Window) -> str:
    facts = window.render()
    return _WINDOWS[facts["kind"]](facts)


def expression_words(expression: pl.Expr) -> str:
    """The canonical text, plain columns by their names."""
    return _PLAIN_COLUMN.sub(r"\1", render(expression, "an expression"))


def aggregation_words(aggregation: Aggregation) -> str:
    """As a call: ``max(abs(delay))``, ``count() where (delay > 60)``."""
    said = [] if aggregation.input is None else [expression_words(aggregation.input)]
    said += [f"{part}={expression_words(expression)}" for part, expression in aggregation.further.items()]
    said += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in aggregation.options.items()]
    where = "" if aggregation.where is None else f" where {expression_words(aggregation.where)}"
    return f"{aggregation.kind}({', '.join(said)}){where}"


_WINDOWS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "tumbling": lambda facts: f"{duration(facts['size_us'])}, side by side, in UTC",
    "hopping": lambda facts: f"{duration(facts['size_us'])}, one every {duration(facts['step_us'])}, in UTC",
    "session": lambda facts: (
        f"sessions: events of a key, each less than {duration(facts['gap_us'])} after the one before"
    ),
    "calendar": lambda facts: f"one {facts['unit']} of the calendar of {facts['zone']}",
}
