"""Records to columns: who is dead, who is not, and that what others read makes no difference."""

from __future__ import annotations

import base64
import datetime as dt
import json
from itertools import pairwise
from typing import Annotated, Any

import golden_corpus as corpus
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.log import RECORDS
from schemas import RECORD_KEY, RECORD_TIME, At, Category, Event, constant, plain
from schemas.decode import DEAD, LIVE, MARKER, OTHER_TYPE, SUBJECT, TOMBSTONE, Decoder
from schemas.errors import UsageError


class Opened(Event):
    size: int
    note: str | None = None


class Closed(Event):
    size: str


doors = Category("doors", [Opened, Closed])
NOW_MS = 1_600_000_000_000


def records(values: list[bytes | None], *, key: bytes | None = b"k", timestamp: int = NOW_MS) -> pa.RecordBatch:
    n = len(values)
    columns = [
        pa.array(range(n), pa.int64()),
        pa.array([timestamp] * n, pa.int64()),
        pa.array([0] * n, pa.int8()),
        pa.array([key] * n, pa.binary()),
        pa.array(values, pa.binary()),
        pa.nulls(n, pa.binary()),
    ]
    return pa.record_batch(columns, schema=RECORDS)


def event(kind: Any = "Opened", time: Any = NOW_MS, **data: Any) -> bytes:
    return json.dumps({"type": kind, "time": time, "subject": "door-1", "data": data}).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not one JSON object"),
        (b'{"type":"Opened"', "not one JSON object"),
        (b'{"time":5}', "`type` (the event type) is missing"),
        (b'{"type":null,"time":5}', "`type` (the event type) is missing"),
        (event(kind=7), "`type` (the event type) is not text"),
        (b'{"type":"Opened"}', "`time` (the event time) is missing"),
        (event(time="yesterday"), "neither RFC 3339 nor whole milliseconds"),
        (event(time=1.5), "neither RFC 3339 nor whole milliseconds"),
        (event(time="2999-01-01T00:00:00Z"), "ahead of the record's timestamp"),
    ],
)
def test_a_record_without_envelope_is_dead_for_everybody_and_says_why(value: bytes, reason: str) -> None:
    decoded = Decoder(doors, {Opened: ["size"]}).decode(records([event(size=1), value, event(size=2)]))
    assert decoded.fate.tolist() == [LIVE, DEAD, LIVE]
    assert reason in decoded.reasons[1]
    assert decoded.columns[("size", pa.int64())].to_pylist()[::2] == [1, 2]


def test_tombstones_markers_and_other_types_are_told_apart() -> None:
    values = [None, event("refold.progress", 5), event("Never heard of", 6), event(size=1)]
    decoded = Decoder(doors, {Opened: ["size"]}).decode(records(values))
    assert decoded.fate.tolist() == [TOMBSTONE, MARKER, LIVE, LIVE]
    assert decoded.type_code.tolist() == [OTHER_TYPE, OTHER_TYPE, OTHER_TYPE, 0]
    assert decoded.event_time[1:3].tolist() == [5_000, 6_000]


def test_one_field_name_with_two_types_is_read_by_event_type() -> None:
    values = [event(size=1), event("Closed", size="wide"), event("Closed", size=3), event(size="no")]
    decoded = Decoder(doors, {Opened: ["size"], Closed: ["size"]}).decode(records(values))
    assert decoded.columns[("size", pa.int64())].to_pylist() == [1, None, None, None]
    assert decoded.columns[("size", pa.string())].to_pylist() == [None, "wide", None, None]
    assert decoded.invalid[("size", pa.int64())].tolist() == [False, False, False, True]
    assert decoded.invalid[("size", pa.string())].tolist() == [False, False, True, False]


def test_fields_of_types_that_nobody_asked_for_never_fail() -> None:
    values = [event("Closed", size="wide"), event(size=1)] * 50
    for _ in range(2):  # the second time the decoder knows that one pass does not do
        decoder = Decoder(doors, {Opened: ["size"]})
        for _ in range(2):
            decoded = decoder.decode(records(values))
            assert not decoded.invalid[("size", pa.int64())].any()
            assert decoded.columns[("size", pa.int64())].to_pylist() == [None, 1] * 50


def test_a_subject_that_is_not_text_hurts_only_who_reads_it() -> None:
    value = json.dumps({"type": "Opened", "time": 5, "subject": 7, "data": {"size": 1}}).encode()
    plainly = Decoder(doors, {Opened: ["size"]}).decode(records([value]))
    assert plainly.fate.tolist() == [LIVE]
    asking = Decoder(doors, {Opened: ["size"]}, subject=True).decode(records([value]))
    assert asking.fate.tolist() == [LIVE]
    assert asking.invalid[SUBJECT].tolist() == [True]


