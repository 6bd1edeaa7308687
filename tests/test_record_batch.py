"""Record batches: what Kafka's builders write is read back exactly, and bytes that lie give an error, never a record.

The reference for bytes that nobody would write is ``batch_fuzz.reference``, the format's description as plain Python.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from batch_fuzz.guarded import Guarded
from batch_fuzz.mutations import varint
from batch_fuzz.reference import LOG_APPEND_TIME, PACKERS, Row, compressed, reference, sealed, wire_headers
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from connectors import record_kernels as kernels
from connectors.codecs import GZIP, LZ4, NONE, SNAPPY, ZSTD
from connectors.log import APPENDS, RECORDS
from connectors.producing import BATCH_BYTES_MAX, plan
from connectors.record_batch import HEADER, Decoder, decode, read_header, split
from connectors.record_encode import Sender, column, encode, sizes
from schemas.errors import LogError, UsageError

Record = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

parts = st.none() | st.binary(max_size=40) | st.just(b"x" * 300)
headers = st.lists(st.tuples(st.text(max_size=5), parts), max_size=3)
moments = st.integers(-(2**40), 2**41)
records = st.lists(st.tuples(moments, parts, parts, headers), min_size=1, max_size=12)


def built(rows: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]) -> bytes:
    """An uncompressed batch by the library."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
    for offset, (moment, key, value, pairs) in enumerate(rows):
        builder.append(offset, moment, key, value, pairs)
    return bytes(builder.build())


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with Guarded(1 << 16) as memory:
        yield memory


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    batch.validate(full=True)
    assert batch.schema == RECORDS
    return [
        (row["offset"], row["timestamp"], row["key"], row["value"], wire_headers(row["headers"] or b"\x00"))
        for row in batch.to_pylist()
    ]


@given(records, st.sampled_from(sorted(PACKERS)), st.integers(0, 2**50))
def test_every_codec_is_read_as_the_library_reads_it(rows, packer, base):
    plain = sealed(built(rows), base_offset=base)
    codec, pack = PACKERS[packer]
    expected = [
        (r.offset, r.timestamp, r.key, r.value, [(name.encode(), value) for name, value in r.headers])
        for r in DefaultRecordBatch(plain)
    ]
    assert rows_of(decode(compressed(plain, codec, pack))) == expected == reference(plain)


@given(records)
def test_without_headers_the_column_is_null_and_with_them_it_is_their_wire_form(rows):
    for row, (_, _, _, pairs) in zip(decode(built(rows)).to_pylist(), rows, strict=True):
        assert (row["headers"] is None) == (not pairs)
        assert not pairs or wire_headers(row["headers"]) == [(name.encode(), value) for name, value in pairs]


def test_timestamps_set_by_the_log_are_those_of_the_batch():
    plain = built([(1000, b"k", b"v", []), (3000, b"k", b"v", [])])
    by_log = decode(sealed(plain, attributes=LOG_APPEND_TIME, max_timestamp=9999))
    assert by_log["timestamp"].to_pylist() == [9999, 9999]
    assert by_log["timestamp_type"].to_pylist() == [1, 1]
    assert decode(plain)["timestamp_type"].to_pylist() == [0, 0]
    earliest = decode(sealed(plain, attributes=LOG_APPEND_TIME, max_timestamp=-(2**63)))
    assert earliest["timestamp"].to_pylist() == [-(2**63)] * 2


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_many_batches_decoded_together_are_the_batches_decoded_alone(batches, data):
    decoder, alone, base = Decoder(), [], 0
    for rows in batches:
        codec, pack = PACKERS[data.draw(st.sampled_from(sorted(PACKERS)))]
        batch = compressed(sealed(built(rows), base_offset=base), codec, pack)
        alone += rows_of(decode(batch))
        decoder.add(memoryview(batch), read_header(memoryview(batch)))
        base += len(rows)
    assert rows_of(decoder.take()) == alone
    assert decoder.take().num_rows == 0


