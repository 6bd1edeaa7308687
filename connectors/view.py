"""Reading views: one committed snapshot each, whole, whatever writers do meanwhile.

    open_view("data/store", "departures_by_hour").scan()        # a polars.LazyFrame, rows in order of primary key

A ``View`` stands for the snapshot that was newest when it was opened; its files stay for the grace period after a newer
one came. Readers take no lock and write nothing. This module must import fast (a query answers from a cold start):
Polars and Arrow are imported where they are used, kernels never.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.clock import monotonic
from connectors.generation import VIEW_NAME, Generation, Version, current_version, reached, snapshot_files, versions_of
from connectors.history import find
from connectors.manifest import ROWS, Cut, Manifest, Table
from connectors.points import Point, point
from connectors.unknown import unknown_view
from schemas.errors import NotReached, StoreDamaged, UnknownView, UsageError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

LATE, DEAD_LETTERS = "late", "dead_letters"


@dataclass(frozen=True, slots=True, repr=False)
class View:
    """One snapshot of a view. ``path``: its directory, free of symbolic links, one Parquet file a chunk."""

    name: str
    version: int
    path: Path
    manifest: Manifest
    generation: Generation
    follows: bool = False
    """Whether it was opened as the version that is current, whichever that is: then ``wait`` goes by what is current, too."""

    @property
    def seq(self) -> int:
        """Number of the snapshot within its generation."""
        return self.manifest.seq

    @property
    def cut(self) -> Cut:
        """``{category: [next offset per partition]}``: all that this snapshot knows of the log."""
        return self.manifest.cut

    @property
    def digest(self) -> str:
        """BLAKE2b-256 (hex) of the rows; equal digests, equal rows."""
        return self.manifest.digest

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return self.manifest.tables[ROWS].schema

    def scan(self) -> pl.LazyFrame:
        """The rows, in order of primary key."""
        return _scan([self.path / name for name, _ in snapshot_files(self.manifest)])

    def get(self, *key: Any, **named: Any) -> dict[str, Any] | None:
        """The row with this primary key (values in its order, or by name), by column; None when there is none.

        Only the chunk that can hold it is read, and checked. Raises ``UsageError`` (no such key), ``StoreDamaged``.
        """
        from connectors.lookup import find_row, key_values

        table = self.manifest.tables[ROWS]
        return find_row(table, self.generation.version.data, key_values(table, key, named))

    def wait(self, cut: Mapping[str, Sequence[int]], timeout: float = 10.0) -> View:
        """The first snapshot seen that has everything up to a cut, such as ``Log.append`` returns: read your own writes.

        ``timeout`` in seconds. Raises ``NotReached`` (it has not come so far by then), ``UsageError`` (it reads no category of the cut).
        """
        wanted = {name: list(offsets) for name, offsets in cut.items() if name in self.cut}
        if not wanted:
            do = f"wait for a cut of {', '.join(self.cut)}"
            raise UsageError(f"view {self.name!r} reads nothing of {', '.join(cut) or 'an empty cut'}", do=do)
        store, version = self.generation.version.path.parents[1], None if self.follows else self.version
        view, give_up = self, monotonic() + timeout
        while not reached(view.cut, wanted):
            if monotonic() >= give_up:
                raise _not_reached(view, wanted, timeout)
            threading.Event().wait(WAIT_S)
            view = open_view(store, self.name, version)
        return view

    def __repr__(self) -> str:
        from connectors.showing import line

        return line(self)

    def _repr_html_(self) -> str:
        from connectors.showing import html

        return html(self)

    def late(self) -> pl.LazyFrame:
        """Events that came too late for a window of theirs, one row for each; a frame without columns when the view keeps none."""
        return self._side(LATE)

    def dead_letters(self) -> pl.LazyFrame:
        """Records that could not be decoded or folded; a frame without columns when the view keeps none."""
        return self._side(DEAD_LETTERS)

    def _side(self, name: str) -> pl.LazyFrame:
        table = self.manifest.tables.get(name, Table((), (), 1, ()))
        return _scan([self.generation.version.data / chunk.file for chunk in table.chunks])


def _scan(files: list[Path]) -> pl.LazyFrame:
    import polars as pl

    return pl.scan_parquet(files, glob=False) if files else pl.LazyFrame()


WAIT_S = 0.01
"""Seconds between two looks of who waits for a cut."""


def _not_reached(view: View, wanted: Cut, timeout: float) -> NotReached:
    behind = [
        f"{name}/{partition} at {at:,} of {end:,}"
        for name, ends in wanted.items()
        for partition, (at, end) in enumerate(zip(view.cut[name], ends, strict=False))
        if at < end
    ]
    do = f"see whether it is followed:  refold status {view.name}"
    return NotReached(
        f"view {view.name}@{view.version} has not come so far in {timeout:g} s", where=", ".join(behind), do=do
    )


LOOKS, LOOK_S = 20, 0.02
"""How often, and with how many seconds between, a reader looks for links that the first commit may be making."""


def open_view(
    store: str | Path,
    name: str,
    version: int | None = None,
    *,
    cut: Cut | None = None,
    seq: int | None = None,
    time: dt.datetime | None = None,
) -> View:
    """The newest snapshot of a view, of the version that is current or of the one asked for; or one that is retained.

    ``cut``: the snapshot at exactly this cut. ``seq``: by the number of its commit. ``time``: the newest one whose watermark (the least of
    all partitions) is not beyond this event time. Raises ``UnknownView`` (nothing was committed under this name, or that snapshot is not
    kept), ``StoreDamaged`` (its manifest was changed, or the link that leads to it is gone).
    """
    view = _newest(store, name, version)
    wanted = point(seq, cut, time)
    return view if wanted is None else at_point(view, wanted)


def at_point(view: View, wanted: Point) -> View:
    """Another snapshot of a view's version. Raises ``UnknownView`` when it is not retained."""
    found = find(view.generation.version, wanted)
    path = found.generation.snapshot_path(found.manifest.seq)
    return View(view.name, view.version, path, found.manifest, found.generation)


