"""Decompression for the reference, as strict as the formats are: all bytes are used, and every frame is complete.

gzip goes through zlib, snappy through the description of its format; LZ4 and Zstandard through the packages that
kafka-python uses, where they are installed (``lz4``, ``zstandard``), or else through pyarrow, as in the code under
test. Whatever is wrong is an exception of any kind.

Source: https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from connectors.codecs import GZIP, LZ4, NAMES, NONE, SNAPPY, ZSTD

XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEADER_BYTES = 16
_ONCE_BYTES_MAX = 1 << 26


def unpacked(data: bytes, codec: int) -> bytes:
    if codec == NONE:
        return data
    if codec == SNAPPY:
        return _xerial(data) if data.startswith(XERIAL_MAGIC) else _snappy(data)
    if not data:
        raise ValueError("there is no frame")
    return _FRAMED[codec](data)


def _found(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _in_frames(data: bytes, decompressor: Callable[[], Any]) -> bytes:
    """Frames, one after the other, up to the end."""
    out = b""
    while data:
        one = decompressor()
        out += one.decompress(data)
        if not one.eof:
            raise ValueError("a frame is cut short")
        data = one.unused_data or b""
    return out


def _arrows(name: str) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        stream, out = pa.CompressedInputStream(pa.BufferReader(data), name), b""
        while chunk := stream.read(_ONCE_BYTES_MAX):
            out += chunk
        return out

    return unpack


def _frames_of(codec: int) -> Callable[[bytes], bytes]:
    if codec == GZIP:
        return lambda data: _in_frames(data, lambda: zlib.decompressobj(wbits=31))
    if codec == LZ4 and (lz4 := _found("lz4.frame")):
        return lambda data: _in_frames(data, lz4.LZ4FrameDecompressor)
    if codec == ZSTD and (zstandard := _found("zstandard")):
        return lambda data: _in_frames(data, zstandard.ZstdDecompressor().decompressobj)
    return _arrows(NAMES[codec])


_FRAMED = {codec: _frames_of(codec) for codec in (GZIP, LZ4, ZSTD)}


def _xerial(data: bytes) -> bytes:
    if len(data) < XERIAL_HEADER_BYTES:
        raise ValueError("the header is cut short")
    blocks, at = [], XERIAL_HEADER_BYTES
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if not 0 < size <= len(data) - at:
            raise ValueError("a block is too long")
        blocks.append(_snappy(data[at : at + size]))
        at += size
    return b"".join(blocks)


def _snappy(block: bytes) -> bytes:
    expected, at = _size(block)
    out = bytearray()
    while at < len(block):
        tag = block[at]
        at = _literal(block, at, out) if tag & 3 == 0 else _copy(block, at, out)
        if len(out) > expected:
            raise ValueError("more than it says")
    if len(out) != expected:
        raise ValueError("less than it says")
    return bytes(out)


def _size(block: bytes) -> tuple[int, int]:
    size = 0
    for index in range(5):
        size |= (block[index] & 0x7F) << (7 * index)
        if block[index] < 0x80:
            if size >> 32:
                break
            return size, index + 1
    raise ValueError("no size")


def _literal(block: bytes, at: int, out: bytearray) -> int:
    size, at = block[at] >> 2, at + 1
    if size >= 60:
        more = size - 59
        if at + more > len(block):
            raise ValueError("cut short")
        size, at = int.from_bytes(block[at : at + more], "little"), at + more
    if at + size + 1 > len(block):
        raise ValueError("cut short")
    out += block[at : at + size + 1]
    return at + size + 1


def _copy(block: bytes, at: int, out: bytearray) -> int:
    tag = block[at]
    if tag & 3 == 1:
        size, back, end = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | block[at + 1], at + 2
    else:
        end = at + (3 if tag & 3 == 2 else 5)
        if end > len(block):
            raise ValueError("cut short")
        size, back = (tag >> 2) + 1, int.from_bytes(block[at + 1 : end], "little")
    if not 0 < back <= len(out):
        raise ValueError("a copy from before the start")
    for _ in range(size):
        out.append(out[-back])
    return end