def test_a_compacted_batch_keeps_the_offsets_of_the_records_that_are_left():
    plain = built([(0, b"a", b"1", []), (0, b"b", b"2", [])])
    middle = plain[HEADER.size :]
    second = middle[1 + middle[0] // 2 :]
    left = sealed(plain[: HEADER.size] + second, count=1, last_delta=5, base_offset=40)
    assert [row[:4:3] for row in rows_of(decode(left))] == [(41, b"2")]


edits = st.lists(st.tuples(st.sampled_from("=+-"), st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def edited(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    changed = bytearray(data)
    for kind, where, byte in changes:
        at = where % (len(changed) + 1)
        if kind == "+":
            changed.insert(at, byte)
        elif at < len(changed):
            changed[at : at + 1] = bytes([byte]) if kind == "=" else b""
    return bytes(changed)


def outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except (LogError, ValueError, IndexError):
        return "broken"


@given(records, edits, st.sampled_from([0, 0, 0, -1, 1, 2**31 - 1]), st.sampled_from([0, 0, 1, 7]))
def test_edited_records_are_read_as_the_format_says_or_refused(rows, changes, more_records, more_offsets):
    plain = built(rows)
    count = max(0, min(len(rows) + more_records, 2**31 - 1))
    last_delta = max(count - 1, len(rows) - 1) + more_offsets
    broken = sealed(
        plain[: HEADER.size] + edited(plain[HEADER.size :], changes), count=count, last_delta=min(last_delta, 2**31 - 1)
    )
    assert outcome(lambda: rows_of(decode(broken))) == outcome(lambda: reference(broken))


@given(records, edits, st.sampled_from(sorted(PACKERS)))
def test_edited_compressed_data_give_whole_arrays_or_are_refused(rows, changes, packer):
    codec, pack = PACKERS[packer]
    batch = compressed(built(rows), codec, pack)
    outcome(lambda: rows_of(decode(sealed(batch[: HEADER.size] + edited(batch[HEADER.size :], changes)))))


@given(records, edits)
def test_edited_bytes_without_a_new_checksum_are_refused(rows, changes):
    batch = built(rows)
    broken = batch[:21] + edited(batch[21:], changes)
    if broken != batch:
        with pytest.raises(LogError, match="damaged"):
            decode(broken)


@given(st.lists(records, min_size=1, max_size=3), st.integers(1, 10**6))
def test_a_cut_off_last_batch_is_left_out(batches, cut):
    wire = [built(rows) for rows in batches]
    fetched = b"".join(wire)
    kept = fetched[: -(cut % len(wire[-1])) or None]
    whole = wire if kept == fetched else wire[:-1]
    assert [bytes(batch) for batch in split(memoryview(kept))] == whole


@pytest.mark.parametrize("length", [-1, 0, 4])
def test_a_length_that_no_batch_can_have_is_refused(length):
    batch = built([(0, b"k", b"v", [])])
    with pytest.raises(LogError, match="length"):
        list(split(memoryview(batch[:8] + struct.pack(">i", length) + batch[12:])))


def test_errors_name_the_batch():
    batch = sealed(built([(0, b"k", b"v", [])]), base_offset=123_456, count=7, last_delta=6)
    with pytest.raises(LogError) as raised:
        decode(batch)
    assert raised.value.where == "batch at offset 123,456"


def test_a_small_batch_cannot_claim_millions_of_records():
    batch = sealed(built([(0, b"k", b"v", [])]), count=2**31 - 1, last_delta=2**31 - 2)
    with pytest.raises(LogError, match="too small"):
        decode(batch)


@pytest.mark.parametrize(("base", "moment"), [(-(2**63), -1), (2**63 - 1, 1), (1_357_000_000_000, 2**63 - 1)])
def test_a_timestamp_that_overflows_is_refused(base, moment):
    plain = sealed(built([(0, b"k", b"v", [])]), base_timestamp=base)
    body = bytes([0]) + varint(moment) + plain[HEADER.size + 3 :]
    with pytest.raises(LogError, match="overflows"):
        decode(sealed(plain[: HEADER.size] + varint(len(body)) + body))


def test_a_refused_batch_leaves_nothing_behind_in_the_decoder():
    batch, decoder = sealed(built([(0, b"k", b"v", [])]), count=7, last_delta=6), Decoder()
    for _ in range(2):
        with pytest.raises(LogError, match="too small"):
            decoder.add(memoryview(batch), read_header(memoryview(batch)))
        assert decoder.unpacked_bytes == 0


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
@pytest.mark.parametrize("packed", [b"", b"\x82SNAPPY\x00\x00\x00"])
def test_a_batch_of_no_records_still_needs_whole_compressed_data(codec, packed):
    batch = sealed(built([(0, b"k", b"v", [])])[: HEADER.size] + packed, attributes=codec, count=0)
    with pytest.raises(LogError, match="cannot be unpacked"):
        decode(batch)


def test_snappy_that_claims_to_unpack_to_gigabytes_is_refused():
    batch = compressed(built([(0, b"k", b"v", [])]), SNAPPY, lambda _: b"\xff\xff\xff\xff\x07" + b"x" * 50)
    with pytest.raises(LogError, match="unpack"):
        decode(batch)


@given(rows=records, changes=edits, count=st.integers(0, 20), low=st.booleans())
def test_no_byte_outside_the_records_is_touched(guarded, rows, changes, count, low):
    data = np.frombuffer(guarded.place(edited(built(rows)[HEADER.size :], changes), low=low), np.uint8)
    table = np.array([[0, data.size, 0, 2**31 - 1, 0, 0, 0, count]], np.int64)
    offsets, timestamps, spans = np.empty(count, np.int64), np.empty(count, np.int64), np.empty((6, count), np.int32)
    code, _ = kernels.walk(data, table, offsets, timestamps, spans)
    if code == kernels.OK:
        for at, size in ((0, 1), (2, 3), (4, 5)):
            ends, _ = kernels.ends_of(spans[size])
            assert kernels.gather(data, spans[at], ends, np.empty(ends[-1], np.uint8))


def test_a_span_outside_the_data_is_not_copied():
    data, out = np.zeros(10, np.uint8), np.zeros(10, np.uint8)
    for begin, end in ((8, 5), (-1, 5), (0, 11)):
        assert not kernels.gather(data, np.array([begin], np.int32), np.array([0, end], np.int32), out)


def appends(rows: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]) -> pa.Table:
    wire = decode(built(rows))
    columns = [wire["key"], wire["value"], wire["timestamp"], pa.nulls(len(rows), pa.int32()), wire["headers"]]
    return pa.table(columns, schema=pa.schema([*APPENDS, pa.field("headers", pa.binary())]))


@given(records, st.integers(0, 3))
def test_what_we_encode_is_read_by_the_library_and_by_us(rows, skip):
    table = appends(rows)
    chosen = np.arange(min(skip, len(rows) - 1), len(rows))
    columns = tuple(column(table[name].combine_chunks()) for name in ("key", "value", "headers"))
    timestamps = table["timestamp"].to_numpy()
    batch = encode(columns, timestamps, chosen, int(sizes(columns)[chosen].sum()), Sender(7, 1, 40))
    header = read_header(memoryview(batch))
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 1, 40)
    assert header.max_timestamp == max(timestamps[chosen])
    expected = [
        (index, m, k, v, [(n.encode(), x) for n, x in h]) for index, (m, k, v, h) in enumerate(rows[chosen[0] :])
    ]
    assert rows_of(decode(batch)) == expected
    if header.codec == NONE:
        found = list(DefaultRecordBatch(batch))
        assert [(r.timestamp, r.key, r.value) for r in found] == [row[1:4] for row in expected]


@given(st.binary(min_size=1, max_size=20))
def test_headers_that_are_not_in_wire_form_are_not_sent(raw):
    table = appends([(0, b"k", b"v", [])]).set_column(4, "headers", pa.array([raw], pa.binary()))
    columns = tuple(column(table[name].combine_chunks()) for name in ("key", "value", "headers"))
    try:
        wire_headers(raw)
    except (ValueError, IndexError):
        with pytest.raises(UsageError, match="headers"):
            encode(columns, np.zeros(1, np.int64), np.zeros(1, np.int64), 500, Sender(-1, -1, -1))
    else:
        batch = encode(columns, np.zeros(1, np.int64), np.zeros(1, np.int64), 500, Sender(-1, -1, -1))
        assert rows_of(decode(batch))[0][4] == wire_headers(raw)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(41, 2 * BATCH_BYTES_MAX)), max_size=30))
def test_a_plan_keeps_order_and_the_size_of_batches(rows):
    chosen = np.array([p for p, _ in rows], np.int32)
    row_sizes = np.array([size for _, size in rows], np.int64)
    planned = plan(chosen, row_sizes)
    assert sorted(planned) == sorted(set(chosen.tolist()))
    for partition, one in planned.items():
        assert one.rows.tolist() == [index for index, p in enumerate(chosen) if p == partition]
        assert one.cuts[0] == 0 and one.cuts[-1] == len(one.rows)
        for first, end in zip(one.cuts, one.cuts[1:], strict=False):
            assert end == first + 1 or row_sizes[one.rows[first:end]].sum() <= BATCH_BYTES_MAX
            assert end > first
