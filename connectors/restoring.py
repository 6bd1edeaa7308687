"""Putting single files of a view back to what they were, while it is read and written.

Promises: a file that is not what was written is kept, under a name that says so, before the right one takes its place; a
snapshot's directory never misses a file meanwhile; a crash at any step leaves a store that can be restored again.

What the right bytes are, and where they come from, is not known here beyond this: a data file's name is the hash of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from connectors import fs
from connectors.chunks import file_name
from connectors.generation import Generation, Version, put_aside, show, snapshot_files
from connectors.manifest import LIVE
from schemas.errors import StoreDamaged, StoreError


def restore(store: Path, view: str, version: int, files: Mapping[str, bytes]) -> list[str]:
    """Write data files (name and bytes), link them into the snapshots that show them, and make the links lead right.

    The names that damaged files were kept under, relative to the version's directory. Raises ``StoreError``.
    """
    assert all(file_name(data) == name for name, data in files.items()), "a data file's name is the hash of its bytes"
    home = Version.of(store, view, version)
    try:
        with fs.locked(home.files_lock, shared=True), fs.locked(home.lock):
            aside = [kept for name, data in files.items() for kept in _put_back(home.data / name, data)]
            fs.fsync_dir(home.data)
            for snapshot in sorted(home.path.glob("g*/snapshots/[0-9]*")):
                _link_again(home, snapshot)
            _restore_links(home)
    except OSError as error:
        msg = "a file could not be restored"
        raise StoreError(msg, where=str(home.path), why=str(error), do="try again") from error
    return [str(path.relative_to(home.path)) for path in aside]


def make_durable(store: Path, view: str, version: int) -> None:
    """Sync all names of a view's version: a repair before may have been killed when they were right, and not on the disk yet.

    Raises ``StoreError``.
    """
    home = Version.of(store, view, version)
    try:
        for directory in (home.data, *sorted(home.path.glob("g*/snapshots/[0-9]*")), home.path, home.path.parent):
            fs.fsync_dir(directory)
    except OSError as error:
        msg = "a view cannot be made safe from a loss of power"
        raise StoreError(msg, where=str(error.filename or home.path), why=str(error), do="try again") from error


def _put_back(path: Path, data: bytes) -> Iterator[Path]:
    if path.exists():
        if fs.read_file(path) == data:
            return
        yield put_aside(path)
    fs.write_file(path, data, sync_dir=False)


def _link_again(home: Version, snapshot: Path) -> None:
    """Make every name in a snapshot's directory the file in ``data/`` again, and bring back those that are gone."""
    for name, stored in _names(home, snapshot):
        shown = snapshot / name
        if stored.exists() and not (shown.exists() and shown.samefile(stored)):
            temporary = snapshot / f".{name}{fs.TEMPORARY}"
            fs.unlink(temporary)
            fs.link(stored, temporary, sync_dir=False)
            fs.rename(temporary, shown)


def _names(home: Version, snapshot: Path) -> Iterator[tuple[str, Path]]:
    generation = Generation(home, int(snapshot.parents[1].name.removeprefix("g")))
    try:
        manifest = generation.read(int(snapshot.name))
    except (StoreDamaged, FileNotFoundError):
        return  # nobody knows what it showed; it goes with the next collection
    yield from ((name, home.data / file) for name, file in snapshot_files(manifest))


def _restore_links(home: Version) -> None:
    """``latest`` to the newest snapshot; ``current``, where it leads nowhere, to this version: it is the one asked for."""
    live = home.live()
    newest = live.newest() if live else None
    if live is None or newest is None or newest.role != LIVE:
        return
    if home.current.is_symlink() and not home.current.exists() and home.latest.exists():
        fs.unlink(home.current)
    show(live, newest)
    if not home.current.exists():
        fs.replace_symlink(f"{home.path.name}/latest", home.current)
