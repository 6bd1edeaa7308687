"""Aggregations: the examples of their documentation, and that each is what it says however its events come.

The accumulators are driven directly here, with values that no JSON holds (infinities, NaN), against ``tests/reference.py``;
``tests/test_law.py`` does the same through the whole engine.
"""

from __future__ import annotations

import datetime as dt
import doctest
import inspect
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import one_row
import polars as pl
import pyarrow as pa
import pytest
import reference
from disturbed_runs import exactly
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import agg, entries
from flows.accumulators import Count, State
from flows.agg import Aggregation
from flows.fold import _contributes
from flows.kinds import accumulator
from flows.sketches import LARGEST, SMALLEST, borders, buckets_of, values_of
from schemas.errors import DataError

GROUPS = 3
DECIMAL = pa.decimal128(38, 2)
floats = st.sampled_from([0.0, -0.0, 0.1, 0.2, 1e16, -1e16, 5e-324, SMALLEST, LARGEST, math.inf, -math.inf, math.nan])
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63), 2**62]),
    pa.float64(): floats | st.floats(),
    pa.string(): st.text(alphabet="\x00a\xffé\U0010ffff", max_size=3) | st.just("long" * 50),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    DECIMAL: st.sampled_from([0, 1, -1, 10**37, -(10**37)]).map(lambda n: Decimal(n).scaleb(-2)),
}


@dataclass(frozen=True)
class Row:
    group: int
    time: int
    chosen: bool
    value: Any
    shown: Any


@dataclass(frozen=True)
class Kind:
    """An aggregation, the types of its inputs, and the same for the reference."""

    said: Aggregation
    types: tuple[pa.DataType, ...]
    options: dict[str, Any]


NUMBERS = (pa.int64(), pa.float64())


@st.composite
def kinds(draw: st.DrawFn) -> Kind:
    name = draw(st.sampled_from(["var", "std", "quantile", "count_distinct", "collect", "top", "min_by", "max_by",
                                 "min", "max", "first", "last", "sum", "mean"]))  # fmt: skip
    any_type = st.sampled_from(list(VALUES))
    if name in ("var", "std"):
        ddof = draw(st.sampled_from([0, 1]))
        return Kind(getattr(agg, name)("x", ddof=ddof), (draw(st.sampled_from(NUMBERS)),), {"ddof": ddof})
    if name == "quantile":
        q, error = draw(st.sampled_from(["0", "0.25", "0.5", "0.9", "1"])), draw(st.sampled_from([0.001, 0.01, 0.5]))
        kind = draw(st.sampled_from(NUMBERS))
        return Kind(agg.quantile("x", float(q), error=error), (kind,), {"q": q, "error": error})
    if name in ("collect", "top"):
        limit = draw(st.sampled_from([1, 2, 3, 100]))
        if name == "collect":
            return Kind(agg.collect("x", limit=limit), (draw(any_type),), {"limit": limit})
        largest = draw(st.booleans())
        said = agg.top(limit, by="x", of="y", largest=largest)
        return Kind(said, (draw(any_type), draw(any_type)), {"limit": limit, "largest": largest})
    if name in ("min_by", "max_by"):
        return Kind(getattr(agg, name)("y", by="x"), (draw(any_type), draw(any_type)), {})
    if name in ("sum", "mean"):
        return Kind(getattr(agg, name)("x"), (DECIMAL,), {})
    return Kind(getattr(agg, name)("x"), (draw(any_type),), {})


@st.composite
def rows(draw: st.DrawFn, kind: Kind, **size: int) -> list[Row]:
    value, shown = VALUES[kind.types[0]], VALUES[kind.types[-1]]
    one = st.builds(Row, st.integers(0, GROUPS - 1), st.integers(-2, 5), st.integers(0, 9).map(bool),
                    st.none() | value, st.none() | shown)  # fmt: skip
    return draw(st.lists(one, **(size or {"max_size": 40})))


class Partition:
    """What one partition keeps, folded slice by slice; now and then written down and read again."""

    def __init__(self, kind: Kind) -> None:
        names = ["input:c", *(f"{part}:c" for part in kind.said.further)]
        self.types = dict(zip(names, kind.types, strict=True))
        self.acc: Count = accumulator("c", kind.said, self.types)
        self.state: State = {
            name: np.zeros(GROUPS, object if kind is bytes else kind) for name, kind in self.acc.fields.items()
        }
        for array in self.state.values():
            if array.dtype == object:
                array[:] = None

    def fold(self, part: Sequence[Row]) -> None:
        ids, time = np.array([row.group for row in part], np.int64), np.array([row.time for row in part], np.int64)
        both = ([row.value for row in part], [row.shown for row in part])
        found = {
            name: pa.array(values, kind, from_pandas=False)
            for values, (name, kind) in zip(both, self.types.items(), strict=False)
        }
        value = self.acc.value(found)
        where = pa.array([row.chosen for row in part], pa.bool_())
        self.acc.update(self.state, ids, _contributes(value, where), value, time)


