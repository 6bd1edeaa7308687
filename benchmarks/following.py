"""A ``refold run`` that follows a log in a process of its own, watched through its commits as any reader would.

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from benchmarks.result import Usage, usage_of
from connectors import open_view
from flows import Projection

POLL_S = 0.005
WAIT_S_MAX = 120.0
STOP_S_MAX = 30.0

Offsets = tuple[int, ...]
NOTHING: Offsets = ()


class Following:
    """Use as a context manager: it is stopped at the end. ``seen`` holds when each cut was first found readable."""

    def __init__(self, projection: Projection, log: str, store: Path, commit_interval_s: float) -> None:
        self._view, self._store = projection.name, store
        (category,) = projection.categories
        self._topic = category.name
        self._current = store / projection.name / "current"
        self._snapshot, self._cut = self._current, NOTHING
        self.seen: list[tuple[float, Offsets]] = []
        self.usage = Usage(0, 0.0)
        interval = ["--commit-interval", str(commit_interval_s)]
        command = [sys.executable, "-m", "flows.cli", "run", self._view, "--flows", "benchmarks.views"]
        self.started = time.monotonic()
        self._process = subprocess.Popen([*command, "--log", log, "--store", str(store), *interval, "--quiet"])

    def __enter__(self) -> Following:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.usage = usage_of(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        finally:
            self._process.kill()

    def look(self) -> Offsets:
        """The cut that is readable now (nothing: ``()``). Raises ``RuntimeError`` when the run has ended."""
        if self._process.poll() is not None:
            msg = f"refold run ended with code {self._process.returncode}"
            raise RuntimeError(msg)
        snapshot = self._current.resolve()
        if snapshot != self._snapshot and snapshot.is_dir():  # most looks find nothing new, and cost next to nothing
            self._snapshot, self._cut = snapshot, self._readable()
            self.seen.append((time.monotonic(), self._cut))
        return self._cut

    def _readable(self) -> Offsets:
        return tuple(open_view(self._store, self._view).cut[self._topic])

    def look_while(self, is_going: Callable[[], bool]) -> None:
        """Look every 5 ms as long as it goes on."""
        while is_going():
            self.look()
            time.sleep(POLL_S)

    def wait_for(self, ends: Offsets) -> None:
        """Look every 5 ms until the cut has reached ``ends``. Raises ``TimeoutError`` after two minutes."""
        deadline = time.monotonic() + WAIT_S_MAX
        while not reached(self.look(), ends):
            if time.monotonic() > deadline:
                msg = f"the view did not come to {ends}"
                raise TimeoutError(msg)
            time.sleep(POLL_S)


def reached(cut: Offsets, ends: Offsets) -> bool:
    return bool(cut) and all(mine >= end for mine, end in zip(cut, ends, strict=True))
