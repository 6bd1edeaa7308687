"""The one module that reads a clock.

The wall clock decides nothing but the timestamp of a record that came without one; the monotonic clock only says how
long to wait. Neither may reach a view: what a view holds follows from the log alone.
"""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the epoch, by the wall clock."""
    return time.time_ns() // 1_000_000


def monotonic() -> float:
    """Seconds from an arbitrary start; never goes back."""
    return time.monotonic()
