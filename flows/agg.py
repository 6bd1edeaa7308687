"""Aggregations: functions over the events of one row of a view. Nulls are skipped; ``where`` leaves events out.

    agg.count()                      events                                            int64
    agg.count("delay")               events whose delay is not null                    int64
    agg.sum("delay")                 exact for int64 and decimals (overflow is an error); for float64 a left fold in offset
                                     order within a partition, then in partition order
    agg.mean("delay")                sum / count                                       float64
    agg.min / agg.max(expr)          IEEE total order for floats (NaN above all), code points for text
    agg.first / agg.last(expr)       by (event time, partition, offset)
    agg.var / agg.std(expr)          exact for int64; for float64 a left fold like a sum
    agg.min_by / agg.max_by(x, by=y) the x of the event with the least or greatest y
    agg.count_distinct(expr)         exact                                             int64
    agg.collect(expr, limit=n)       the first n values                                list
    agg.top(n, by=y, of=x)           the x of the n events with the greatest y         list
    agg.quantile(expr, 0.99)         within a relative error                           float64

An input is a column name or an element-wise Polars expression. What is equal otherwise is told apart by (event time,
partition, offset). A result is null where no event contributed (0 for the counts).

In the examples ``fold(aggregation, x=[...])`` is the aggregation over events with these fields, a second apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from schemas.errors import UsageError

Input = str | pl.Expr

ERROR_MIN, ERROR_MAX = 0.001, 0.5
"""Relative errors that a quantile may have: its table of buckets grows as the error shrinks."""
Q_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Aggregation:
    """``further``: inputs beside the first, by internal name; ``options``: what else was asked (JSON values)."""

    kind: str
    input: pl.Expr | None
    where: pl.Expr | None
    further: Mapping[str, pl.Expr] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def _expression(column: Input) -> pl.Expr:
    return pl.col(column) if isinstance(column, str) else column


def _aggregation(kind: str, column: Input | None, where: pl.Expr | None, **more: Any) -> Aggregation:
    return Aggregation(kind, None if column is None else _expression(column), where, **more)


def count(column: Input | None = None, *, where: pl.Expr | None = None) -> Aggregation:
    """How many events there are, or how many have a value in ``column``, as int64; 0 where there is none.

    >>> fold(count(), x=[1, None, 3])
    3
    >>> fold(count("x"), x=[1, None, 3])
    2
    >>> fold(count(where=pl.col("x") > 1), x=[1, None, 3])
    1
    """
    return _aggregation("count", column, where)


def sum(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The sum, of the input's type: int64, float64 or a decimal. One that does not fit is an error and never wraps around.

    Floats are added in offset order within a partition and then in partition order: the same bits, however they were read.

    >>> fold(sum("x"), x=[1, 2, None])
    3

    Exact money from text (a cast that does not fit is null; Polars rounds half to even, so ``1.005`` is ``1.00``):

    >>> fold(sum(pl.col("price").cast(pl.Decimal(38, 2), strict=False)), price=["0.10", "0.20"])
    Decimal('0.30')
    """
    return _aggregation("sum", column, where)


