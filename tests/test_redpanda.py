"""The log in a broker, against a real one: what topics hold is what is read, whoever wrote it and however."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pyarrow as pa
import pytest
from broker.topics import follow, numbered, offsets, read, retried, table, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.consumer.fetcher import Fetcher
from pipelines import until

from connectors.broker_reader import Source
from connectors.log import Slice
from connectors.partitioner import partition_of
from connectors.redpanda import RedpandaLog
from schemas.errors import LogChanged, LogError, UnknownCategory, UsageError

pytestmark = pytest.mark.broker


def transactions(broker: str, name: str) -> KafkaProducer:
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id=name)
    producer.init_transactions()
    return producer


def send(producer: KafkaProducer, name: str, sent: list[bytes | None]) -> None:
    for value in sent:
        producer.send(name, value, key=b"k", partition=0)
    producer.flush()


# Fetching


def source_that_fetched(log: RedpandaLog, name: str) -> Source:
    """All that is in the topic, which is one record."""
    log.append_batch(name, table([b"x"]))
    source = log.source(name, {0: 0})
    until(lambda: bool(source.fetch(100)))
    return source


def test_what_comes_next_is_fetched_while_what_came_is_worked_on(broker_log, topic):
    name = topic()
    source = source_that_fetched(broker_log, name)
    answered = source.answers
    broker_log.append_batch(name, table([b"y"]))
    until(lambda: source.answers > answered)  # nobody fetches meanwhile
    source.close()


def test_a_fetch_that_cannot_be_sent_loses_nothing(broker_log, topic, monkeypatch):
    name, calls, send = topic(), itertools.count(), Fetcher.send_fetches
    failures = [None, errors.KafkaConnectionError("no way"), OSError("no way")]

    def fails_mostly(fetcher: Fetcher) -> object:
        if failure := failures[next(calls) % 3]:
            raise failure
        return send(fetcher)

    monkeypatch.setattr(Fetcher, "send_fetches", fails_mostly)
    reader, found = broker_log.reader(name, {0: 0}), []
    for count in range(1, 6):
        broker_log.append_batch(name, table([b"%d" % count]))
        until(lambda count=count: found.extend(reader.read(20)) or reader.positions() == {0: count})
    reader.close()
    assert values(found) == [b"1", b"2", b"3", b"4", b"5"]
    assert next(calls) > 5, "most failed"


def test_a_reader_that_is_asked_for_latencies_fetches_nothing_beside_the_work(broker_log, topic):
    """The governor goes by them, and would take what the work on the last fetch does to the next for a slow broker."""
    name = topic()
    broker_log.append_batch(name, table([b"x"]))
    reader = broker_log.reader(name, {0: 0})
    assert reader.latencies() == []
    until(lambda: bool(reader.read(100)))
    answered = reader._source.answers
    broker_log.append_batch(name, table([b"y"]))
    assert reader._source.look() is not None
    assert reader._source.answers == answered
    until(lambda: bool(reader.read(100)))
    assert len(reader.latencies()) >= 1
    reader.close()


def test_who_a_category_is_can_be_asked_while_a_fetch_waits_for_news(broker_log, topic):
    """A broker answers a connection's requests one after the other, and a fetch waits for half a second."""
    source = source_that_fetched(broker_log, topic())

    def is_answered_before_the_fetch() -> bool:
        answered = source.answers
        source.fetch(0)  # sends one if none is under way
        return source.look() is not None and source.answers == answered

    until(is_answered_before_the_fetch)
    source.close()


# What is there


def test_a_made_category_is_empty_and_keeps_its_records_for_ever(broker_log, new_name):
    name = new_name()
    info = broker_log.create(name, 3)
    assert (info.earliest, info.ends, info.partitions, info.compacted) == ((0, 0, 0), (0, 0, 0), 3, False)
    assert info == broker_log.describe(name)
    assert name in broker_log.categories()
    assert not any(category.startswith("__") for category in broker_log.categories())
    with pytest.raises(LogError, match="exists already"):
        broker_log.create(name)


def test_a_category_made_again_under_its_name_is_another_one(broker_log, admin, topic):
    name = topic()
    before = broker_log.describe(name).identity
    admin.delete_topics([name])
    log_again = retried(lambda: broker_log.create(name, 1), LogError)
    assert before and log_again.identity and log_again.identity != before


