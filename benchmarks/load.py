"""Loads a table of records into a topic of a broker, as a fast producer would: zstd batches of 1,000 records.

kafka-python's producer takes 30 us a record; here a kernel writes whole record batches (Kafka's format, magic 2) and
kafka-python only carries them. For benchmarks alone: no retries, no idempotence.
Source of the format: Kafka's protocol guide, "Record Batch".
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from kafka.admin import KafkaAdminClient
from kafka.protocol.producer import ProduceRequest

from connectors.log import DEFAULT_PARTITIONS
from schemas.compiled import kernel, maker

RECORDS_A_BATCH = 1_000
ZSTD = 4
REQUEST_MS_MAX = 30_000
RECORD_OVERHEAD_BYTES_MAX = 40

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NO_LEADER_YET = (3, 5, 6)
"""Kafka's error codes of a partition that has just been made: unknown topic, leader not available, not leader."""
ELECTION_S_MAX = 20


class Loader:
    """Use as a context manager. ``address``: host:port of a broker that leads all partitions of ``topic``."""

    def __init__(self, address: str, topic: str) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=address)
        self._topic = topic
        self._zstd = pa.Codec("zstd", 3)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._admin.close()

    def create(self) -> None:
        options = {"num_partitions": DEFAULT_PARTITIONS, "replication_factor": 1, "configs": {"retention.ms": "-1"}}
        self._admin.create_topics({self._topic: options}, wait_for_metadata=True)

    def append(self, table: pa.Table) -> None:
        """Records of schema ``APPENDS`` with timestamps and partitions, no nulls; in order within each partition."""
        for partition, batch, _ in self.batches(table):
            self.send(partition, batch)

    def batches(self, table: pa.Table) -> Iterator[tuple[int, bytes, int]]:
        """The same as record batches ready to send: partition, bytes, number of records."""
        for partition in range(DEFAULT_PARTITIONS):
            rows = table.filter(pc.equal(table["partition"], partition)).combine_chunks()
            for first in range(0, len(rows), RECORDS_A_BATCH):
                part = rows.slice(first, RECORDS_A_BATCH).combine_chunks()
                yield partition, record_batch(part, self._zstd), len(part)

    def send(self, partition: int, batch: bytes) -> None:
        """Returns when the broker has it."""
        topic_type = ProduceRequest.TopicProduceData
        data = topic_type.PartitionProduceData(index=partition, records=batch)
        request = ProduceRequest(
            transactional_id=None,
            acks=-1,
            timeout_ms=REQUEST_MS_MAX,
            topic_data=[topic_type(name=self._topic, partition_data=[data])],
            max_version=9,
        )
        manager = self._admin._manager
        deadline = time.monotonic() + ELECTION_S_MAX
        while True:
            response = manager.run(manager.send, request)
            code = response.responses[0].partition_responses[0].error_code
            if code not in NO_LEADER_YET or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if code:
            msg = f"the broker refused a batch for partition {partition}: error code {code}"
            raise RuntimeError(msg)


def record_batch(rows: pa.Table, codec: pa.Codec) -> bytes:
    """One record batch, base offset 0 (the broker assigns offsets)."""
    timestamps = rows["timestamp"].to_numpy()
    key, key_ends = _buffers(rows["key"])
    value, value_ends = _buffers(rows["value"])
    body = _records(key, key_ends, value, value_ends, timestamps).tobytes()
    times = (int(timestamps[0]), int(timestamps.max()))
    count = len(rows)
    checked = struct.pack(">hiqqqhii", ZSTD, count - 1, *times, -1, -1, -1, count) + codec.compress(body).to_pybytes()
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32c.crc32c(checked)) + checked


def _buffers(column: pa.ChunkedArray) -> tuple[Bytes, Ints]:
    array = pa.concat_arrays(column.chunks)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8), ends.astype(np.int64)


@maker
def _records(key: Bytes, key_ends: Ints, value: Bytes, value_ends: Ints, timestamps: Ints) -> Bytes:
    """The records of a batch, uncompressed: length, attributes, time and offset deltas, key, value, no headers."""
    n = len(timestamps)
    sized = key_ends[n] - key_ends[0] + value_ends[n] - value_ends[0] + n * RECORD_OVERHEAD_BYTES_MAX
    out = np.empty(sized, np.uint8)
    at = 0
    for i in range(n):
        key_size, value_size = key_ends[i + 1] - key_ends[i], value_ends[i + 1] - value_ends[i]
        delta = timestamps[i] - timestamps[0]
        fixed = 1 + _size(delta) + _size(i) + _size(key_size) + _size(value_size) + _size(0)
        at = _put(out, at, fixed + key_size + value_size)
        out[at] = 0
        at = _put(out, at + 1, delta)
        at = _put(out, at, i)
        at = _put_bytes(out, at, key, key_ends[i], key_size)
        at = _put_bytes(out, at, value, value_ends[i], value_size)
        at = _put(out, at, 0)
    return out[:at]


@kernel
def _put_bytes(out: Bytes, at: int, data: Bytes, first: int, size: int) -> int:
    at = _put(out, at, size)
    for j in range(size):
        out[at + j] = data[first + j]
    return at + size


@kernel
def _put(out: Bytes, at: int, number: int) -> int:
    """A zigzag varint."""
    left = (number << 1) ^ (number >> 63)
    while left > 0x7F:
        out[at] = (left & 0x7F) | 0x80
        left >>= 7
        at += 1
    out[at] = left
    return at + 1


@kernel
def _size(number: int) -> int:
    left, size = (number << 1) ^ (number >> 63), 1
    while left > 0x7F:
        left >>= 7
        size += 1
    return size
