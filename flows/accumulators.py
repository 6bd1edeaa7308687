"""What each aggregation keeps per group, how a row changes it, how partials of partitions merge, and what it says.

State is a set of parallel arrays indexed by group id (a structure of arrays). Every kind has ``n``, the number of
values that contributed; ``n == 0`` means absent, and an absent partial is skipped in a merge.

    kind              fields beside n (int64)                    result
    count             -                                          int64
    sum, mean int64   low uint64, high int64 (128-bit)           int64 (sum), float64 (mean: one correctly rounded division)
    sum, mean float64 total float64                              float64
    min, max          value (int64 in the order of the type, or text)     the input's type
    first, last       time int64 (microseconds), value           the input's type
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows import kernels
from schemas.errors import DataError, UsageError

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
State = dict[str, npt.NDArray[Any]]

ARROW = {
    np.dtype(np.int64): pa.int64(),
    np.dtype(np.uint64): pa.uint64(),
    np.dtype(np.float64): pa.float64(),
    np.dtype(object): pa.string(),
}
"""Of numbers, and of text (object). Fields of kind ``bytes`` are objects as well, and stored as binary."""
CANONICAL_NAN = np.int64(0x7FF8 << 48)


class Count:
    fields: ClassVar[dict[str, Any]] = {"n": np.int64}
    result = pa.int64()

    def __init__(self, name: str, kind: pa.DataType | None) -> None:
        self.name, self.kind = name, kind

    def value(self, values: dict[str, pa.Array]) -> pa.Array | None:
        """What ``update`` takes, of all that was computed for each row; a row contributes where it is not null."""
        return values.get(f"input:{self.name}")

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        kernels.count(ids, ok, state["n"])

    def merge(self, into: State, other: State) -> None:
        into["n"] += other["n"]

    def finish(self, state: State) -> pa.Array:
        return pa.array(state["n"])

    @property
    def outputs(self) -> list[pa.Field]:
        """The columns of the view that come of it."""
        return [pa.field(self.name, self.result)]

    def finish_all(self, state: State) -> list[pa.Array]:
        """A value for each of ``outputs``."""
        return [self.finish(state)]


class SumInts(Count):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "low": np.uint64, "high": np.int64}

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        kernels.sum_ints(ids, ok, numbers_of(values, np.int64), state["n"], state["low"], state["high"])

    def merge(self, into: State, other: State) -> None:
        into["n"] += other["n"]
        low = into["low"] + other["low"]
        into["high"] += other["high"] + (low < other["low"])
        into["low"] = low

    def finish(self, state: State) -> pa.Array:
        fits = state["high"] == (state["low"].view(np.int64) >> 63)
        if not fits.all():
            worst = self._exact(state, int(np.flatnonzero(~fits)[0]))
            msg = f"the sum in column `{self.name}` does not fit int64: {worst:,}"
            raise DataError(msg, do="sum a float: agg.sum(pl.col(...).cast(pl.Float64, strict=False))")
        return pa.array(state["low"].view(np.int64), mask=state["n"] == 0)

    @staticmethod
    def _exact(state: State, row: int) -> int:
        return (int(state["high"][row]) << 64) + int(state["low"][row])


class MeanInts(SumInts):
    result = pa.float64()

    def finish(self, state: State) -> pa.Array:
        # Python's int / int is correctly rounded, whatever the size.
        means = [self._exact(state, row) / n if n else None for row, n in enumerate(state["n"].tolist())]
        return pa.array(means, pa.float64())


class SumFloats(Count):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "total": np.float64}
    result = pa.float64()

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        kernels.sum_floats(ids, ok, numbers_of(values, np.float64), state["n"], state["total"])

    def merge(self, into: State, other: State) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            both = into["total"] + other["total"]
        into["total"] = np.where(other["n"] == 0, into["total"], np.where(into["n"] == 0, other["total"], both))
        into["n"] += other["n"]

    def finish(self, state: State) -> pa.Array:
        return floats_of(state["total"], state["n"] == 0)


class MeanFloats(SumFloats):
    def finish(self, state: State) -> pa.Array:
        return floats_of(state["total"] / np.maximum(state["n"], 1), state["n"] == 0)


class Extreme(Count):
    """min and max of types whose order is an order of int64."""

    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "value": np.int64}
    greatest = True

    def __init__(self, name: str, kind: pa.DataType | None) -> None:
        super().__init__(name, kind)
        self.result = kind

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        kernels.extreme(ids, ok, to_order(values), state["n"], state["value"], self.greatest)

    def merge(self, into: State, other: State) -> None:
        better = other["value"] > into["value"] if self.greatest else other["value"] < into["value"]
        take = (other["n"] > 0) & ((into["n"] == 0) | better)
        into["value"] = np.where(take, other["value"], into["value"])
        into["n"] += other["n"]

    def finish(self, state: State) -> pa.Array:
        return from_order(state["value"], state["n"] == 0, self.kind)


class ByTime(Extreme):
    """first and last of types that fit in an int64."""

    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "time": np.int64, "value": np.int64}
    latest = True

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        kernels.by_time(ids, ok, to_order(values), time, state["n"], state["time"], state["value"], self.latest)

    def merge(self, into: State, other: State) -> None:
        # Partials come in partition order, so that of equal times the greater partition is the later one.
        later = other["time"] >= into["time"] if self.latest else other["time"] < into["time"]
        take = (other["n"] > 0) & ((into["n"] == 0) | later)
        for field in ("time", "value"):
            into[field] = np.where(take, other[field], into[field])
        into["n"] += other["n"]


class ExtremeText(Extreme):
    """min and max of text, by code points (the order of its UTF-8 bytes)."""

    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "value": object}

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        assert values is not None
        coded = values.dictionary_encode()  # a text is compared once, in however many rows (and windows) it is
        known, rank_of = np.unique(coded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
        if not len(known):
            return
        ranks = rank_of[np.asarray(coded.indices.fill_null(0))]
        groups, local = np.unique(ids, return_inverse=True)
        n, best = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
        kernels.extreme(local, ok, ranks.astype(np.int64), n, best, self.greatest)
        self._take(state, groups, {"n": n, "value": known[best]})

    def _take(self, state: State, groups: Ints, other: State) -> None:
        mine = {field: array[groups] for field, array in state.items()}
        self.merge(mine, other)
        for field, array in mine.items():
            state[field][groups] = array

    def merge(self, into: State, other: State) -> None:
        both = (other["n"] > 0) & (into["n"] > 0)
        better = np.zeros(len(both), np.bool_)
        mine, theirs = into["value"][both], other["value"][both]
        better[both] = theirs > mine if self.greatest else theirs < mine
        take = better | ((other["n"] > 0) & (into["n"] == 0))
        into["value"] = np.where(take, other["value"], into["value"])
        into["n"] = into["n"] + other["n"]

    def finish(self, state: State) -> pa.Array:
        return pa.array(state["value"], pa.string(), mask=state["n"] == 0)


class ByTimeText(ByTime):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "time": np.int64, "value": object}

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        assert values is not None
        groups, local = np.unique(ids, return_inverse=True)
        n, when, row = (np.zeros(len(groups), np.int64) for _ in range(3))
        kernels.by_time(local, ok, np.arange(len(ids)), time, n, when, row, self.latest)
        texts = values.take(pa.array(row)).to_numpy(zero_copy_only=False)
        mine = {field: array[groups] for field, array in state.items()}
        self.merge(mine, {"n": n, "time": when, "value": texts})
        for field, array in mine.items():
            state[field][groups] = array

    def finish(self, state: State) -> pa.Array:
        return pa.array(state["value"], pa.string(), mask=state["n"] == 0)


class Min(Extreme):
    greatest = False


class MinText(ExtremeText):
    greatest = False


class First(ByTime):
    latest = False


class FirstText(ByTimeText):
    latest = False


_KINDS: dict[str, tuple[type[Count] | None, type[Count] | None, type[Count] | None, type[Count] | None]] = {
    # kind: for int64, for float64, for text, for bool, date32 and timestamps
    "count": (Count, Count, Count, Count),
    "sum": (SumInts, SumFloats, None, None),
    "mean": (MeanInts, MeanFloats, None, None),
    "min": (Min, Min, MinText, Min),
    "max": (Extreme, Extreme, ExtremeText, Extreme),
    "first": (First, First, FirstText, First),
    "last": (ByTime, ByTime, ByTimeText, ByTime),
}


def accumulator(name: str, kind: str, input_type: pa.DataType | None) -> Count:
    """The accumulator of column ``name``. Raises ``UsageError`` where the aggregation has no meaning for the type."""
    if input_type is None:
        return Count(name, None)
    place = {pa.int64(): 0, pa.float64(): 1, pa.string(): 2}.get(input_type, 3)
    found = _KINDS[kind][place]
    if found is None:
        msg = f"agg.{kind} of {input_type} in column `{name}`"
        raise UsageError(
            msg, do=f"agg.{kind} takes int64 or float64; cast the input, for example .cast(pl.Int64, strict=False)"
        )
    return found(name, input_type)


def numbers_of(values: pa.Array, kind: type) -> npt.NDArray[Any]:
    """Values as an array; 0 where they are null."""
    return np.asarray(values.fill_null(0) if values.null_count else values).astype(kind, copy=False)


def to_order(values: pa.Array) -> Ints:
    """Values as int64 whose order is the order of the type; floats in IEEE total order with one NaN. Nulls are 0."""
    if values.type == pa.float64():
        floats = numbers_of(values, np.float64)
        bits = np.where(np.isnan(floats), CANONICAL_NAN, floats.view(np.int64))
        return bits ^ ((bits >> 63) & np.iinfo(np.int64).max)
    if values.type == pa.bool_():
        return np.asarray(values.cast(pa.int8()).fill_null(0)).astype(np.int64)
    if values.type == pa.date32():
        values = values.cast(pa.int32())
    return numbers_of(values.cast(pa.int64()), np.int64)


def from_order(order: Ints, absent: Mask, kind: pa.DataType | None) -> pa.Array:
    """The inverse of ``to_order``."""
    if kind == pa.float64():
        return floats_of((order ^ ((order >> 63) & np.iinfo(np.int64).max)).view(np.float64), absent)
    if kind == pa.date32():
        return pa.array(order.astype(np.int32), mask=absent).cast(kind)
    return pa.array(order, mask=absent).cast(kind)


def floats_of(values: npt.NDArray[np.float64], absent: Mask) -> pa.Array:
    """An array as values, with one canonical NaN; null where ``absent``."""
    one_nan = np.where(np.isnan(values), CANONICAL_NAN.view(np.float64), values)
    return pa.array(one_nan, pa.float64(), mask=absent, from_pandas=False)
