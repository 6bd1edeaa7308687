"""Captures the golden corpus of record batches: what a real broker sends, beside the records that must come out of it.

    PYTHONPATH=<with lz4, zstandard and python-snappy> python -m tests.broker.capture [DIRECTORY]

Each topic below becomes two files in ``tests/golden/batches``: ``NAME.batches``, fetched answers byte for byte, and
``NAME.json``, its records as they were *sent*, with the offsets and times that the broker acknowledged. So no decoder,
neither ours nor the library's, has a say in what is expected, but for compaction: which records are left is asked of
the library, what they hold is not. Run it again for a new broker or codec; producer ids and times of the log change.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder

from connectors.redpanda import RedpandaLog
from tests.broker.kafka import Broker

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "batches"
PATIENCE_SECONDS = 60.0
CODECS = ("gzip", "snappy", "lz4", "zstd")
FIRST_MOMENT = 1_357_000_000_000

Headers = list[tuple[str, bytes | None]]
Row = tuple[bytes | None, bytes | None, Headers]

ODD: list[Row] = [
    (b"key", b"value", []),
    (None, b"no key", []),
    (b"tombstone", None, []),
    (b"", b"", []),
    (b"\x00\xff\x80", bytes(range(256)), []),
    (b"long", b"ab" * 700, []),
    (b"headers", b"v", [("a", b"1"), ("a", b"2"), ("", b"empty name"), ("empty value", b"")]),
    ("Zürich".encode(), "日本語 🛩".encode(), [("größe", "∞".encode()), ("名前", b"\xf0\x9f"), ("🛩" * 20, b"x" * 90)]),
    (None, b"", [("only headers", b"")]),
]
NULLS: list[Row] = [
    (b"k", b"v", [("null", None), ("", None)]),
    (None, None, [("null", None)] * 70),
    (None, None, []),
    *ODD[:3],
]
"""Headers without a value, and neither key nor value: the library's producer sends no such records, its builder of
batches makes them."""
MANY: list[Row] = [(b"N%d" % (n % 17), b'{"type":"departed","delay":%d}' % (n * n % 97), []) for n in range(40)]
LONG_RUN: list[Row] = [(b"%d" % (n % 7), b"%d" % n, []) for n in range(500)]


@dataclass
class Golden:
    """What the side file says. Records: offset, time, time type, key, value, headers; bytes are hexadecimal."""

    about: str
    end: int = 0
    compacted: bool = False
    aborted_transactions: list[tuple[int, int]] = field(default_factory=list)
    control: list[int] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    records: list[list[Any]] = field(default_factory=list)


class Topic:
    """One topic of one partition, and what was sent to it."""

    def __init__(self, broker: str, log: RedpandaLog, name: str, settings: dict[str, str]) -> None:
        self.broker, self.log, self.name = broker, log, name
        self.golden = Golden(about="")
        admin = KafkaAdminClient(bootstrap_servers=broker)
        admin.create_topics({name: {"num_partitions": 1, "configs": settings}}, wait_for_metadata=True)
        admin.close()

    @contextmanager
    def producer(self, **settings: Any) -> Iterator[KafkaProducer]:
        """A producer that makes one batch of all that is sent before a flush."""
        made = KafkaProducer(bootstrap_servers=self.broker, linger_ms=60_000, batch_size=1 << 18, **settings)
        yield made
        made.close()

    def send(self, producer: KafkaProducer, rows: list[Row], *, aborted: bool = False) -> None:
        first = FIRST_MOMENT + len(self.golden.records)
        sent = [
            producer.send(self.name, value, key, headers, partition=0, timestamp_ms=first + number)
            for number, (key, value, headers) in enumerate(rows)
        ]
        producer.flush()
        for future, row in zip(sent, rows, strict=True):
            told = future.get(PATIENCE_SECONDS)
            self._note(told.offset, told.timestamp, row)
            if aborted:
                self.golden.aborted.append(told.offset)

    def send_built(self, rows: list[Row]) -> None:
        """One batch of the library's builder, sent as it is; its times are far apart and out of order."""
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
        moments = [FIRST_MOMENT + (number * 7919 % 13 - 6) * 10**9 for number in range(len(rows))]
        for number, (row, moment) in enumerate(zip(rows, moments, strict=True)):
            builder.append(number, moment, *row)
        base = self.log.produce(self.name, {0: bytes(builder.build())})[0]
        assert isinstance(base, int), base
        for number, (row, moment) in enumerate(zip(rows, moments, strict=True)):
            self._note(base + number, moment, row)

    def _note(self, offset: int, moment: int, row: Row) -> None:
        key, value, headers = row
        pairs = [[name, _hex(data)] for name, data in headers]
        self.golden.records.append([offset, moment, 0, _hex(key), _hex(value), pairs])

    def save(self, directory: Path) -> None:
        raw, self.golden.aborted_transactions = fetched(self.broker, self.name)
        batches = list(_batches(raw))
        self.golden.end = batches[-1].next_offset
        self.golden.control = [batch.base_offset for batch in batches if batch.is_control_batch]
        self.golden.records.sort()
        if self.golden.compacted:
            self._keep_what_is_left(raw)
        else:
            sent = {record[0] for record in self.golden.records}
            assert sent | set(self.golden.control) == set(range(self.golden.end)), "a record is missing"
        (directory / f"{self.name}.batches").write_bytes(raw)
        (directory / f"{self.name}.json").write_text(_rendered(self.golden))

    def _keep_what_is_left(self, raw: bytes) -> None:
        left = {record.offset for batch in _batches(raw) if not batch.is_control_batch for record in batch}
        newest = {record[3]: record for record in self.golden.records if record[0] not in self.golden.aborted}
        assert all(record[0] in left or record[4] is None for record in newest.values()), "a newest value is gone"
        self.golden.records = [record for record in self.golden.records if record[0] in left]
        self.golden.aborted = [offset for offset in self.golden.aborted if offset in left]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _rendered(golden: Golden) -> str:
    """JSON with a line for each record, so that a difference shows."""
    facts = asdict(golden)
    lines = ",\n".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in facts.pop("records"))
    return json.dumps(facts, ensure_ascii=False)[:-1] + ', "records": [\n' + lines + "\n]}\n"


