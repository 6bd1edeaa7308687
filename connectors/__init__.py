"""Where events come from and where views are kept: logs and tables.

    from connectors import open_log, open_view

Names are loaded on first use, so that a query does not pay for a broker's client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.log import Log, open_log
    from connectors.view import View, open_view

__all__ = ["Log", "View", "open_log", "open_view"]

_HOMES = {"Log": "connectors.log", "open_log": "connectors.log"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "connectors.view")), name)
    msg = f"module 'connectors' has no attribute {name!r}"
    raise AttributeError(msg)
