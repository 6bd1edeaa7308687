"""A copy of a view is a backup: finding out that a directory is one, and where a copy that is not whole may go on.

Whoever copies a directory that is being written gets names of different moments: a manifest without its last files, a snapshot
without its manifest, ``latest`` leading nowhere. Nothing is lost by that: a commit before is whole, since what it names stays for the
grace period, and folding on from there gives the same view. In the place where a view was made the same absences are damage, and
readers may have seen what is missing: there it stays an error.

Which of the two it is, a generation says itself: ``.place`` holds the device and inode of the directory that it was made in. (A device
may get another number when a machine starts again; then a view at home is taken for a copy, and of that comes only this leniency.)
"""

from __future__ import annotations

import os
from pathlib import Path

from connectors import fs
from connectors.generation import Generation, Version, failed, place_of, put_aside, snapshot_files
from schemas.errors import StoreDamaged


def mend(store: Path, view: str, version: int) -> None:
    """``mend_copy`` of a view, if it is there. Raises ``StoreDamaged``, ``StoreError`` (the disk failed)."""
    home = Version.of(store, view, version)
    try:
        mend_copy(home)
    except OSError as error:
        raise failed("a copy of a view cannot be made ready", home, error) from error


def mend_copy(home: Version) -> None:
    """Make the generations of a copied version go on from their newest whole commit; does nothing to one that is at home.

    What is later is put aside. Raises ``StoreDamaged`` when no commit is whole, ``OSError``.
    """
    if not any(_is_copied(generation) for generation in home.generations()):
        return
    with fs.locked(home.lock):
        was_live = home.live() is not None
        for generation in home.generations():
            if _is_copied(generation):
                _mend(generation)
        for link in (home.latest, home.current):  # some ways to copy make directories of links
            if link.is_dir() and not link.is_symlink():
                put_aside(link)
        if was_live and home.live() is None:
            msg = "the copy of a view has no commit that is whole"
            do = "copy it again, with nothing left out; or remove it and fold the view from its log"
            raise StoreDamaged(msg, where=str(home.path), do=do)


def _is_copied(generation: Generation) -> bool:
    try:
        return fs.read_file(generation.place) != place_of(generation.path)
    except FileNotFoundError:
        return False  # made by a refold that did not note it


def _mend(generation: Generation) -> None:
    lock = fs.lock(generation.lock, wait=False)
    if lock is None:
        return  # it is written: whoever does that has mended it
    try:
        whole = next((seq for seq in reversed(generation.sequence()) if _is_whole(generation, seq)), 0)
        for seq in generation.snapshots():
            if seq > whole or not _is_shown_whole(generation, seq):
                fs.remove_tree(generation.snapshot_path(seq))  # whoever opens the newest shows it again
        for seq in generation.sequence():
            if seq > whole:
                put_aside(generation.manifest_path(seq))
        fs.write_file(generation.place, place_of(generation.path))
    finally:
        os.close(lock)


def _is_whole(generation: Generation, seq: int) -> bool:
    """Whether all files of a commit came along. (A manifest that was changed is damage, in a copy too, and is told by who reads it.)"""
    try:
        manifest = generation.read(seq)
    except StoreDamaged:
        return True
    chunks = (chunk for table in manifest.tables.values() for chunk in table.chunks)
    return all(_is_there(generation.version.data / chunk.file, chunk.bytes) for chunk in chunks)


def _is_shown_whole(generation: Generation, seq: int) -> bool:
    """Whether readers of a snapshot's directory find all its files. (They may be at it, if this is a view at home after all.)"""
    try:
        manifest = generation.read(seq)
    except StoreDamaged:
        return True
    except FileNotFoundError:  # its manifest did not come along
        return False
    return all((generation.snapshot_path(seq) / name).exists() for name, _ in snapshot_files(manifest))


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