def _newest(store: str | Path, name: str, version: int | None) -> View:
    if not VIEW_NAME.fullmatch(name):
        raise unknown_view(store, name, version)
    if version is not None and (home := Version.of(Path(store), name, version)).retired.exists():
        msg = f"version {version} of view {name!r} was retired"
        raise UnknownView(msg, where=str(home.path), do=f"read the version that serves:  {name}")
    link = Path(store) / name / ("current" if version is None else f"v{version}/latest")
    for looks_left in reversed(range(LOOKS)):
        path = _target(link)
        if path is not None:
            break
        error = _no_snapshot(store, name, version, link)
        if not looks_left or isinstance(error, UnknownView) or not _may_be_on_the_way(Path(store) / name):
            raise error
        threading.Event().wait(LOOK_S)
    assert path is not None
    return _at(name, path, follows=version is None)


def _target(link: Path) -> Path | None:
    """The snapshot that a link leads to, all the way or not at all."""
    try:
        path = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return None
    return path if path.is_dir() and path.parent.name == "snapshots" else None


def _may_be_on_the_way(home: Path) -> bool:
    """Whether the links may be missing because the very first commit is making them right now."""
    lives = [live for path in home.glob("v*") if (live := Version(path).live())]
    return len(lives) == 1 and lives[0].sequence() == [1]


def _no_snapshot(store: str | Path, name: str, version: int | None, link: Path) -> UnknownView | StoreDamaged:
    home = Path(store) / name
    if not _is_committed(home, version):
        return unknown_view(store, name, version)
    if not _is_shown(home):
        msg = f"the first commit of view {name!r} is not finished"
        why = "it is being made, was interrupted, or the links that lead to it were removed"
        return UnknownView(msg, where=str(home), why=why, do=f"look again, or finish it:  refold repair {name}")
    return _broken_link(link)


def _at(name: str, path: Path, *, follows: bool = False) -> View:
    """The view at a snapshot's directory."""
    home = Version(path.parents[2])
    generation = Generation(home, int(path.parents[1].name.removeprefix("g")))
    seq = int(path.name)
    try:
        return View(name, home.number, path, generation.read(seq), generation, follows)
    except FileNotFoundError as error:
        msg = "the manifest of the snapshot that readers see is missing"
        raise StoreDamaged(
            msg, where=str(generation.manifest_path(seq)), do=f"fold it again:  refold rebuild {name}"
        ) from error


def _is_shown(home: Path) -> bool:
    """Whether a first commit ever got as far as to be seen: then there is a link, wherever it leads."""
    return any(link.is_symlink() for link in (home / "current", *home.glob("v*/latest")))


def _is_committed(home: Path, version: int | None) -> bool:
    """Whether there is a commit, whatever the links say."""
    return any(Version(path).live() for path in home.glob(f"v{'*' if version is None else version}"))