def test_an_unknown_category_is_named_with_those_that_are_like_it(broker_log, topic):
    name = topic()
    for ask in (broker_log.describe, lambda wrong: broker_log.reader(wrong, {0: 0})):
        with pytest.raises(UnknownCategory) as raised:
            ask(name + "x")
        assert name in (raised.value.do or "")
    with pytest.raises(UnknownCategory):
        broker_log.describe("no such name!")


def test_compaction_is_told(broker_log, topic):
    assert broker_log.describe(topic(cleanup_policy="compact")).compacted
    assert broker_log.describe(topic(cleanup_policy="compact,delete")).compacted
    assert not broker_log.describe(topic(cleanup_policy="delete")).compacted


# Appending


def test_what_is_appended_is_read_back_with_keys_headers_tombstones_and_times(broker_log, topic):
    name = topic()
    headers = b"\x04\x02a\x02b\x02c\x01"  # a = b, c = null
    batch = table([b"one", None, b"three"], keys=[b"k", b"k", None])
    batch = batch.append_column("headers", pa.array([headers, None, b"\x00"], pa.binary()))
    assert broker_log.append_batch(name, batch) == (3,)
    (one,) = read(broker_log, name)
    assert one.records.to_pydict() == {
        "offset": [0, 1, 2],
        "timestamp": [0, 1, 2],
        "timestamp_type": [0, 0, 0],
        "key": [b"k", b"k", None],
        "value": [b"one", None, b"three"],
        "headers": [headers, None, None],
    }
    assert one.leader_epoch >= 0


def test_appending_makes_the_category_and_returns_the_ends(broker_log, new_name):
    name = new_name()
    keys = [b"N%d" % (index % 50) for index in range(1000)]
    ends = broker_log.append_batch(name, table(numbered(1000), keys=keys))
    assert ends == broker_log.describe(name).ends and len(ends) == 4 and sum(ends) == 1000
    chosen = partition_of(pa.array(keys, pa.binary()), 4)
    found = read(broker_log, name)
    for partition in range(4):
        assert values(found, partition) == [b"%d" % index for index in range(1000) if chosen[index] == partition]
    assert broker_log.append_batch(name, table([])) == ends
    assert sum(broker_log.append_batch(name, table([b"x"], keys=[None]))) == 1001


def test_partitions_are_those_that_a_kafka_producer_chooses(broker, broker_log, topic):
    name = topic(5)
    keys = [os.urandom(length % 23 + 1) for length in range(200)]
    producer = KafkaProducer(bootstrap_servers=broker)
    chosen = [future.get(10).partition for future in [producer.send(name, b"v", key) for key in keys]]
    producer.close()
    assert partition_of(pa.array(keys, pa.binary()), 5).tolist() == chosen


def test_a_partition_that_is_not_there_is_refused(broker_log, topic):
    with pytest.raises(UsageError, match="partition"):
        broker_log.append_batch(topic(2), table([b"x"], partition=2))


def test_large_appends_keep_their_order(broker_log, topic):
    name = topic()
    sent = [value * 400 for value in numbered(20_000) if value]
    assert broker_log.append_batch(name, table(sent)) == (20_000,)
    assert broker_log.append_batch(name, table([os.urandom(1 << 20 >> 1)] * 3)) == (20_003,)
    found = read(broker_log, name)
    assert values(found)[:20_000] == sent
    assert offsets(found) == list(range(20_003))


def test_an_event_too_large_for_the_broker_is_told(broker_log, topic):
    with pytest.raises(LogError, match="too large"):
        broker_log.append_batch(topic(), table([os.urandom(3 << 20)]))


# Reading


@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_what_the_broker_compressed_itself_is_read(broker_log, topic, codec):
    name = topic(compression_type=codec)
    sent = [b"%d " % index * 20 for index in range(3000)]
    broker_log.append_batch(name, table(sent))
    assert values(read(broker_log, name)) == sent


def test_timestamps_set_by_the_log_are_marked(broker_log, topic):
    name = topic(message_timestamp_type="LogAppendTime")
    broker_log.append_batch(name, table(numbered(3)))
    (one,) = read(broker_log, name)
    assert one.records["timestamp_type"].to_pylist() == [1, 1, 1]
    assert min(one.records["timestamp"].to_pylist()) > 1_600_000_000_000