def merged(partitions: Sequence[Partition]) -> list[Any]:
    acc, first, *others = partitions[0].acc, *(part.state for part in partitions)
    into = {name: array.copy() for name, array in first.items()}
    for other in others:
        acc.merge(into, other)
    found = acc.finish(into)
    found.validate(full=True)
    assert found.type == acc.result
    return [exactly(value) for value in found.to_pylist()]


def folded(kind: Kind, partitions: Sequence[Sequence[Row]], lots: random.Random) -> list[Any]:
    parts = []
    for rows in partitions:
        part, at = Partition(kind), 0
        while at < len(rows):
            end = lots.randint(at + 1, len(rows))
            part.fold(rows[at:end])
            at = end
        parts.append(part)
    return merged(parts)


def expected(kind: Kind, partitions: Sequence[Sequence[Row]]) -> list[Any]:
    found = []
    by_kind = kind.said.kind in ("top", "min_by", "max_by")
    for group in range(GROUPS):
        values = [
            [(row.time, (row.value, row.shown) if by_kind else row.value) for row in rows
             if row.group == group and row.chosen and row.value is not None]
            for rows in partitions
        ]  # fmt: skip
        found.append(reference.aggregate(kind.said.kind, [part for part in values if part], kind.options))
    return [exactly(value) for value in found]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=kinds(), seed=st.integers(0, 2**32))
def test_any_slicing_gives_what_the_reference_says(data: st.DataObject, kind: Kind, seed: int) -> None:
    partitions = [data.draw(rows(kind)) for _ in range(data.draw(st.integers(1, 3)))]
    assert folded(kind, partitions, random.Random(seed)) == expected(kind, partitions)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=kinds(), seed=st.integers(0, 2**32))
def test_what_a_partition_keeps_does_not_depend_on_slices(data: st.DataObject, kind: Kind, seed: int) -> None:
    given, lots = data.draw(rows(kind)), random.Random(seed)
    whole, cut = Partition(kind), Partition(kind)
    whole.fold(given)
    while given:
        size = lots.randint(1, len(given))
        cut.fold(given[:size])
        given = given[size:]
    for name, array in whole.state.items():
        assert array.tobytes() == cut.state[name].tobytes() or array.tolist() == cut.state[name].tolist(), name


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=kinds(), seed=st.integers(0, 2**32))
def test_partitions_do_not_matter_where_the_order_does_not(data: st.DataObject, kind: Kind, seed: int) -> None:
    """Other times for all, so that nothing is left to (partition, offset); sums of floats are none of these."""
    lots = random.Random(seed)
    given = [Row(r.group, n, r.chosen, r.value, r.shown) for n, r in enumerate(data.draw(rows(kind)))]
    if kind.said.kind in ("var", "std", "sum", "mean") and kind.types[0] == pa.float64():
        return
    whole = folded(kind, [given], lots)
    lots.shuffle(given)
    parts: dict[int, list[Row]] = defaultdict(list)
    for row in given:
        parts[lots.randint(0, 4)].append(row)
    assert folded(kind, list(parts.values()) or [[]], lots) == whole


# -- what each of them promises


def number_rows(values: Sequence[Any]) -> list[Row]:
    return [Row(0, n, True, value, None) for n, value in enumerate(values)]


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False) | floats, min_size=1, max_size=60),
    q=st.sampled_from([0.0, 0.01, 0.29, 0.5, 0.99, 0.999999, 1.0]),
    error=st.sampled_from([0.001, 0.01, 0.05, 0.5]),
)
def test_a_quantile_is_within_its_error(values: list[float], q: float, error: float) -> None:
    kind = Kind(agg.quantile("x", q, error=error), (pa.float64(),), {})
    part = Partition(kind)
    part.fold(number_rows(values))
    (found, *_) = part.acc.finish(part.state).to_pylist()
    ordered = sorted(values, key=reference.total_order)
    exact = ordered[math.floor(Fraction(str(q)) * (len(values) - 1))]
    if math.isnan(exact) or math.isinf(exact):
        assert exactly(found) == exactly(exact)
    elif abs(exact) < SMALLEST:
        assert found == 0
    else:
        # Divided first: the greatest values would overflow.
        assert abs(found / exact - 1) <= error * (1 + 1e-12) + 4e-16


