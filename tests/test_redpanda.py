"""The log in a broker, against a real one: everything a topic can hold, lose or become while it is read."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from broker.kafka import Broker, free_ports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from connectors.broker_config import addresses, security, timeout_seconds
from connectors.log import APPENDS, CategoryInfo, Reader, Slice, open_log
from connectors.partitioner import partition_of
from connectors.redpanda import RedpandaLog
from schemas.errors import LogChanged, LogError, LogGap, LogUnreachable, UnknownCategory, UsageError

pytestmark = pytest.mark.broker
PATIENCE_SECONDS = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def log(broker: str) -> Iterator[RedpandaLog]:
    with RedpandaLog(broker) as opened:
        yield opened


@pytest.fixture(scope="module")
def admin(broker: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=broker)
    yield client
    client.close()


Topic = Callable[..., str]


@pytest.fixture
def topic(admin: KafkaAdminClient) -> Iterator[Topic]:
    """Makes a topic that nobody else has: ``topic(partitions, **settings)``, ``_`` for ``.`` in the settings."""
    made: list[str] = []

    def make(partitions: int = 1, **options: object) -> str:
        name = f"refold-test-{os.getpid()}-{next(_numbers)}"
        configs = {key.replace("_", "."): str(value) for key, value in options.items()}
        admin.create_topics({name: {"num_partitions": partitions, "configs": configs}}, wait_for_metadata=True)
        made.append(name)
        return name

    yield make
    admin.delete_topics(made, raise_errors=False)


def table(
    values: list[bytes | None], *, partition: int | None = None, keys: list[bytes | None] | None = None
) -> pa.Table:
    count = len(values)
    columns = [keys or [b"k"] * count, values, list(range(count)), [partition] * count]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, APPENDS, strict=True)], schema=APPENDS)


def numbered(count: int, first: int = 0) -> list[bytes | None]:
    return [b"%d" % index for index in range(first, first + count)]


def slices_to_end(reader: Reader, until: dict[int, int]) -> list[Slice]:
    """All slices up to ``until``; they must meet exactly and count every offset."""
    positions, found = reader.positions(), []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(reader.positions()[partition] < end for partition, end in until.items()):
        assert time.monotonic() < deadline, f"stuck at {reader.positions()}, to reach {until}"
        for one in reader.read(1000):
            one.records.validate(full=True)
            assert one.first_offset == positions[one.partition]
            assert one.first_offset < one.next_offset <= until[one.partition]
            positions[one.partition] = one.next_offset
            found.append(one)
        assert reader.positions() == positions
    assert reader.read(0) == []
    return found


def read(
    log: RedpandaLog, category: str, start: dict[int, int] | None = None, until: dict[int, int] | None = None
) -> list[Slice]:
    info = log.describe(category)
    first = start or dict(enumerate(info.earliest))
    pinned = until or {partition: info.ends[partition] for partition in first}
    reader = log.reader(category, first, pinned)
    try:
        return slices_to_end(reader, pinned)
    finally:
        reader.close()


def values(slices: list[Slice], partition: int = 0) -> list[bytes | None]:
    return [v for one in slices if one.partition == partition for v in one.records["value"].to_pylist()]


def offsets(slices: list[Slice], partition: int = 0) -> list[int]:
    return [v for one in slices if one.partition == partition for v in one.records["offset"].to_pylist()]


def transactions(broker: str, name: str) -> KafkaProducer:
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id=name)
    producer.init_transactions()
    return producer


def send(producer: KafkaProducer, name: str, sent: list[bytes | None]) -> None:
    for value in sent:
        producer.send(name, value, key=b"k", partition=0)
    producer.flush()


# What is there


def test_a_made_category_is_empty_and_keeps_its_records_for_ever(log, admin):
    name = f"refold-test-{os.getpid()}-{next(_numbers)}"
    info = log.create(name, 3)
    assert (info.earliest, info.ends, info.partitions, info.compacted) == ((0, 0, 0), (0, 0, 0), 3, False)
    assert info == log.describe(name)
    assert name in log.categories()
    assert not any(category.startswith("__") for category in log.categories())
    with pytest.raises(LogError, match="exists already"):
        log.create(name)
    admin.delete_topics([name])


def test_a_category_made_again_under_its_name_is_another_one(log, admin, topic):
    name = topic()
    before = log.describe(name).identity
    admin.delete_topics([name])
    log_again = retried(lambda: log.create(name, 1), LogError)
    assert before and log_again.identity and log_again.identity != before


def retried(attempt: Callable[[], CategoryInfo], error: type[Exception]) -> CategoryInfo:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return attempt()
        except error:
            assert time.monotonic() < deadline


def test_an_unknown_category_is_named_with_those_that_are_like_it(log, topic):
    name = topic()
    for ask in (log.describe, lambda wrong: log.reader(wrong, {0: 0})):
        with pytest.raises(UnknownCategory) as raised:
            ask(name + "x")
        assert name in (raised.value.do or "")
    with pytest.raises(UnknownCategory):
        log.describe("no such name!")


def test_compaction_is_told(log, topic):
    assert log.describe(topic(cleanup_policy="compact")).compacted
    assert log.describe(topic(cleanup_policy="compact,delete")).compacted
    assert not log.describe(topic(cleanup_policy="delete")).compacted


# Appending


def test_what_is_appended_is_read_back_with_keys_headers_tombstones_and_times(log, topic):
    name = topic()
    headers = b"\x04\x02a\x02b\x02c\x01"  # a = b, c = null
    batch = table([b"one", None, b"three"], keys=[b"k", b"k", None])
    batch = batch.append_column("headers", pa.array([headers, None, b"\x00"], pa.binary()))
    assert log.append_batch(name, batch) == (3,)
    (one,) = read(log, name)
    assert one.records.to_pydict() == {
        "offset": [0, 1, 2],
        "timestamp": [0, 1, 2],
        "timestamp_type": [0, 0, 0],
        "key": [b"k", b"k", None],
        "value": [b"one", None, b"three"],
        "headers": [headers, None, None],
    }
    assert one.leader_epoch >= 0


def test_appending_makes_the_category_and_returns_the_ends(log, admin):
    name = f"refold-test-{os.getpid()}-{next(_numbers)}"
    keys = [b"N%d" % (index % 50) for index in range(1000)]
    ends = log.append_batch(name, table(numbered(1000), keys=keys))
    assert ends == log.describe(name).ends and len(ends) == 4 and sum(ends) == 1000
    chosen = partition_of(pa.array(keys, pa.binary()), 4)
    found = read(log, name)
    for partition in range(4):
        assert values(found, partition) == [b"%d" % index for index in range(1000) if chosen[index] == partition]
    assert log.append_batch(name, table([])) == ends
    assert sum(log.append_batch(name, table([b"x"], keys=[None]))) == 1001
    admin.delete_topics([name])


def test_partitions_are_those_that_a_kafka_producer_chooses(broker, log, topic):
    name = topic(5)
    keys = [os.urandom(length % 23 + 1) for length in range(200)]
    producer = KafkaProducer(bootstrap_servers=broker)
    chosen = [future.get(10).partition for future in [producer.send(name, b"v", key) for key in keys]]
    producer.close()
    assert partition_of(pa.array(keys, pa.binary()), 5).tolist() == chosen


def test_a_partition_that_is_not_there_is_refused(log, topic):
    with pytest.raises(UsageError, match="partition"):
        log.append_batch(topic(2), table([b"x"], partition=2))


def test_large_appends_keep_their_order(log, topic):
    name = topic()
    sent = [value * 400 for value in numbered(20_000) if value]
    assert log.append_batch(name, table(sent)) == (20_000,)
    assert log.append_batch(name, table([os.urandom(1 << 20 >> 1)] * 3)) == (20_003,)
    found = read(log, name)
    assert values(found)[:20_000] == sent
    assert offsets(found) == list(range(20_003))


def test_an_event_too_large_for_the_broker_is_told(log, topic):
    with pytest.raises(LogError, match="too large"):
        log.append_batch(topic(), table([os.urandom(3 << 20)]))


# Reading


@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_what_the_broker_compressed_itself_is_read(log, topic, codec):
    name = topic(compression_type=codec)
    sent = [b"%d " % index * 20 for index in range(3000)]
    log.append_batch(name, table(sent))
    assert values(read(log, name)) == sent


def test_timestamps_set_by_the_log_are_marked(log, topic):
    name = topic(message_timestamp_type="LogAppendTime")
    log.append_batch(name, table(numbered(3)))
    (one,) = read(log, name)
    assert one.records["timestamp_type"].to_pylist() == [1, 1, 1]
    assert min(one.records["timestamp"].to_pylist()) > 1_600_000_000_000


@pytest.fixture(scope="module")
def filled(log: RedpandaLog, admin: KafkaAdminClient) -> Iterator[str]:
    """A category of two partitions with 600 and 300 records, in many batches of different sizes."""
    name = f"refold-test-{os.getpid()}-{next(_numbers)}"
    log.create(name, 2)
    for partition, sizes in enumerate(([1, 99, 1, 250, 149, 100], [300])):
        first = 0
        for size in sizes:
            log.append_batch(name, table(numbered(size, first), partition=partition))
            first += size
    yield name
    admin.delete_topics([name])


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reader_gives_exactly_the_range_asked_for(log, filled, data):
    ends = log.describe(filled).ends
    start = {p: data.draw(st.integers(0, end)) for p, end in enumerate(ends)}
    until = {p: data.draw(st.integers(first, ends[p])) for p, first in start.items()}
    found = read(log, filled, start, until)
    for partition in start:
        assert values(found, partition) == numbered(until[partition] - start[partition], start[partition])
    assert all(one.missing == 0 for one in found)


def test_without_an_end_the_reader_follows(log, topic):
    name = topic()
    reader = log.reader(name, {0: 0})
    assert reader.read(0) == []
    for round_ in range(3):
        log.append_batch(name, table(numbered(5, 5 * round_)))
        found: list[Slice] = []
        while reader.positions()[0] < 5 * round_ + 5:
            found += reader.read(5000)
        assert values(found) == numbered(5, 5 * round_)
    reader.close()


def test_a_start_outside_the_log_is_refused(log, filled):
    with pytest.raises(LogChanged, match="not the one"):
        log.reader(filled, {0: 601})
    with pytest.raises(LogChanged, match="not the one"):
        log.reader(filled, {2: 0})


# Transactions


def test_aborted_records_are_left_out_and_committed_ones_are_not(broker, log, topic):
    name = topic()
    producer = transactions(broker, name)
    for number, finish in enumerate(["commit", "abort", "commit", "abort"]):
        producer.begin_transaction()
        send(producer, name, numbered(10, 10 * number))
        getattr(producer, f"{finish}_transaction")()
    producer.close()
    found = read(log, name)
    assert values(found) == numbered(10) + numbered(10, 20)
    assert log.describe(name).ends == (44,)  # 40 records and 4 markers
    assert found[-1].next_offset == 44 and all(one.missing == 0 for one in found)


def test_interleaved_transactions_are_told_apart(broker, log, topic):
    name = topic()
    good, bad = transactions(broker, name + "-good"), transactions(broker, name + "-bad")
    good.begin_transaction()
    bad.begin_transaction()
    for number in range(6):
        send(good if number % 2 else bad, name, numbered(3, 3 * number))
        log.append_batch(name, table([b"plain %d" % number]))
    bad.abort_transaction()
    good.commit_transaction()
    good.close()
    bad.close()
    expected = []
    for number in range(6):
        expected += (numbered(3, 3 * number) if number % 2 else []) + [b"plain %d" % number]
    whole = read(log, name)
    for start in range(log.describe(name).ends[0]):
        kept = [value for value, offset in zip(values(whole), offsets(whole), strict=True) if offset >= start]
        assert values(read(log, name, {0: start})) == kept
    assert values(whole) == expected


def test_nothing_is_read_beyond_an_open_transaction(broker, log, topic):
    name = topic()
    log.append_batch(name, table(numbered(5)))
    producer = transactions(broker, name)
    producer.begin_transaction()
    send(producer, name, [b"open"])
    log.append_batch(name, table([b"behind"]))
    assert log.describe(name).ends == (5,)
    reader = log.reader(name, {0: 0})
    found = slices_to_end_of_following(reader, 5)
    assert values(found) == numbered(5)
    assert reader.read(300) == []
    producer.commit_transaction()
    producer.close()
    assert values(slices_to_end_of_following(reader, 8)) == [b"open", b"behind"]
    reader.close()


def slices_to_end_of_following(reader: Reader, end: int) -> list[Slice]:
    found: list[Slice] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while reader.positions()[0] < end:
        assert time.monotonic() < deadline
        found += reader.read(1000)
    return found


def test_a_log_of_nothing_but_aborted_records_has_an_end(broker, log, topic):
    name = topic()
    producer = transactions(broker, name)
    producer.begin_transaction()
    send(producer, name, numbered(10))
    producer.abort_transaction()
    producer.close()
    found = read(log, name)
    assert values(found) == [] and found[-1].next_offset == log.describe(name).ends[0] == 11


# Losses


def test_deleted_records_are_a_gap_for_those_who_still_need_them(log, admin, topic):
    name = topic()
    log.append_batch(name, table(numbered(100)))
    reader = log.reader(name, {0: 10})
    admin.delete_records({TopicPartition(name, 0): 40})
    assert log.describe(name).earliest == (40,)
    with pytest.raises(LogGap) as raised:
        log.reader(name, {0: 10})
    assert raised.value.where == f"{name}/0: offsets 10 to 39"
    with pytest.raises(LogGap, match="30 missing"):
        slices_to_end(reader, {0: 100})
    assert reader.positions() == {0: 10}
    reader.close()
    assert values(read(log, name, {0: 40})) == numbered(60, 40)


def test_records_removed_by_compaction_are_counted_as_missing(log, topic):
    name = topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, min_compaction_lag_ms=0)
    sent = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, "the broker did not compact"
        log.append_batch(name, table(numbered(10, sent), keys=[b"%d" % (index % 3) for index in range(10)]))
        sent += 10
        found = read(log, name)
        missing = sum(one.missing for one in found)
        assert len(values(found)) + missing == sent
        assert values(found) == [b"%d" % offset for offset in offsets(found)]
        if missing > 20:
            break
    for start in range(0, sent, 7):
        again = read(log, name, {0: start})
        assert offsets(again) == [offset for offset in offsets(found) if offset >= start]
        assert sum(one.missing for one in again) == sent - start - len(offsets(again))


def test_holes_of_compaction_are_a_gap_once_the_topic_is_not_compacted(log, topic):
    """The same bytes as above, met by a reader that was told of no compaction."""
    name = topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01)
    deadline = time.monotonic() + PATIENCE_SECONDS
    sent = 0
    while not sum(one.missing for one in (read(log, name) if sent else [])):
        assert time.monotonic() < deadline, "the broker did not compact"
        log.append_batch(name, table(numbered(10), keys=[b"k"] * 10))
        sent += 10
    set_policy(log, name, "delete")
    with pytest.raises(LogGap, match="missing"):
        read(log, name)


def set_policy(log: RedpandaLog, name: str, policy: str) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    client = KafkaAdminClient(bootstrap_servers=log.url.removeprefix("redpanda://"))
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": policy})])
    client.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while log.describe(name).compacted != ("compact" in policy):
        assert time.monotonic() < deadline


def test_a_category_that_was_made_again_under_a_reader_is_another_log(log, admin, topic):
    name = topic()
    log.append_batch(name, table(numbered(10)))
    reader = log.reader(name, {0: 0})
    assert values(slices_to_end_of_following(reader, 10)) == numbered(10)
    admin.delete_topics([name])
    retried(lambda: log.create(name, 1), LogError)
    log.append_batch(name, table(numbered(50, 1000)))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with pytest.raises(LogChanged):
        while time.monotonic() < deadline:
            assert reader.read(1000) == []
    reader.close()


# Brokers that are not there


def test_a_broker_that_is_not_there_is_told_with_its_address(monkeypatch):
    monkeypatch.setenv("REFOLD_BROKER_TIMEOUT", "1")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with RedpandaLog(address) as log, pytest.raises(LogUnreachable) as raised:
        log.describe("flights")
    assert address in str(raised.value)


def test_a_reader_lives_through_a_broker_killed_and_started_again(broker_process: Broker, monkeypatch):
    monkeypatch.setenv("REFOLD_BROKER_TIMEOUT", "2")
    with RedpandaLog(broker_process.address) as log:
        sent = [b"%d " % index + os.urandom(300) for index in range(20_000)]
        log.append_batch("flights", table(sent, partition=0))
        reader = log.reader("flights", {0: 0}, {0: 20_000})
        found = reader.read(10_000)
        broker_process.kill()
        with pytest.raises(LogUnreachable):
            while reader.positions()[0] < 20_000:
                found += reader.read(1000)
        broker_process.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while reader.positions()[0] < 20_000:
            try:
                found += reader.read(1000)
            except LogUnreachable:
                assert time.monotonic() < deadline
        reader.close()
        assert offsets(found) == list(range(20_000))
        assert values(found) == sent


def test_what_is_appended_while_the_broker_is_killed_is_there_once(broker_process: Broker, monkeypatch):
    monkeypatch.setenv("REFOLD_BROKER_TIMEOUT", "60")
    sent = [b"%d " % index + os.urandom(100) for index in range(200_000)]
    with RedpandaLog(broker_process.address) as log:
        log.create("flights", 1)
        appending = threading.Thread(target=log.append_batch, args=("flights", table(sent)))
        appending.start()
        with RedpandaLog(broker_process.address) as watching:
            while not watching.describe("flights").ends[0]:
                assert appending.is_alive()
        broker_process.kill()
        broker_process.start()
        appending.join(PATIENCE_SECONDS)
        assert not appending.is_alive()
        assert values(read(log, "flights")) == sent


# Settings


def test_credentials_are_used_and_never_told(sasl_broker: Broker, monkeypatch, capfd, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("REFOLD_BROKER_TIMEOUT", "5")
    for key, value in (
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_MECHANISM", "PLAIN"),
        ("SASL_PLAIN_USERNAME", "reader"),
    ):
        monkeypatch.setenv(f"REFOLD_KAFKA_{key}", value)
    monkeypatch.setenv("REFOLD_KAFKA_SASL_PLAIN_PASSWORD", "open-sesame")
    with open_log(f"redpanda://{sasl_broker.sasl_address}") as log:
        assert log.append_batch("flights", table(numbered(3), partition=0)) == (3, 0, 0, 0)
        assert values(read(log, "flights")) == numbered(3)
    monkeypatch.setenv("REFOLD_KAFKA_SASL_PLAIN_PASSWORD", "hunter2")
    with open_log(f"redpanda://{sasl_broker.sasl_address}") as log, pytest.raises(LogError) as raised:
        log.describe("flights")
    assert "credentials" in str(raised.value)
    told = str(raised.value) + repr(raised.value) + repr(log) + caplog.text + "".join(capfd.readouterr())
    assert "hunter2" not in told and "open-sesame" not in told


def test_settings_come_from_a_file_and_the_environment_wins(tmp_path):
    path = tmp_path / "broker.properties"
    path.write_text("# the broker\nsasl_mechanism = PLAIN\n\nsasl_plain_password=a=b\n")
    chosen = security({"REFOLD_KAFKA_CONFIG": str(path), "REFOLD_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "HOME": "/"})
    assert chosen == {"sasl_mechanism": "SCRAM-SHA-256", "sasl_plain_password": "a=b"}
    assert "a=b" not in repr(chosen)


@pytest.mark.parametrize(
    "text", ["sasl_plain_pasword=hunter2", "hunter2", "ssl_cafile=/hunter2/not/there"], ids=["key", "line", "file"]
)
def test_a_wrong_setting_is_named_but_not_its_value(tmp_path, text):
    path = tmp_path / "broker.properties"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        security({"REFOLD_KAFKA_CONFIG": str(path)})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(UsageError, match="pasword"):
        security({"REFOLD_KAFKA_SASL_PLAIN_PASWORD": "hunter2"})


def test_addresses_are_hosts_and_ports_alone():
    assert addresses("one,two:19092/") == ["one:9092", "two:19092"]
    assert addresses("[::1]") == ["[::1]:9092"]
    for wrong in ("", "one,,two", "one:port", "user:hunter2@one:9092", "one:9092/path"):
        with pytest.raises(UsageError) as raised:
            addresses(wrong)
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("text", ["soon", "0", "nan", "-3"])
def test_a_time_out_is_a_number_of_seconds(text):
    with pytest.raises(UsageError, match=re.escape("REFOLD_BROKER_TIMEOUT")):
        timeout_seconds({"REFOLD_BROKER_TIMEOUT": text})
