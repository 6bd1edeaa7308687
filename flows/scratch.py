"""Scratch places: directories in a store where a view is folded again, beside the views and unseen by readers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from connectors import fs
from schemas.errors import StoreError


@contextlib.contextmanager
def own_place(scratch: Path, title: str) -> Iterator[Path]:
    """A directory that is ours alone while the block runs: the first of the view's that no other process uses."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        number, lock = next(_free_places(scratch, title))
    except OSError as error:
        msg = "there must be room to fold the view again"
        do = "make that a directory that can be written; refold verify takes another one:  --scratch DIR"
        raise StoreError(msg, where=str(scratch), why=error.strerror, do=do) from error
    place = scratch / f"{title}.{number}"
    try:
        yield place
    finally:
        if not any(place.glob("*/v*/g*/manifests/*.json")):  # nothing to go on from
            shutil.rmtree(place, ignore_errors=True)
            fs.unlink(scratch / f"{title}.{number}.lock")
        os.close(lock)
        with contextlib.suppress(OSError):  # it stays while others use it
            scratch.rmdir()


def _free_places(scratch: Path, title: str) -> Iterator[tuple[int, int]]:
    for number in count():
        lock = fs.lock(scratch / f"{title}.{number}.lock", wait=False)
        if lock is not None:
            yield number, lock