@pytest.mark.parametrize("error", [0.001, 0.01, 0.5])
def test_buckets_hold_what_they_say(error: float) -> None:
    table, gamma = borders(error), (1 + error) / (1 - error)
    assert (table[1:] > table[:-1]).all()
    assert (table[1:] / table[:-1] <= gamma * (1 + 4e-16)).all()
    assert LARGEST / table[-1] <= gamma * (1 + 4e-16)
    at = np.arange(1, len(table) + 1)
    assert (buckets_of(table[1:], error) == at[:-1]).all()  # a border belongs below
    assert (buckets_of(np.nextafter(table, np.inf), error) == at).all()
    assert (buckets_of(-table[1:], error) == -at[:-1]).all()
    assert (buckets_of(values_of(at, error), error)[1:] == at[1:]).all()  # the first one is narrower


def test_borders_are_recorded() -> None:
    """Multiplied and divided only: the same on every machine. A bucket that moved would be another view."""
    table = borders(0.01)
    assert len(table) == 70_907
    recorded = ["0x1.034c9790e376fp-1022", "0x1.cbadb890fb701p-994", "0x1.e0f9202defaf0p-13", "0x1.c716e0b9085bbp+997"]
    assert [table[n].hex() for n in (1, 1000, 35_000, 70_000)] == recorded


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=30), st.integers(0, 2**32))
def test_a_variance_of_whole_numbers_is_the_exact_one(values: list[int], seed: int) -> None:
    kind, lots = Kind(agg.var("x"), (pa.int64(),), {"ddof": 1}), random.Random(seed)
    parts: list[list[int]] = [[], [], []]
    for value in values:
        parts[lots.randint(0, 2)].append(value)
    found, *_ = folded(kind, [number_rows(part) for part in parts], lots)
    assert found == exactly(float(statistics.variance(map(Fraction, values))))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e6, 1e6 + 100), min_size=2, max_size=100), st.integers(0, 2**32))
def test_a_variance_of_floats_keeps_its_digits_far_from_zero(values: list[float], seed: int) -> None:
    kind, lots = Kind(agg.var("x"), (pa.float64(),), {"ddof": 1}), random.Random(seed)
    at = lots.randint(0, len(values))
    (_, found), *_ = folded(kind, [number_rows(values[:at]), number_rows(values[at:])], lots)
    exact = float(statistics.variance(map(Fraction, values)))
    assert math.isclose(reference_float(found), exact, rel_tol=1e-6, abs_tol=1e-12)


def reference_float(order: tuple[str, int]) -> float:
    """The float that ``exactly`` stands for."""
    bits = order[1] ^ ((order[1] >> 63) & (2**63 - 1))
    return float(np.int64(bits).view(np.float64))


CENTS = Kind(agg.sum("x"), (DECIMAL,), {})
NINES = Decimal("999999999999999999999999999999999999.99")


def test_a_sum_of_decimals_that_does_not_fit_is_an_error_and_may_pass_through_more() -> None:
    part = Partition(CENTS)
    part.fold(number_rows([NINES] * 1000))
    with pytest.raises(DataError, match=r"does not fit decimal128\(38, 2\): 99,999,"):
        merged([part])
    part.fold(number_rows([NINES.copy_negate()] * 999))
    assert merged([part])[0] == exactly(NINES)
    part.fold(number_rows([Decimal("0.01")]))
    with pytest.raises(DataError, match="does not fit decimal128"):
        merged([part])


def test_money_from_text_is_exact_and_rounds_half_to_even() -> None:
    cents = pl.col("price").cast(pl.Decimal(38, 2), strict=False)
    for texts, total in [(["0.1", "0.2"], "0.30"), (["1.005", "1.015"], "2.02"), (["x", " 1", None], None)]:
        found = one_row.fold(agg.sum(cents), price=texts)
        assert found == (None if total is None else Decimal(total))
    assert one_row.fold(agg.mean(cents), price=["0.10", "0.20", "0.20"]) == float(Fraction(1, 6))


def test_the_examples_are_true() -> None:
    found = doctest.testmod(agg, extraglobs={"fold": one_row.fold}, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted >= 20
    kinds = [
        value
        for name, value in vars(agg).items()
        if inspect.isfunction(value) and name[0] != "_" and value.__module__ == agg.__name__
    ]
    assert [kind.__name__ for kind in kinds if ">>> fold(" not in (kind.__doc__ or "")] == []


# -- entries


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.none() | st.binary(max_size=12), st.none() | st.binary(max_size=12)), max_size=4))
def test_bytes_that_are_no_entries_are_refused_or_read_within_their_bounds(pairs: list[Any]) -> None:
    some, others = (
        np.array([*column, None], object)[:-1] for column in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    try:
        found = entries.joined(some, others, entries.ALL, False)
    except DataError:
        return
    assert list(map(len, found)) == [len(a or b"") + len(b or b"") for a, b in pairs]
    assert entries.payloads(found)[0].tolist() == entries.counted(found).tolist()
