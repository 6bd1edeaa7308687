"""Compressed batches: one zstd frame is unpacked in one go, and nothing comes of that but what the stream gives."""

from __future__ import annotations

import hashlib

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.codecs import ZSTD, Workspace

TEXTS = st.binary(max_size=300) | st.builds(lambda text, n: text * n, st.binary(max_size=40), st.integers(0, 20_000))
COMPRESSORS = [
    zstandard.ZstdCompressor(level=level, write_content_size=size, write_checksum=checksum)
    for level in (1, 3, 19)
    for size in (False, True)
    for checksum in (False, True)
]
ONE = zstandard.ZstdCompressor(write_content_size=False).compress(b"an order, " * 500)
LARGE = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000_000))
"""More than what is unpacked in one go."""
SKIPPED = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
"""A frame that holds nothing for whoever unpacks."""


@st.composite
def packed(draw: st.DrawFn) -> bytes:
    """Frames of any kind, one after the other; whole or cut, and with a wrong byte perhaps."""
    frames = [
        draw(st.sampled_from(COMPRESSORS)).compress(text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))
    ]
    found = bytearray(b"".join(frames))
    if draw(st.booleans()):
        found = found[: draw(st.integers(0, len(found)))]
    if found and draw(st.booleans()):
        found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found)


class Streamed(Workspace):
    def _whole_frame(self, packed: memoryview) -> None:
        return None


def outcome(workspace: Workspace, data: bytes) -> bytes | str:
    try:
        first, end = workspace.unpack(memoryview(data), ZSTD)
    except ValueError:
        return "refused"
    return workspace.data[first:end].tobytes()


@given(st.lists(packed(), min_size=1, max_size=4))
@example([ONE + ONE])
@example([ONE + b"\0"])
@example([ONE[:-1], ONE])
@example([SKIPPED + ONE, ONE + SKIPPED, SKIPPED])
@example([LARGE, ONE])
def test_a_batch_unpacks_to_what_its_stream_gives(batches: list[bytes]) -> None:
    quick, slow = Workspace(), Streamed()
    for batch in batches:
        assert outcome(quick, batch) == outcome(slow, batch)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_one_frame_is_unpacked_in_one_go(compressor: zstandard.ZstdCompressor) -> None:
    text = b"".join(hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(8_000))  # four blocks
    assert Workspace()._whole_frame(memoryview(compressor.compress(text))) == text