@pytest.fixture(scope="module")
def filled(broker_log: RedpandaLog, admin: KafkaAdminClient) -> Iterator[str]:
    """A category of two partitions with 600 and 300 records, in many batches of different sizes."""
    name = f"refold-test-{os.getpid()}-filled"
    broker_log.create(name, 2)
    for partition, sizes in enumerate(([1, 99, 1, 250, 149, 100], [300])):
        first = 0
        for size in sizes:
            broker_log.append_batch(name, table(numbered(size, first), partition=partition))
            first += size
    yield name
    admin.delete_topics([name])


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reader_gives_exactly_the_range_asked_for(broker_log, filled, data):
    ends = broker_log.describe(filled).ends
    start = {p: data.draw(st.integers(0, end)) for p, end in enumerate(ends)}
    until = {p: data.draw(st.integers(first, ends[p])) for p, first in start.items()}
    found = read(broker_log, filled, start, until)
    for partition in start:
        assert values(found, partition) == numbered(until[partition] - start[partition], start[partition])
    assert all(one.missing == 0 for one in found)


def test_without_an_end_the_reader_follows(broker_log, topic):
    name = topic()
    reader = broker_log.reader(name, {0: 0})
    assert reader.read(0) == []
    for round_ in range(3):
        broker_log.append_batch(name, table(numbered(5, 5 * round_)))
        found: list[Slice] = []
        while reader.positions()[0] < 5 * round_ + 5:
            found += reader.read(5000)
        assert values(found) == numbered(5, 5 * round_)
    reader.close()


def test_a_start_outside_the_log_is_refused(broker_log, filled):
    with pytest.raises(LogChanged, match="not the one"):
        broker_log.reader(filled, {0: 601})
    with pytest.raises(LogChanged, match="not the one"):
        broker_log.reader(filled, {2: 0})


# Transactions


def test_aborted_records_are_left_out_and_committed_ones_are_not(broker, broker_log, topic):
    name = topic()
    producer = transactions(broker, name)
    for number, finish in enumerate(["commit", "abort", "commit", "abort"]):
        producer.begin_transaction()
        send(producer, name, numbered(10, 10 * number))
        getattr(producer, f"{finish}_transaction")()
    producer.close()
    found = read(broker_log, name)
    assert values(found) == numbered(10) + numbered(10, 20)
    assert broker_log.describe(name).ends == (44,)  # 40 records and 4 markers
    assert found[-1].next_offset == 44 and all(one.missing == 0 for one in found)


def test_interleaved_transactions_are_told_apart(broker, broker_log, topic):
    name = topic()
    good, bad = transactions(broker, name + "-good"), transactions(broker, name + "-bad")
    good.begin_transaction()
    bad.begin_transaction()
    for number in range(6):
        send(good if number % 2 else bad, name, numbered(3, 3 * number))
        broker_log.append_batch(name, table([b"plain %d" % number]))
    bad.abort_transaction()
    good.commit_transaction()
    good.close()
    bad.close()
    expected = []
    for number in range(6):
        expected += (numbered(3, 3 * number) if number % 2 else []) + [b"plain %d" % number]
    until(lambda: broker_log.describe(name).ends[0] == len(expected) + 9 + 2)  # the aborted ones and two markers
    whole = read(broker_log, name)
    for start in range(broker_log.describe(name).ends[0]):
        kept = [value for value, offset in zip(values(whole), offsets(whole), strict=True) if offset >= start]
        assert values(read(broker_log, name, {0: start})) == kept
    assert values(whole) == expected


def test_nothing_is_read_beyond_an_open_transaction(broker, broker_log, topic):
    name = topic()
    broker_log.append_batch(name, table(numbered(5)))
    producer = transactions(broker, name)
    producer.begin_transaction()
    send(producer, name, [b"open"])
    broker_log.append_batch(name, table([b"behind"]))
    assert broker_log.describe(name).ends == (5,)
    reader = broker_log.reader(name, {0: 0})
    found = follow(reader, 5)
    assert values(found) == numbered(5)
    assert reader.read(300) == []
    producer.commit_transaction()
    producer.close()
    assert values(follow(reader, 8)) == [b"open", b"behind"]
    reader.close()


def test_a_log_of_nothing_but_aborted_records_has_an_end(broker, broker_log, topic):
    name = topic()
    producer = transactions(broker, name)
    producer.begin_transaction()
    send(producer, name, numbered(10))
    producer.abort_transaction()
    producer.close()
    found = read(broker_log, name)
    assert values(found) == [] and found[-1].next_offset == broker_log.describe(name).ends[0] == 11
