"""Appending to a partitioned log, each record exactly once, in order.

``plan`` lays out which rows go to which partition in which batches; ``Producer`` sends them, one batch a partition at
a time, and repeats what got no answer. A batch that is repeated carries the same producer id and sequence number, so
that the broker takes it once (Kafka's idempotent producer, KIP-98).

Promises: within a partition records are appended in the order of the rows; when ``append`` returns, all of them are
durable. When it raises, a first part of the rows of each partition may have been appended. One exception that is the
broker's: when it is restarted, it forgets producers whose newest record has a timestamp older than its
``producer.id.expiration.ms`` (one day); a batch of such old timestamps that was taken but not confirmed before the
restart is then there twice. Must not know: how requests travel (the transport is given) and what is in a record.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import clock
from connectors.partitioner import NO_PARTITION, partition_of
from connectors.record_encode import Column, Sender, column, encode, sizes
from schemas.errors import LogUnreachable, UsageError

BATCH_BYTES_MAX = 900 * 1024
"""Uncompressed; a broker's own limit (``message.max.bytes``) is 1 MiB unless told otherwise."""

_SEQUENCES = 1 << 31


class TryAgain(Exception):
    """A transport's word for: this batch was not taken, or nobody knows; it may be sent again as it is."""


class SequenceLost(Exception):
    """A transport's word for: the broker has already taken this batch, but no longer knows at which offset."""


class Transport(Protocol):
    """How batches reach the broker."""

    def new_producer(self) -> tuple[int, int]:
        """A fresh producer id and epoch. Raises ``LogError``."""

    def produce(self, category: str, batches: Mapping[int, bytes]) -> dict[int, int | Exception]:
        """Send one batch a partition; the base offset of each, or ``TryAgain``, ``SequenceLost`` or a ``LogError``."""


@dataclass(slots=True)
class Planned:
    """What one partition gets: row numbers, and where they are cut into batches (first of each, then the end)."""

    rows: npt.NDArray[np.int64]
    cuts: list[int]


class Producer:
    """Appends through ``transport``; one append at a time."""

    def __init__(self, transport: Transport, timeout_ms: int) -> None:
        self._transport = transport
        self._timeout_ms = timeout_ms
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._sequences: dict[tuple[str, int], int] = {}

    def append(self, category: str, table: pa.Table, partitions: int) -> dict[int, int]:
        """Append ``table`` (``APPENDS`` and ``headers``): the next offset of each partition that got records.

        Raises ``UsageError`` when a partition is out of range, ``LogUnreachable`` when no answer came in time (the
        records may or may not be there), ``LogError`` when the broker refuses.
        """
        columns = tuple(column(table[name].combine_chunks()) for name in ("key", "value", "headers"))
        assert len(columns) == 3
        timestamps = table["timestamp"].combine_chunks().fill_null(clock.now_ms()).to_numpy()
        chosen = chosen_partitions(table, partitions)
        row_sizes = sizes(columns)
        with self._lock:
            appending = _Appending(self, category, columns, timestamps, row_sizes, plan(chosen, row_sizes))
            try:
                return appending.run()
            except BaseException:
                # What the broker has of the last batches is not known: their numbers must not be used again.
                self._identity = None
                self._sequences.clear()
                raise

    def sender(self, category: str, partition: int) -> Sender:
        """Identity of the next batch."""
        if self._identity is None:
            self._identity = self._transport.new_producer()
        return Sender(*self._identity, self._sequences.get((category, partition), 0))

    def count(self, category: str, partition: int, records: int) -> None:
        """So many records were taken."""
        sequence = self._sequences.get((category, partition), 0) + records
        self._sequences[category, partition] = sequence % _SEQUENCES

    def send(self, category: str, batches: Mapping[int, bytes]) -> dict[int, int]:
        """Send until each batch is taken; base offsets (-1 where the broker does not know any more)."""
        waiting, taken = dict(batches), dict[int, int]()
        deadline = clock.monotonic() + self._timeout_ms / 1000
        while waiting:
            for partition, answer in self._transport.produce(category, waiting).items():
                if isinstance(answer, (int, SequenceLost)):
                    taken[partition] = answer if isinstance(answer, int) else -1
                    del waiting[partition]
                elif not isinstance(answer, TryAgain):
                    raise answer
            if waiting and clock.monotonic() > deadline:
                msg = "the broker did not confirm what was appended; it may or may not be there"
                raise LogUnreachable(msg, where=f"{category}, partitions {sorted(waiting)}", do="look, then try again")
        return taken


