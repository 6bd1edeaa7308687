"""Where the files of a view lie, which generation is live, and what its readers see.

    <store>/<view>/v<version>/data/<hash of the bytes>.parquet          immutable, shared by generations
    <store>/<view>/v<version>/g<generation>/manifests/<0000000007>.json the commit point
    <store>/<view>/v<version>/g<generation>/snapshots/<0000000007>/     hard links to the rows of one snapshot
    <store>/<view>/v<version>/latest -> g<generation>/snapshots/<seq>   moved by the writer at each commit
    <store>/<view>/current -> v<version>/latest                         moved by promote and rollback only
    <store>/<view>/promotions.json                                      which versions were current, the last one now
    <store>/<view>/v<version>/retired                                   nobody may use this version any more
A *generation* is one chain of manifests. It is live when one of them has the role "live", and then stays so; the live
generation of a version is the highest of these. Four locks, always taken in this order:

    <view>/.lock          short: moving ``current``, retiring and removing versions.
    g<generation>/.lock   held for a writer's life: one writer a generation. Its text: the role it began with.
    v<version>/.files     shared by a commit from its first data file to its manifest; a collection takes it alone.
    v<version>/.lock      short: making a generation, linking a manifest, moving ``latest``, collecting. Of several: the lowest first.

A manifest that is not what was written is *damaged*. A crash cannot make one (a manifest gets its name only when all of
it is on the disk), so it means that the disk or somebody changed it. If its snapshot directory exists, readers may
have seen it: that is an error (``StoreDamaged``). If not, no reader ever did (a generation that is still building, or a
writer that died between manifest and snapshot): the one before holds, and folding on from there gives the same again.

Readers import this module: no kernels here, no Arrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from connectors import fs
from connectors.manifest import LIVE, ROWS, Cut, Manifest, from_bytes
from schemas.errors import StoreDamaged, StoreError, UsageError

VIEW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Version:
    """The directory of one version of a view."""

    path: Path

    @classmethod
    def of(cls, store: Path, view: str, version: int) -> Version:
        """Raises ``UsageError`` for a name that is no plain file name."""
        if not VIEW_NAME.fullmatch(view) or version < 1:
            msg = f"no name of a view: {view!r}@{version}"
            raise UsageError(msg, do="use letters, digits, '_', '-' and '.' and a version of 1 or more")
        return cls(Path(store) / view / f"v{version}")

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("v"))

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def files_lock(self) -> Path:
        return self.path / ".files"

    @property
    def view_lock(self) -> Path:
        return self.path.parent / ".lock"

    @property
    def retired(self) -> Path:
        """Marks a version that was retired; as old as that is."""
        return self.path / "retired"

    @property
    def latest(self) -> Path:
        return self.path / "latest"

    @property
    def current(self) -> Path:
        return self.path.parent / "current"

    def generations(self) -> list[Generation]:
        """All generations, the highest first."""
        numbers = sorted(_numbered(self.path, r"g(\d+)"), reverse=True)
        return [Generation(self, number) for number in numbers]

    def is_current(self) -> bool:
        return current_version(self.current) == self.number

    def live(self) -> Generation | None:
        """The live generation; None before the first commit."""
        return next((g for g in self.generations() if g.is_live()), None)

    def create(self, role: str) -> Generation:
        """Make the next generation, whole or not at all. Hold the version's lock."""
        number = max((g.number for g in self.generations()), default=0) + 1
        unfinished = self.path / f".g{number}{fs.TEMPORARY}"
        fs.remove_tree(unfinished)
        fs.make_dir(unfinished / "manifests")
        fs.make_dir(unfinished / "snapshots")
        fs.write_file(unfinished / ".lock", role.encode())
        fs.write_file(unfinished / ".place", place_of(unfinished))
        fs.rename(unfinished, self.path / f"g{number}")
        return Generation(self, number)


