"""Which partition a key belongs to: Kafka's default partitioner over a whole array of keys.

Promises: the same key and partition count give the partition that a Kafka producer would choose, so that an embedded
log and a broker with equal partition counts hold the same records in the same partitions. Knows nothing of logs.

Source: ``org.apache.kafka.common.utils.Utils.murmur2`` (MurmurHash2 with a fixed seed), then the low 31 bits modulo
the number of partitions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import kernel, maker

NO_PARTITION = -1
"""Given to a null key: nothing to hash."""

_SEED = np.uint32(0x9747B28C)
_M = np.uint64(0x5BD1E995)
_LOW = np.uint64(0xFFFFFFFF)


def partition_of(keys: pa.BinaryArray, partitions: int) -> npt.NDArray[np.int32]:
    """Partition per key, int32 in ``[0, partitions)``; ``NO_PARTITION`` for a null key."""
    assert partitions > 0
    if not len(keys):
        return np.empty(0, np.int32)
    _, offsets, data = keys.buffers()
    bounds = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    content = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    present = keys.is_valid().to_numpy(zero_copy_only=False)
    return _partitions(content, bounds, present, partitions)


@maker
def _partitions(
    content: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int32], present: npt.NDArray[np.bool_], partitions: int
) -> npt.NDArray[np.int32]:
    chosen = np.full(present.size, NO_PARTITION, np.int32)
    for row in range(min(present.size, bounds.size - 1)):
        first, end = bounds[row], bounds[row + 1]
        if present[row] and 0 <= first <= end <= content.size:
            chosen[row] = np.int32((_murmur2(content[first:end]) & np.uint64(0x7FFFFFFF)) % np.uint64(partitions))
    return chosen


@kernel
def _murmur2(key: npt.NDArray[np.uint8]) -> np.uint64:
    whole = key.size - key.size % 4
    digest = np.uint64(_SEED ^ np.uint32(key.size))
    for at in range(0, whole, 4):
        word = np.uint64(key[at]) | np.uint64(key[at + 1]) << np.uint64(8)
        word |= np.uint64(key[at + 2]) << np.uint64(16) | np.uint64(key[at + 3]) << np.uint64(24)
        word = (word * _M) & _LOW
        word = ((word ^ (word >> np.uint64(24))) * _M) & _LOW
        digest = ((digest * _M) & _LOW) ^ word
    return _finish(digest, key, whole)


@kernel
def _finish(digest: np.uint64, key: npt.NDArray[np.uint8], whole: int) -> np.uint64:
    for at in range(whole, key.size):
        digest ^= np.uint64(key[at]) << np.uint64(8 * (at - whole))
    if whole < key.size:
        digest = (digest * _M) & _LOW
    digest = ((digest ^ (digest >> np.uint64(13))) * _M) & _LOW
    return digest ^ (digest >> np.uint64(15))