def _batches(raw: bytes) -> Iterator[Any]:
    return iter(MemoryRecords(raw))


def fetched(broker: str, topic: str) -> tuple[bytes, list[tuple[int, int]]]:
    """What fetches of partition 0 give, end to end: bytes, and aborted transactions (producer, first offset)."""
    answers: list[tuple[bytes, list[tuple[int, int]]]] = []

    class Capturing(Fetcher.PartitionRecords):  # type: ignore[misc]
        def __init__(self, fetch_offset: int, tp: TopicPartition, records: MemoryRecords, **settings: Any) -> None:
            super().__init__(fetch_offset, tp, records, **settings)
            listed = settings["aborted_transactions"] or []
            answers.append((bytes(records._buffer or b""), [(one.producer_id, one.first_offset) for one in listed]))

        def take(self, n: int | None = None) -> list[Any]:
            self.drain()
            return []

    consumer = KafkaConsumer(bootstrap_servers=broker, group_id=None, isolation_level="read_committed")
    consumer._fetcher.PartitionRecords = Capturing
    _fetch_all(consumer, TopicPartition(topic, 0), answers)
    consumer.close(autocommit=False)
    return b"".join(raw for raw, _ in answers), sorted({one for _, listed in answers for one in listed})


def _fetch_all(consumer: KafkaConsumer, partition: TopicPartition, answers: list[Any]) -> None:
    """Fetch up to the end; one answer never reaches beyond a segment."""
    consumer.assign([partition])
    deadline = time.monotonic() + PATIENCE_SECONDS
    at, end = 0, consumer.end_offsets([partition])[partition]
    while at < end:
        assert time.monotonic() < deadline, f"fetches stop at {at}, before {end}"
        consumer.seek(partition, at)
        seen = len(answers)
        consumer.poll(100)
        del answers[seen + 1 :]
        at = max([at, *(batch.next_offset for raw, _ in answers[seen:] for batch in _batches(raw))])


# What is captured. A function's document is its file's ``about``.


def odd(topic: Topic) -> None:
    """Null and empty keys and values, headers of every kind, bytes that are no text."""
    with topic.producer() as producer:
        topic.send(producer, ODD)
    topic.send_built(NULLS)


def many(topic: Topic) -> None:
    """Two batches of records that look like each other."""
    with topic.producer() as producer:
        topic.send(producer, MANY)
        topic.send(producer, MANY)


def long_run(topic: Topic) -> None:
    """One batch of five hundred records: numbers take two bytes."""
    with topic.producer() as producer:
        topic.send(producer, LONG_RUN)


def by_log(topic: Topic) -> None:
    """Times set by the log."""
    many(topic)
    for record in topic.golden.records:
        record[2] = 1


def compressed_by_producer(codec: str) -> Callable[[Topic], None]:
    def fill(topic: Topic) -> None:
        """Compressed by the library's producer, kept as it came."""
        with topic.producer(compression_type=codec) as producer:
            topic.send(producer, ODD)
            topic.send(producer, MANY)

    return fill


