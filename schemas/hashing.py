"""XXH64 in Numba: one hash of bytes that is the same on every machine, in every process, for ever.

It decides where tables are cut into chunks, so its values are part of the format of a store. Nothing here may depend
on Python's own ``hash`` (which is seeded per process) or on the version of a library.

It is no protection against an adversary; digests use BLAKE2b. Source: the XXH64 specification,
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.compiled import inlined, kernel, maker
from schemas.wide import byte, half, word

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

P1 = np.uint64(0x9E3779B185EBCA87)
P2 = np.uint64(0xC2B2AE3D27D4EB4F)
P3 = np.uint64(0x165667B19E3779F9)
P4 = np.uint64(0x85EBCA77C2B2AE63)
P5 = np.uint64(0x27D4EB2F165667C5)


def hash_binary(array: pa.Array, seed: int = 0) -> Words:
    """The XXH64 of every value of a (large) binary or string array, sliced or not. A null hashes as empty bytes."""
    return hash_values(*binary_buffers(array), seed)


def hash_values(data: Bytes, offsets: Ints, seed: int = 0) -> Words:
    """The XXH64 of each ``data[offsets[i]:offsets[i + 1]]``."""
    result, ok = _hash_all(data, offsets, np.uint64(seed))
    if not ok:
        msg = "an array with offsets outside its data"
        raise ValueError(msg)
    return result


def binary_buffers(array: pa.Array) -> tuple[Bytes, Ints]:
    """The bytes and the ``len + 1`` absolute int64 offsets of a (large) binary or string array, sliced or not."""
    _, offsets, data = array.buffers()
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    if len(array) == 0:
        return raw, np.zeros(1, np.int64)
    large = pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type)
    ends = np.frombuffer(offsets, np.int64 if large else np.int32, count=array.offset + len(array) + 1)
    return raw, ends[array.offset :].astype(np.int64)


@kernel
def xxh64(buf: Bytes, start: int, end: int, seed: np.uint64) -> np.uint64:
    """XXH64 of ``buf[start:end]``. A range outside the buffer hashes as empty: callers check it first."""
    if start < 0 or end > len(buf) or end < start:
        start, end = 0, 0
    length = np.uint64(end - start)
    if end - start >= 32:
        acc, at = _stripes(buf, start, end, seed)
    else:
        acc, at = seed + P5, start
    return _avalanche(_tail(buf.ctypes.data + at, buf.ctypes.data + end, acc + length))


@maker
def _hash_all(data: Bytes, offsets: Ints, seed: np.uint64) -> tuple[Words, bool]:
    n = len(offsets) - 1
    result = np.empty(n, np.uint64)
    for i in range(n):
        if offsets[i] < 0 or offsets[i + 1] < offsets[i] or offsets[i + 1] > len(data):
            return result, False
        result[i] = xxh64(data, offsets[i], offsets[i + 1], seed)
    return result, True


@inlined
def _rotate(x: np.uint64, bits: int) -> np.uint64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@inlined
def _lane(buf: Bytes, at: int) -> np.uint64:
    """8 bytes at ``at`` as a little-endian number; the caller has checked that they are there."""
    x = np.uint64(0)
    first = np.uint64(at)  # an unsigned index: a signed one may count from the end, and that check costs the wide load
    for j in range(8):
        x |= np.uint64(buf[first + np.uint64(j)]) << np.uint64(8 * j)
    return x


@inlined
def _round(acc: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(acc + lane * P2, 31) * P1


@kernel
def _stripes(buf: Bytes, start: int, end: int, seed: np.uint64) -> tuple[np.uint64, int]:
    """The accumulator after all whole stripes of 32 bytes, and where they end."""
    a1, a2, a3, a4 = seed + P1 + P2, seed + P2, seed, seed - P1
    at = start
    while at + 32 <= end:
        a1 = _round(a1, _lane(buf, at))
        a2 = _round(a2, _lane(buf, at + 8))
        a3 = _round(a3, _lane(buf, at + 16))
        a4 = _round(a4, _lane(buf, at + 24))
        at += 32
    acc = _rotate(a1, 1) + _rotate(a2, 7) + _rotate(a3, 12) + _rotate(a4, 18)
    for a in (a1, a2, a3, a4):
        acc = (acc ^ _round(np.uint64(0), a)) * P1 + P4
    return acc, at


@kernel
def _tail(at: int, end: int, acc: np.uint64) -> np.uint64:
    """Fold in the bytes after the last whole stripe, which lie between these addresses."""
    while at + 8 <= end:
        acc = _rotate(acc ^ _round(np.uint64(0), word(at)), 27) * P1 + P4
        at += 8
    if at + 4 <= end:
        acc = _rotate(acc ^ (half(at) * P1), 23) * P2 + P3
        at += 4
    while at < end:
        acc = _rotate(acc ^ (np.uint64(byte(at)) * P5), 11) * P1
        at += 1
    return acc


@kernel
def _avalanche(acc: np.uint64) -> np.uint64:
    acc = (acc ^ (acc >> np.uint64(33))) * P2
    acc = (acc ^ (acc >> np.uint64(29))) * P3
    return acc ^ (acc >> np.uint64(32))