def _broken_link(link: Path) -> StoreDamaged:
    what = "leads nowhere" if link.is_symlink() else "is missing"
    name = link.parent.name if link.name == "current" else f"{link.parents[1].name}@{link.parent.name[1:]}"
    return StoreDamaged(f"the link to the newest snapshot {what}", where=str(link), do=f"refold repair {name}")


@dataclass(frozen=True, slots=True)
class ViewVersions:
    """A view of a store: its versions that have a commit, ascending, and the one that ``current`` leads to (None: damaged)."""

    name: str
    versions: tuple[int, ...]
    current: int | None


def list_views(store: str | Path) -> list[ViewVersions]:
    """All views with a commit that readers can see, or could if its links were whole; by name."""
    homes = Path(store).iterdir() if Path(store).is_dir() else ()
    names = sorted(home.name for home in homes if home.is_dir() and _is_shown(home))
    found = (
        ViewVersions(name, _versions(Path(store) / name), current_version(Path(store) / name / "current"))
        for name in names
    )
    return [view for view in found if view.versions]


def _versions(directory: Path) -> tuple[int, ...]:
    return tuple(home.number for home in versions_of(directory) if home.live() and not home.retired.exists())


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file of a view that is not what was written. ``file`` is relative to the version's directory."""

    file: str
    table: str
    why: str


def check_files(store: str | Path, view: str, version: int) -> list[Damaged]:
    """Compare the bytes of every file of the newest snapshot, of all tables, with their names; check that the links lead
    to it. Reads them all.

    Raises ``UnknownView``, ``StoreDamaged`` (the manifest itself).
    """
    links = damaged_links(Version.of(Path(store), view, version))
    opened = _newest_shown(store, view, version) if links else open_view(store, view, version)
    data = opened.generation.version.data
    named = [(name, data / chunk.file) for name, table in opened.manifest.tables.items() for chunk in table.chunks]
    return [*links, *_check(opened, named), *_check(opened, list(_separate_copies(opened)))]


LINKS = "links"
"""What stands for a table where a link is damaged."""


def damaged_links(home: Version) -> list[Damaged]:
    """``latest`` of this version and ``current`` of its view, where they do not lead to a snapshot."""
    found = []
    for link in (home.latest, home.current):
        if not link.resolve().is_dir() and _is_committed(home.path.parent, home.number):
            why = "it leads nowhere" if link.is_symlink() else "it is missing"
            found.append(Damaged(os.path.relpath(link, home.path), LINKS, why))
    # `current` leads through `latest`: it is not its own fault
    return found[:1] if len(found) == 2 and home.current.is_symlink() else found


def _newest_shown(store: str | Path, view: str, version: int) -> View:
    """The newest snapshot of the live generation, found without the links."""
    live = Version.of(Path(store), view, version).live()
    seen = (live.snapshots() or live.sequence()) if live else []
    if live is None or not seen:
        raise unknown_view(store, view, version)
    return _at(view, live.snapshot_path(seen[-1]))


def _separate_copies(view: View) -> Iterator[tuple[str, Path]]:
    """Files of the snapshot directory that are no longer the same file as the one in ``data/``, or are gone."""
    for name, file in snapshot_files(view.manifest):
        shown, stored = view.path / name, view.generation.version.data / file
        if not (shown.exists() and stored.exists() and shown.samefile(stored)):
            yield ROWS, shown


def _check(view: View, files: list[tuple[str, Path]]) -> list[Damaged]:
    root = view.generation.version.path
    return [Damaged(str(path.relative_to(root)), table, why) for table, path in files if (why := _why_bad(path))]


def check_table(view: View, table: str) -> None:
    """Raises ``StoreDamaged`` for the first file of a table of a snapshot that is not what was written.

    Parquet's readers check no bytes: of a flipped bit they would make other rows, silently. It costs about a second a
    gigabyte, which is less than reading the rows does.
    """
    data = view.generation.version.data
    shown = [view.path / name for name, _ in snapshot_files(view.manifest)]
    for path in shown if table == ROWS else [data / chunk.file for chunk in view.manifest.tables[table].chunks]:
        if why := _why_bad(path):
            msg = "a file of the view is not what was written"
            raise StoreDamaged(msg, where=str(path), why=why, do=f"refold repair {view.name}@{view.version}")


def _why_bad(path: Path) -> str | None:
    if not path.exists():
        return "it is missing"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        return f"it cannot be read: {error}"
    return None if path.name.endswith(f"{digest}.parquet") else "its bytes are not those that its name stands for"
