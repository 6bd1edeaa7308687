"""Aggregations: functions over the events of one row of a view. Nulls are skipped; ``where`` leaves events out.

    agg.count()                      events                                            int64
    agg.count("delay")               events whose delay is not null                    int64
    agg.sum("delay")                 exact for int64 (overflow is an error); for float64 a left fold in offset order
                                     within a partition, then in partition order
    agg.mean("delay")                sum / count                                       float64
    agg.min / agg.max(expr)          IEEE total order for floats (NaN above all), code points for text
    agg.first / agg.last(expr)       by (event time, partition, offset)

An input is a column name or an element-wise Polars expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

Input = str | pl.Expr


@dataclass(frozen=True, slots=True)
class Aggregation:
    kind: str
    input: pl.Expr | None
    where: pl.Expr | None


def _aggregation(kind: str, column: Input | None, where: pl.Expr | None) -> Aggregation:
    return Aggregation(kind, pl.col(column) if isinstance(column, str) else column, where)


def count(column: Input | None = None, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("count", column, where)


def sum(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("sum", column, where)


def min(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("min", column, where)


def max(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("max", column, where)


def mean(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("mean", column, where)


def first(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("first", column, where)


def last(column: Input, *, where: pl.Expr | None = None) -> Aggregation:
    return _aggregation("last", column, where)
