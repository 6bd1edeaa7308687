"""When a view commits: at most once an interval, and in the long run committing takes at most a tenth of the time.

What the last commit took says how long to wait for the next one, whatever has changed since: the cost of a commit does not simply grow
with the changes (many changes of one keyed view touch the same chunks). Only before the first commit of a run there is nothing to go by; a
replay would commit millions of groups after a second, and again soon. So that one waits for what it may take, but not for ever.

A run that ends by itself commits so that another could go on from there, and hardly anybody reads its rows meanwhile: unless it was told
how often, it commits more seldom, as long as the pauses stay short.

Only time is at stake here: any moment is a valid moment, and no commit changes what a view is at its cut.
"""

from __future__ import annotations

INTERVAL_S, SELDOM_INTERVAL_S = 1.0, 5.0
"""Seconds between commits at least, of a run that follows and of one that ends by itself."""
COMMIT_SHARE, SELDOM_SHARE = 10, 30
"""Committing takes at most one part in so many of the time, in the same two."""
SELDOM_PAUSE_S_MAX = 30.0
"""A pause that is longer than this already is not made longer to commit more seldom."""
GROUP_S = 1e-6
"""Seconds that a changed group is taken to cost in the first commit."""
FIRST_COMMIT_S_MAX = 30.0


class Pacing:
    """``interval_s``: seconds between commits (None: what is usual); ``now``: seconds by a clock that never goes back, as in all that
    follows; ``ends``: whether the run ends by itself."""

    def __init__(self, interval_s: float | None, now: float, *, ends: bool = False) -> None:
        self._is_seldom = ends and interval_s is None
        usual = SELDOM_INTERVAL_S if self._is_seldom else INTERVAL_S
        self._interval_s, self._last = usual if interval_s is None else interval_s, now
        self._pause_s: float | None = None  # None: nothing was committed yet

    def is_due(self, now: float, changed_groups: int) -> bool:
        return now >= self.due(changed_groups)

    def due(self, changed_groups: int) -> float:
        """When the next commit is due, if no more groups change until then."""
        pause = self._pause_s
        if pause is None:
            pause = min((COMMIT_SHARE - 1) * GROUP_S * changed_groups, FIRST_COMMIT_S_MAX)
        return self._last + max(self._interval_s, pause)

    def committed(self, began: float, now: float) -> None:
        self._last, self._pause_s = now, (COMMIT_SHARE - 1) * (now - began)
        if self._is_seldom:
            self._pause_s = max(self._pause_s, min((SELDOM_SHARE - 1) * (now - began), SELDOM_PAUSE_S_MAX))
