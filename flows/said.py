"""What a user says of columns: names, expressions, the types they come to, and the words for them in errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa

from flows.decimals import DIGITS
from schemas.event import TIMESTAMP

Said = str | pl.Expr
"""The name of a column, or an element-wise expression."""


def as_expression(said: Said) -> pl.Expr:
    return pl.col(said) if isinstance(said, str) else said


def as_expressions(said: Sequence[str] | Mapping[str, Said]) -> dict[str, pl.Expr]:
    pairs = said.items() if isinstance(said, Mapping) else [(name, name) for name in said]
    return {name: as_expression(value) for name, value in pairs}


def is_hidden(column: str) -> bool:
    """Whether a column is there for ``finish=`` and ``having=`` alone."""
    return column.startswith("_")


def canonical_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column of a view is kept; None where there is none."""
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or kind == pa.string_view():
        return pa.string()
    if pa.types.is_timestamp(kind) and kind.tz:
        return TIMESTAMP
    if kind in (pa.bool_(), pa.date32()):
        return kind
    return pa.decimal128(DIGITS, kind.scale) if pa.types.is_decimal128(kind) else None


def words(name: str) -> str:
    """``input:amount`` is "input of `amount`"."""
    kind, colon, column = name.partition(":")
    return f"{kind} of `{column}`" if colon else kind


def hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
