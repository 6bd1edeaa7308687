"""Exact decoding: what a value means does not depend on its neighbours."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.event import TIMESTAMP
from schemas.instants import dates, instants
from schemas.json_columns import JsonColumns, read_columns

WANTED = {
    ("type",): pa.string(),
    ("time",): TIMESTAMP,
    ("data", "n"): pa.int64(),
    ("data", "x"): pa.float64(),
    ("data", "s"): pa.string(),
    ("data", "b"): pa.bool_(),
    ("data", "d"): pa.date32(),
}


def document(**data: object) -> bytes:
    return json.dumps({"type": "A", "time": "2013-01-01T00:00:00Z", "data": data}).encode()


GOOD = document(n=1, x=2.5, s="é\n", b=True, d="2013-02-03")
ODD = [
    b"", b" ", b"{", b"}", b"{}", b"[]", b"null", b'{"a":1}{"b":2}', b'{"type":"A"} {', b'{"type":"A"', b'"type":"A"}',
    b"\xef\xbb\xbf" + GOOD, b'{"type":"\xff"}', b'{"\xff":1}', b'{"type":"A","type":"B"}', b'{"data":{"n":1,"n":2},"type":"A"}',
    b'{"data":{"x":NaN}}', b'{"data":{"x":1.8e308}}', b'{"data":{"x":1e999}}', b'{"data":{"x":-Infinity}}', b'{"other":NaN,"type":"A"}',
    b'{"data":{"n":1.0}}', b'{"data":{"n":9223372036854775808}}', b'{"data":{"n":-9223372036854775808}}', b'{"data":{"n":-0}}',
    b'{"data":5}', b'{"data":null}', b'{"data":[{"n":1}]}', b'{"data":{"s":"a\nb"}}', b'{\n"type": "A",\r\n"data":\n{"n": 7}}\n',
    b'{"data":{"s":"\\ud83d"}}', b'{"data":{"s":"\\u0000"}}', b'{"time":1356998400000}', b'{"time":"1356998400000"}', b'{"time":1.5}',
    b'{"data":{"d":"2013-02-29"}}', b'{"data":{"d":20130203}}', b'{"data":{"s":"}\\""}}', b'{"data":{"s":"{"}}', b'{"type":"A"}\x00}',
    b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}", b'{"data":{"x":-0.0}}', b'{"data":{"x":7}}', b'{"data":{"b":1}}',
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = bytearray(draw(st.sampled_from([GOOD, *ODD])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(value)))
        piece = draw(
            st.sampled_from([b'"', b"{", b"}", b"\n", b",", b":", b"\\", b"\x00", b"\xff", b"1", b"[", b"null", b" "])
        )
        if draw(st.booleans()):
            value[at:at] = piece
        else:
            value[at : at + len(piece)] = piece
    return bytes(value)


def outcome(columns: JsonColumns, row: int) -> list[object]:
    found: list[object] = [bool(columns.not_object[row])]
    for path in WANTED:
        item = columns.columns[path][row].as_py()
        found += [repr(item), bool(columns.invalid[path][row])]
    return found


@settings(max_examples=400, deadline=None)
@given(values=st.lists(st.one_of(mutated(), st.sampled_from([GOOD, *ODD])), min_size=1, max_size=12))
@example(values=[GOOD, b'{"a":1}{"b":2}', b"", GOOD])
@example(values=[*ODD, GOOD])
def test_every_value_decodes_as_if_it_were_alone(values: list[bytes]) -> None:
    together = read_columns(pa.array(values, pa.binary()), WANTED)
    for row, value in enumerate(values):
        alone = read_columns(pa.array([value], pa.binary()), WANTED)
        assert outcome(together, row) == outcome(alone, 0), value


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(mutated(), st.sampled_from([GOOD, *ODD])))
def test_a_value_alone_is_what_the_parser_says_path_by_path(value: bytes) -> None:
    """The rule itself, for the types that the parser knows: one value, one path, ``pyarrow.json``."""
    ours = read_columns(pa.array([value], pa.binary()), WANTED)
    trimmed = value.strip(b" \t\r\n")
    is_object = trimmed.startswith(b"{") and trimmed.endswith(b"}") and len(trimmed) > 1
    for name, kind in (("n", pa.int64()), ("s", pa.string()), ("b", pa.bool_())):
        theirs = parser_alone(value, name, kind) if is_object else None
        path = ("data", name)
        if theirs is None:
            assert ours.not_object[0] or ours.invalid[path][0]
        else:
            assert not ours.not_object[0]
            assert ours.columns[path].to_pylist() == theirs


def parser_alone(value: bytes, name: str, kind: pa.DataType) -> list[object] | None:
    schema = pa.schema([("data", pa.struct([(name, kind)]))])
    options = pj.ParseOptions(explicit_schema=schema, newlines_in_values=True, unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(pa.BufferReader(value), parse_options=options)
        table.validate(full=True)
        rows = table.column("data").to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    return [row and row[name] for row in rows] if len(rows) == 1 else None


def test_a_bad_field_leaves_the_others_of_its_record_alone() -> None:
    columns = read_columns(pa.array([GOOD, document(n="no", x=1, s="ok")], pa.binary()), WANTED)
    assert columns.invalid["data", "n"].tolist() == [False, True]
    assert columns.columns["data", "x"].to_pylist() == [2.5, 1.0]
    assert columns.columns["data", "s"].to_pylist() == ["é\n", "ok"]
    assert not columns.not_object.any()


@settings(max_examples=300, deadline=None)
@given(
    st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)), st.integers(-1439, 1439), st.sampled_from("TtZz ")
)
def test_instants_are_those_of_the_standard_library(time: dt.datetime, offset: int, separator: str) -> None:
    zone = dt.timezone(dt.timedelta(minutes=offset))
    text = time.replace(tzinfo=zone).isoformat().replace("T", separator if separator in "Tt " else "T")
    us, valid = instants(pa.array([text]))
    expected = (time.replace(tzinfo=zone) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    assert valid.tolist() == [True]
    assert us.tolist() == [expected]


@pytest.mark.parametrize(
    "text",
    ["", "2013-01-01", "2013-01-01T00:00:00", "2013-13-01T00:00:00Z", "2013-01-01T24:00:00Z", "2013-01-01T00:00:00.Z",
     "2013-1-01T00:00:00Z", "2013-01-01T00:00:00+0100", "0000-01-01T00:00:00Z", "2013-01-01T00:00:00Zz", "2013-02-29T00:00:00Z"],
)  # fmt: skip
def test_what_is_not_rfc_3339_is_no_instant(text: str) -> None:
    assert instants(pa.array([text]))[1].tolist() == [False]


def test_fractions_are_cut_and_a_leap_second_is_the_second_after() -> None:
    us, valid = instants(pa.array(["1970-01-01T00:00:00.9999999Z", "2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"]))
    assert valid.all()
    assert us[0] == 999_999
    assert us[1] == us[2]


@given(st.dates())
def test_dates_are_those_of_the_standard_library(date: dt.date) -> None:
    days, valid = dates(pa.array([date.isoformat()]))
    assert valid.all()
    assert days[0] == (date - dt.date(1970, 1, 1)).days


def test_slices_of_arrays_decode_like_arrays_of_their_own() -> None:
    values = pa.array([GOOD, b"junk", document(n=5), GOOD], pa.binary())
    part = read_columns(values.slice(1, 2), WANTED)
    assert part.not_object.tolist() == [True, False]
    assert np.asarray(part.columns["data", "n"].fill_null(-1)).tolist() == [-1, 5]
