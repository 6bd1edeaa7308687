"""What events are and how records hold them. Imports nothing of refold but itself.

    from schemas import Category, Event, cloudevents, plain, constant, RECORD_TIME, RECORD_KEY, At

Names are loaded on first use: whoever needs only the errors does not pay for kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.category import Category
    from schemas.envelope import MARKER_TYPE, RECORD_KEY, RECORD_TIME, cloudevents, constant, plain
    from schemas.event import At, Event

__all__ = ["MARKER_TYPE", "RECORD_KEY", "RECORD_TIME", "At", "Category", "Event", "cloudevents", "constant", "plain"]

_HOMES = {"Category": "schemas.category", "At": "schemas.event", "Event": "schemas.event"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "schemas.envelope")), name)
    msg = f"module 'schemas' has no attribute {name!r}"
    raise AttributeError(msg)
