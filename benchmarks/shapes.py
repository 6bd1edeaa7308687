"""The same orders as ``orders``, written by many hands: about 200 shapes of JSON, and now and then an odd record.

A shape is an order of members, a choice of optional ones and a style of white space. One order in 100 holds what only
an exact parser reads right: an escape in a text that is folded, or a number with an exponent. Country, amount, customer
and time of every order stay what they are, so that the same view comes out.
"""

from __future__ import annotations

from itertools import chain
from random import Random

import numpy as np
import polars as pl

from benchmarks.orders import COUNTRIES, amount, country, customer, instant, mixed, number

SHAPES = 200
ODD_ONE_IN = 100

Text = pl.Expr | str
Member = tuple[str, "Text | list[Member]"]

STYLES = [(",", ":", ""), (", ", ": ", ""), (" , ", " : ", " "), (",\n  ", ": ", "\n")]
"""Between members, after a name, inside braces."""
STYLE_WEIGHTS = [60, 30, 5, 5]

OPTIONAL: list[Member] = [
    ("datacontenttype", '"application/json"'),
    ("dataschema", '"https://example.org/orders/1"'),
    ("traceparent", '"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"'),
]
OPTIONAL_DATA: list[Member] = [("coupon", "null"), ("note", '"leave at the door"'), ("lines", "[1,2,3]")]


def values(drawn: pl.DataFrame) -> pl.Series:
    """The records' values (text), in the order of ``drawn``."""
    lots = mixed(mixed(drawn["order"].to_numpy().astype(np.uint64)))
    shape = pl.Series("shape", (lots % np.uint64(SHAPES)).astype(np.int64))
    odd = pl.Series("odd", (lots >> np.uint64(32)).astype(np.int64) % ODD_ONE_IN)
    marked = drawn.with_columns(shape, odd).with_row_index()
    written = [part.select("index", _value(int(of[0]))) for of, part in marked.group_by("shape")]
    return pl.concat(written).sort("index")["value"]


def _value(shape: int) -> pl.Expr:
    lots = Random(shape)
    style = lots.choices(STYLES, STYLE_WEIGHTS)[0]
    pieces = _object(_members(lots), style)
    return pl.concat_str([pl.lit(piece) if isinstance(piece, str) else piece for piece in pieces]).alias("value")


def _members(lots: Random) -> list[Member]:
    data: list[Member] = [
        ("country", _quoted(_country())),
        ("amount", _amount()),
        ("currency", '"EUR"'),
        ("items", pl.col("items").cast(pl.String)),
    ]
    event: list[Member] = [
        ("specversion", '"1.0"'),
        ("source", '"/orders"'),
        ("type", '"OrderPlaced"'),
        ("time", _quoted(instant())),
        ("subject", _quoted(customer())),
        ("id", _quoted(pl.format("order-{}", number()))),
        ("data", _shuffled(data, OPTIONAL_DATA, lots)),
    ]
    return _shuffled(event, OPTIONAL, lots)


def _shuffled(members: list[Member], optional: list[Member], lots: Random) -> list[Member]:
    chosen = members + [member for member in optional if lots.random() < 0.4]
    return lots.sample(chosen, len(chosen))


def _object(members: list[Member], style: tuple[str, str, str]) -> list[Text]:
    """The pieces of text that an object is made of."""
    between, colon, inside = style
    pieces: list[list[Text]] = []
    for name, value in members:
        inner = _object(value, style) if isinstance(value, list) else [value]
        pieces.append([between if pieces else "{" + inside, f'"{name}"{colon}', *inner])
    return [*chain.from_iterable(pieces), inside + "}"]


def _quoted(text: pl.Expr) -> pl.Expr:
    return pl.format('"{}"', text)


def _country() -> pl.Expr:
    """Its first letter as an escape where the order is odd and has an even number."""
    escaped = [f"\\u{ord(name[0]):04x}{name[1:]}" for name in COUNTRIES]
    return pl.when(_is_odd(), pl.col("order") % 2 == 0).then(country(escaped)).otherwise(country())


def _amount() -> pl.Expr:
    """With an exponent where the order is odd and has an odd number; the double is the same."""
    plain = amount().cast(pl.String)
    return pl.when(_is_odd(), pl.col("order") % 2 == 1).then(plain + "e0").otherwise(plain)


def _is_odd() -> pl.Expr:
    return pl.col("odd") == 0