def min(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The least value, of the input's type (any but lists). Floats are in IEEE total order, -0.0 below 0.0; text goes by code points.

    >>> fold(min("x"), x=[3, 1, None])
    1
    """
    return _aggregation("min", column, where)


def max(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The greatest value, as ``agg.min`` orders them: NaN is above all floats.

    >>> fold(max(pl.col("x").abs()), x=[3.0, -7.5])
    7.5
    """
    return _aggregation("max", column, where)


def mean(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The mean as float64: of int64 and decimals the exact sum divided once, of float64 the sum of ``agg.sum``.

    >>> fold(mean("x"), x=[1, 2, None])
    1.5
    """
    return _aggregation("mean", column, where)


def first(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The value of the earliest event that has one, by (event time, partition, offset), of the input's type.

    >>> fold(first("state"), state=[None, "placed", "paid"])
    'placed'
    """
    return _aggregation("first", column, where)


def last(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """The value of the latest event that has one, by (event time, partition, offset), of the input's type.

    >>> fold(last("state"), state=["placed", "paid", None])
    'paid'
    """
    return _aggregation("last", column, where)


def var(column: Input, *, ddof: int = 1, where: pl.Expr | None = None) -> Aggregation:
    """The variance of int64 or float64 values, as float64: of a sample, or with ``ddof=0`` of all there is.

    Null where there are not more values than ``ddof``: below two of a sample. Whole numbers give the exact variance, rounded
    once. Floats are folded in offset order within a partition (Welford) and then in partition order (Chan et al.); the relative
    error is about count * 1e-16. An infinite value gives NaN.

    >>> fold(var("x"), x=[1, 2, 4])
    2.3333333333333335
    >>> fold(var("x", ddof=0), x=[1.5, None, 2.5])
    0.25
    """
    return _aggregation("var", column, where, options={"ddof": _ddof(ddof)})


def std(column: Input, *, ddof: int = 1, where: pl.Expr | None = None) -> Aggregation:
    """The square root of ``agg.var``.

    >>> fold(std("x"), x=[2, 4, 6])
    2.0
    """
    return _aggregation("std", column, where, options={"ddof": _ddof(ddof)})


def min_by(column: Input, *, by: Input, where: pl.Expr | None = None) -> Aggregation:
    """The value of ``column`` in the event where ``by`` is least, of any type; see ``agg.max_by``.

    >>> fold(min_by("shop", by="price"), shop=["a", "b", "c"], price=[3.0, 1.0, 1.0])
    'b'
    """
    return _aggregation("min_by", by, where, further={"of": _expression(column)})


def max_by(column: Input, *, by: Input, where: pl.Expr | None = None) -> Aggregation:
    """The value of ``column`` in the event where ``by`` is greatest, of any type: numbers, text, instants, days, bools, decimals.

    Events whose ``by`` is null are skipped. The value may be null, and is then the result. Of equal ``by`` the earliest event
    counts: by event time, then partition, then offset (for ``min_by`` too). Floats are in IEEE total order, NaN above all.

    >>> fold(max_by("shop", by="price"), shop=["a", "b", "c"], price=[3.0, None, 3.0])
    'a'
    """
    return _aggregation("max_by", by, where, further={"of": _expression(column)})


def count_distinct(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    """How many different values there are, as int64 (0 where there are none): exact, of any type. Floats: 0.0 and -0.0 are two.

    Every value is kept, per row of the view and partition: an int64 in 11 bytes, a text in its bytes and 5. A row with a million
    values carries 11 MB, which are written again at each commit that changes them: count what is distinct in windows.

    >>> fold(count_distinct("user"), user=["ada", "bob", "ada", None])
    2
    """
    return _aggregation("count_distinct", column, where)


def collect(column: Input, *, limit: int, where: pl.Expr | None = None) -> Aggregation:
    """The first ``limit`` values by (event time, partition, offset), as a list of the input's type. Nulls are skipped.

    >>> fold(collect("page", limit=3), page=["home", "cart", None, "pay", "bye"])
    ['home', 'cart', 'pay']
    """
    return _aggregation("collect", column, where, options={"limit": _limit("collect", limit)})


def top(
    n: int,
    *,
    by: Input,
    of: Input | Mapping[str, Input],
    largest: bool = True,
    ties: bool = False,
    where: pl.Expr | None = None,
) -> Aggregation:
    """The ``n`` events with the greatest ``by`` (``largest=False``: the least), greatest first, as a list of what ``of`` is in each.

    Several named values give a list of structs. Events whose ``by`` is null are skipped; values may be null. Of equal ``by`` the
    earliest event comes first: by event time, then partition, then offset. With ``ties=True`` all events whose ``by`` is that of the
    ``n``-th are in the list (as with SQL's ``RANK() <= n``), however many they are.

    >>> fold(top(2, by="price", of="shop"), shop=["a", "b", "c"], price=[3.0, 1.0, 3.0])
    ['a', 'c']
    >>> fold(top(1, by="price", of={"shop": "shop", "cost": "price"}), shop=["a", "b"], price=[3.0, 5.0])
    [{'shop': 'b', 'cost': 5.0}]
    >>> fold(top(1, by="price", of="shop", ties=True), shop=["a", "b", "c"], price=[3.0, 1.0, 3.0])
    ['a', 'c']
    """
    options: dict[str, Any] = {"limit": _limit("top", n), "largest": bool(largest), **({"ties": True} if ties else {})}
    if not isinstance(of, Mapping):
        return _aggregation("top", by, where, further={"of": _expression(of)}, options=options)
    if not of:
        raise UsageError("agg.top of nothing", do='name what to show: of="column", or of={"name": "column"}')
    further = {f"of{number}": _expression(value) for number, value in enumerate(of.values())}
    return _aggregation("top", by, where, further=further, options={**options, "names": list(of)})


def quantile(column: Input, q: float, *, error: float = 0.01, where: pl.Expr | None = None) -> Aggregation:
    """A value within ``error`` (relative, 0.001 to 0.5) of the ``q``-quantile of int64 or float64 values, as float64.

    The ``q``-quantile is the value of rank floor(q * (count - 1)), counted from 0 in ascending order, exactly: ``q`` has at most six
    decimals. Values are counted in buckets (DDSketch), so the order of events does not matter, and a row takes 16 bytes for
    every bucket that has a value: with an error of 1 % some 115 for each factor of ten between values. Values nearer to
    zero than 2.3e-308 are told as 0.0; -inf, inf and NaN (above all) as they are.

    >>> fold(quantile("ms", 0.5), ms=[10, 20, 30, 40, 1000])
    30.267...
    """
    if not 0 <= q <= 1 or round(q, Q_DIGITS) != q:
        raise UsageError(
            f"the {q} quantile", do="give a number from 0 to 1 with at most six decimals, for example 0.99"
        )
    if not ERROR_MIN <= error <= ERROR_MAX:
        raise UsageError(f"a quantile with an error of {error}", do=f"give one from {ERROR_MIN} to {ERROR_MAX}")
    return _aggregation("quantile", column, where, options={"q": float(q), "error": float(error)})


def median(column: Input, *, error: float = 0.01, where: pl.Expr | None = None) -> Aggregation:
    """``agg.quantile(column, 0.5)``: of an even count, about the lower of the two in the middle.

    >>> fold(median("ms"), ms=[10, 20, 30, 1000])
    19.88...
    """
    return quantile(column, 0.5, error=error, where=where)


def _ddof(ddof: int) -> int:
    if ddof not in (0, 1):
        raise UsageError(f"a variance with ddof={ddof}", do="give 1 (a sample, the default) or 0")
    return ddof


def _limit(kind: str, limit: int) -> int:
    if type(limit) is not int or limit < 1:
        raise UsageError(
            f"agg.{kind} of {limit!r} values", do="give a whole number, at least 1: it bounds what a row holds"
        )
    return limit
