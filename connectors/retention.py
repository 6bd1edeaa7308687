"""Which superseded snapshots of a view stay, beyond the grace period that all of them have.

``<store>/<view>/retention.json`` says so for all versions of a view: the newest ``snapshots``, and of those that were superseded less
than ``age_s`` seconds ago the first of each ``every_s`` seconds. Ages are file times: they decide when garbage goes, not what a view holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from connectors import fs
from connectors.generation import VIEW_NAME
from connectors.unknown import unknown_view
from schemas.errors import StoreDamaged, StoreError, UsageError

NAME = "retention.json"
SNAPSHOTS_MAX = 10_000
"""A file system gives a file some 65,000 names, and a chunk that never changes has one in each snapshot; those of the grace period
come on top."""
MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Retention:
    """Raises ``UsageError`` for what cannot be kept."""

    snapshots: int = 1
    age_s: float = 0.0
    every_s: float = 0.0

    def __post_init__(self) -> None:
        if self.snapshots < 1 or self.age_s < 0 or self.every_s < 0:
            raise UsageError("a view keeps one snapshot at least", do="give counts and spans above zero")
        by_age = self.age_s / self.every_s if self.every_s else 0.0
        if self.age_s and not self.every_s:
            raise UsageError(
                "so many seconds of every snapshot may be too many", do="say how far apart:  --age 7d --every 1h"
            )
        if self.snapshots + by_age > SNAPSHOTS_MAX:
            msg = f"{self.snapshots + by_age:,.0f} snapshots are more than the {SNAPSHOTS_MAX:,} that a view may keep"
            raise UsageError(msg, why="each is a name of every file in it", do="keep fewer, or make --every longer")


@dataclass(frozen=True, slots=True)
class Age:
    """When a snapshot was committed, and when superseded (milliseconds since the epoch; None: it is the newest)."""

    committed_ms: int
    superseded_ms: int | None


def kept(ages: Sequence[Age], policy: Retention, now_ms: int) -> list[bool]:
    """Which of the snapshots of a version, in order of commit, a policy keeps."""
    horizon = now_ms - policy.age_s * MS_PER_S
    found, periods = [], set[int]()
    for number, age in enumerate(ages):
        stays = number >= len(ages) - policy.snapshots or age.superseded_ms is None
        if policy.age_s and age.superseded_ms is not None and age.superseded_ms > horizon:
            period = age.committed_ms // max(round(policy.every_s * MS_PER_S), 1)
            stays = stays or period not in periods
            periods.add(period)
        found.append(stays)
    return found


def read_retention(directory: Path) -> Retention:
    """That of the view in a directory. Raises ``StoreDamaged`` when it cannot be read: nothing should be removed then."""
    path = directory / NAME
    try:
        return Retention(**json.loads(fs.read_file(path)))
    except FileNotFoundError:
        return Retention()
    except (ValueError, TypeError, UsageError) as error:
        msg = "what a view keeps cannot be read; nothing is removed"
        raise StoreDamaged(
            msg, where=str(path), do=f"say it again:  refold retain {directory.name} --snapshots 1"
        ) from error


def write_retention(store: Path, view: str, policy: Retention) -> None:
    """Raises ``UnknownView``, ``StoreError``."""
    directory = store / view
    if not VIEW_NAME.fullmatch(view) or not directory.is_dir():
        raise unknown_view(store, view)
    try:
        fs.write_file(directory / NAME, json.dumps(asdict(policy), sort_keys=True).encode() + b"\n")
    except OSError as error:
        msg = "what a view keeps cannot be noted"
        raise StoreError(msg, where=str(directory), why=str(error), do=fs.advice(error)) from error
