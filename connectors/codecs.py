"""Decompression of record batches, into one growing piece of memory that is used again and again.

Promises: a batch never unpacks to more than ``BATCH_BYTES_MAX``; whatever is wrong with compressed bytes is a
``ValueError``. Must not know: what the bytes mean.

Sources: https://kafka.apache.org/documentation/#recordbatch (codec numbers); xerial's snappy-java for the framing
that Kafka's Java clients put around snappy blocks; RFC 8878 (frames and blocks of zstd).
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

BATCH_BYTES_MAX = 1 << 30
"""The most bytes that one batch may unpack to; brokers take 1 MiB compressed, unless told otherwise."""

_FIRST_BYTES = 1 << 20
_KEPT_BYTES_MAX = 1 << 27
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16  # magic, version, compatible version
_SNAPPY = pa.Codec("snappy")
_ZSTD_RATIO, _ZSTD_SPARE_BYTES = 16, 1 << 16
"""What a zstd batch may unpack to, of its own size, to be unpacked in one go."""
_ZSTD_RUN = 1
"""Type of a block that is one byte, repeated."""


class Workspace:
    """Unpacked bytes laid end to end. ``data`` (uint8) holds ``used`` of them; ``clear`` begins again."""

    def __init__(self) -> None:
        self.data: npt.NDArray[np.uint8] = np.empty(_FIRST_BYTES, np.uint8)
        self.used = 0
        self._zstd = zstandard.ZstdDecompressor()

    def clear(self) -> None:
        self.used = 0
        if self.data.size > _KEPT_BYTES_MAX:
            self.data = np.empty(_FIRST_BYTES, np.uint8)

    def unpack(self, packed: memoryview, codec: int) -> tuple[int, int]:
        """Append what ``packed`` unpacks to: its ``[first, end)`` in ``data``. Raises ``ValueError``."""
        first = self.used
        try:
            if codec == NONE:
                self._copy(packed)
            elif codec == SNAPPY:
                self._unpack_snappy(packed)
            elif codec == ZSTD and (whole := self._whole_frame(packed)) is not None:
                self._copy(memoryview(whole))
            elif codec in NAMES:
                self._unpack_stream(packed, NAMES[codec], first)
            else:
                msg = f"it is compressed in an unknown way (codec {codec})"
                raise ValueError(msg)
        except (OSError, pa.ArrowException) as error:
            self.used = first
            msg = f"its {NAMES[codec]} data cannot be unpacked: {error}"
            raise ValueError(msg) from error
        return first, self.used

    def _reserve(self, count: int) -> None:
        if self.used + count > self.data.size:
            grown = np.empty(max(self.used + count, 2 * self.data.size), np.uint8)
            grown[: self.used] = self.data[: self.used]
            self.data = grown

    def _copy(self, packed: memoryview) -> None:
        self._reserve(len(packed))
        self.data[self.used : self.used + len(packed)] = np.frombuffer(packed, np.uint8)
        self.used += len(packed)

    def _whole_frame(self, packed: memoryview) -> bytes | None:
        """What one zstd frame of ordinary size unpacks to; None for anything else, right or wrong, which is for the stream to tell.

        With the same state for every batch: the stream makes its own each time, and fresh memory takes longer than unpacking.
        """
        room = _ZSTD_RATIO * len(packed) + _ZSTD_SPARE_BYTES
        try:
            facts = zstandard.get_frame_parameters(packed)
            if facts.content_size != zstandard.CONTENTSIZE_UNKNOWN and not 0 < facts.content_size <= room:
                return None  # none of it, or more than there may be: the library believes what a frame says
            end = _end_of_blocks(packed, zstandard.frame_header_size(packed)) + 4 * facts.has_checksum
            return self._zstd.decompress(packed, max_output_size=room) if end == len(packed) else None
        except zstandard.ZstdError:
            return None

    def _unpack_stream(self, packed: memoryview, codec: str, first: int) -> None:
        if not len(packed):
            raise OSError("there is not even the beginning of a frame")  # a stream of nothing is nothing to Arrow
        # A stream, because Kafka's frames do not say how much they hold.
        stream = pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(packed)), codec)
        self._reserve(4 * len(packed) + 64)
        while count := stream.readinto(self.data.data[self.used :]):
            self.used += count
            _check_size(self.used - first)
            self._reserve(64)

    def _unpack_snappy(self, packed: memoryview) -> None:
        if bytes(packed[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
            self._unpack_block(packed)
            return
        if len(packed) < _XERIAL_HEADER_BYTES:
            raise OSError("its header is cut short")
        first, at = self.used, _XERIAL_HEADER_BYTES
        while at < len(packed):
            if len(packed) - at < 4:
                raise OSError("the length of a block is cut short")
            (size,) = struct.unpack_from(">i", packed, at)
            at += 4
            if not 0 < size <= len(packed) - at:
                raise OSError("a block is longer than the batch")
            self._unpack_block(packed[at : at + size])
            _check_size(self.used - first)
            at += size

    def _unpack_block(self, block: memoryview) -> None:
        size = _snappy_size(block)
        _check_size(size)
        self._copy(memoryview(_SNAPPY.decompress(pa.py_buffer(block), size)))


def _end_of_blocks(frame: memoryview, at: int) -> int:
    """Where the blocks of a zstd frame end, the first of which is at ``at``; beyond the frame when it is cut short."""
    while at < len(frame):
        head = int.from_bytes(frame[at : at + 3], "little")
        is_last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == _ZSTD_RUN else size)
        if is_last:
            return at
    return len(frame) + 1


def _snappy_size(block: memoryview) -> int:
    """What a raw snappy block says it unpacks to (a little-endian base-128 number in front)."""
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return size
    raise OSError("a block does not say its size")


def _check_size(size: int) -> None:
    if size > BATCH_BYTES_MAX:
        msg = f"it unpacks to more than {BATCH_BYTES_MAX:,} bytes"
        raise OSError(msg)
