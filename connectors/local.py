"""The embedded log: category streams in a directory, for one writer and any number of readers.

    <directory>/<category>/category.json           identity (random, made with the category), partitions, format
    <directory>/<category>/.lock                   held by the process that appends
    <directory>/<category>/<partition>/...         see ``connectors.partition_files``

Promises: keys go to the partitions that Kafka's default partitioner gives them; offsets are dense from 0; what an
append returned for is on disk. Timestamps are the producer's (type 0). A category exists from the moment that its
``category.json`` is in place. Nothing here knows what a record means.

A category may also be an *archive*: a copy of one in another log (``connectors.archive``), with that one's identity, offsets
and timestamps. It is read like any other, and nothing can be appended to it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from crc32c import crc32c

from connectors import fs
from connectors.appending import Appending, as_appends
from connectors.clock import now_ms
from connectors.local_reader import LocalReader
from connectors.local_writer import CategoryLock, CategoryWriter, failed
from connectors.log import DEFAULT_PARTITIONS, CategoryInfo
from connectors.partition_files import PartitionFiles, unreadable
from connectors.partitioner import partition_of
from schemas.errors import LogChanged, LogError, LogGap, UnknownCategory, UsageError
from schemas.hints import meant

FORMAT, ARCHIVE_FORMAT = 1, 2

_CATEGORY_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")  # Kafka's rule for topics (org.apache.kafka...Topic.validate)
_PIECE_BYTES = 512 << 20
"""Appends are worked through in pieces of this size: an Arrow array of bytes holds at most 2 GiB."""


@dataclass(frozen=True, slots=True)
class _Description:
    """What ``category.json`` says. ``compacted``: the log that an archive is a copy of may remove single records."""

    identity: str
    partitions: int
    archived: bool = False
    compacted: bool = False

    def is_same(self, other: _Description | None) -> bool:
        """Whether both are of one category; that its log compacts it may have become known since."""
        return other is not None and replace(other, compacted=self.compacted) == self

    def to_bytes(self) -> bytes:
        content = {"format": FORMAT, "identity": self.identity, "partitions": self.partitions}
        if self.archived:
            content |= {"format": ARCHIVE_FORMAT, "compacted": self.compacted}
        return json.dumps({**content, "checksum": _checksum(content)}, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> _Description:
        """Raises ``LogError`` for another format, ``ValueError``, ``KeyError`` or ``TypeError`` for damage."""
        content = json.loads(data)
        known = {"format", "identity", "partitions", "checksum"}
        archived = content["format"] == ARCHIVE_FORMAT
        if content["format"] != FORMAT and not archived and set(content) >= known - {"checksum"}:
            raise LogError(f"a log of format {content['format']}", where=where, do="use a newer refold")
        checksum = content.pop("checksum", None)  # the first logs had none
        compacted = bool(content.get("compacted")) if archived else False
        expected = (known - {"checksum"}) | ({"compacted"} if archived else set())
        if set(content) != expected or checksum not in (None, _checksum(content)):
            raise ValueError("it is not what was written")
        return cls(str(content["identity"]), int(content["partitions"]), archived, compacted)


def _checksum(content: dict[str, object]) -> str:
    return f"{crc32c(json.dumps(content, sort_keys=True).encode()):08x}"


class LocalLog(Appending):
    """The log in directory ``path``, made on first use. Appending is for one thread at a time."""

    def __init__(self, path: str | Path) -> None:
        self._directory = Path(path)
        self.url = str(path)
        self._writers: dict[str, CategoryWriter] = {}
        self._partitions: dict[str, tuple[_Description, list[PartitionFiles]]] = {}
        self._closed = False

    def categories(self) -> list[str]:
        return sorted(path.parent.name for path in self._directory.glob("*/category.json"))

    def describe(self, category: str) -> CategoryInfo:
        """Raises ``UnknownCategory``; ``LogGap`` or ``LogError`` when files at the end are missing or damaged."""
        description = self._known(category)
        files = self._files(category, description)
        earliest = tuple(partition.layout().earliest for partition in files)
        ends = tuple(partition.end() for partition in files)
        return CategoryInfo(category, description.identity, earliest, ends, description.compacted)

    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """Raises ``LogError`` when it exists or is just being made, ``UsageError`` for a bad name or count."""
        self._check_name(category)
        if partitions < 1:
            raise UsageError(f"category {category} with {partitions} partitions", do="give it one or more")
        if self._description(category):
            raise LogError(f"category {category} exists", where=self.url, do="append to it, or choose another name")
        lock = self._lock(category)
        try:
            self._make(category, partitions)
        finally:
            lock.close()
        return self.describe(category)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> LocalReader:
        """See ``Log.reader``. Raises ``UsageError`` for a partition that the category does not have."""
        info, description = self.describe(category), self._known(category)
        for partition, offset in start.items():
            check_start(info, partition, offset)

        def check() -> None:
            if not description.is_same(self._description(category)):
                raise LogChanged(f"category {category} was made again", where=self.url, do="read it from its beginning")

        return LocalReader(self._files(category, description), start, until or {}, check)

    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]:
        """See ``Log.append_batch``; an extra column ``headers`` (binary) is kept.

        A null partition goes by the hash of the key; a null key too goes round-robin by position in ``batch``.
        The share of each partition is appended whole or not at all, unless it is bigger than a segment.
        Raises ``LogError`` when another process is writing or the disk fails, ``UsageError`` for a bad batch.
        """
        self._check_name(category)
        records = as_appends(batch)
        writer = self._writer(category)
        _check_partitions(category, records["partition"], writer.partitions)
        ends = writer.append({})
        now, position = now_ms(), 0
        for piece in _pieces(records):
            ends = writer.append(_shares(piece, writer.partitions, position, now))
            position += len(piece)
        return ends

    def close(self) -> None:
        self._closed = True
        while self._writers:
            self._writers.popitem()[1].close()

    def archived(self, category: str) -> list[PartitionFiles] | None:
        """The partitions of a category that is an archive, None where there is none of this name.

        Raises ``UsageError`` when the name is that of a category with records of its own, ``LogError`` for damage.
        """
        self._check_name(category)
        description = self._description(category)
        if description is None and self._has_records(category):
            raise self._headless(category)
        if description and not description.archived:
            do = "give the archive a directory of its own"
            raise UsageError(f"category {category} is no archive here", where=str(self._directory / category), do=do)
        return self._files(category, description) if description else None

    def copier(self, source: CategoryInfo) -> CategoryWriter:
        """What copies to the archive of a category, made when it is not there, with the partitions beginning where those do.

        The caller closes it, and has checked that an archive that is there is of this category. Raises ``LogError``.
        """
        category, description = source.name, _Description(source.identity, source.partitions, True, source.compacted)
        lock = self._lock(category)
        try:
            fs.fsync_dir(self._directory / category)
            known = self._description(category)
            if known is None and self._has_records(category):
                raise self._headless(category)
            if known is None:
                self._lay(category, description, source.earliest)
            elif not description.is_same(known):
                raise LogChanged(f"the archive of {category} was made by somebody else meanwhile", where=self.url)
            elif description != known:
                fs.write_file(self._directory / category / "category.json", description.to_bytes())
        except OSError as error:
            lock.close()
            raise failed("the archive cannot be written", self._directory / category, error) from error
        except BaseException:
            lock.close()
            raise
        return CategoryWriter(self._files(category, description), lock, archived=True)

    def _writer(self, category: str) -> CategoryWriter:
        if category not in self._writers:
            lock = self._lock(category)
            try:
                fs.fsync_dir(self._directory / category)  # whoever made it may have been killed before that
                description = self._description(category) or self._make(category, DEFAULT_PARTITIONS)
                if description.archived:
                    where = str(self._directory / category)
                    do = "append to the log that it is a copy of, then:  refold archive"
                    raise UsageError(f"category {category} is an archive here", where=where, do=do)
            except BaseException:
                lock.close()
                raise
            self._writers[category] = CategoryWriter(self._files(category, description), lock)
        return self._writers[category]

    def _lock(self, category: str) -> CategoryLock:
        directory = self._directory / category
        try:
            fs.make_dir(directory)
            return CategoryLock(directory)
        except OSError as error:
            raise failed("the log cannot be written", directory, error) from error

    def _make(self, category: str, partitions: int) -> _Description:
        """Make an empty category; the caller holds its lock."""
        directory = self._directory / category
        if directory.joinpath("category.json").exists():
            raise LogError(f"category {category} exists", where=self.url, do="append to it, or choose another name")
        if self._has_records(category):
            raise self._headless(category)
        description = _Description(secrets.token_hex(16), partitions)
        self._lay(category, description, (0,) * partitions)
        return description

    def _lay(self, category: str, description: _Description, begins: Sequence[int]) -> None:
        """Empty partitions that begin at these offsets, and then what says that they are there."""
        for files, first in zip(self._files(category, description), begins, strict=True):
            fs.make_dir(files.directory)
            for left in files.directory.glob("*.tail"):  # by a crash at this point; nothing was ever in it
                fs.unlink(left)
            fs.write_file(files.tail(first), b"")
        fs.write_file(self._directory / category / "category.json", description.to_bytes())

    def _has_records(self, category: str) -> bool:
        """Whether there are files with something in them. (A crash may leave a category without its file, but empty.)"""
        if not _is_name(category):
            return False
        return any(path.stat().st_size for path in (self._directory / category).glob("[0-9]*/*.*"))

    def _headless(self, category: str) -> LogError:
        where = str(self._directory / category / "category.json")
        do = "restore category.json from a copy, or remove the directory with all its records"
        return LogError("a category's file is missing, and its records are there", where=where, do=do)

    def _known(self, category: str) -> _Description:
        if self._closed:
            raise UsageError("the log is closed")
        if description := self._description(category):
            return description
        if self._has_records(category):
            raise self._headless(category)
        raise self._unknown(category)

    def _unknown(self, category: str) -> UnknownCategory:
        known = self.categories()
        if not known:
            what = "there is no log" if not self._directory.exists() else "the log holds no category yet"
            do = "name another with --log or REFOLD_LOG (a broker: redpanda://host:9092), or append to it"
            return UnknownCategory(what, where=self.url, do=do)
        do = meant(category, known, f"choose one of those there are: {', '.join(known)}")
        return UnknownCategory(f"no category {category}", where=self.url, do=do)

    def _description(self, category: str) -> _Description | None:
        """None when there is no such category. Raises ``LogError`` when its file is damaged or of another format."""
        if not _is_name(category):
            return None
        path = self._directory / category / "category.json"
        try:
            return _Description.from_bytes(fs.read_file(path), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, KeyError, TypeError) as error:
            do = "restore it from a copy"
            raise LogError("a category's file is damaged", where=str(path), why=str(error), do=do) from error

    def _files(self, category: str, description: _Description) -> list[PartitionFiles]:
        """The same ones for the same category: they remember what cannot change any more."""
        known = self._partitions.get(category)
        if known is None or not description.is_same(known[0]):
            directory = self._directory / category
            known = description, [PartitionFiles(directory, category, at) for at in range(description.partitions)]
            self._partitions[category] = known
        return known[1]

    def _check_name(self, category: str) -> None:
        if self._closed:
            raise UsageError("the log is closed")
        if not _is_name(category):
            do = "use 1 to 249 letters, digits, dots, underscores and hyphens"
            raise UsageError(f"{category!r} cannot be the name of a category", do=do)


def _is_name(category: str) -> bool:
    return bool(_CATEGORY_NAME.fullmatch(category)) and category not in (".", "..")


def check_start(info: CategoryInfo, partition: int, offset: int) -> None:
    """Raises ``UsageError``, ``LogGap`` or ``LogChanged`` when reading cannot begin there."""
    if not 0 <= partition < info.partitions:
        raise UsageError(f"category {info.name} has no partition {partition}", do=f"it has {info.partitions}, from 0")
    earliest, end, where = info.earliest[partition], info.ends[partition], f"{info.name}/{partition}"
    if offset < earliest:
        raise LogGap(
            f"{earliest - offset:,} events are no longer in the log",
            where=f"{where} starts at offset {earliest:,}; asked for {offset:,}",
            do="restore the older segments from a copy, or begin at the earliest offset",
        )
    if offset > end:
        raise LogChanged(
            "the log is shorter than it was",
            where=f"{where} ends at offset {end:,}; asked for {offset:,}",
            do="if it was restored from an older copy, rebuild the views",
        )


def _check_partitions(category: str, given: pa.ChunkedArray, partitions: int) -> None:
    bounds = pc.min_max(given).as_py()
    if bounds["min"] is not None and (bounds["min"] < 0 or bounds["max"] >= partitions):
        bad = bounds["min"] if bounds["min"] < 0 else bounds["max"]
        raise UsageError(f"category {category} has no partition {bad}", do=f"it has {partitions}, from 0")


def _pieces(records: pa.Table) -> Iterator[pa.Table]:
    """``records`` in order, in parts small enough to have every column in one chunk."""
    if records.nbytes > _PIECE_BYTES and len(records) > 1:
        half = len(records) // 2
        yield from _pieces(records.slice(0, half))
        yield from _pieces(records.slice(half))
    elif len(records):
        yield records.combine_chunks()


def _shares(piece: pa.Table, partitions: int, position: int, now: int) -> dict[int, pa.Table]:
    """The records of each partition, in order. ``position``: that of the first record in the whole batch."""
    chosen = _partitions(piece, partitions, position)
    timestamps = pc.fill_null(piece["timestamp"], now)
    piece = piece.set_column(piece.column_names.index("timestamp"), "timestamp", timestamps)
    order = np.argsort(chosen, kind="stable")
    bounds = np.searchsorted(chosen[order], np.arange(partitions + 1))
    parts = ((at, order[bounds[at] : bounds[at + 1]]) for at in range(partitions))
    return {at: piece.take(pa.array(rows)) for at, rows in parts if len(rows)}


def _partitions(piece: pa.Table, partitions: int, position: int) -> npt.NDArray[np.int32]:
    hashed = partition_of(piece["key"].chunk(0), partitions)
    in_turn = ((np.arange(len(piece)) + position) % partitions).astype(np.int32)
    default = np.where(hashed < 0, in_turn, hashed)
    given = piece["partition"].chunk(0)
    return np.where(given.is_valid().to_numpy(zero_copy_only=False), pc.fill_null(given, 0).to_numpy(), default)
