"""Which accumulator an aggregation of a column of some type has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from flows import accumulators, decimals
from flows.accumulators import Count
from flows.agg import Aggregation
from flows.ranked import Collect, CountDistinct, Ranked
from flows.sketches import Quantile
from flows.variances import VarianceOfFloats, VarianceOfInts
from schemas.errors import UsageError

OF_DECIMALS: dict[str, type[Count]] = {
    "count": Count,
    "sum": decimals.SumDecimals,
    "mean": decimals.MeanDecimals,
    "first": decimals.FirstDecimal,
    "last": decimals.LastDecimal,
}


def accumulator(name: str, aggregation: Aggregation, types: Mapping[str, pa.DataType]) -> Count:
    """The accumulator of column ``name``; ``types``: those of all expressions, by internal name.

    Raises ``UsageError`` where the aggregation has no meaning for the type.
    """
    kind, given = aggregation.kind, types.get(f"input:{name}")
    if kind in ("top", "min_by", "max_by"):
        return Ranked(name, given, aggregation, [types[f"{part}:{name}"] for part in aggregation.further])
    if kind == "collect":
        return Collect(name, given, aggregation)
    if kind == "count_distinct":
        return CountDistinct(name, given)
    if kind in ("var", "std", "quantile"):
        return _of_numbers(name, aggregation, given)
    if given is not None and pa.types.is_decimal128(given):
        return _of_decimals(name, aggregation, given)
    return accumulators.accumulator(name, kind, given)


def _of_decimals(name: str, aggregation: Aggregation, given: pa.DataType) -> Count:
    assert aggregation.input is not None, "decimals were computed of it"
    if aggregation.kind in ("min", "max"):  # the value of the event where the value is least or greatest
        by_itself = replace(aggregation, kind=f"{aggregation.kind}_by", further={"input": aggregation.input})
        return Ranked(name, given, by_itself, [given])
    return OF_DECIMALS[aggregation.kind](name, given)


def _of_numbers(name: str, aggregation: Aggregation, given: pa.DataType | None) -> Count:
    if given not in (pa.int64(), pa.float64()):
        raise UsageError(
            f"agg.{aggregation.kind} of {given} in column `{name}`",
            do=f"agg.{aggregation.kind} takes int64 or float64; cast the input: .cast(pl.Float64, strict=False)",
        )
    if aggregation.kind == "quantile":
        return Quantile(name, given, aggregation)
    return (VarianceOfInts if given == pa.int64() else VarianceOfFloats)(name, given, aggregation)
