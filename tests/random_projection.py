"""Random projections, each beside the same thing said for the reference fold; ``random_records`` has what they fold.

A projection is put together from ``TERMS``: what may be a key, an input or a condition, as a Polars expression and as a
plain function of an event. Both sides are built from the same plan and know nothing of each other. Promises: every
projection drawn is a valid one.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st
from random_windows import US, WINDOWS
from reference import Instant, Spec
from reference_chain import Chain

from flows import Projection, agg
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
    # Polars multiplies by the reciprocal of a constant, and would not in a slice of one record.
    Term(pl.col("number") / 10, known("number", lambda number: number * (1 / 10)), "float", ("number",)),
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
    "top": {"limit": (1, 2, 5, 1000), "largest": (True, False), "ties": (True, False)},
    "quantile": {"q": ("0", "0.5", "0.99", "0.333333", "1"), "error": (0.001, 0.01, 0.5)},
}
LATENESS = [0, 0, 1 * US["us"], 5 * US["s"], 30 * US["s"]]


@dataclass(frozen=True)
class Pair:
    """The same projection for refold and for the reference."""

    projection: Projection
    spec: Spec | Chain

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
            options = {name: self.options[name] for name in ("largest", "ties")}
            return agg.top(self.options["limit"], by=self.input.said, of=what, where=where, **options)
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
    windowed = draw(st.none() | st.sampled_from(WINDOWS))
    lateness_us = draw(st.sampled_from(LATENESS)) if windowed else 0
    least = 0 if windowed else 1  # a view has a window or a key
    keys = [term for term in terms if term.kind != "decimal"]
    key = draw(st.lists(st.sampled_from(keys), min_size=least, max_size=2))
    drawn = draw(st.lists(columns(terms), min_size=1, max_size=5))
    drawn += [Column("sum", field("number", "int"), None)] * sums
    named = {f"c{number}": column for number, column in enumerate(drawn)}
    used = [*key, *(term for column in drawn for term in column.terms())]
    before = draw(before_the_fold(terms))
    if windowed is None and not sums and draw(st.integers(0, 5)) == 5:
        return event_table(name, types, before, {f"k{number}": term for number, term in enumerate(key)})
    after = draw(after_the_fold(list(named)))
    projection = Projection(
        name=name,
        category=things,
        events=[EVENTS[event] for event in types],
        key={f"k{number}": term.said for number, term in enumerate(key)},
        window=windowed.window if windowed else None,
        allowed_lateness=dt.timedelta(microseconds=lateness_us),
        columns={name: column.said() for name, column in named.items()} | after.columns,
        **before.said(),
        **after.said(),
    )
    spec = Spec(
        types={event: TYPES[event] for event in types},
        reads=tuple(sorted({name for term in [*used, *before.terms()] for name in term.reads})),
        key=lambda event: tuple(term.value(event) for term in key),
        columns={name: column.plain() for name, column in named.items()} | after.plain_columns,
        lateness_us=lateness_us,
        where=before.passes,
        finish=after.finish,
        having=after.having,
        **(windowed.spec if windowed else {"size_us": None}),
    )
    return Pair(projection, spec)


def event_table(name: str, types: Sequence[str], before: Before, selected: dict[str, Term]) -> Pair:
    """No fold: one row an event."""
    projection = Projection(
        name=name,
        category=things,
        events=[EVENTS[event] for event in types],
        select={name: term.said for name, term in selected.items()},
        **before.said(),
    )
    terms = [*selected.values(), *before.terms()]
    spec = Spec(
        types={event: TYPES[event] for event in types},
        reads=tuple(sorted({name for term in terms for name in term.reads})),
        key=lambda event: (),
        columns={},
        size_us=None,
        where=before.passes,
        select={name: term.value for name, term in selected.items()},
    )
    return Pair(projection, spec)


@dataclass(frozen=True)
class Before:
    """What comes before the fold: a filter, said directly or through columns derived for it."""

    where: Term | None = None
    derived: bool = False

    def said(self) -> dict[str, Any]:
        if self.where is None:
            return {}
        if not self.derived:
            return {"where": self.where.said}
        return {"derive": {"d0": self.where.said, "d1": pl.col("d0").fill_null(False)}, "where": "d1"}

    def terms(self) -> list[Term]:
        return [] if self.where is None else [self.where]

    def passes(self, event: dict[str, Any]) -> Any:
        return True if self.where is None else self.where.value(event)


@dataclass(frozen=True)
class After:
    """What comes after it: a hidden column, one computed of it, and a condition on both."""

    is_there: bool = False
    least: int = 0
    of: str = ""

    @property
    def columns(self) -> dict[str, Any]:
        return {"_n": agg.count()} if self.is_there else {}

    @property
    def plain_columns(self) -> dict[str, Any]:
        return {"_n": ("count", lambda event: 1, lambda event: True)} if self.is_there else {}

    def said(self) -> dict[str, Any]:
        if not self.is_there:
            return {}
        finish = {"_few": pl.col("_n") < self.least, "part": pl.col("_n") / 3, "is_empty": pl.col(self.of).is_null()}
        return {"finish": finish, "having": ~pl.col("_few")}

    @property
    def finish(self) -> dict[str, Value]:
        if not self.is_there:
            return {}
        return {"part": lambda row: row["_n"] * (1 / 3), "is_empty": lambda row: row[self.of] is None}

    def having(self, row: dict[str, Any]) -> bool:
        return not self.is_there or row["_n"] >= self.least


@st.composite
def before_the_fold(draw: st.DrawFn, terms: Sequence[Term]) -> Before:
    where = draw(st.none() | st.none() | st.sampled_from([term for term in terms if term.kind == "bool"]))
    return Before(where, draw(st.booleans()))


@st.composite
def after_the_fold(draw: st.DrawFn, columns: Sequence[str]) -> After:
    if draw(st.integers(0, 2)) < 2:
        return After()
    return After(True, draw(st.integers(0, 4)), draw(st.sampled_from(columns)))