def test_plain_json_by_a_mapping() -> None:
    envelope = plain(type="meta.kind", time="at", subject="door.id")
    category = Category("plain", [Opened], envelope=envelope)
    value = b'{"meta":{"kind":"Opened","v":2},"at":"2020-01-01T00:00:00+01:00","door":{"id":"d7"},"size":3,"note":"n"}'
    decoded = Decoder(category, {Opened: ["size", "note"]}, subject=True).decode(records([value]))
    assert decoded.columns[("size", pa.int64())].to_pylist() == [3]
    assert decoded.columns[SUBJECT].to_pylist() == ["d7"]
    assert decoded.event_time.tolist() == [int(dt.datetime(2019, 12, 31, 23, tzinfo=dt.UTC).timestamp()) * 1_000_000]


def test_type_time_and_subject_may_come_from_elsewhere() -> None:
    category = Category("bare", [Opened], envelope=plain(type=constant("Opened"), time=RECORD_TIME, subject=RECORD_KEY))
    decoder = Decoder(category, {Opened: ["size"]}, subject=True)
    decoded = decoder.decode(records([b'{"size":3}'], key="dør".encode()))
    assert decoded.event_time.tolist() == [NOW_MS * 1000]
    assert decoded.columns[SUBJECT].to_pylist() == ["dør"]
    assert decoder.decode(records([b'{"size":3}'], key=b"\xff")).invalid[SUBJECT].tolist() == [True]
    assert decoder.decode(records([b'{"size":3}'], timestamp=-1)).fate.tolist() == [DEAD]


def test_what_is_encoded_decodes() -> None:
    time = dt.datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
    table = doors.encode(
        [Opened(subject="a", time=time, size=1, note='"é\n'), Closed(subject=None, time=time, size="x")]
    )
    decoded = Decoder(doors, {Opened: ["note"], Closed: ["size"]}, subject=True).decode(
        records(table["value"].to_pylist())
    )
    assert decoded.fate.tolist() == [LIVE, LIVE]
    assert decoded.columns[("note", pa.string())].to_pylist() == ['"é\n', None]
    assert decoded.columns[("size", pa.string())].to_pylist() == [None, "x"]
    assert decoded.columns[SUBJECT].to_pylist() == ["a", None]
    assert decoded.event_time.tolist() == [int(time.timestamp() * 1_000_000)] * 2


# -- exact decoding, for the whole decoder


def small_cases(name: str) -> list[dict[str, Any]]:
    files = [corpus.read(path) for path in corpus.RECORD_FILES]
    cases = [case for file in files if file["category"] == name for case in file["cases"]]
    return [case for case in cases if len(corpus.bytes_of(case["value"]) or b"") < 1000]


SMALL = {name: small_cases(name) for name in corpus.CATEGORIES}
"""The odd records of the golden corpus, by category, but for the huge ones."""
READINGS: list[tuple[type[Event], ...]] = [(), (corpus.Measured,), (corpus.Labelled,)]
PIECES = [
    b'"',
    b"{",
    b"}",
    b"\n",
    b",",
    b":",
    b"\\",
    b"\x00",
    b"\xff",
    b"1",
    b"[",
    b"null",
    b" ",
    b"{}",
    b'"number":',
    b"1e999",
]


