"""What is going on in a version of a view: who writes it, when it was last committed, how fast it moves, what is being rebuilt.

Read from names, file times and locks alone, without disturbing anybody. File times are wall clock: they are for people to look at
and decide nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from connectors.clock import now_ms
from connectors.generation import Generation, Version
from connectors.manifest import BUILDING, Manifest
from schemas.errors import StoreDamaged

WINDOW_MS = 30_000
"""A rate is that of the commits of so many milliseconds; of a view without a commit in that time it is 0."""
MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Activity:
    """``committed_ms``: milliseconds since the newest commit. ``records_per_s``: by the commits of the last half minute."""

    is_running: bool
    committed_ms: int
    records_per_s: float


@dataclass(frozen=True, slots=True)
class Building:
    """A rebuild that somebody is at work on. ``records``: read by its newest commit; ``seconds``: from its beginning to that."""

    generation: int
    records: int
    seconds: float

    @property
    def records_per_s(self) -> float:
        return self.records / self.seconds if self.seconds > 0 else 0.0


def is_written(generation: Generation) -> bool:
    """Whether a process holds its lock. (Asked by taking it for an instant, which a writer that opens waits out.)"""
    try:
        lock = fs.lock(generation.lock, wait=False) if generation.lock.exists() else -1
    except OSError:  # a store that only may be read: nobody here can write it
        return False
    if lock is None:
        return True
    if lock >= 0:
        os.close(lock)
    return False


def activity(generation: Generation, newest: Manifest) -> Activity:
    """Of a live generation and the newest of its manifests."""
    at = _time_ms(generation.manifest_path(newest.seq))
    return Activity(is_written(generation), max(now_ms() - at, 0), _rate(generation, newest, at))


def _rate(generation: Generation, newest: Manifest, at: int) -> float:
    horizon = now_ms() - WINDOW_MS
    before = [seq for seq in generation.sequence() if seq < newest.seq]
    recent = [seq for seq in before if _time_ms(generation.manifest_path(seq)) >= horizon]
    if not recent:
        return 0.0
    try:
        then = generation.read(recent[0])
    except (StoreDamaged, FileNotFoundError):  # it was collected meanwhile, or is not what was written
        return 0.0
    passed_ms = at - _time_ms(generation.manifest_path(then.seq))
    return max(records(newest) - records(then), 0) * MS_PER_S / passed_ms if passed_ms > 0 else 0.0


def buildings(home: Version) -> list[Building]:
    """Rebuilds of a version that are under way, the newest first."""
    under_way = [g for g in home.generations() if not g.is_live() and g.began_as() == BUILDING and is_written(g)]
    return [_building(generation) for generation in under_way]


def _building(generation: Generation) -> Building:
    newest = generation.newest_readable()
    if newest is None:
        return Building(generation.number, 0, 0.0)
    passed_ms = _time_ms(generation.manifest_path(newest.seq)) - _time_ms(generation.lock)
    return Building(generation.number, records(newest), max(passed_ms, 0) / MS_PER_S)


def records(manifest: Manifest) -> int:
    """How many offsets its cut is away from its origin, over all partitions."""
    return sum(map(sum, manifest.cut.values())) - sum(map(sum, manifest.facts["origin"].values()))


def _time_ms(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:  # collected meanwhile: too old to count
        return 0