@dataclass(frozen=True, slots=True)
class Generation:
    """One chain of manifests of a version."""

    version: Version
    number: int

    @property
    def path(self) -> Path:
        return self.version.path / f"g{self.number}"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def place(self) -> Path:
        """Says where it was made (``connectors.copies``)."""
        return self.path / ".place"

    @property
    def manifests(self) -> Path:
        return self.path / "manifests"

    def began_as(self) -> str:
        """The role it was made for."""
        return fs.read_file(self.lock).decode(errors="replace")

    def manifest_path(self, seq: int) -> Path:
        return self.manifests / f"{seq:010d}.json"

    def snapshot_path(self, seq: int) -> Path:
        return self.path / "snapshots" / f"{seq:010d}"

    def sequence(self) -> list[int]:
        """Numbers of all manifests, ascending."""
        return sorted(_numbered(self.manifests, r"(\d{10})\.json"))

    def snapshots(self) -> list[int]:
        """Numbers of all snapshots, ascending."""
        return sorted(_numbered(self.path / "snapshots", r"(\d{10})"))

    def read(self, seq: int) -> Manifest:
        """One manifest. Raises ``StoreDamaged``, ``FileNotFoundError``, ``StoreError`` (the disk failed)."""
        path = self.manifest_path(seq)
        manifest = from_bytes(read_file(path), str(path))
        if manifest.seq != seq:
            msg = f"a manifest under a number that is not its own ({manifest.seq})"
            raise StoreDamaged(msg, where=str(path), do="rebuild the view")
        return manifest

    def newest(self) -> Manifest | None:
        """The newest manifest that counts (see above). Raises ``StoreDamaged`` when readers may have seen a newer."""
        seen = max(self.snapshots(), default=0)
        if seen > max(self.sequence(), default=0):
            msg = "the manifest of a snapshot that readers may have seen is missing"
            raise StoreDamaged(msg, where=str(self.manifest_path(seen)), do="rebuild the view")
        for seq in reversed(self.sequence()):
            try:
                return self.read(seq)
            except StoreDamaged:
                if self.snapshot_path(seq).exists():
                    raise
        return None

    def newest_readable(self) -> Manifest | None:
        """The newest manifest that is as it was written, whatever happened to later ones."""
        for seq in reversed(self.sequence()):
            try:
                return self.read(seq)
            except (StoreDamaged, FileNotFoundError):
                continue
        return None

    def is_live(self) -> bool:
        """Whether it was ever live. Only live generations have snapshots, so that damage does not hide it."""
        if self.snapshots():
            return True
        newest = self.newest_readable()
        return newest is not None and newest.role == LIVE

    def settle(self) -> None:
        """Make durable what a process may have done just before it was killed, before anything is built on it.

        Contents are durable before they get a name, and what lies below a generation before that has its own; so these
        are the names that count: manifests, snapshots, ``latest``, generations, ``current``.
        """
        for directory in (self.manifests, self.path / "snapshots", self.version.path, self.version.path.parent):
            fs.fsync_dir(directory)

    def is_superseded(self) -> bool:
        """Whether a higher generation is live."""
        return any(g.is_live() for g in self.version.generations() if g.number > self.number)


def current_version(link: Path) -> int | None:
    """The version that ``current`` leads to; None when there is no such link."""
    found = re.fullmatch(r"v(\d+)/latest", str(link.readlink())) if link.is_symlink() else None
    return int(found[1]) if found else None


def versions_of(directory: Path) -> list[Version]:
    """All versions in a view's directory, ascending, whatever became of them."""
    return [Version(directory / f"v{number}") for number in sorted(_numbered(directory, r"v(\d+)"))]


def place_of(directory: Path) -> bytes:
    """What tells a directory from copies of it: its device and inode."""
    found = directory.stat()
    return f"{found.st_dev}:{found.st_ino}\n".encode()


def _numbered(directory: Path, pattern: str) -> Iterator[int]:
    """The numbers in names that match; none when the directory is not there."""
    if directory.is_dir():
        for entry in directory.iterdir():
            if found := re.fullmatch(pattern, entry.name):
                yield int(found[1])


