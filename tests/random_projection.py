"""Random projections, each beside the same thing said for the reference fold, and random records for them to fold.

A projection is put together from ``TERMS``: what may be a key, an input or a condition, as a Polars expression and as a
plain function of an event. Both sides are built from the same plan and know nothing of each other. Promises: every
projection drawn is a valid one; records are mostly good, so that rows come of them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st
from memory_log import CONTROL, RECORD, REMOVED, Entry
from reference import Instant, Spec

from flows import Projection, agg, tumbling
from flows.agg import Input
from schemas import Category, Event

Value = Callable[[dict[str, Any]], Any]


class Measured(Event):
    place: str
    number: int
    size: float | None = None
    note: str | None = None
    good: bool | None = None
    day: dt.date | None = None
    at: dt.datetime | None = None


class Moved(Event):
    place: str
    number: int | None = None
    note: str | None = None


class Renamed(Event):
    number: str  # the same name with another type: never folded together with the others
    note: str | None = None


things = Category("things", [Measured, Moved, Renamed])
TYPES: dict[str, dict[str, tuple[type, bool]]] = {
    "Measured": {
        "place": (str, True), "number": (int, True), "size": (float, False), "note": (str, False),
        "good": (bool, False), "day": (dt.date, False), "at": (Instant, False),
    },
    "Moved": {"place": (str, True), "number": (int, False), "note": (str, False)},
    "Renamed": {"number": (str, True), "note": (str, False)},
}  # fmt: skip
EVENTS = {event.__name__: event for event in things.events}


@dataclass(frozen=True)
class Term:
    """Something to compute of an event: as an expression, as a function, and the fields it looks at."""

    said: Input
    value: Value
    kind: str
    reads: tuple[str, ...]


def field(name: str, kind: str) -> Term:
    return Term(name, lambda event: event[name], kind, (name,))


def known(name: str, function: Callable[[Any], Any]) -> Value:
    """A function of a field; null where the field is."""
    return lambda event: None if event[name] is None else function(event[name])


BUILT_IN = [field("subject", "text"), field("event_type", "text"), field("event_time", "instant")]
NOTE = [
    field("note", "text"),
    Term(pl.col("note").fill_null("-"), lambda e: "-" if e["note"] is None else e["note"], "text", ("note",)),
    Term(pl.col("note").str.len_bytes(), known("note", lambda note: len(note.encode())), "int", ("note",)),
    Term(pl.col("note").is_null(), lambda e: e["note"] is None, "bool", ("note",)),
    Term(pl.lit("all"), lambda e: "all", "text", ()),
]
NUMBER = [
    field("number", "int"),
    Term(pl.col("number") > 2, known("number", lambda number: number > 2), "bool", ("number",)),
    Term(pl.col("number") % 3, known("number", lambda number: number % 3), "int", ("number",)),
    Term(pl.col("number").cast(pl.Float64, strict=False), known("number", float), "float", ("number",)),
    Term(pl.col("number").cast(pl.Decimal(38, 2), strict=False), known("number", Decimal), "decimal", ("number",)),
]
PLACE = [field("place", "text"), Term(pl.col("place") == "a", lambda e: e["place"] == "a", "bool", ("place",))]
SIZE = [
    field("size", "float"),
    Term(-pl.col("size"), known("size", lambda size: -size), "float", ("size",)),
    Term(pl.col("size") * 0.1, known("size", lambda size: size * 0.1), "float", ("size",)),
    Term(pl.col("size") / pl.col("size"), known("size", lambda x: x / x if x else math.nan), "float", ("size",)),
    Term(pl.col("size") >= 0.0, known("size", lambda size: size >= 0.0), "bool", ("size",)),
    Term(
        pl.when(pl.col("number") > 0).then(pl.col("size")),
        lambda e: e["size"] if e["number"] is not None and e["number"] > 0 else None,
        "float",
        ("number", "size"),
    ),
]
OTHERS = [field("good", "bool"), field("day", "date"), field("at", "instant")]
TERMS = {
    ("Measured",): BUILT_IN + NOTE + NUMBER + PLACE + SIZE + OTHERS,
    ("Moved",): BUILT_IN + NOTE + NUMBER + PLACE,
    ("Measured", "Moved"): BUILT_IN + NOTE + NUMBER + PLACE + SIZE + OTHERS,
    ("Renamed",): [*BUILT_IN, *NOTE, field("number", "text")],
}
"""What can be computed, by the event types of a projection."""
KINDS = {
    "count": agg.count, "sum": agg.sum, "mean": agg.mean, "min": agg.min, "max": agg.max, "first": agg.first,
    "last": agg.last, "var": agg.var, "std": agg.std, "min_by": agg.min_by, "max_by": agg.max_by,
    "count_distinct": agg.count_distinct, "collect": agg.collect, "top": agg.top, "quantile": agg.quantile,
}  # fmt: skip
NUMBERS = {"sum": ("int", "float", "decimal"), "mean": ("int", "float", "decimal")} | dict.fromkeys(
    ("var", "std", "quantile"), ("int", "float")
)
"""Kinds of terms that an aggregation takes, where it does not take all."""
OPTIONS: dict[str, dict[str, Sequence[Any]]] = {
    "var": {"ddof": (0, 1)},
    "std": {"ddof": (0, 1)},
    "collect": {"limit": (1, 2, 5, 1000)},
    "top": {"limit": (1, 2, 5, 1000), "largest": (True, False)},
    "quantile": {"q": ("0", "0.5", "0.99", "0.333333", "1"), "error": (0.001, 0.01, 0.5)},
}
US = {"us": 1, "ms": 1000, "s": 1_000_000}
WINDOWS = [1 * US["ms"], 7 * US["s"], 10 * US["s"], 60 * US["s"], 86_400 * US["s"]]
LATENESS = [0, 0, 1 * US["us"], 5 * US["s"], 30 * US["s"]]


@dataclass(frozen=True)
class Pair:
    """The same projection for refold and for the reference."""

    projection: Projection
    spec: Spec

    def __repr__(self) -> str:
        """For the report of a failure: the definition says it all."""
        return self.projection.definition

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


@dataclass(frozen=True)
class Column:
    """``shown``: what is shown of an event that was chosen by its input, and its names where there are several."""

    kind: str
    input: Term | None
    where: Term | None
    shown: tuple[Term, ...] = ()
    options: dict[str, Any] = attribute(default_factory=dict)

    def said(self) -> agg.Aggregation:
        where = None if self.where is None else condition(self.where)
        if self.input is None:
            return agg.count(where=where)
        if self.kind == "top":
            of = {f"s{number}": term.said for number, term in enumerate(self.shown)}
            what = of if len(of) > 1 else of["s0"]
            limit, largest = self.options["limit"], self.options["largest"]
            return agg.top(limit, by=self.input.said, of=what, largest=largest, where=where)
        if self.shown:
            return KINDS[self.kind](self.shown[0].said, by=self.input.said, where=where)
        if self.kind == "quantile":
            return agg.quantile(self.input.said, float(self.options["q"]), error=self.options["error"], where=where)
        return KINDS[self.kind](self.input.said, where=where, **self.options)

    def plain(self) -> tuple[str, Value, Callable[[dict[str, Any]], bool], dict[str, Any]]:
        value = (lambda event: 1) if self.input is None else self.input.value
        where = self.where
        counts = (lambda event: True) if where is None else (lambda event: where.value(event) is True)
        return self.kind, self._with_shown(value) if self.shown else value, counts, self.options

    def _with_shown(self, by: Value) -> Value:
        def pair(event: dict[str, Any]) -> Any:
            of = {f"s{number}": term.value(event) for number, term in enumerate(self.shown)}
            return None if by(event) is None else (by(event), of if len(of) > 1 else of["s0"])

        return pair

    def terms(self) -> list[Term]:
        return [term for term in (self.input, self.where, *self.shown) if term is not None]


def condition(term: Term) -> pl.Expr:
    return pl.col(term.said) if isinstance(term.said, str) else term.said


@st.composite
def columns(draw: st.DrawFn, terms: Sequence[Term]) -> Column:
    where = draw(st.none() | st.sampled_from([term for term in terms if term.kind == "bool"]))
    kind = draw(st.sampled_from(["count", *KINDS]))
    if kind == "count" and draw(st.booleans()):
        return Column(kind, None, where)
    fitting = [term for term in terms if kind not in NUMBERS or term.kind in NUMBERS[kind]]
    most = {"min_by": 1, "max_by": 1, "top": 2}.get(kind, 0)
    shown = draw(st.lists(st.sampled_from(terms), min_size=min(most, 1), max_size=most))
    options = {name: draw(st.sampled_from(choices)) for name, choices in OPTIONS.get(kind, {}).items()}
    return Column(kind, draw(st.sampled_from(fitting)), where, tuple(shown), options)


@st.composite
def pairs(draw: st.DrawFn, name: str = "drawn", *, sums: bool = False) -> Pair:
    """Any projection that the terms allow; ``sums``: one that sums whole numbers, among other things."""
    usual = [("Measured",), ("Measured", "Moved"), ("Measured", "Moved")]
    types = draw(st.sampled_from(usual if sums else [*TERMS, *usual]))
    terms = TERMS[types]
    size_us = draw(st.none() | st.sampled_from(WINDOWS))
    lateness_us = draw(st.sampled_from(LATENESS)) if size_us else 0
    least = 0 if size_us else 1  # a view has a window or a key
    keys = [term for term in terms if term.kind != "decimal"]
    key = draw(st.lists(st.sampled_from(keys), min_size=least, max_size=2))
    drawn = draw(st.lists(columns(terms), min_size=1, max_size=5))
    drawn += [Column("sum", field("number", "int"), None)] * sums
    named = {f"c{number}": column for number, column in enumerate(drawn)}
    used = [*key, *(term for column in drawn for term in column.terms())]
    projection = Projection(
        name=name,
        category=things,
        events=[EVENTS[event] for event in types],
        key={f"k{number}": term.said for number, term in enumerate(key)},
        window=tumbling(dt.timedelta(microseconds=size_us)) if size_us else None,
        allowed_lateness=dt.timedelta(microseconds=lateness_us),
        columns={name: column.said() for name, column in named.items()},
    )
    spec = Spec(
        types={event: TYPES[event] for event in types},
        reads=tuple(sorted({name for term in used for name in term.reads})),
        key=lambda event: tuple(term.value(event) for term in key),
        columns={name: column.plain() for name, column in named.items()},
        size_us=size_us,
        lateness_us=lateness_us,
    )
    return Pair(projection, spec)


# -- records

MISSING = ""
TEXTS = ['"a"', '"b"', '"\\u00e9"', '"é"', '""', '"\\u0000"', '"\\ud83d\\ude00"', '"z\u2028"', '"ａ"']
LARGE = ["4611686018427387904", "9223372036854775807", "-9223372036854775808"]
GOOD = {
    "place": TEXTS,
    "number": [*map(str, range(-4, 5)), "-0", "9007199254740993", "-9007199254740993"],
    "size": [MISSING, "0.0", "-0.0", "-0", "0.1", "0.2", "0.3", "1e16", "-1e16", "5e-324", "3", "9007199254740993",
             "1.7e308", "-1.7e308", "12345678901234567890123"],
    "note": [MISSING, "null", *TEXTS],
    "good": [MISSING, "true", "false"],
    "day": [MISSING, '"2013-01-31"', '"1969-12-31"'],
    "at": [MISSING, '"2013-01-31T00:00:00Z"', '"1969-12-31T23:59:59.999999+01:00"', "86400000"],
}  # fmt: skip
BAD = {
    "place": ["5", MISSING, "null", '"a","place":"b"'],
    "number": ["null", MISSING, "1.0", "1e3", '"1"', '"x"', "true", "NaN", "9223372036854775808", "[1]"],
    "size": ["NaN", "Infinity", "-Infinity", "1e400", '"x"', "[]"],
    "note": ['"bad \xff"', "{}", "1", '"a","note":"b"'],
    "good": ["1", '"true"'],
    "day": ['"2013-02-30"', "5"],
    "at": ['"2013-01-31"', '"soon"', "1.5"],
}
TYPE_NAMES = ["Measured"] * 6 + ["Moved"] * 3 + ["Renamed"] * 2 + ["Unknown", "refold.progress"]
WHOLE_VALUES: list[bytes | None] = [
    None, b"", b"null", b"[]", b"{}", b"{", b'{"type":"Measured"}', b'{"type":1,"time":5}', b'{"type":"Moved","time":1}{}',
    b"\xff{}", b'{"type":"Moved","time":1}\n', b'{"type":"Moved",\n"time":2000,"data":{"place":"a"}}', b'{"type":"Mo\nved","time":1}',
    b'{"type":"Moved","time":true}', b'{"type":"Moved","time":1.5}', b'{"type":"Moved","time":1,"time":2}',
    b'{"type":"Moved","time":99999999999999999,"data":{"place":"a"}}', b'{"type":"Measured","time":3,"data":7}',
    b'{"type":"Measured","time":"1970-01-01T00:00:09.999999Z","data":{"place":"a","number":1,"size":-0.0}}',
    b'{"type":"Moved","time":"1970-01-01T02:00:30+02:00","data":{"place":"b"},"extra":{"a":[1,2,{"b":null}]}}',
    b'{"type":"Moved","time":"yesterday","data":{"place":"b"}}', b'\xef\xbb\xbf{"type":"Moved","time":1}',
    b'{"type":"Moved","time":50000,"data":null,"subject":"s"}', b'{"type":"Moved","time":4000,"subject":5,"data":{"place":"a"}}',
]  # fmt: skip
SUBJECTS = ['"s"', '"s"', '"t"', '"t"', '""', "null", MISSING, "7"]
FAR_AHEAD_MS = 32_472_144_000_000
"""In the year 2999: a dead letter, unless the record has no timestamp to compare with."""
OUT_OF_ORDER_MS = [-5000, 0, 0, 999, 1000, 3000, 20_000, 20_000, 60_000, 60_000, 86_400_000, FAR_AHEAD_MS]
PACE_MS = 2000
"""Event time moves on by so much from offset to offset, give or take a few seconds. Many events have the same time."""


def joined(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items() if text != MISSING) + "}"


def value(kind: str, time: int, subject: str, members: dict[str, str]) -> bytes:
    text = joined({"type": json.dumps(kind), "time": str(time), "subject": subject, "data": joined(members)})
    return text.encode().replace("\xff".encode(), b"\xff")


def event(lots: random.Random, offset: int, *, large: bool) -> bytes:
    """Mostly a good one; a bad member hurts those who read it."""
    members = {name: lots.choice(texts) for name, texts in GOOD.items()}
    if lots.random() < 0.2:
        name = lots.choice(list(BAD))
        members[name] = lots.choice(BAD[name])
    if large and lots.random() < 0.3:
        members["number"] = lots.choice(LARGE)
    time = (offset // 2 + lots.randint(-2, 2)) * 2 * PACE_MS if lots.random() < 0.9 else lots.choice(OUT_OF_ORDER_MS)
    return value(lots.choice(TYPE_NAMES), time, lots.choice(SUBJECTS), members)


def entry(seed: int, offset: int, *, large: bool, gaps: str, leader_epoch: int = 0) -> Entry:
    """What is at an offset, drawn as one number, so that a log is found fast and shrinks by leaving records out.

    ``gaps`` is the kind of the offsets without a record. ``large``: sums may overflow.
    """
    lots = random.Random(seed)
    return Entry(
        value=event(lots, offset, large=large) if lots.random() < 0.9 else lots.choice(WHOLE_VALUES),
        timestamp=lots.choice([90_000, 90_000, 90_000, 90_000, 90_000, 0, -1]),
        key=lots.choice([b"s", b"t", b"", None, b"\xff"]),
        kind=gaps if lots.random() < 0.2 else RECORD,
        timestamp_type=lots.randint(0, 1),
        leader_epoch=leader_epoch,
    )


SEEDS = st.integers(0, 2**32)


@st.composite
def partitions(draw: st.DrawFn, *, large: bool = False) -> list[list[Entry]]:
    """A whole category, either transactional or compacted; one of its partitions may be empty, or all be short."""
    gaps = draw(st.sampled_from([CONTROL, REMOVED]))
    sizes = draw(st.lists(st.sampled_from([30, 30, 10, 3]), min_size=1, max_size=6))
    if draw(st.integers(0, 3)) == 3:
        sizes[draw(st.integers(0, len(sizes) - 1))] = 0
    return [draw(_partition(size, large=large, gaps=gaps)) for size in sizes]


@st.composite
def _partition(draw: st.DrawFn, size: int, *, large: bool, gaps: str) -> list[Entry]:
    """From some offset on there is another leader."""
    change = draw(st.integers(0, size))
    seeds = draw(st.lists(SEEDS, min_size=size, max_size=size))
    return [
        entry(seed, offset, large=large, gaps=gaps, leader_epoch=int(offset >= change))
        for offset, seed in enumerate(seeds)
    ]
