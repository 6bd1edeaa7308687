"""The canonical encoding orders as rows do, is injective, and comes back exactly; against a plain reference."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.manifest import parse_schema, render_schema
from schemas.canonical import canonical_floats, canonical_nested, decode, encode
from schemas.errors import DataError, UsageError

UTC_US = pa.timestamp("us", "UTC")
DECIMAL = pa.decimal128(20, 3)
text = st.text(alphabet=st.sampled_from("\x00\x01aé\U0010ffff"), max_size=5)
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    **{getattr(pa, f"int{b}")(): st.integers(-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{b}")(): st.integers(0, 2**b - 1) for b in (8, 16, 32, 64)},
    pa.float64(): st.floats(),
    pa.string(): text,
    pa.binary(): st.binary(max_size=4) | st.lists(st.sampled_from([0, 1, 254, 255]), max_size=6).map(bytes),
    pa.date32(): st.dates(),
    UTC_US: st.datetimes(timezones=st.just(UTC)),
    DECIMAL: st.decimals(-(10**16), 10**16, places=3),
}
PAIR = pa.struct([pa.field("a", pa.string()), pa.field("b", pa.float64())])
VALUES |= {
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-2, 2), max_size=4),
    pa.list_(pa.string()): st.lists(st.none() | text, max_size=3),
    pa.list_(pa.list_(pa.bool_())): st.lists(st.none() | st.lists(st.none() | st.booleans(), max_size=2), max_size=3),
    PAIR: st.fixed_dictionaries({"a": st.none() | text, "b": st.none() | st.floats()}),
    pa.list_(PAIR): st.lists(
        st.none() | st.fixed_dictionaries({"a": st.none() | text, "b": st.none() | st.floats()}), max_size=3
    ),
}


def plain(value: Any) -> bytes:
    """One value, as the documentation of the encoding says it."""
    match value:
        case None:
            return b"\x00"
        case bool():
            return b"\x01" + bytes([value])
        case int():
            return b"\x01" + (value + 2**63).to_bytes(8, "big")
        case float():
            bits = 0x7FF8 << 48 if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]
            return b"\x01" + ((~bits & (2**64 - 1)) if bits >> 63 else bits | 1 << 63).to_bytes(8, "big")
        case str():
            return plain(value.encode())
        case bytes():
            return b"\x01" + value.replace(b"\x00", b"\x00\xff") + b"\x00\x00"
        case datetime():
            return plain((value - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution))
        case date():
            return plain((value - date(1970, 1, 1)).days)
        case Decimal():
            return b"\x01" + (int(value.scaleb(3)) + 2**127).to_bytes(16, "big")
        case list():
            return b"\x01" + b"".join(b"\x01" + plain(item) for item in value) + b"\x00"
        case dict():
            return b"\x01" + b"".join(plain(value[name]) for name in ("a", "b"))
    raise AssertionError(value)


def plain_row(row: tuple[Any, ...], kinds: tuple[pa.DataType, ...]) -> bytes:
    shifted = [v - 2**63 if k == pa.uint64() and v is not None else v for v, k in zip(row, kinds, strict=True)]
    return b"".join(plain(v) for v in shifted)


@st.composite
def row_sets(draw: st.DrawFn) -> tuple[tuple[pa.DataType, ...], list[tuple[Any, ...]]]:
    kinds = tuple(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3)))
    row = st.tuples(*(st.none() | VALUES[kind] for kind in kinds))
    return kinds, draw(st.lists(row, max_size=6))


def arrays(kinds: tuple[pa.DataType, ...], rows: list[tuple[Any, ...]], skipped: int = 0) -> list[pa.Array]:
    return [pa.array([row[i] for row in rows], kind).slice(skipped) for i, kind in enumerate(kinds)]


@settings(deadline=None, max_examples=300)
@given(row_sets(), st.integers(0, 3))
def test_it_is_the_documented_encoding_and_comes_back(
    rows_of: tuple[tuple[pa.DataType, ...], list[tuple[Any, ...]]], skipped: int
) -> None:
    kinds, rows = rows_of
    columns = arrays(kinds, rows, skipped)
    encoded = encode(columns)
    assert encoded.to_pylist() == [plain_row(row, kinds) for row in rows[skipped:]]
    for kind, column, back in zip(kinds, columns, decode(encoded, kinds), strict=True):
        back.validate(full=True)
        assert back.type == kind
        assert encode([back]) == encode([column])
        if kind not in (pa.float64(), PAIR, pa.list_(PAIR)):
            assert back == column


def rank(value: Any) -> tuple[Any, ...]:
    """A sort key that says what the order of values is."""
    if value is None:
        return (0,)
    if isinstance(value, float):
        return (1, math.isnan(value), 0.0 if math.isnan(value) else value, math.copysign(1, value) if value == 0 else 0)
    if isinstance(value, dict):
        return (1, [rank(value[name]) for name in ("a", "b")])
    if isinstance(value, list):
        return (1, [rank(item) for item in value])
    return (1, value.encode() if isinstance(value, str) else value)


@settings(deadline=None, max_examples=300)
@given(row_sets())
def test_it_orders_as_the_rows_do(rows_of: tuple[tuple[pa.DataType, ...], list[tuple[Any, ...]]]) -> None:
    kinds, rows = rows_of
    encoded = encode(arrays(kinds, rows)).to_pylist()
    by_bytes = sorted(range(len(rows)), key=lambda i: encoded[i])
    assert by_bytes == sorted(range(len(rows)), key=lambda i: [rank(v) for v in rows[i]])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(list(VALUES)), max_size=3), st.lists(st.binary(max_size=24), max_size=3), st.data())
def test_bytes_that_nothing_encodes_to_are_refused(
    kinds: list[pa.DataType], junk: list[bytes], data: st.DataObject
) -> None:
    # Half of the inputs are near misses: a true encoding with one byte changed.
    for kind in kinds:
        (good,) = encode([pa.array([data.draw(VALUES[kind])], kind)]).to_pylist()
        at = data.draw(st.integers(0, len(good) - 1))
        junk = [*junk, good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]]
    rows = pa.array(junk, pa.binary())
    try:
        columns = decode(rows, kinds or [pa.int64()])
    except DataError:
        return
    assert encode(columns) == rows


def test_floats_have_one_nan_and_two_zeros() -> None:
    other_nans = np.array([0x7FF8000000000001, 0xFFF8000000000000, 0x7FF4000000000000], np.uint64).view(np.float64)
    column = pa.array([*other_nans, -0.0, 0.0, None], pa.float64(), from_pandas=False)
    encoded = encode([column]).to_pylist()
    assert len(set(encoded[:3])) == 1
    assert encoded[3] < encoded[4] < encoded[0]
    canonical = canonical_floats(column)
    assert set(np.asarray(canonical[:3]).view(np.uint64).tolist()) == {0x7FF8 << 48}
    assert encode([canonical]) == encode([column])
    assert canonical.is_null().to_pylist() == [False] * 5 + [True]


@pytest.mark.parametrize("kind", [pa.float32(), pa.timestamp("ns", "UTC"), pa.timestamp("us"), pa.list_(pa.float32())])
def test_a_type_without_a_canonical_form_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="no canonical form"):
        encode([pa.array([], kind)])
    with pytest.raises(UsageError, match="no canonical form"):
        decode(pa.array([b"\x00"], pa.binary()), [kind])


def exactly(value: Any) -> str:
    """As text: NaN is NaN, and -0.0 is not 0.0."""
    return json.dumps(value, sort_keys=True)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([kind for kind in VALUES if pa.types.is_nested(kind)]), st.data(), st.integers(0, 2))
def test_lists_and_structs_of_a_table_are_what_their_encoding_says(
    kind: pa.DataType, data: st.DataObject, skipped: int
) -> None:
    """Whatever lies in their buffers: what is null, and which NaN it is, leaves nothing in a file."""
    column = pa.array(data.draw(st.lists(st.none() | VALUES[kind], max_size=6)), kind)
    hidden = pc.if_else(pa.array([i % 3 > 0 for i in range(len(column))], pa.bool_()), column, pa.scalar(None, kind))
    for found in (column.slice(skipped), hidden):
        clean = canonical_nested(found)
        clean.validate(full=True)
        assert encode([clean]) == encode([found])
        assert exactly(clean.to_pylist()) == exactly(found.to_pylist())


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.sampled_from([*(kind for kind in VALUES if not pa.types.is_nested(kind))]),
        lambda below: (
            st.builds(pa.list_, below)
            | st.lists(st.tuples(st.text(max_size=3), below), min_size=1, max_size=3).map(
                lambda fields: pa.struct([pa.field(name, kind) for name, kind in fields])
            )
        ),
    )
)
def test_a_manifest_says_types_so_that_they_come_back(kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("x", kind)])
    assert parse_schema(render_schema(schema)) == schema