def read_file(path: Path) -> bytes:
    """The bytes of a file of a store. Raises ``FileNotFoundError``, ``StoreError`` when the disk failed."""
    try:
        return fs.read_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        msg = "a file of the view cannot be read"
        raise StoreError(msg, where=str(path), why=str(error), do=fs.advice(error)) from error


def failed(what: str, home: Version, error: OSError) -> StoreError:
    """The error of a store for one of the system."""
    return StoreError(what, where=str(error.filename or home.path), why=str(error), do=fs.advice(error))


def put_aside(path: Path) -> Path:
    """Rename a damaged file to the first free ``<name>.damaged-<n>``."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    fs.rename(path, aside)
    return aside


def reached(ours: Cut, other: Cut) -> bool:
    """Whether ``ours`` is not behind ``other`` in any partition; a partition not named stands at 0."""
    return all(
        next_offset <= (ours.get(category, [])[partition : partition + 1] or [0])[0]
        for category, offsets in other.items()
        for partition, next_offset in enumerate(offsets)
    )


def show(generation: Generation, manifest: Manifest, staged: Path | None = None) -> None:
    """Make a committed manifest of the live generation what readers see. Safe to repeat. Hold the version's lock."""
    snapshot = generation.snapshot_path(manifest.seq)
    if not snapshot.exists():
        fs.rename(staged or stage(generation, manifest), snapshot)
    _claim_current(generation.version)
    target = f"{generation.path.name}/snapshots/{generation.snapshot_path(manifest.seq).name}"
    latest = generation.version.latest
    if not latest.is_symlink() or str(latest.readlink()) != target:
        fs.replace_symlink(target, latest)


def snapshot_files(manifest: Manifest) -> list[tuple[str, str]]:
    """Name in the snapshot directory and name in ``data/`` of each file of the rows.

    The leading number makes an alphabetical listing the order of the rows. The hash keeps a reader that listed one
    snapshot and opens files of the next from taking other rows for those it listed: names are contents.
    """
    return [(f"{i:06d}-{chunk.file}", chunk.file) for i, chunk in enumerate(manifest.tables[ROWS].chunks)]


def stage(generation: Generation, manifest: Manifest) -> Path:
    """The snapshot's directory with all its links, under a temporary name. Raises ``StoreDamaged`` for a missing file.

    Done before the commit point, so that a manifest never names a file that was gone by then.
    """
    snapshot = generation.snapshot_path(manifest.seq)
    unfinished = snapshot.with_name(f".{snapshot.name}{fs.TEMPORARY}")
    fs.remove_tree(unfinished)
    fs.make_dir(unfinished)
    for name, file in snapshot_files(manifest):
        source = generation.version.data / file
        try:
            fs.link(source, unfinished / name, sync_dir=False)
        except FileNotFoundError as error:
            msg = "a file of the view is missing"
            raise StoreDamaged(msg, where=str(source), do="rebuild the view") from error
    fs.fsync_dir(unfinished)
    return unfinished


def _claim_current(version: Version) -> None:
    """The first version of a view becomes current with its first commit; a later one never does by itself.

    Before ``latest`` is moved, and by exclusive creation: of two versions that first commit at once, one wins.
    """
    others = [v for v in version.path.parent.glob("v*/latest") if v.parent != version.path]
    if _leads_somewhere(version.current) or any(latest.is_symlink() for latest in others):
        return
    if version.current.is_symlink() or version.current.exists():
        put_aside(version.current)
    try:
        fs.symlink(f"{version.path.name}/latest", version.current)
    except FileExistsError:
        return


def _leads_somewhere(current: Path) -> bool:
    """Whether it leads to a version that has a commit. (Its ``latest`` may be a moment away: that one was first.)"""
    target = current.readlink() if current.is_symlink() else Path()
    return target.name == "latest" and Version(current.parent / target.parent).live() is not None
