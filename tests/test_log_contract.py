"""What every log does, whatever keeps it: one suite, run against the embedded log and against a broker."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from connectors.local import LocalLog
from connectors.local_writer import TAIL_RECORDS
from connectors.log import APPENDS, DEFAULT_PARTITIONS, RECORDS, Log, Reader, Slice
from connectors.partitioner import NO_PARTITION, partition_of
from connectors.redpanda import RedpandaLog
from schemas.category import Category
from schemas.errors import LogChanged, LogError, LogGap, UnknownCategory, UsageError
from schemas.event import Event

_numbers = itertools.count(os.getpid() * 1000)  # a broker may outlive one run of the tests
Row = dict[str, Any]
HEADERS = b"\x02\x02a\x02x"  # wire form of [("a", b"x")]: count, key length, key, value length, value; zigzag varints
WAIT_MS = 10_000
"""Longest wait for records that are there already; nothing here takes so long."""


def table(rows: Sequence[Row], *, headers: bool = False) -> pa.Table:
    """Records to append; what a row does not name is null."""
    fields = [*APPENDS, pa.field("headers", pa.binary())] if headers else list(APPENDS)
    return pa.table({field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in fields})


def numbered(count: int, partition: int = 0, *, first: int = 0) -> pa.Table:
    return table([{"value": b"%d" % (first + at), "partition": partition, "timestamp": at} for at in range(count)])


def read_to(reader: Reader) -> list[Slice]:
    """All slices up to where the reader's ends are pinned."""
    slices: list[Slice] = []
    while found := reader.read(WAIT_MS):
        slices += found
    return slices


def whole(log: Log, category: str) -> dict[int, list[Row]]:
    """Every record of a category, by partition."""
    info = log.describe(category)
    return read_range(log, category, dict(enumerate(info.earliest)), dict(enumerate(info.ends)))


def read_range(log: Log, category: str, start: Mapping[int, int], until: Mapping[int, int]) -> dict[int, list[Row]]:
    reader = log.reader(category, start, until)
    slices = read_to(reader)
    assert reader.positions() == {at: max(offset, until[at]) for at, offset in start.items()}
    reader.close()
    return rows_of(slices, start)


def rows_of(slices: Sequence[Slice], start: Mapping[int, int]) -> dict[int, list[Row]]:
    """Records by partition, after checking that the slices meet exactly and have the promised shape."""
    rows: dict[int, list[Row]] = {at: [] for at in start}
    position = dict(start)
    for piece in slices:
        assert piece.records.schema.equals(RECORDS)
        assert piece.first_offset == position[piece.partition] < piece.next_offset
        offsets = piece.records["offset"].to_pylist()
        assert offsets == list(range(piece.first_offset, piece.next_offset))
        position[piece.partition] = piece.next_offset
        rows[piece.partition] += piece.records.to_pylist()
    return rows


def values(rows: Mapping[int, Sequence[Row]]) -> dict[int, list[bytes | None]]:
    return {at: [row["value"] for row in found] for at, found in rows.items()}


