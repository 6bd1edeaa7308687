"""XXH64 is the published function, whatever array the bytes come in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.hashing import hash_binary, xxh64

seeds = st.integers(0, 2**64 - 1)
values = st.lists(st.one_of(st.binary(max_size=40), st.binary(min_size=30, max_size=200)), max_size=8)


@settings(deadline=None)  # the first call compiles the kernel
@given(values, seeds, st.sampled_from([pa.binary(), pa.large_binary()]), st.integers(0, 3))
def test_every_value_hashes_as_the_reference_does(
    values: list[bytes], seed: int, kind: pa.DataType, skipped: int
) -> None:
    array = pa.array(values, kind).slice(skipped)
    assert hash_binary(array, seed).tolist() == [xxhash.xxh64_intdigest(v, seed) for v in values[skipped:]]


@settings(deadline=None)
@given(st.binary(max_size=100), seeds, st.integers(0, 100), st.integers(0, 100))
def test_a_range_of_a_buffer(data: bytes, seed: int, a: int, b: int) -> None:
    start, end = sorted((min(a, len(data)), min(b, len(data))))
    buffer = np.frombuffer(data, np.uint8)
    assert int(xxh64(buffer, start, end, np.uint64(seed))) == xxhash.xxh64_intdigest(data[start:end], seed)


def test_a_null_hashes_as_empty_bytes() -> None:
    assert hash_binary(pa.array([None, b""], pa.binary())).tolist() == [xxhash.xxh64_intdigest(b"")] * 2


def test_offsets_outside_the_data_are_refused() -> None:
    offsets = pa.py_buffer(np.array([0, 9, 3], np.int32))
    broken = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, pa.py_buffer(b"abc")])
    with pytest.raises(ValueError, match="outside"):
        hash_binary(broken)
