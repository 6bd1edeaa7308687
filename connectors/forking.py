"""A fork: a store of its own that goes on from a snapshot of another, whose files it shares.

So that a view can be folded on from where it stands, in a scratch place, without its writers and readers noticing.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

from connectors import fs
from connectors.generation import Version, failed
from connectors.manifest import LIVE, Manifest, to_bytes
from schemas.errors import StoreDamaged

SHARED_NOT = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)
"""Why a file cannot have a second name: another device, a file system without, too many already. Then it is copied."""


def fork(store: Path, manifest: Manifest, place: Path) -> None:
    """Lay a snapshot into the store ``place``, where there is no such view yet, as its newest commit.

    Raises ``StoreDamaged`` (a file of the snapshot is missing), ``StoreError``.
    """
    origin = Version.of(store, manifest.view, manifest.version)
    home = Version.of(place, manifest.view, manifest.version)
    try:
        fs.make_dir(home.data)
        for name in {chunk.file for table in manifest.tables.values() for chunk in table.chunks}:
            _share(origin.data / name, home.data / name)
        with fs.locked(home.lock):
            generation = home.create(LIVE)
            fs.write_file(generation.manifest_path(manifest.seq), to_bytes(replace(manifest, role=LIVE)))
    except FileNotFoundError as error:
        msg = "a file of the view is missing"
        raise StoreDamaged(
            msg, where=str(error.filename), do=f"refold repair {manifest.view}@{manifest.version}"
        ) from error
    except OSError as error:
        raise failed("a view cannot be folded on in a scratch place", home, error) from error


def _share(source: Path, target: Path) -> None:
    try:
        fs.link(source, target, sync_dir=False)
    except OSError as error:
        if error.errno not in SHARED_NOT:
            raise
        shutil.copyfile(source, target)
