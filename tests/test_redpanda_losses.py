"""The log in a broker when something is lost: records, topics, the broker itself. Never silently, never twice."""

from __future__ import annotations

import os
import threading
import time

import pytest
from broker.kafka import Broker, free_ports
from broker.topics import PATIENCE_SECONDS, follow, numbered, offsets, read, retried, slices_to_end, table, values
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.redpanda import RedpandaLog
from schemas.errors import LogChanged, LogError, LogGap, LogUnreachable

pytestmark = pytest.mark.broker


def test_deleted_records_are_a_gap_for_those_who_still_need_them(broker_log, admin, topic):
    name = topic()
    broker_log.append_batch(name, table(numbered(100)))
    reader = broker_log.reader(name, {0: 10})
    admin.delete_records({TopicPartition(name, 0): 40})
    assert broker_log.describe(name).earliest == (40,)
    with pytest.raises(LogGap) as raised:
        broker_log.reader(name, {0: 10})
    assert raised.value.where == f"{name}/0: offsets 10 to 39"
    with pytest.raises(LogGap, match="30 missing"):
        slices_to_end(reader, {0: 100})
    assert reader.positions() == {0: 10}
    reader.close()
    assert values(read(broker_log, name, {0: 40})) == numbered(60, 40)


def test_records_removed_by_compaction_are_counted_as_missing(broker_log, topic):
    name = topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, min_compaction_lag_ms=0)
    sent = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, "the broker did not compact"
        broker_log.append_batch(
            name, table(numbered(10, sent), keys=[b"%d" % (index % 3) for index in range(10)], now=True)
        )
        sent += 10
        found = read(broker_log, name)
        missing = sum(one.missing for one in found)
        assert len(values(found)) + missing == sent
        assert values(found) == [b"%d" % offset for offset in offsets(found)]
        if missing > 20:
            break
    for start in range(0, sent, 7):
        again = read(broker_log, name, {0: start})
        # The broker may have compacted further meanwhile, so that there are fewer now, never others.
        assert set(offsets(again)) <= {offset for offset in offsets(found) if offset >= start}
        assert offsets(again)[-1:] == [sent - 1]
        assert values(again) == [b"%d" % offset for offset in offsets(again)]
        assert sum(one.missing for one in again) == sent - start - len(offsets(again))


def test_holes_of_compaction_are_a_gap_once_the_topic_is_not_compacted(broker_log, topic):
    """The same bytes as above, met by a reader that was told of no compaction."""
    name = topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01)
    deadline = time.monotonic() + PATIENCE_SECONDS
    sent = 0
    while not sum(one.missing for one in (read(broker_log, name) if sent else [])):
        assert time.monotonic() < deadline, "the broker did not compact"
        broker_log.append_batch(name, table(numbered(10), keys=[b"k"] * 10, now=True))
        sent += 10
    set_policy(broker_log, name, "delete")
    with pytest.raises(LogGap, match="missing"):
        read(broker_log, name)


def set_policy(log: RedpandaLog, name: str, policy: str) -> None:
    client = KafkaAdminClient(bootstrap_servers=log.url.removeprefix("redpanda://"))
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": policy})])
    client.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while log.describe(name).compacted != ("compact" in policy):
        assert time.monotonic() < deadline


def test_a_category_that_was_made_again_under_a_reader_is_another_log(broker_log, admin, topic):
    name = topic()
    broker_log.append_batch(name, table(numbered(10)))
    reader = broker_log.reader(name, {0: 0})
    assert values(follow(reader, 10)) == numbered(10)
    admin.delete_topics([name])
    retried(lambda: broker_log.create(name, 1), LogError)
    broker_log.append_batch(name, table(numbered(50, 1000)))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with pytest.raises(LogChanged):
        while time.monotonic() < deadline:
            assert reader.read(1000) == []
    reader.close()


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
        appending = threading.Thread(target=log.append_batch, args=("flights", table(sent, now=True)))
        appending.start()
        with RedpandaLog(broker_process.address) as watching:
            while not watching.describe("flights").ends[0]:
                assert appending.is_alive()
        broker_process.kill()
        broker_process.start()
        appending.join(PATIENCE_SECONDS)
        assert not appending.is_alive()
        assert values(read(log, "flights")) == sent
