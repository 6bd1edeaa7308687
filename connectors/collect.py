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
from connectors.retention import Age, Retention, kept, read_retention
from schemas.errors import StoreDamaged

GRACE_S = 900.0
"""Seconds for which what was superseded stays: whoever resolved its path may still be reading."""


@dataclass(frozen=True, slots=True)
class Collected:
    """How many of each were removed, and the bytes of the files."""

    manifests: int = 0
    generations: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be removed. Made and carried out under the same locks, so that nothing changes in between."""

    unfinished: tuple[Path, ...]
    generations: tuple[Generation, ...]
    manifests: tuple[tuple[Generation, int], ...]
    aside: tuple[Path, ...]
    files: tuple[Path, ...]


def collect(store: Path, view: str, version: int, grace_s: float, *, dry_run: bool = False) -> Collected:
    """Remove superseded snapshots and manifests, dead generations and unused data files, older than the grace period.

    What the view's retention keeps stays (``connectors.retention``). ``dry_run``: only say what would be removed. Does nothing while a
    commit is writing files; call it again later. Raises ``StoreError`` when the disk fails, ``StoreDamaged`` (the retention).
    """
    home = Version.of(store, view, version)
    if not home.data.is_dir():
        return Collected()
    try:
        policy = read_retention(home.path.parent)
        return _collect_locked(home, policy, now_ms(), round(grace_s * 1000), dry_run)
    except OSError as error:
        raise failed("cleaning up failed; nothing that is needed was removed", home, error) from error


def _collect_locked(home: Version, policy: Retention, now: int, grace_ms: int, dry_run: bool) -> Collected:
    files_lock = fs.lock(home.files_lock, wait=False)
    if files_lock is None:
        return Collected()
    try:
        with fs.locked(home.lock):
            if not dry_run:
                for generation in home.generations():
                    generation.settle()  # what makes the rest superfluous must be on the disk before the rest goes
            plan = _plan(home, policy, now, now - grace_ms)
            removed = sum(path.stat().st_size for path in plan.files)
            if not dry_run:
                _carry_out(plan)
            return Collected(len(plan.manifests), len(plan.generations), len(plan.files), removed)
    finally:
        os.close(files_lock)


def _carry_out(plan: _Plan) -> None:
    """In an order in which a crash leaves nothing that lacks a part."""
    for path in plan.unfinished:
        fs.remove_tree(path)
    for generation in plan.generations:
        _vanish(generation.path)
    for generation, seq in plan.manifests:
        _vanish(generation.snapshot_path(seq))  # before its manifest, so that a crash leaves nothing nameless
        fs.unlink(generation.manifest_path(seq))
    for path in (*plan.aside, *plan.files):
        fs.unlink(path)


def _plan(home: Version, policy: Retention, now: int, horizon_ms: int) -> _Plan:
    generations, live = home.generations(), home.live()
    retained = _retained(home, policy, now)
    dead = [g for g in generations if g != live and not retained.get(g) and _is_dead(g, horizon_ms)]
    rest = [g for g in generations if g not in dead]
    superseded = [(g, seq) for g in rest for seq in _superseded(g, horizon_ms) if seq not in retained.get(g, ())]
    aside = [path for g in rest for path in g.manifests.glob("*.damaged-*") if _time_ms(path) <= horizon_ms]
    unused = _unused(home, rest, set(superseded), horizon_ms)
    return _Plan(tuple(_unfinished(home)), tuple(dead), tuple(superseded), tuple(aside), tuple(unused))


def _unfinished(home: Version) -> Iterator[Path]:
    """Under the locks nobody is making these: a crash left them."""
    for directory in (home.data, home.path, *(g.path / "snapshots" for g in home.generations())):
        yield from directory.glob(f".*{fs.TEMPORARY}")


def _retained(home: Version, policy: Retention, now: int) -> dict[Generation, set[int]]:
    """The snapshots that the policy keeps, by generation."""
    every = [(g, seq) for g in reversed(home.generations()) for seq in g.snapshots()]
    committed = [_time_ms(g.manifest_path(seq)) if g.manifest_path(seq).exists() else 0 for g, seq in every]
    ages = [Age(at, following) for at, following in zip(committed, [*committed[1:], None], strict=False)]
    found: dict[Generation, set[int]] = {}
    for (generation, seq), stays in zip(every, kept(ages, policy, now), strict=True):
        if stays:
            found.setdefault(generation, set()).add(seq)
    return found


def _is_dead(generation: Generation, horizon_ms: int) -> bool:
    """A generation that nobody writes, and that is abandoned, or was live and is superseded, for long enough."""
    lock = fs.lock(generation.lock, wait=False)
    if lock is None:
        return False
    os.close(lock)  # nobody can take it meanwhile: that needs the version's lock
    return _shown(generation) is None and _useless_since_ms(generation) <= horizon_ms


def _useless_since_ms(generation: Generation) -> int:
    own = [_time_ms(generation.manifests), _time_ms(generation.lock)]
    if not generation.is_live():
        return max(own)
    # Readers left it when the live generation showed its first snapshot; its oldest one is the earliest sign of that.
    live = generation.version.live()
    taken_over = [_time_ms(live.snapshot_path(seq)) for seq in live.snapshots()] if live else []
    return max([*own, *taken_over[:1]])


def _superseded(generation: Generation, horizon_ms: int) -> Iterator[int]:
    """Numbers of manifests that had a successor before the horizon."""
    shown = _shown(generation)
    for seq, following in pairwise(generation.sequence()):
        if seq != shown and _time_ms(generation.manifest_path(following)) <= horizon_ms:
            yield seq


def _shown(generation: Generation) -> int | None:
    """The snapshot of this generation that readers are led to."""
    latest = generation.version.latest
    target = Path(latest.readlink()) if latest.is_symlink() else None
    return int(target.name) if target and target.parts[0] == generation.path.name else None


def _unused(
    home: Version, generations: Iterable[Generation], going: set[tuple[Generation, int]], horizon_ms: int
) -> list[Path]:
    """Data files that no manifest names which stays."""
    try:
        used = {name for g in generations for seq in g.sequence() if (g, seq) not in going for name in _named(g, seq)}
    except StoreDamaged:
        return []  # an unreadable manifest may name any file
    return [
        path
        for path in sorted(home.data.iterdir())
        if path.name not in used and not path.name.endswith(fs.TEMPORARY) and _time_ms(path) <= horizon_ms
    ]


def _named(generation: Generation, seq: int) -> Iterator[str]:
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
