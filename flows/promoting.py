"""``promote``: wait until a version has reached the one that serves, folding it on if nobody else does, and switch.

The switch itself is one atomic step of the store (``connectors.switching``); here is only the waiting. With both versions live, the one
that committed last is ahead, so looking again soon is enough and nobody has to be held up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from connectors import switching
from connectors.activity import is_written
from connectors.clock import monotonic
from connectors.generation import Version
from connectors.log import Log
from connectors.switching import Switch
from flows.projection import Projection
from flows.running import Watch, run, store_path
from schemas.errors import StoreLocked, UsageError

LOOK_S = 0.05
"""Seconds between two looks at whether the version asked for has come far enough."""

Told = Callable[[Switch], None]
"""Called at each look with how far the version is behind."""


def promote(
    view: str,
    version: int,
    *,
    projection: Projection | None = None,
    log: Log | str | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
    told: Told | None = None,
) -> Switch | None:
    """Make a version the one that readers see, as soon as it has reached the cut that they see now.

    ``projection``: its definition; with it, a version that nobody follows is folded on, until it has come far enough. None when it was
    stopped before; a ``Switch`` that is not done when ``timeout_s`` (seconds) passed. Readers see what they saw in both cases.
    Raises ``UnknownView`` (it was never committed, or retired), ``UsageError`` (nobody follows it, and without a definition nobody can).
    """
    place, stop = store_path(store), stop or threading.Event()
    deadline = None if timeout_s is None else monotonic() + timeout_s
    follower = _Follower(projection, log, place, workers, watch)
    try:
        while True:
            switch = switching.promote(place, view, version)
            if told:
                told(switch)
            if switch.is_done or (deadline is not None and monotonic() >= deadline):
                return switch
            follower.see_to(Version.of(place, view, version))
            if stop.wait(LOOK_S):
                return None
    finally:
        follower.end()


def rollback(view: str, *, store: str | Path | None = None) -> Switch:
    """Lead readers back to the version that was current before, at once and whatever its cut. Raises ``UsageError`` when none was."""
    return switching.rollback(store_path(store), view)


class _Follower:
    """Folds a version on while nobody else does."""

    def __init__(
        self,
        projection: Projection | None,
        log: Log | str | None,
        store: Path,
        workers: int | None,
        watch: Watch | None,
    ) -> None:
        self._projection, self._log, self._store, self._workers, self._watch = projection, log, store, workers, watch
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def see_to(self, home: Version) -> None:
        """Begin to follow where nobody does. Raises what following has failed for."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._thread is not None and self._thread.is_alive():
            return
        live = home.live()
        if live is not None and is_written(live):
            return
        if self._projection is None:
            msg = f"version {home.number} of view {home.path.parent.name!r} is behind, and nobody follows it"
            raise UsageError(msg, do=f"start a run of it:  refold run {home.path.parent.name}@{home.number}")
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._projection is not None
        try:
            run(
                [self._projection],
                log=self._log,
                store=self._store,
                workers=self._workers,
                stop=self._stop,
                watch=self._watch,
            )
        except StoreLocked:
            return  # somebody else has begun to follow it meanwhile
        except BaseException as error:  # handed over to whoever waits
            self._error = error

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