@st.composite
def odd_records(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """An odd record, as it is or with some bytes changed."""
    case = draw(st.sampled_from(SMALL[name]))
    value = corpus.bytes_of(case["value"])
    if value is None or draw(st.booleans()):
        return case
    changed = bytearray(value)
    for at, piece, into in draw(
        st.lists(st.tuples(st.integers(0, len(value)), st.sampled_from(PIECES), st.booleans()), max_size=3)
    ):
        changed[at : at if into else at + len(piece)] = piece
    encoded = base64.b64encode(bytes(changed)).decode()
    return {**case, "value": {"base64": encoded}}


@settings(max_examples=15, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", corpus.CATEGORIES)
def test_a_slice_decodes_as_its_records_alone(name: str, data: st.DataObject) -> None:
    """Fate, reason, type, time, every column: whatever the neighbours, the cuts, and what the decoder met before."""
    category = corpus.CATEGORIES[name]
    cases = data.draw(st.lists(odd_records(name), min_size=1, max_size=15))
    cuts = sorted({0, len(cases), *data.draw(st.lists(st.integers(0, len(cases)), max_size=3))})
    wanted = [types for types in READINGS if set(types) <= set(category.events)]
    whole = corpus.records_of(cases)
    for types in wanted:
        reading = corpus.decoder(category, *types)
        for first, end in pairwise(cuts):
            together = reading.decode(whole.slice(first, end - first))
            for row in range(first, end):
                alone = corpus.decoder(category, *types).decode(corpus.records_of([cases[row]]))
                found = corpus.record_outcome(together, row - first)
                assert repr(found) == repr(corpus.record_outcome(alone, 0)), cases[row]


class Rung(Event):
    kind: int
    at: str
    meta: str | None = None


def test_a_field_may_sit_where_the_envelope_reads_something_else() -> None:
    """The event's type and time as the envelope reads them, and the same members once more as fields of other types."""
    category = Category("bells", [Rung], envelope=plain(type="kind", time="at"))
    decoder = Decoder(category, {Rung: ["kind", "at"]})
    decoded = decoder.decode(records([b'{"kind":"Rung","at":"2020-01-01T00:00:00Z"}', b'{"kind":"Rung","at":5}']))
    assert decoded.fate.tolist() == [LIVE, LIVE]
    assert decoded.event_time.tolist() == [1_577_836_800_000_000, 5_000]
    assert decoded.columns[("at", pa.string())].to_pylist() == ["2020-01-01T00:00:00Z", None]
    assert decoded.invalid[("kind", pa.int64())].tolist() == [True, True]


def test_a_field_may_be_the_object_that_holds_the_envelope() -> None:
    category = Category("bells", [Rung], envelope=plain(type="meta.kind", time="meta.at"))
    decoded = Decoder(category, {Rung: ["kind", "meta"]}).decode(
        records([b'{"meta":{"kind":"Rung","at":5},"kind":1}', b'{"meta":"text","kind":1}'])
    )
    assert decoded.fate.tolist() == [LIVE, DEAD]
    assert decoded.columns[("kind", pa.int64())].to_pylist()[0] == 1
    assert decoded.invalid[("meta", pa.string())].tolist()[0]


class Sold(Event):
    unit_price: Annotated[float, At("unit-price")]
    city: Annotated[str | None, At("shop", "city")] = None
    kind: Annotated[str, At("type")] | None = None


class Bought(Event):
    unit_price: float
    city: str | None = None


ODD_VALUES = st.sampled_from([None, 1, 2.5, "x", "", True, {}, {"city": "Oslo"}, {"city": 7}, [1], "ø"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Sold, Bought]),
            st.dictionaries(st.sampled_from(["unit-price", "unit_price", "shop", "city", "type"]), ODD_VALUES),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([[Sold], [Bought], [Sold, Bought]]),
)
def test_a_field_is_read_where_its_class_says(
    drawn: list[tuple[type[Event], dict[str, Any]]], asked: list[Any]
) -> None:
    """As if each type had its fields under their own names: two types may have one field in two places."""
    category = Category("shops", [Sold, Bought])
    values = [event(kind.type_name, **data) for kind, data in drawn]
    names = {kind: [field.name for field in kind.fields] for kind in asked}
    decoded = Decoder(category, names).decode(records([*values]))
    for row, (kind, data) in enumerate(drawn):
        for field in kind.fields:
            column = (field.name, field.type)
            if kind not in asked:
                continue
            found, valid = _by_hand(data, field.path, field.type)
            assert decoded.columns[column][row].as_py() == found, (row, column)
            assert decoded.invalid[column][row] == (not valid), (row, column)


def _by_hand(data: Any, path: tuple[str, ...], kind: pa.DataType) -> tuple[Any, bool]:
    for name in path:
        if not isinstance(data, dict):
            return None, data is None
        data = data.get(name)
    if kind == pa.string():
        return (data, True) if isinstance(data, str | None) else (None, False)
    fits = data is None or (isinstance(data, int | float) and not isinstance(data, bool))
    return (data, True) if fits else (None, False)


def test_an_event_is_written_where_its_class_says() -> None:
    sold = Sold(subject="s", time=dt.datetime(2024, 1, 1, tzinfo=dt.UTC), unit_price=2.5, city="Oslo", kind="new")
    (value,) = Category("shops", [Sold]).encode([sold])["value"].to_pylist()
    assert json.loads(value)["data"] == {"unit-price": 2.5, "shop": {"city": "Oslo"}, "type": "new"}
    category = Category("shops", [Sold])
    decoded = Decoder(category, {Sold: ["unit_price", "city", "kind"]}).decode(records([value]))
    assert {name: column.to_pylist() for (name, _), column in decoded.columns.items()} == {
        "city": ["Oslo"],
        "kind": ["new"],
        "unit_price": [2.5],
    }


def test_two_fields_are_not_in_one_place() -> None:
    with pytest.raises(UsageError, match=r"fields `whole` and `part` are both at `a\.b`"):

        class Twice(Event):
            whole: Annotated[str, At("a")]
            part: Annotated[str, At("a", "b")]

    with pytest.raises(UsageError, match="is no place"):
        At()
