"""Answers to fetches that went wrong on the way: batches dropped, doubled, in another order, cut off, damaged.

A captured answer goes the whole way to slices (the library's lists of aborted transactions, ``Stitcher``, ``Decoder``).
Whatever was done to it, what is handed out must be what was sent and committed: nothing else, nothing twice, and
without compaction nothing left out before the position reached. Anything wrong ends in a ``LogError``.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from batch_fuzz.corpus import Golden
from batch_fuzz.judge import rows_of
from fuzz_record_batch import Verdict
from kafka import TopicPartition
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords

from connectors.continuity import Fetched, Stitcher
from connectors.record_batch import Decoder, read_header, split
from connectors.redpanda import _PartitionBatches
from schemas.errors import LogError


class Aborted(NamedTuple):
    """An entry of a fetch response's list of aborted transactions."""

    producer_id: int
    first_offset: int


class Answers:
    """Makes damaged answers of a corpus and decides on them."""

    def __init__(self, corpus: list[Golden]) -> None:
        self._corpus = [golden for golden in corpus if len(golden.rows) < 100]
        self._decoder = Decoder()
        self.why = ""

    def judge(self, chance: random.Random) -> Verdict:
        golden = chance.choice(self._corpus)
        start = chance.choice((0, chance.randrange(golden.end + 1)))
        until = chance.choice((None, chance.randint(start, golden.end)))
        batches = [bytes(batch) for batch in split(memoryview(golden.raw)) if read_header(batch).last_offset >= start]
        raw = spoiled(batches, chance)
        return self._decided(golden, raw, Stitcher(golden.name, 0, start, until, golden.compacted))

    def _decided(self, golden: Golden, raw: bytes, stitcher: Stitcher) -> Verdict:
        start, found, verdict = stitcher.position, [], Verdict.SAME
        try:
            stitcher.add(batches_of(golden, start, raw))
            while (one := stitcher.take(self._decoder)) is not None:
                found += rows_of(one.records)
        except LogError as error:
            self.why, verdict = str(error), Verdict.REFUSED
        except Exception as error:
            self.why = repr(error)
            return Verdict.BROKE
        finally:
            self._decoder.take()
        expected = [
            (golden.time_types[o], row) for o, row in golden.committed.items() if start <= o < stitcher.position
        ]
        if found != ([row for row in expected if row in found] if golden.compacted else expected):
            self.why = f"{golden.name} from {start}, handed out {found}, committed {expected}"
            return Verdict.DIFFERENT
        return verdict


def batches_of(golden: Golden, start: int, raw: bytes) -> list[Fetched]:
    """The answer ``raw`` as the reader takes it, with the aborted transactions that a broker lists from ``start`` on."""
    answer = _PartitionBatches(
        start,
        TopicPartition(golden.name, 0),
        MemoryRecords(raw),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[
            one for one in map(Aborted._make, golden.aborted_transactions) if ends(golden, one) >= start
        ],
    )
    return answer.take()


def ends(golden: Golden, aborted: Aborted) -> int:
    """Offset of the marker that ends an aborted transaction."""
    headers = map(read_header, split(memoryview(golden.raw)))
    own = (h.base_offset for h in headers if h.is_control_batch and h.producer_id == aborted.producer_id)
    return next(offset for offset in own if offset > aborted.first_offset)


def spoiled(batches: list[bytes], chance: random.Random) -> bytes:
    """An answer of ``batches``, some of them dropped, doubled, moved, damaged; perhaps cut off."""
    for _ in range(chance.choice((0, 1, 1, 2, 3)) if batches else 0):
        at = chance.randrange(len(batches)) if batches else 0
        kind = chance.randrange(5)
        if kind == 0:
            del batches[at : at + chance.randint(1, 3)]
        elif kind == 1:
            batches[at:at] = batches[chance.randrange(at + 1) : at + chance.randint(1, 3)]
        elif kind == 2 and batches:
            batches.insert(at, batches.pop(chance.randrange(len(batches))))
        elif kind == 3:
            chance.shuffle(batches)
        elif kind == 4 and batches:
            batches[at] = flipped(batches[at], chance)
    raw = b"".join(batches)
    return raw[: chance.randrange(len(raw) + 1)] if chance.random() < 0.15 else raw


def flipped(batch: bytes, chance: random.Random) -> bytes:
    """A bit of ``batch`` the other way, but for the base offset (the first eight bytes): no checksum covers it, and so
    nobody can tell a first batch that was moved from one that is in its place."""
    at = chance.randrange(8, len(batch))
    return batch[:at] + bytes([batch[at] ^ 1 << chance.randrange(8)]) + batch[at + 1 :]
