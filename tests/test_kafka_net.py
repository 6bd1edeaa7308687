"""A response is read as the library reads it, only without copies of what is large."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.frame import KafkaBytes

from connectors.kafka_net import LARGE_BYTES, Response

SIZES = st.sampled_from([0, 1, 5, 100, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES])
STEPS = st.lists(st.tuples(st.just("read"), SIZES | st.none()) | st.tuples(st.just("seek"), SIZES), max_size=6)


@given(size=SIZES, steps=STEPS)
def test_a_response_is_read_as_the_library_reads_it(size: int, steps: list[tuple[str, int | None]]) -> None:
    theirs = KafkaBytes(size)
    theirs[:] = (bytes(range(251)) * (size // 251 + 1))[:size]
    ours = Response(theirs)
    for what, count in steps:
        if what == "seek":
            at = min(count or 0, size)
            theirs.seek(at)
            ours.seek(at)
        else:
            found = ours.read(count)
            assert bytes(found) == theirs.read(count)
            assert isinstance(found, bytes) == (len(found) < LARGE_BYTES), "what is small may be anything's key"
        assert ours.tell() == theirs.tell()
