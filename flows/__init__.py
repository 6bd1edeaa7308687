"""Projections, the fold, and the commands over them.

    from flows import Projection, agg, tumbling, hopping, session, calendar, dataflow, run, rebuild, verify, repair

Names are loaded on first use, so that ``refold --help`` and queries stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows import agg
    from flows.calendars import calendar
    from flows.projection import Projection
    from flows.repairing import repair
    from flows.running import dataflow, rebuild, run
    from flows.verification import Verification, verify
    from flows.windows import hopping, session, tumbling

__all__ = [
    "Projection",
    "Verification",
    "agg",
    "calendar",
    "dataflow",
    "hopping",
    "rebuild",
    "repair",
    "run",
    "session",
    "tumbling",
    "verify",
]

_HOMES = {
    "Projection": "flows.projection",
    "Verification": "flows.verification",
    "calendar": "flows.calendars",
    "hopping": "flows.windows",
    "repair": "flows.repairing",
    "session": "flows.windows",
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
