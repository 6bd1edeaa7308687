"""Removing a version of a view for good.

A retired version is marked at once, and from then on nobody can read it by its number or write it. Its files go when the mark is older
than the grace period, because a reader may be in the middle of them; then its directory vanishes by one rename, and the number is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from connectors import fs
from connectors.clock import now_ms
from connectors.generation import Version, failed, versions_of
from connectors.switching import forget
from connectors.unknown import unknown_view
from schemas.errors import StoreLocked, UsageError


def retire(store: Path, view: str, version: int, grace_s: float) -> bool:
    """Mark a version as retired, and remove it if it was that for the grace period already. Whether it is gone.

    Raises ``UnknownView``, ``UsageError`` (it is current), ``StoreLocked`` (somebody writes it), ``StoreError``.
    """
    home = Version.of(store, view, version)
    if not home.path.is_dir():
        raise unknown_view(store, view, version)
    try:
        with fs.locked(home.view_lock), fs.locked(home.lock), ExitStack() as held:
            if home.is_current():
                msg = f"version {version} is the one that readers of {view!r} see"
                raise UsageError(msg, do=f"promote another one first:  refold promote {view}@N")
            _lock_all(home, held)
            if not home.retired.exists():
                fs.write_file(home.retired, b"")
            forget(home)
    except OSError as error:
        raise failed("a version could not be retired", home, error) from error
    remove_retired(store, view, grace_s)
    return not home.path.exists()


def _lock_all(home: Version, held: ExitStack) -> None:
    """Hold the version's lock: nobody makes or opens a generation meanwhile."""
    for generation in home.generations():
        lock = fs.lock(generation.lock, wait=False)
        if lock is None:
            msg = "somebody writes this version"
            do = "stop the run or the rebuild first; then retire it"
            raise StoreLocked(msg, where=str(generation.path), do=do)
        held.callback(os.close, lock)


def remove_retired(store: Path, view: str, grace_s: float) -> list[int]:
    """Remove the versions of a view that were retired longer ago than the grace period, and what a crash left of such a removal."""
    directory = Version.of(store, view, 1).path.parent
    try:
        return _remove(directory, now_ms() - round(grace_s * 1000))
    except OSError as error:
        raise failed("a retired version could not be removed", Version(directory / "v1"), error) from error


def _remove(directory: Path, horizon_ms: int) -> list[int]:
    removed = []
    for home in [*_due(directory, horizon_ms)]:
        with fs.locked(home.view_lock):
            if home.retired.exists():
                fs.rename(home.path, home.path.with_name(f".{home.path.name}{fs.TEMPORARY}"))
                removed.append(home.number)
    for unfinished in directory.glob(f".v*{fs.TEMPORARY}"):
        fs.remove_tree(unfinished)
    return removed


def _due(directory: Path, horizon_ms: int) -> Iterator[Version]:
    for home in versions_of(directory):
        try:
            if home.retired.stat().st_mtime_ns // 1_000_000 <= horizon_ms:
                yield home
        except FileNotFoundError:
            continue