class _Appending:
    """One call of ``append``: rounds of at most one batch a partition."""

    def __init__(
        self,
        producer: Producer,
        category: str,
        columns: tuple[Column, ...],
        timestamps: npt.NDArray[np.int64],
        row_sizes: npt.NDArray[np.int64],
        planned: dict[int, Planned],
    ) -> None:
        self._producer, self._category = producer, category
        self._columns, self._timestamps, self._row_sizes = columns, timestamps, row_sizes
        self._planned = planned

    def run(self) -> dict[int, int]:
        ends: dict[int, int] = {}
        for number in range(max((len(planned.cuts) for planned in self._planned.values()), default=1) - 1):
            rows = {
                partition: planned.rows[planned.cuts[number] : planned.cuts[number + 1]]
                for partition, planned in self._planned.items()
                if number < len(planned.cuts) - 1
            }
            bases = self._producer.send(self._category, {p: self._encode(p, chosen) for p, chosen in rows.items()})
            for partition, base in bases.items():
                self._producer.count(self._category, partition, len(rows[partition]))
                ends[partition] = base + len(rows[partition]) if base >= 0 else -1
        return ends

    def _encode(self, partition: int, rows: npt.NDArray[np.int64]) -> bytes:
        key, value, headers = self._columns
        sender = self._producer.sender(self._category, partition)
        return encode((key, value, headers), self._timestamps, rows, int(self._row_sizes[rows].sum()), sender)


def chosen_partitions(table: pa.Table, partitions: int) -> npt.NDArray[np.int32]:
    """Partition of each row: the one given, else by the hash of the key, else (no key) round-robin by position."""
    hashed = partition_of(table["key"].combine_chunks(), partitions)
    given = table["partition"].combine_chunks()
    chosen = np.where(given.is_valid().to_numpy(zero_copy_only=False), given.fill_null(0).to_numpy(), hashed)
    free = (chosen == NO_PARTITION) & given.is_null().to_numpy(zero_copy_only=False)
    chosen = np.where(free, np.arange(len(chosen), dtype=np.int32) % partitions, chosen)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < partitions:
        msg = f"a record is meant for a partition that is not there; partitions are 0 to {partitions - 1}"
        raise UsageError(msg)
    return chosen


def plan(chosen: npt.NDArray[np.int32], row_sizes: npt.NDArray[np.int64]) -> dict[int, Planned]:
    """Rows per partition, in order, cut into batches of at most ``BATCH_BYTES_MAX`` (or one record)."""
    if not chosen.size:
        return {}
    order = np.argsort(chosen, kind="stable")
    found, firsts = np.unique(chosen[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return {int(p): Planned(rows, _cuts(row_sizes[rows])) for p, rows in zip(found, parts, strict=True)}


def _cuts(row_sizes: npt.NDArray[np.int64]) -> list[int]:
    ends = np.cumsum(row_sizes)
    cuts = [0]
    while cuts[-1] < ends.size:
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, before + BATCH_BYTES_MAX, side="right"))))
    return cuts


def by_leader(leaders: Mapping[int, int], partitions: Iterable[int], where: str) -> dict[int, list[int]]:
    """Partitions by the node that leads them. Raises ``LogUnreachable`` when one has no leader."""
    wanted = [*partitions]
    without = [partition for partition in wanted if leaders.get(partition, -1) < 0]
    if without:
        raise LogUnreachable(f"no broker leads partitions {without}", where=where)
    return {node: [p for p in wanted if leaders[p] == node] for node in {leaders[p] for p in wanted}}
