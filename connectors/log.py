"""The ``Log`` protocol: what every home of category streams can do, and ``open_log``.

A log keeps *category streams*. A category has a fixed number of partitions; a partition is an append-only
sequence of records, each with an offset. Positions are always a *next offset* (the next one to read, never the
last one read); ranges are half-open, ``[first, next)``.

Readers hand over *slices*: consecutive records of one partition as Arrow arrays. Nothing here knows what is
inside a record's value, and nothing above here touches records one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from schemas.errors import UsageError

if TYPE_CHECKING:
    from connectors.topic_settings import TopicSettings
    from schemas import Category, Event

DEFAULT_PARTITIONS = 4
"""Partitions of a category that is made on first append."""

RECORDS = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),  # milliseconds since the epoch; -1: none
        pa.field("timestamp_type", pa.int8(), nullable=False),  # 0: set by the producer, 1: set by the log
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),  # null: a tombstone
        pa.field("headers", pa.binary()),  # wire form of a Kafka v2 record's headers (count, then pairs); null: none
    ]
)
"""Arrow schema of the records in a slice."""

APPENDS = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("timestamp", pa.int64()),  # milliseconds since the epoch; null: now
        pa.field("partition", pa.int32()),  # null: by the hash of the key, as Kafka's default partitioner does
    ]
)
"""Arrow schema of what ``Log.append_batch`` takes."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One of the ``groups`` of a sealed segment, number ``number``, with ``rows`` records. ``columns``: the directory for what is
    derived from the segment; ``checksum``: of all its bytes."""

    columns: Path
    checksum: int
    number: int
    groups: int
    rows: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive records of one partition.

    ``records`` has the schema ``RECORDS``, offsets ascending within ``[first_offset, next_offset)``. The range may
    hold offsets without a record: control records, aborted transactions and, on a compacted topic, removed
    records; ``missing`` counts only the last kind. ``leader_epoch`` is that of the last batch (-1: unknown).

    ``stored`` says where the records are kept when they are a whole row group of a segment, every offset one of them. Such a
    slice need not have read them: ``held`` is then how to, and ``records`` may raise ``LogError``.
    """

    category: str
    partition: int
    first_offset: int
    next_offset: int
    held: pa.RecordBatch | Callable[[], pa.RecordBatch]
    missing: int = 0
    leader_epoch: int = -1
    stored: RowGroup | None = None

    @property
    def records(self) -> pa.RecordBatch:
        return self.held if isinstance(self.held, pa.RecordBatch) else self.held()

    @property
    def last_offset(self) -> int:
        """The offset of the last record. There must be one."""
        return self.next_offset - 1 if self.stored else self.records.column("offset")[-1].as_py()


@dataclass(frozen=True, slots=True)
class CategoryInfo:
    """What a log knows of one category now.

    ``identity`` changes when a category is deleted and made again under the same name. ``earliest`` holds the first
    offset still there per partition, ``ends`` the next offset after the last *stable* record (open transactions
    excluded). ``compacted``: the log may remove single records, so that missing offsets are no error.
    """

    name: str
    identity: str
    earliest: tuple[int, ...]
    ends: tuple[int, ...]
    compacted: bool = False

    @property
    def partitions(self) -> int:
        return len(self.ends)


class Reader(Protocol):
    """Reads some partitions of one category, forward only. One thread uses it at a time."""

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        """Slices that are ready, at most one a partition; waits at most ``timeout_ms`` for the first.

        Raises ``LogGap`` when offsets are missing (and the category is not compacted), ``LogUnreachable`` when the
        log does not answer for longer than its own request time-out, ``LogChanged`` when the log was truncated.
        """

    def positions(self) -> dict[int, int]:
        """Next offset per partition: everything before it was handed over."""

    def close(self) -> None: ...


class Log(Protocol):
    """A home of category streams. Use it as a context manager."""

    url: str

    def categories(self) -> list[str]: ...

    def describe(self, category: str) -> CategoryInfo:
        """Raises ``UnknownCategory``, ``LogUnreachable``."""

    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """Make an empty category. Raises ``LogError`` when it exists."""

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Reader:
        """A reader of the partitions named in ``start``, from those offsets.

        ``until`` (exclusive, per partition) pins the ends: no slice reaches beyond it, and the reader is at the end
        when every position is >= its pinned end. Without it the reader follows.
        Raises ``LogGap`` when a start offset is before the first one still there, ``LogChanged`` when it is after the end.
        """

    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]:
        """Append records (schema ``APPENDS``), durably, in order; make the category when it is not there.

        Returns the next offset per partition after the last record appended by this call.
        """

    def append(
        self, category: Category, events: Iterable[Event], *, keys: Sequence[str | None] | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Append typed events; the record key is the subject unless ``keys`` says otherwise. Returns the new cut."""

    def settings(self, category: str) -> TopicSettings | None:
        """What the broker says of the topic; None where no broker keeps it."""

    def records_without_producer_id(self, category: str, last: int) -> dict[int, int]:
        """By partition: how many of the last records came from a producer without an id, which may write a record twice."""

    def close(self) -> None: ...

    def __enter__(self) -> Log: ...

    def __exit__(self, *exc: object) -> None: ...


BROKER_SCHEMES = ("redpanda", "kafka")


_ADDRESS = re.compile(r"[\w.-]+:\d+(,[\w.-]+:\d+)*")
"""Of a broker whose scheme was forgotten."""
_BROKEN = re.compile(rf"({'|'.join(BROKER_SCHEMES)}):/?(?!/)")
"""A scheme without its slashes."""


def open_log(url: str, archive: str | Path | None = None) -> Log:
    """``redpanda://host:9092[,host:port...]`` (``kafka://`` is the same) or the path of an embedded log's directory.

    With the directory of an ``archive`` (see ``connectors.archive``) history is read from there, and the rest from the log.
    """
    if archive is not None:
        from connectors.hybrid import HybridLog

        return HybridLog(open_log(url), archive)
    scheme, separator, rest = url.partition("://")
    if (not separator and _ADDRESS.fullmatch(url) and not Path(url).exists()) or _BROKEN.match(url):
        msg = f"no address of a log: {url}"
        raise UsageError(msg, do="write redpanda://host:9092, or ./ before the path of a directory")
    if separator and scheme in BROKER_SCHEMES:
        from connectors.redpanda import RedpandaLog

        return RedpandaLog(rest)
    if separator:
        msg = f"a log of an unknown kind: {scheme}://"
        raise UsageError(msg, do="use redpanda://host:9092, kafka://host:9092 or the path of a directory")
    from connectors.local import LocalLog

    return LocalLog(url)
