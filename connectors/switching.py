"""Which version of a view its readers see: ``current``, moved in one atomic step, and the way back.

Promises: a promotion never leads readers to an older cut than they saw; whatever moment a crash comes, ``current`` leads to a whole
snapshot of the version before or of the new one. ``promotions.json`` says which versions were current, in turn, the last one now. It is
written before the link moves, and the link is the truth: what comes after the version that it leads to never happened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from connectors import fs
from connectors.generation import Generation, Version, current_version, failed
from connectors.manifest import Cut, Manifest
from connectors.unknown import unknown_view
from schemas.errors import StoreDamaged, UnknownView, UsageError

HISTORY = "promotions.json"
REMEMBERED = 1_000
"""Promotions that can be taken back, one after the other."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What a promotion or rollback came to. ``before``: the version that was current (None: none was, or none that can be read).

    ``cut``: of the version asked for. ``missing``: records per partition by which it is behind the one before, by category. A
    promotion is done when it is behind nowhere; a rollback is done in any case.
    """

    view: str
    version: int
    before: int | None
    cut: Cut
    missing: Cut = field(default_factory=dict)
    is_done: bool = True

    @property
    def records_missing(self) -> int:
        return sum(map(sum, self.missing.values()))


def promote(store: Path, view: str, version: int) -> Switch:
    """Lead readers to a version, if it has reached the cut of the one they see now; otherwise say how far it is behind.

    Raises ``UnknownView`` (nothing was committed under this version), ``StoreDamaged``, ``StoreError``.
    """
    home = _committed(store, view, version)
    try:
        with fs.locked(home.view_lock), ExitStack() as held:
            _committed(store, view, version)  # it may have been retired while this waited
            before = _current(home)
            for one in sorted({home.path, *([before.path] if before else [])}, key=lambda path: Version(path).number):
                held.enter_context(fs.locked(Version(one).lock))
            return _promote(home, before)
    except OSError as error:
        raise failed("a promotion failed; readers see what they saw", home, error) from error


def _promote(home: Version, before: Version | None) -> Switch:
    view, newest = home.path.parent.name, _shown(home)
    if before is not None and before.path == home.path:
        return Switch(view, home.number, home.number, newest.cut)
    old = _readable(before) if before else None
    missing = _missing(newest, old) if old else {}
    if any(map(sum, missing.values())):
        return Switch(view, home.number, before.number if before else None, newest.cut, missing, is_done=False)
    past = _past(home, before.number if before else None)
    _write(home, [*past, home.number])
    fs.replace_symlink(f"{home.path.name}/latest", home.current)
    return Switch(view, home.number, before.number if before else None, newest.cut)


def rollback(store: Path, view: str) -> Switch:
    """Lead readers back to the version that was current before, whatever its cut.

    Raises ``UsageError`` (there was none before, or nobody knows), ``UnknownView``, ``StoreDamaged``, ``StoreError``.
    """
    home = Version.of(store, view, 1)
    if not home.path.parent.is_dir():
        raise unknown_view(store, view)
    try:
        with fs.locked(home.view_lock):
            return _roll_back(home)
    except OSError as error:
        raise failed("a rollback failed; readers see what they saw", home, error) from error


def _roll_back(any_version: Version) -> Switch:
    directory = any_version.path.parent
    now = current_version(any_version.current)
    past = _past(any_version, now)
    if len(past) < 2:
        known = (directory / HISTORY).exists()
        msg = f"no version of view {directory.name!r} was current before" + ("" if known else ", or nobody noted it")
        raise UsageError(
            msg, where=str(directory), do=f"name the one that you want:  refold promote {directory.name}@N"
        )
    target = Version(directory / f"v{past[-2]}")
    newest, old = _shown(target), _readable(Version(directory / f"v{now}"))
    fs.replace_symlink(f"{target.path.name}/latest", target.current)
    _write(target, past[:-1])
    return Switch(directory.name, target.number, now, newest.cut, _missing(newest, old) if old else {})


def forget(home: Version) -> None:
    """Take a version out of the history of its view. Hold the view's lock."""
    now = current_version(home.current)
    past = [number for number in _past(home, now) if number != home.number]
    if (home.path.parent / HISTORY).exists():
        _write(home, [number for at, number in enumerate(past) if not at or past[at - 1] != number])


# -- what readers see of a version


def _committed(store: Path, view: str, version: int) -> Version:
    home = Version.of(store, view, version)
    if home.retired.exists():
        msg = f"version {version} of view {view!r} was retired"
        raise UnknownView(msg, where=str(home.path), do="promote another one; see which there are:  refold views")
    if not home.path.parent.is_dir():
        raise unknown_view(store, view)
    if home.live() is None:
        msg = f"version {version} of view {view!r} has never been committed"
        raise UnknownView(msg, where=str(home.path), do=f"fold it first:  refold rebuild {view}@{version}")
    return home


def _current(home: Version) -> Version | None:
    number = current_version(home.current)
    return None if number is None else Version(home.path.parent / f"v{number}")


def _shown(home: Version) -> Manifest:
    """The manifest of the snapshot that ``latest`` of a version leads to."""
    snapshot = home.latest.resolve()
    try:
        if snapshot.is_dir():
            number = int(snapshot.parents[1].name.removeprefix("g"))
            return Generation(home, number).read(int(snapshot.name))
    except (FileNotFoundError, ValueError, IndexError):
        pass
    msg = "a version does not lead to a snapshot of its own"
    raise StoreDamaged(msg, where=str(home.latest), do=f"refold repair {home.path.parent.name}@{home.number}")


def _readable(home: Version) -> Manifest | None:
    """The same, or what is nearest to it, of a version that may be damaged or gone: that must not be in the way of a better one."""
    try:
        return _shown(home)
    except StoreDamaged:
        live = home.live()
        return live.newest_readable() if live else None


def _missing(new: Manifest, old: Manifest) -> Cut:
    """By how many records the new one is behind, in categories that both read. Offsets of a topic that was made again say nothing."""
    return {
        name: [max(end - at, 0) for end, at in zip(ends, _padded(new.cut[name], len(ends)), strict=True)]
        for name, ends in old.cut.items()
        if name in new.cut and _identity(new, name) == _identity(old, name)
    }


def _padded(offsets: Sequence[int], partitions: int) -> list[int]:
    return [*offsets, *[0] * partitions][:partitions]


def _identity(manifest: Manifest, category: str) -> str:
    found: str = manifest.facts["log"][category]["identity"]
    return found


# -- the history


def _past(home: Version, now: int | None) -> list[int]:
    """The versions that were current, in turn, up to the one that is; those that are gone are left out."""
    if now is None:
        return []
    try:
        found = json.loads(fs.read_file(home.path.parent / HISTORY))["versions"]
        noted = [int(number) for number in found]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        noted = []
    if now not in noted:
        return [now]
    last = len(noted) - noted[::-1].index(now)
    there = [number for number in noted[:last] if (home.path.parent / f"v{number}").is_dir()]
    return [number for number in there if not (home.path.parent / f"v{number}" / "retired").exists()]


def _write(home: Version, versions: list[int]) -> None:
    fs.write_file(home.path.parent / HISTORY, json.dumps({"versions": versions[-REMEMBERED:]}).encode() + b"\n")
