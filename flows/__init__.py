"""Projections, the fold, and the commands over them.

    from flows import Projection, agg, tumbling, hopping, session, calendar, as_of, interval_join, in_order, stream
    from flows import dataflow, run, rebuild, verify, repair, promote, rollback, diff, doctor
    from flows import State, python_fold                          for folds in Python
    from flows import Meter, shown                                to show how far a job is

Names are loaded on first use, so that ``refold --help`` and queries stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows import agg
    from flows.calendars import calendar
    from flows.diffing import diff
    from flows.display import Meter, shown
    from flows.doctor import doctor
    from flows.joins import as_of, in_order, interval_join, stream
    from flows.projection import Projection
    from flows.promoting import promote, rollback
    from flows.python_folds import State, python_fold
    from flows.repairing import repair
    from flows.running import dataflow, rebuild, run
    from flows.verification import Verification, verify
    from flows.windows import hopping, session, tumbling

__all__ = [
    "Meter",
    "Projection",
    "State",
    "Verification",
    "agg",
    "as_of",
    "calendar",
    "dataflow",
    "diff",
    "doctor",
    "hopping",
    "in_order",
    "interval_join",
    "promote",
    "python_fold",
    "rebuild",
    "repair",
    "rollback",
    "run",
    "session",
    "shown",
    "stream",
    "tumbling",
    "verify",
]

_HOMES = {
    "Meter": "flows.display",
    "Projection": "flows.projection",
    "State": "flows.python_folds",
    "Verification": "flows.verification",
    "as_of": "flows.joins",
    "calendar": "flows.calendars",
    "diff": "flows.diffing",
    "doctor": "flows.doctor",
    "hopping": "flows.windows",
    "in_order": "flows.joins",
    "interval_join": "flows.joins",
    "promote": "flows.promoting",
    "python_fold": "flows.python_folds",
    "repair": "flows.repairing",
    "rollback": "flows.promoting",
    "session": "flows.windows",
    "shown": "flows.display",
    "stream": "flows.joins",
    "tumbling": "flows.windows",
    "verify": "flows.verification",
}


def __getattr__(name: str) -> Any:
    if name == "agg":
        return import_module("flows.agg")
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "flows.running")), name)
    msg = f"module 'flows' has no attribute {name!r}"
    raise AttributeError(msg)