class LogContract(ABC):
    """Subclass it with a ``make_log`` fixture: a function that opens the same log anew at each call."""

    @pytest.fixture
    def log(self, make_log: Callable[[], Log]) -> Log:
        return make_log()

    @pytest.fixture
    def name(self, request: pytest.FixtureRequest) -> str:
        """A category that no other test uses, not there yet."""
        return f"{request.node.name.replace('_', '-')}.{next(_numbers)}"

    @abstractmethod
    def forget(self, log: Log, category: str, partition: int) -> int:
        """Lose the oldest records of a partition; returns the first offset still there."""

    def test_a_new_category_is_empty(self, log: Log, name: str) -> None:
        info = log.create(name, 3)
        assert (info.name, info.partitions, info.earliest, info.ends) == (name, 3, (0, 0, 0), (0, 0, 0))
        assert log.describe(name) == info
        assert info.identity and not info.compacted
        assert name in log.categories()
        assert whole(log, name) == {0: [], 1: [], 2: []}

    def test_creating_it_again_is_refused(self, log: Log, name: str) -> None:
        log.create(name, 2)
        with pytest.raises(LogError):
            log.create(name, 2)

    def test_an_unknown_category_is_an_error_of_its_own(self, log: Log, name: str) -> None:
        assert name not in log.categories()
        with pytest.raises(UnknownCategory):
            log.describe(name)
        with pytest.raises(UnknownCategory):
            log.reader(name, {0: 0})

    def test_names_follow_kafkas_rule(self, log: Log) -> None:
        for bad in ("", ".", "..", "a/b", "a b", "ü", "x" * 250):
            with pytest.raises(UsageError):
                log.create(bad)

    def test_appending_makes_the_category_and_returns_its_ends(self, log: Log, name: str) -> None:
        assert log.append_batch(name, numbered(3, 1)) == (0, 3, 0, 0)
        assert log.append_batch(name, numbered(2, 3)) == (0, 3, 0, 2)
        assert log.append_batch(name, numbered(0)) == (0, 3, 0, 2)
        info = log.describe(name)
        assert info.partitions == DEFAULT_PARTITIONS
        assert info.ends == (0, 3, 0, 2)

    def test_order_within_a_partition_is_that_of_the_batch(self, log: Log, name: str) -> None:
        log.create(name, 3)
        for first in (0, 300):
            rows = [{"value": b"%d" % at, "partition": at * at % 3} for at in range(first, first + 300)]
            log.append_batch(name, table(rows))
        expected = {p: [b"%d" % at for at in range(600) if at * at % 3 == p] for p in range(3)}
        assert values(whole(log, name)) == expected

    def test_keys_go_where_kafka_puts_them(self, log: Log, name: str) -> None:
        log.create(name, 5)
        keys = [f"key-{at}-ÿ☃".encode() for at in range(200)] + [b"", b"\x00", b"\xff\xfe\xfd"]
        log.append_batch(name, table([{"key": key, "value": b""} for key in keys]))
        found = {row["key"]: at for at, rows in whole(log, name).items() for row in rows}
        assert found == {key: (murmur2(key) & 0x7FFFFFFF) % 5 for key in keys}

    def test_records_without_a_key_all_arrive_in_order(self, log: Log, name: str) -> None:
        log.append_batch(name, table([{"value": b"%03d" % at} for at in range(100)]))
        rows = values(whole(log, name))
        assert sorted(value for found in rows.values() for value in found if value) == [b"%03d" % n for n in range(100)]
        assert all(found == sorted(found, key=lambda value: value or b"") for found in rows.values())

    def test_what_is_in_a_record_is_kept(self, log: Log, name: str) -> None:
        rows = [
            {"key": b"k", "value": b"v", "timestamp": 1_357_000_000_123, "headers": HEADERS},
            {"key": None, "value": b"no key", "timestamp": 0},
            {"key": b"", "value": b"empty key", "timestamp": 5},
            {"key": b"gone", "value": None, "timestamp": 6},
            {"key": "Zoë☃".encode(), "value": b"", "timestamp": 7},
            {"key": b"\x00\xff", "value": bytes(range(256)) * 1000, "timestamp": 8},
        ]
        log.create(name, 1)
        log.append_batch(name, table([row | {"partition": 0} for row in rows], headers=True))
        found = whole(log, name)[0]
        assert [(row["key"], row["value"], row["timestamp"]) for row in found] == [
            (row["key"], row["value"], row["timestamp"]) for row in rows
        ]
        assert [row["timestamp_type"] for row in found] == [0] * len(rows)
        assert found[0]["headers"] == HEADERS
        assert [row["headers"] for row in found[1:]] == [None] * (len(rows) - 1)

    def test_a_missing_timestamp_is_the_time_of_appending(self, log: Log, name: str) -> None:
        log.append_batch(name, table([{"value": b"", "partition": 0}]))
        [row] = whole(log, name)[0]
        assert row["timestamp"] > dt.datetime(2024, 1, 1, tzinfo=dt.UTC).timestamp() * 1000

    def test_a_partition_that_is_not_there_is_refused(self, log: Log, name: str) -> None:
        log.create(name, 2)
        for partition in (-1, 2):
            with pytest.raises(UsageError):
                log.append_batch(name, numbered(1, partition))
        with pytest.raises(UsageError):
            log.append_batch(name, pa.table({"value": [b"only"]}))
        assert log.describe(name).ends == (0, 0)

    def test_any_start_and_any_end_are_exact(self, log: Log, name: str) -> None:
        log.create(name, 1)
        for first in range(0, 12, 3):
            log.append_batch(name, numbered(3, first=first))
        for start in range(13):
            for until in range(start, 13):
                found = values(read_range(log, name, {0: start}, {0: until}))
                assert found == {0: [b"%d" % at for at in range(start, until)]}

    def test_any_batching_of_appends_reads_the_same(self, log: Log, name: str) -> None:
        rows = [{"key": b"%d" % (at % 7), "value": b"%d" % at, "timestamp": at} for at in range(40)]
        found = []
        for turn, cuts in enumerate(([40], [1] * 40, [7, 0, 20, 13])):
            category = f"{name}.{turn}"
            first = 0
            for count in cuts:
                log.append_batch(category, table(rows[first : first + count]))
                first += count
            found.append(whole(log, category))
        assert found[0] == found[1] == found[2]

    def test_a_following_reader_sees_what_comes_later(self, log: Log, name: str) -> None:
        log.create(name, 2)
        reader = log.reader(name, {0: 0, 1: 0})
        assert reader.read() == []
        slices: list[Slice] = []
        for first in range(0, 30, 10):
            log.append_batch(name, numbered(10, first // 10 % 2, first=first))
            while sum(reader.positions().values()) < first + 10:
                slices += reader.read(WAIT_MS)
        assert reader.positions() == {0: 20, 1: 10}
        expected = {0: [*range(10), *range(20, 30)], 1: list(range(10, 20))}
        assert values(rows_of(slices, {0: 0, 1: 0})) == {p: [b"%d" % n for n in ns] for p, ns in expected.items()}
        reader.close()

    def test_pinned_ends_hold_while_more_is_appended(self, log: Log, name: str) -> None:
        log.append_batch(name, numbered(5))
        reader = log.reader(name, {0: 1}, {0: 4})
        log.append_batch(name, numbered(5))
        assert values(rows_of(read_to(reader), {0: 1})) == {0: [b"1", b"2", b"3"]}
        assert reader.read() == []
        assert reader.positions() == {0: 4}
        reader.close()

    def test_a_part_of_the_partitions_can_be_read(self, log: Log, name: str) -> None:
        log.create(name, 3)
        for partition in range(3):
            log.append_batch(name, numbered(partition + 1, partition))
        assert {at: len(rows) for at, rows in read_range(log, name, {0: 0, 2: 1}, {0: 1, 2: 3}).items()} == {0: 1, 2: 2}

    def test_two_readers_do_not_disturb_each_other(self, log: Log, name: str) -> None:
        log.append_batch(name, numbered(20))
        one, other = log.reader(name, {0: 0}, {0: 20}), log.reader(name, {0: 10}, {0: 15})
        slices, others = one.read(WAIT_MS), read_to(other)
        assert values(rows_of(slices + read_to(one), {0: 0})) == {0: [b"%d" % at for at in range(20)]}
        assert values(rows_of(others, {0: 10})) == {0: [b"%d" % at for at in range(10, 15)]}
        one.close()
        other.close()

    def test_a_start_before_what_is_left_is_a_gap(self, log: Log, name: str) -> None:
        log.append_batch(name, numbered(20))
        earliest = self.forget(log, name, 0)
        info = log.describe(name)
        assert info.earliest[0] == earliest > 0
        with pytest.raises(LogGap, match=f"{name}/0"):
            log.reader(name, {0: earliest - 1})
        assert len(whole(log, name)[0]) == info.ends[0] - earliest

    def test_a_start_after_the_end_means_another_log(self, log: Log, name: str) -> None:
        log.append_batch(name, numbered(3))
        log.reader(name, {0: 3}).close()
        with pytest.raises(LogChanged, match=name):
            log.reader(name, {0: 4})

    def test_a_log_opened_again_is_the_same_log(self, make_log: Callable[[], Log], name: str) -> None:
        with make_log() as log:
            log.append_batch(name, numbered(5))
            info, rows = log.describe(name), whole(log, name)
        with make_log() as again:
            assert again.describe(name) == info
            assert whole(again, name) == rows
            assert again.append_batch(name, numbered(1))[0] == 6

    def test_typed_events_are_keyed_by_their_subject(self, log: Log, name: str) -> None:
        events = [OrderPlaced(subject=f"order-{at}", time=dt.datetime(2024, 5, 1, tzinfo=dt.UTC)) for at in range(9)]
        cut = log.append(Category(name, events=[OrderPlaced]), events)
        assert cut == {name: log.describe(name).ends}
        found = [row["key"] for rows in whole(log, name).values() for row in rows]
        assert sorted(found) == [event.subject.encode() for event in events]


class OrderPlaced(Event):
    pass


class TestLocalLog(LogContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> Iterator[Callable[[], Log]]:
        opened: list[Log] = []

        def make() -> Log:
            opened.append(LocalLog(tmp_path / "log"))
            return opened[-1]

        self.directory = tmp_path / "log"
        yield make
        for log in opened:
            log.close()

    def forget(self, log: Log, category: str, partition: int) -> int:
        log.append_batch(category, numbered(TAIL_RECORDS, partition))  # as many go straight to a segment
        oldest = min((self.directory / category / str(partition)).glob("*.parquet"))
        oldest.unlink()
        return 20


@pytest.mark.broker
class TestRedpandaLog(LogContract):
    @pytest.fixture
    def make_log(self, broker: str) -> Iterator[Callable[[], Log]]:
        opened: list[Log] = []

        def make() -> Log:
            opened.append(RedpandaLog(broker))
            return opened[-1]

        self.servers = broker
        yield make
        for log in opened:
            log.close()

    def forget(self, log: Log, category: str, partition: int) -> int:
        from kafka import KafkaAdminClient, TopicPartition

        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        admin.delete_records({TopicPartition(category, partition): 7})
        admin.close()
        return 7


@settings(max_examples=200, deadline=None)
@given(keys=st.lists(st.none() | st.binary(max_size=40)), partitions=st.integers(1, 1000), cut=st.integers(0, 3))
def test_the_partitioner_is_kafkas(keys: list[bytes | None], partitions: int, cut: int) -> None:
    expected = [NO_PARTITION if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
    column = pa.array(keys, pa.binary()).slice(cut)
    assert partition_of(column, partitions).tolist() == expected[cut:]
