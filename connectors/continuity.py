"""From fetched record batches to slices, with no offset lost on the way.

``Stitcher`` takes the batches of one partition in the order they came and hands out slices. It is the judge of
continuity: every batch must begin where the last one ended, and hold as many records as offsets.

Promises: slices of a partition meet exactly; an offset that was neither delivered nor skipped for a known reason (a
control batch, an aborted transaction) is a ``LogGap``, or counted in ``Slice.missing`` where the log may remove
records. Must not know: how batches are fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from connectors.log import Slice
from connectors.record_batch import Decoder, Header, decode
from schemas.errors import LogError, LogGap

SLICE_BYTES_MAX = 1 << 26
"""A slice is closed by the batch that takes its unpacked records beyond this. (Another leader's begins the next one.)"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One batch as fetched: offsets ``[base_offset, next_offset)``, ``record_count`` of them with a record.

    Records to deliver are in ``packed`` (a v2 batch) or in ``records`` (already decoded); with neither, the batch is
    one to skip. ``record_count`` of a batch to skip does not matter.
    """

    base_offset: int
    next_offset: int
    record_count: int
    leader_epoch: int = -1
    packed: tuple[memoryview, Header] | None = None
    records: pa.RecordBatch | None = None

    @property
    def is_skipped(self) -> bool:
        return self.packed is None and self.records is None

    @property
    def is_whole(self) -> bool:
        return self.is_skipped or self.record_count == self.next_offset - self.base_offset


def in_order(answer: list[Fetched]) -> list[Fetched]:
    """The batches of one answer, as they are. Raises ``LogError`` when one begins before the last one ended: a
    transaction's marker met twice, or too early, would let aborted records through."""
    for before, batch in pairwise(answer):
        if batch.base_offset < before.next_offset:
            raise LogError("record batches came out of order", where=f"batch at offset {batch.base_offset:,}")
    return answer


class Stitcher:
    """The batches of one partition on their way to becoming slices.

    ``position`` is the next offset to hand out, ``until`` (exclusive; None: no end) where to stop. ``may_have_holes``
    says whether the log removes single records.
    """

    def __init__(self, category: str, partition: int, position: int, until: int | None, may_have_holes: bool) -> None:
        self.category, self.partition = category, partition
        self.position = position
        self.until = until
        self.may_have_holes = may_have_holes
        self._waiting: deque[Fetched] = deque()

    @property
    def is_at_end(self) -> bool:
        return self.until is not None and self.position >= self.until

    def add(self, batches: Iterable[Fetched]) -> None:
        """Take batches that follow those added before."""
        self._waiting.extend(batches)

    def take(self, decoder: Decoder) -> Slice | None:
        """The next slice, or None when no batch waits that reaches beyond ``position``.

        Raises ``LogGap``, and ``LogError`` when a batch is damaged; nothing is handed out then, and the same
        call raises again.
        """
        taken = self._choose(decoder)
        if not taken:
            return None
        try:
            made = self._slice(taken, decoder)
        except LogError:
            self._waiting.extendleft(reversed(taken))
            raise
        self.position = made.next_offset
        return made

    def _choose(self, decoder: Decoder) -> list[Fetched]:
        """Batches of the next slice, added to ``decoder``; already decoded ones make a slice of their own."""
        taken: list[Fetched] = []
        end = self.position
        while self._waiting and not self._is_beyond(end) and decoder.unpacked_bytes < SLICE_BYTES_MAX:
            batch = self._waiting[0]
            if batch.next_offset <= end:
                self._waiting.popleft()
                continue
            if taken and (batch.records is not None or batch.leader_epoch != taken[-1].leader_epoch):
                break
            try:
                self._check(batch, end)
                if batch.packed is not None:
                    decoder.add(*batch.packed)
            except LogError as error:
                if taken:
                    break  # what came before is good; the next call will meet the error first
                raise self._placed(error) from error.__cause__
            taken.append(self._waiting.popleft())
            end = batch.next_offset
            if batch.records is not None:
                break
        return taken

    def _is_beyond(self, offset: int) -> bool:
        return self.until is not None and offset >= self.until

    def _check(self, batch: Fetched, expected: int) -> None:
        if self.may_have_holes:
            return
        if batch.base_offset > expected:
            raise self._gap(expected, batch.base_offset)
        if not batch.is_whole:
            present = batch.record_count if batch.base_offset == expected else _records_from(batch, expected)
            if present < batch.next_offset - expected:
                raise self._gap(expected, batch.next_offset, present)

    def _slice(self, taken: list[Fetched], decoder: Decoder) -> Slice:
        first, end = self.position, taken[-1].next_offset
        if self.until is not None:
            end = min(end, self.until)
        decoded = self._records(taken, decoder)
        records = _between(decoded, first, end)
        skipped = sum(_overlap(batch, first, end) for batch in taken if batch.is_skipped)
        missing = end - first - records.num_rows - skipped
        assert missing == 0 or self.may_have_holes
        return Slice(self.category, self.partition, first, end, records, missing, taken[-1].leader_epoch)

    def _records(self, taken: list[Fetched], decoder: Decoder) -> pa.RecordBatch:
        try:
            decoded = decoder.take()
        except LogError as error:
            raise self._placed(error) from error.__cause__
        return taken[0].records if taken[0].records is not None else decoded

    def _placed(self, error: LogError) -> LogError:
        if isinstance(error, LogGap):  # made here, and says where
            return error
        where = f"{self.category}/{self.partition}, {error.where}"
        return type(error)(error.what, where=where, why=error.why, do=error.do)

    def _gap(self, first: int, end: int, present: int = 0) -> LogGap:
        return gap(self.category, self.partition, first, end, present)


def gap(category: str, partition: int, first: int, end: int, present: int = 0) -> LogGap:
    """The error for ``end - first - present`` records missing from ``[first, end)``."""
    range_ = f"offsets {first:,} to {end - 1:,}" + (f" hold only {present:,} records" if present else "")
    return LogGap(
        f"the log lost events that were still to be read ({end - first - present:,} missing)",
        where=f"{category}/{partition}: {range_}",
        do="rebuild from an archive that holds them, or begin a new history with --origin earliest",
    )


def _between(records: pa.RecordBatch, first: int, end: int) -> pa.RecordBatch:
    """The rows with offsets in ``[first, end)``; offsets ascend."""
    if not records.num_rows:
        return records
    low, high = np.searchsorted(records.column("offset").to_numpy(), (first, end))
    return records.slice(low, high - low)


def _records_from(batch: Fetched, offset: int) -> int:
    """How many records a batch has from ``offset`` on: what it lacks before is nobody's loss. Raises ``LogError``."""
    records = decode(batch.packed[0]) if batch.packed else batch.records
    assert records is not None
    return records.num_rows - int(np.searchsorted(records.column("offset").to_numpy(), offset))


def _overlap(batch: Fetched, first: int, end: int) -> int:
    return max(0, min(batch.next_offset, end) - max(batch.base_offset, first))