def not_idempotent(topic: Topic) -> None:
    """No producer id, no sequence."""
    with topic.producer(enable_idempotence=False) as producer:
        topic.send(producer, MANY[:5])


def transaction(topic: Topic, producer: KafkaProducer, rows: list[Row], *, abort: bool) -> None:
    producer.begin_transaction()
    topic.send(producer, rows, aborted=abort)
    (producer.abort_transaction if abort else producer.commit_transaction)()


def transactions(topic: Topic) -> None:
    """Committed and aborted transactions in turn, each closed by a control batch."""
    with topic.producer(transactional_id=topic.name) as producer:
        producer.init_transactions()
        for number in range(6):
            transaction(topic, producer, MANY[3 * number : 3 * number + 3], abort=number % 3 == 1)


def interleaved(topic: Topic) -> None:
    """Two open transactions, one committed and one aborted, with plain records between them."""
    with (
        topic.producer(transactional_id=topic.name + "a") as good,
        topic.producer(transactional_id=topic.name + "b") as bad,
        topic.producer() as plain,
    ):
        for producer in (good, bad):
            producer.init_transactions()
        for round_ in range(2):
            good.begin_transaction()
            bad.begin_transaction()
            for number in range(3):
                topic.send(bad, MANY[number : number + 2], aborted=True)
                topic.send(good, ODD[number : number + 2])
                topic.send(plain, MANY[9:10])
            (bad.abort_transaction if round_ else good.commit_transaction)()
            (good.commit_transaction if round_ else bad.abort_transaction)()


def only_aborted(topic: Topic) -> None:
    """Nothing but one aborted transaction."""
    with topic.producer(transactional_id=topic.name) as producer:
        producer.init_transactions()
        transaction(topic, producer, MANY[:4], abort=True)


def compacted(topic: Topic) -> None:
    """Keys written again and again, and removed, until the broker has compacted: gaps in and between batches."""
    topic.golden.compacted = True
    rows: list[Row] = [(b"%d" % (n % 4), b"%d" % n, [("n", b"%d" % n)]) for n in range(9)]
    with topic.producer() as producer:
        _until_compacted(topic, lambda: topic.send(producer, [*rows, (b"gone", None, []), *rows[:1]]))


def compacted_transactions(topic: Topic) -> None:
    """Compaction of transactions: batches that lost all or some of their records, and markers."""
    topic.golden.compacted = True
    with topic.producer(transactional_id=topic.name) as producer:
        producer.init_transactions()

        def send() -> None:
            transaction(topic, producer, [(b"%d" % n, b"c", []) for n in range(4)], abort=False)
            transaction(topic, producer, [(b"%d" % n, b"a", []) for n in range(2)], abort=True)

        _until_compacted(topic, send)


def _until_compacted(topic: Topic, send: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, "the broker did not compact"
        send()
        counts = [(b.records_count, b.last_offset_delta + 1) for b in _batches(fetched(topic.broker, topic.name)[0])]
        if len(topic.golden.records) > 60 and any(count < offsets for count, offsets in counts):
            return


COMPACT = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
BY_LOG = {"message.timestamp.type": "LogAppendTime"}


def plan() -> Iterator[tuple[str, Callable[[Topic], None], dict[str, str]]]:
    """Name of each topic, what fills it, and its settings."""
    for codec in ("uncompressed", *CODECS):
        compressed = {"compression.type": codec}
        yield f"odd-{codec}", odd, compressed
        yield f"many-{codec}", many, compressed
        yield f"transactions-{codec}", transactions, compressed
    for codec in CODECS:
        yield f"producer-{codec}", compressed_by_producer(codec), {}
    for codec in ("uncompressed", "zstd"):
        yield f"by-log-{codec}", by_log, BY_LOG | {"compression.type": codec}
    for codec in ("uncompressed", "lz4"):
        yield f"compacted-{codec}", compacted, COMPACT | {"compression.type": codec}
    yield "compacted-transactions", compacted_transactions, COMPACT
    yield "interleaved", interleaved, {}
    yield "only-aborted", only_aborted, {}
    yield "not-idempotent", not_idempotent, {}
    yield "long-run-snappy", long_run, {"compression.type": "snappy"}


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    directory.mkdir(parents=True, exist_ok=True)
    broker = Broker().start()
    try:
        with RedpandaLog(broker.address) as log:
            for name, fill, settings in plan():
                topic = Topic(broker.address, log, name, {"message.timestamp.after.max.ms": str(2**62)} | settings)
                topic.golden.about = fill.__doc__ or ""
                fill(topic)
                topic.save(directory)
                print(f"{name}: {len(topic.golden.records)} records", flush=True)
    finally:
        broker.discard()


if __name__ == "__main__":
    main()
