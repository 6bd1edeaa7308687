"""Every version of every view of a store, and what it is used for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from connectors.activity import buildings, is_written
from connectors.generation import Version, versions_of
from connectors.manifest import Manifest
from connectors.view import list_views, open_view

SERVING, RUNNING, BUILDING, READY, RETIRED, UNFINISHED = (
    "serving",
    "running",
    "building",
    "ready",
    "retired",
    "unfinished",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """``states``: *serving* (readers see it), *running* (somebody writes it), *building* (a rebuild is under way), *ready* (committed,
    not serving), *retired*, *unfinished* (nothing was ever committed, nobody is at it). ``newest``: None before the first commit
    and of a retired one."""

    view: str
    version: int
    states: tuple[str, ...]
    newest: Manifest | None


def inventory(store: Path) -> list[Kept]:
    """By view and version. Raises ``StoreDamaged`` where readers would meet it: a link that leads nowhere, a manifest that was changed."""
    shown = {view.name for view in list_views(store)}
    for name in sorted(shown):
        open_view(store, name)
    homes = sorted(path for path in store.iterdir() if path.is_dir()) if store.is_dir() else []
    versions = [version for home in homes if not home.name.startswith(".") for version in versions_of(home)]
    return [_kept(store, version) for version in versions if version.path.parent.name in shown or not version.live()]


def _kept(store: Path, home: Version) -> Kept:
    name, states = home.path.parent.name, tuple(_states(home))
    if home.live() is None or RETIRED in states:
        return Kept(name, home.number, states, None)
    return Kept(name, home.number, states, open_view(store, name, home.number).manifest)


def _states(home: Version) -> list[str]:
    if home.retired.exists():
        return [RETIRED]
    live = home.live()
    found = [SERVING if home.is_current() else READY] if live else []
    running = [RUNNING] if live and is_written(live) else []
    building = [BUILDING] if buildings(home) or (not live and any(map(is_written, home.generations()))) else []
    return [*found, *running, *building] or [UNFINISHED]
