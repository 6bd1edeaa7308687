"""Memory that is used again: never while somebody holds what is in it, and as soon as nobody does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from connectors.pages import KEPT_BYTES_MAX, KEPT_MAX, Pages

SIZES = st.sampled_from([1, 1_000, 1 << 20, (1 << 20) + 1, 5_000_000])


def column(pages: Pages, size: int, mark: int) -> pa.Array:
    """One value of so many bytes, all the same, in memory from ``pages``."""
    memory = pages.take(size)
    memory[:size] = mark
    ends = pa.py_buffer(np.array([0, size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(memory)])


@given(
    st.lists(st.tuples(SIZES, st.integers(0, 15), st.sampled_from(["column", "slice", "view", "text"])), max_size=40)
)
def test_what_is_held_in_any_way_stays_as_it_was(steps: list[tuple[int, int, str]]) -> None:
    pages, held = Pages(), {}
    for mark, (size, place, way) in enumerate(steps):
        made = column(pages, size, mark)
        ways = {
            "column": lambda made=made: made,
            "slice": lambda made=made: pa.record_batch([made], ["value"]).slice(0, 1),
            "view": lambda made=made: np.frombuffer(made.buffers()[2], np.uint8),
            "text": lambda made=made: memoryview(made.buffers()[2]),
        }
        held[place] = ways[way](), size, mark  # lets go of what was there
        del made, ways
        for kept, length, expected in held.values():
            assert set(bytes_of(kept, length)) == {expected}


def bytes_of(kept: object, size: int) -> bytes:
    if isinstance(kept, np.ndarray | memoryview):
        return bytes(kept[:size])
    one = kept.column(0) if isinstance(kept, pa.RecordBatch) else kept
    return one[0].as_py()


def test_what_nobody_holds_is_used_again() -> None:
    pages = Pages()
    first = pages.take(3_000_000)
    address = first.ctypes.data
    assert pages.take(1_000).ctypes.data != address
    del first
    assert pages.take(2_500_000).ctypes.data == address
    assert pages.take(1_000).ctypes.data != address, "the smallest that is large enough"


def test_little_is_kept() -> None:
    pages = Pages()
    held = [pages.take(1_000) for _ in range(2 * KEPT_MAX)] + [pages.take(KEPT_BYTES_MAX + 1)]
    assert len({one.ctypes.data for one in held}) == len(held)
    assert len(pages._kept) == KEPT_MAX and max(one.size for one in pages._kept) <= KEPT_BYTES_MAX
