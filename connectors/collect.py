"""Removing what no reader and no writer of a view needs any more.

Promises: the newest snapshot, the one that ``latest`` points at, and everything that a kept manifest names stay.
Nothing is removed before it has been of no use for the grace period, so that a reader may go on with a snapshot's
directory, or with a list of its files, for that long. A crash at any moment leaves a store that reads as before.

Ages are file times against the wall clock. They decide only when garbage goes, never what a view holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from connectors import fs
from connectors.clock import now_ms
from connectors.generation import Generation, Version, failed
from schemas.errors import StoreDamaged

GRACE_S = 900.0
"""Seconds for which what was superseded stays: whoever resolved its path may still be reading."""


@dataclass(frozen=True, slots=True)
class Collected:
    """How many of each were removed."""

    manifests: int = 0
    generations: int = 0
    files: int = 0


def collect(store: Path, view: str, version: int, grace_s: float) -> Collected:
    """Remove superseded snapshots and manifests, dead generations and unused data files, older than the grace period.

    Does nothing while a commit is writing files; call it again later. Raises ``StoreError`` when the disk fails.
    """
    home = Version.of(store, view, version)
    if not home.data.is_dir():
        return Collected()
    try:
        return _collect_locked(home, now_ms() - round(grace_s * 1000))
    except OSError as error:
        raise failed("cleaning up failed; nothing that is needed was removed", home, error) from error


def _collect_locked(home: Version, horizon_ms: int) -> Collected:
    files_lock = fs.lock(home.files_lock, wait=False)
    if files_lock is None:
        return Collected()
    try:
        with fs.locked(home.lock):
            return _collect(home, horizon_ms)
    finally:
        os.close(files_lock)


def _collect(home: Version, horizon_ms: int) -> Collected:
    for generation in home.generations():
        generation.settle()  # what makes the rest superfluous must be on the disk before the rest goes
    _remove_unfinished(home)
    live = home.live()
    generations = sum(_remove_dead(g, horizon_ms) for g in home.generations() if g != live)
    manifests = sum(_remove_superseded(g, horizon_ms) for g in home.generations())
    return Collected(manifests, generations, _remove_unused(home, horizon_ms))


def _remove_unfinished(home: Version) -> None:
    """Under the locks nobody is making these: a crash left them."""
    for path in _temporary(home.data):
        fs.unlink(path)
    for directory in (home.path, *(g.path / "snapshots" for g in home.generations())):
        for path in _temporary(directory):
            fs.remove_tree(path)


def _temporary(directory: Path) -> list[Path]:
    return [*directory.glob(f".*{fs.TEMPORARY}")]


def _remove_dead(generation: Generation, horizon_ms: int) -> bool:
    """Remove a generation that nobody writes, and that is abandoned, or was live and is superseded, for long enough."""
    lock = fs.lock(generation.lock, wait=False)
    if lock is None:
        return False
    try:
        if _shown(generation) is not None or _useless_since_ms(generation) > horizon_ms:
            return False
        _vanish(generation.path)
        return True
    finally:
        os.close(lock)


def _useless_since_ms(generation: Generation) -> int:
    own = [_time_ms(generation.manifests), _time_ms(generation.lock)]
    if not generation.is_live():
        return max(own)
    # Readers left it when the live generation showed its first snapshot; its oldest one is the earliest sign of that.
    live = generation.version.live()
    taken_over = [_time_ms(live.snapshot_path(seq)) for seq in live.snapshots()] if live else []
    return max([*own, *taken_over[:1]])


def _remove_superseded(generation: Generation, horizon_ms: int) -> int:
    """Remove manifests, and their snapshots, that had a successor before the horizon."""
    sequence = generation.sequence()
    shown = _shown(generation)
    removed = 0
    for seq, following in pairwise(sequence):
        if seq != shown and _time_ms(generation.manifest_path(following)) <= horizon_ms:
            _vanish(generation.snapshot_path(seq))  # before its manifest, so that a crash leaves nothing nameless
            fs.unlink(generation.manifest_path(seq))
            removed += 1
    for aside in generation.manifests.glob("*.damaged-*"):
        if _time_ms(aside) <= horizon_ms:
            fs.unlink(aside)
    return removed


def _shown(generation: Generation) -> int | None:
    """The snapshot of this generation that readers are led to."""
    latest = generation.version.latest
    target = Path(latest.readlink()) if latest.is_symlink() else None
    return int(target.name) if target and target.parts[0] == generation.path.name else None


def _remove_unused(home: Version, horizon_ms: int) -> int:
    try:
        used = set(_used(home.generations()))
    except StoreDamaged:
        return 0  # an unreadable manifest may name any file
    unused = [p for p in sorted(home.data.iterdir()) if p.name not in used and _time_ms(p) <= horizon_ms]
    for path in unused:
        fs.unlink(path)
    return len(unused)


def _used(generations: Iterable[Generation]) -> Iterator[str]:
    for generation in generations:
        for seq in generation.sequence():
            for table in generation.read(seq).tables.values():
                yield from (chunk.file for chunk in table.chunks)


def _vanish(directory: Path) -> None:
    """Remove a directory; it disappears at once, then its files."""
    if directory.exists():
        hidden = directory.with_name(f".{directory.name}{fs.TEMPORARY}")
        fs.remove_tree(hidden)
        fs.rename(directory, hidden)
        fs.remove_tree(hidden)


def _time_ms(path: Path) -> int:
    """When it was written; a damaged file that was put aside: when it got that name."""
    found = path.stat()
    return (found.st_ctime_ns if ".damaged-" in path.name else found.st_mtime_ns) // 1_000_000
