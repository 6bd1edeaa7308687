"""When the views that this process writes will commit next, at the earliest: before that nobody needs to hear what changed.

A fold of a view without windows can keep what changed to itself at no cost: it holds its groups for ever in any case, and a
group that changes again need be told of once only. So in a replay of millions of keys, that commits after half a minute or when
it ends, next to nothing is told in between; and in the end not even that, as the view takes over what the fold has.

Of views that another process writes nothing is known here, and their folds tell what changed as it comes.
"""

from __future__ import annotations

import threading

from connectors.clock import monotonic

FLUSH_S = 0.25
"""Seconds after which even a few changed groups are told; so long before a commit all are, that it may have them."""


class CommitsAhead:
    """Earliest times, by a clock that never goes back. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._earliest: dict[str, float] = {}

    def not_before(self, view: str, earliest: float) -> None:
        with self._lock:
            self._earliest[view] = earliest

    def is_here(self, view: str) -> bool:
        """Whether this process writes the view."""
        with self._lock:
            return view in self._earliest

    def is_far(self, view: str) -> bool:
        """Whether the view would only keep, for a while, what it is told now."""
        with self._lock:
            return monotonic() + FLUSH_S < self._earliest.get(view, 0.0)
