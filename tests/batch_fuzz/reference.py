"""Record batches as plainly as possible: the format's description in Python, and ways to make batches that fit it.

``reference`` is what decoders are compared with. It shares no code with them and knows nothing of speed.

Source: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pyarrow as pa
from crc32c import crc32c

from connectors.codecs import GZIP, LZ4, NONE, SNAPPY, ZSTD
from connectors.record_batch import HEADER

LOG_APPEND_TIME = 0x08

WireHeaders = list[tuple[bytes, bytes | None]]
Row = tuple[int, int, bytes | None, bytes | None, WireHeaders]
"""Offset, timestamp, key, value, headers."""


def sealed(batch: bytes, **changes: int) -> bytes:
    """``batch`` with header fields changed, and length and checksum made to fit."""
    names = ("base_offset", "length", "epoch", "magic", "checksum", "attributes", "last_delta")
    names += ("base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "sequence", "count")
    fields = dict(zip(names, HEADER.unpack_from(batch), strict=True)) | {"length": len(batch) - 12} | changes
    return checked(HEADER.pack(*fields.values()) + batch[HEADER.size :])


def checked(batch: bytes) -> bytes:
    """``batch`` with the checksum that its bytes have."""
    return batch[:17] + struct.pack(">I", crc32c(batch[21:])) + batch[21:]


def compressed(batch: bytes, codec: int, pack: Callable[[bytes], bytes]) -> bytes:
    return sealed(batch[: HEADER.size] + pack(batch[HEADER.size :]), attributes=codec)


def streamed(name: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, name) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()

    return pack


def snappy_blocks(data: bytes) -> bytes:
    """Snappy as Kafka's Java clients frame it: blocks of 32 KiB (here: 50 bytes), each behind its length."""
    blocks = [pa.Codec("snappy").compress(data[at : at + 50], asbytes=True) for at in range(0, len(data), 50)]
    return b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(b)) + b for b in blocks)


PACKERS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (NONE, bytes),
    "gzip": (GZIP, streamed("gzip")),
    "snappy, raw": (SNAPPY, lambda data: pa.Codec("snappy").compress(data, asbytes=True)),
    "snappy, xerial": (SNAPPY, snappy_blocks),
    "lz4": (LZ4, streamed("lz4")),
    "zstd": (ZSTD, streamed("zstd")),
    "zstd, size told": (ZSTD, lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
}


def number(data: bytes, at: int) -> tuple[int, int]:
    """The zig-zag varint at ``at`` and the position after it."""
    bits = 0
    for index in range(10):
        byte = data[at + index]
        bits |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if bits >> 64:
                raise ValueError("more than 64 bits")
            return (bits >> 1) ^ -(bits & 1), at + index + 1
    raise ValueError("more than ten bytes")


def part(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = number(data, at)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise ValueError("too long")
    return data[at : at + size], at + size


def wire_headers(data: bytes) -> WireHeaders:
    count, at = number(data, 0)
    if count < 0:
        raise ValueError("a negative number of headers")
    pairs = []
    for _ in range(count):
        name, at = part(data, at)
        value, at = part(data, at)
        if name is None:
            raise ValueError("a header without a name")
        pairs.append((name, value))
    if at != len(data):
        raise ValueError("bytes after the headers")
    return pairs


def record_bodies(data: bytes, count: int) -> Iterator[bytes]:
    """Each record behind its length, from its attributes on; ``ValueError`` when they are not all of ``data``."""
    at = 0
    for _ in range(count):
        size, at = number(data, at)
        if size < 1 or at + size > len(data):
            raise ValueError("too long")
        yield data[at : at + size]
        at += size
    if at != len(data):
        raise ValueError("left over")


def reference(batch: bytes) -> list[Row]:
    """The records of an uncompressed batch, from the description of the format; ``ValueError`` when it is broken."""
    base, _, _, _, _, attributes, last_delta, first, latest, *_, count = HEADER.unpack_from(batch)
    previous, found = -1, []
    for record in record_bodies(batch[HEADER.size :], count):
        moment, at = number(record, 1)
        delta, at = number(record, at)
        key, at = part(record, at)
        value, at = part(record, at)
        if not previous < delta <= last_delta or not -(2**63) <= first + moment < 2**63:
            raise ValueError("out of range")
        moment = latest if attributes & LOG_APPEND_TIME else first + moment
        found.append((base + delta, moment, key, value, wire_headers(record[at:])))
        previous = delta
    return found
