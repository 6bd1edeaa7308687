"""Batches to slices: whatever is fetched, in whatever portions, slices meet and every offset is accounted for."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from broker.topics import table
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.legacy_records import LegacyRecordBatchBuilder

from connectors import continuity
from connectors.continuity import Fetched, Stitcher
from connectors.log import Slice
from connectors.record_batch import Decoder, from_rows, read_header
from connectors.record_encode import Sender, column, encode, sizes
from connectors.redpanda import _of_old
from schemas.errors import LogError, LogGap


def packed(base: int, count: int) -> Fetched:
    """A batch as a broker sends it; values are offsets."""
    rows = table([b"%d" % offset for offset in range(base, base + count)])
    absent = pa.nulls(count, pa.binary())
    columns = (column(rows["key"].combine_chunks()), column(rows["value"].combine_chunks()), column(absent))
    batch = encode(columns, np.zeros(count, np.int64), np.arange(count), int(sizes(columns).sum()), Sender(-1, -1, -1))
    view = memoryview(struct.pack(">q", base) + batch[8:])
    return Fetched(base, base + count, count, 3, packed=(view, read_header(view)))


def decoded(base: int, count: int, left: list[int]) -> Fetched:
    """A batch that is decoded already, of which only the records at the offsets ``left`` are there."""
    rows = [(offset, 0, 0, b"k", b"%d" % offset) for offset in left]
    return Fetched(base, base + count, len(left), 3, records=from_rows(rows))


def skipped(base: int, count: int) -> Fetched:
    return Fetched(base, base + count, 1, 3)


kinds = st.sampled_from(["packed", "packed", "decoded", "skipped", "hole", "holey"])


@st.composite
def layouts(draw: st.DrawFn, whole: bool) -> tuple[list[Fetched], dict[int, str]]:
    """Batches one after the other, and what is at each offset: "record", "skipped" or "missing"."""
    batches, states, base = [], {}, draw(st.integers(0, 2**40))
    for kind, count in draw(st.lists(st.tuples(kinds, st.integers(1, 6)), min_size=1, max_size=12)):
        here = range(base, base + count)
        state = dict.fromkeys(here, "record")
        if kind == "packed" or (whole and kind in ("hole", "holey")):
            batches.append(packed(base, count))
        elif kind == "decoded":
            batches.append(decoded(base, count, list(here)))
        elif kind == "skipped":
            batches.append(skipped(base, count))
            state = dict.fromkeys(here, "skipped")
        elif kind == "holey":
            left = sorted({draw(st.sampled_from(list(here)))})
            batches.append(decoded(base, count, left))
            state = {offset: "record" if offset in left else "missing" for offset in here}
        else:
            state = dict.fromkeys(here, "missing")
        states |= state
        base += count
    batches.append(packed(base, 1))
    return batches, states | {base: "record"}


def stitched(stitcher: Stitcher, batches: list[Fetched], portions: list[int]) -> list[Slice]:
    """Slices of ``batches`` handed over in ``portions``; slices must meet."""
    decoder, found, at = Decoder(), [], 0
    for portion in [*portions, len(batches)]:
        stitcher.add(batches[at : at + portion])
        at += portion
        while (one := stitcher.take(decoder)) is not None:
            one.records.validate(full=True)
            assert one.first_offset == (found[-1].next_offset if found else one.first_offset)
            found.append(one)
    return found


@given(st.booleans().flatmap(lambda whole: st.tuples(st.just(whole), layouts(whole))), st.data())
def test_every_offset_is_handed_out_skipped_or_counted_as_missing(drawn, data):
    whole, (batches, states) = drawn
    first, last = min(states), max(states)
    start = data.draw(st.integers(first, last), "start")
    until = data.draw(st.none() | st.integers(start, last + 1), "until")
    end = last + 1 if until is None else until
    stitcher = Stitcher("flights", 2, start, until, may_have_holes=not whole)
    slices = stitched(stitcher, batches, data.draw(st.lists(st.integers(0, 3), max_size=6), "portions"))
    here = {offset: state for offset, state in states.items() if start <= offset < end}
    assert stitcher.position == end
    assert [o for one in slices for o in one.records["offset"].to_pylist()] == [o for o in here if here[o] == "record"]
    assert sum(one.missing for one in slices) == sum(state == "missing" for state in here.values())
    for one in slices:
        assert one.records["value"].to_pylist() == [b"%d" % o for o in one.records["offset"].to_pylist()]
        assert (one.category, one.partition, one.leader_epoch) == ("flights", 2, 3)


@given(layouts(whole=False), st.data())
def test_a_hole_is_a_gap_and_everything_before_it_is_handed_out(drawn, data):
    batches, states = drawn
    start = data.draw(st.integers(min(states), max(states)))
    stitcher, decoder, found = Stitcher("flights", 0, start, None, may_have_holes=False), Decoder(), []
    stitcher.add(batches)
    holes = [o for o, state in states.items() if state == "missing" and o >= start]
    try:
        while (one := stitcher.take(decoder)) is not None:
            found.append(one)
    except LogGap as gap:
        with pytest.raises(LogGap) as again:
            stitcher.take(decoder)
        assert str(again.value) == str(gap)
        assert stitcher.position <= min(
            o for o, state in states.items() if state == "missing" and o >= stitcher.position
        )
    else:
        assert not holes
    handed = [o for one in found for o in one.records["offset"].to_pylist()]
    assert handed == [o for o, state in states.items() if state == "record" and start <= o < stitcher.position]


def test_what_a_batch_lacks_before_the_start_is_no_gap():
    batches = [decoded(10, 4, [12, 13]), packed(14, 2)]
    whole = Stitcher("orders", 0, 12, None, may_have_holes=False)
    assert [o for one in stitched(whole, batches, []) for o in one.records["offset"].to_pylist()] == [12, 13, 14, 15]
    early = Stitcher("orders", 0, 11, None, may_have_holes=False)
    early.add(batches)
    with pytest.raises(LogGap, match="offsets 11 to 13 hold only 2 records"):
        early.take(Decoder())


def test_a_gap_says_where_and_how_much():
    stitcher = Stitcher("orders", 2, 31_007, None, may_have_holes=False)
    stitcher.add([packed(48_211, 1)])
    with pytest.raises(LogGap) as raised:
        stitcher.take(Decoder())
    assert "17,204 missing" in raised.value.what
    assert raised.value.where == "orders/2: offsets 31,007 to 48,210"


def test_a_damaged_batch_is_named_with_its_partition_whenever_it_is_met():
    good, bad = packed(0, 2), packed(2, 2)
    view, header = bad.packed or pytest.fail("packed")
    stitcher, decoder = Stitcher("orders", 1, 0, None, may_have_holes=False), Decoder()
    broken = bytes(view[:-1]) + b"\x7f"
    stitcher.add([good, Fetched(2, 4, 2, 3, packed=(memoryview(broken), header))])
    for _ in range(2):
        with pytest.raises(LogError, match="orders/1, batch at offset 2"):
            while stitcher.take(decoder) is not None:
                pass
    assert stitcher.position == 0


def test_a_slice_is_closed_when_it_grows_too_large(monkeypatch):
    monkeypatch.setattr(continuity, "SLICE_BYTES_MAX", 100)
    slices = stitched(Stitcher("flights", 0, 0, None, may_have_holes=False), [packed(5 * i, 5) for i in range(40)], [])
    assert len(slices) > 10
    assert [o for one in slices for o in one.records["offset"].to_pylist()] == list(range(200))


@pytest.mark.parametrize("magic", [0, 1])
def test_a_batch_of_an_old_format_is_read(magic):
    builder = LegacyRecordBatchBuilder(magic, 0, 1 << 20)
    builder.append(0, timestamp=77, key=b"k", value=None)
    one = _of_old(memoryview(bytes(builder.build())))
    assert (one.base_offset, one.next_offset, one.is_whole) == (0, 1, True)
    assert one.records.to_pylist() == [
        {
            "offset": 0,
            "timestamp": 77 if magic else -1,
            "timestamp_type": 0,
            "key": b"k",
            "value": None,
            "headers": None,
        }
    ]
    broken = bytearray(builder.build())
    broken[-5] ^= 1
    with pytest.raises(LogError, match="checksum"):
        _of_old(memoryview(bytes(broken)))


def test_a_slice_ends_where_the_leader_changes() -> None:
    """So that the leader of every offset is known, wherever a copy of the slices is cut."""
    leaders = (3, 3, 4, 4, 5)
    batches = [replace(packed(2 * at, 2), leader_epoch=leader) for at, leader in enumerate(leaders)]
    found = stitched(Stitcher("flights", 2, 0, None, False), batches, [])
    assert [(one.next_offset, one.leader_epoch) for one in found] == [(4, 3), (8, 4), (10, 5)]
