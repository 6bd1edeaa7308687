"""Random projections of random projections, as ``random_projection`` makes the first of them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
from hypothesis import strategies as st
from random_projection import Pair, Term, after_the_fold, before_the_fold, columns, field, known, pairs
from random_windows import WINDOWS
from reference_chain import Chain, Spec

from flows import Projection
from flows.calendars import Calendar
from flows.windows import Tumbling

KINDS = {
    pa.string(): "text", pa.int64(): "int", pa.float64(): "float", pa.bool_(): "bool", pa.date32(): "date",
    pa.timestamp("us", "UTC"): "instant",
}  # fmt: skip
SIDE_BY_SIDE = [windowed for windowed in WINDOWS if isinstance(windowed.window, Tumbling | Calendar)]


def terms_of(upstream: Projection) -> list[Term]:
    """What can be computed of its rows."""
    found = [
        Term(pl.lit("all"), lambda row: "all", "text", ()),
        Term(pl.lit(3, pl.Int64), lambda row: 3, "int", ()),
        Term(pl.lit(value=True), lambda row: True, "bool", ()),
    ]
    for column in upstream.schema:
        kind = "decimal" if pa.types.is_decimal(column.type) else KINDS.get(column.type)
        if kind is not None:
            found.append(field(column.name, kind))
            found += further(column.name, kind)
    return found + [field("event_time", "instant")] * bool(upstream.window)


def further(name: str, kind: str) -> Sequence[Term]:
    if kind == "int":
        return [
            Term(pl.col(name) % 3, known(name, lambda number: number % 3), "int", (name,)),
            Term(pl.col(name) > 1, known(name, lambda number: number > 1), "bool", (name,)),
        ]
    if kind == "float":
        return [Term(-pl.col(name), known(name, lambda number: -number), "float", (name,))]
    return [Term(pl.col(name).is_null(), lambda row: row[name] is None, "bool", (name,))]


@st.composite
def chained(draw: st.DrawFn, upstream: Pair, name: str) -> Pair:
    """A projection of the rows of another one that has a fold."""
    source = upstream.projection
    terms = terms_of(source)
    windowed = draw(st.none() | st.sampled_from(SIDE_BY_SIDE)) if source.window else None
    keys = [term for term in terms if term.kind != "decimal"]
    key = draw(st.lists(st.sampled_from(keys), min_size=0 if windowed else 1, max_size=2))
    named = {f"c{n}": column for n, column in enumerate(draw(st.lists(columns(terms), min_size=1, max_size=4)))}
    before, after = draw(before_the_fold(terms)), draw(after_the_fold(list(named)))
    projection = Projection(
        name=name,
        source=source,
        key={f"k{number}": term.said for number, term in enumerate(key)},
        window=windowed.window if windowed else None,
        columns={name: column.said() for name, column in named.items()} | after.columns,
        **before.said(),
        **after.said(),
    )
    own = Spec(
        types={},
        reads=(),
        key=lambda row: tuple(term.value(row) for term in key),
        columns={name: column.plain() for name, column in named.items()} | after.plain_columns,
        where=before.passes,
        finish=after.finish,
        having=after.having,
        **(windowed.spec if windowed else {"size_us": None}),
    )
    return Pair(projection, Chain(upstream.spec, tuple(source.key), own))


@st.composite
def chains(draw: st.DrawFn, name: str = "drawn", *, sums: bool = False) -> Pair:
    """Two projections, or three, of which each but the first folds the rows of the one before."""
    pair = draw(pairs(name, sums=sums).filter(lambda pair: not pair.projection.select))
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        pair = draw(chained(pair, name))
    return pair
