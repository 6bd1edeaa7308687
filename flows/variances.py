"""var and std: exact for whole numbers, and for floats a left fold in offset order like a sum.

    input     fields beside n                                                   merged by
    int64     low, high (the sum, 128 bits), square0..2 (that of squares, 192)  adding; the result is rounded once
    float64   mean, m2 (the sum of squared distances from it)                   the formula of Chan et al., in partition order

The squares of 2**63 numbers of 64 bits need 189 bits, so nothing overflows. The float fold is Welford's: its relative error
is about n * 1e-16, whatever the mean (the sum of squares would lose all digits where the mean is large).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import Count, Ints, Mask, State, floats_of, numbers_of
from flows.agg import Aggregation
from schemas.compiled import kernel

Unsigned = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


class Variance(Count):
    """``ddof``: what is taken off the count to divide by. No result where nothing is left."""

    result = pa.float64()

    def __init__(self, name: str, kind: pa.DataType, aggregation: Aggregation) -> None:
        super().__init__(name, kind)
        self._ddof: int = aggregation.options["ddof"]
        self._is_std = aggregation.kind == "std"


class VarianceOfFloats(Variance):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "mean": np.float64, "m2": np.float64}

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        welford(ids, ok, numbers_of(values, np.float64), state["n"], state["mean"], state["m2"])

    def merge(self, into: State, other: State) -> None:
        mine, theirs = into["n"].astype(np.float64), other["n"].astype(np.float64)
        both = np.maximum(mine + theirs, 1.0)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other["mean"] - into["mean"]
            mean = into["mean"] + delta * (theirs / both)
            m2 = into["m2"] + other["m2"] + delta * delta * (mine * theirs / both)
        for field, merged in (("mean", mean), ("m2", m2)):
            alone = np.where(other["n"] == 0, into[field], other[field])
            into[field] = np.where((into["n"] > 0) & (other["n"] > 0), merged, alone)
        into["n"] = into["n"] + other["n"]

    def finish(self, state: State) -> pa.Array:
        left = state["n"] - self._ddof
        found = state["m2"] / np.maximum(left, 1)
        found = np.where(found < 0, np.nan, found)  # -inf: what overflowed says nothing
        return floats_of(np.sqrt(found) if self._is_std else found, left < 1)


class VarianceOfInts(Variance):
    fields: ClassVar[dict[str, Any]] = {
        "n": np.int64, "low": np.uint64, "high": np.int64,
        "square0": np.uint64, "square1": np.uint64, "square2": np.uint64,
    }  # fmt: skip

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        squares = state["square0"], state["square1"], state["square2"]
        sum_squares(ids, ok, numbers_of(values, np.int64), state["n"], state["low"], state["high"], *squares)

    def merge(self, into: State, other: State) -> None:
        carry = np.zeros(len(into["n"]), np.uint64)
        for word in ("square0", "square1", "square2"):
            into[word], carry = _added(into[word], other[word], carry)
        into["low"], carry = _added(into["low"], other["low"], np.zeros(len(into["n"]), np.uint64))
        into["high"] = into["high"] + other["high"] + carry.astype(np.int64)
        into["n"] = into["n"] + other["n"]

    def finish(self, state: State) -> pa.Array:
        names = ("n", "low", "high", "square0", "square1", "square2")
        rows = zip(*(state[name].tolist() for name in names), strict=True)
        found = [self._of(n, (high << 64) + low, (c << 128) + (b << 64) + a) for n, low, high, a, b, c in rows]
        return pa.array(found, pa.float64())

    def _of(self, n: int, total: int, squares: int) -> float | None:
        if n - self._ddof < 1:
            return None
        found = (n * squares - total * total) / (n * (n - self._ddof))  # correctly rounded, whatever the size
        return math.sqrt(found) if self._is_std else found


def _added(some: Unsigned, others: Unsigned, carry: Unsigned) -> tuple[Unsigned, Unsigned]:
    """Words added, and what carries over."""
    half = some + others
    whole = half + carry
    return whole, ((half < some) | (whole < half)).astype(np.uint64)


@kernel
def welford(ids: Ints, ok: Mask, values: Floats, n: Ints, mean: Floats, m2: Floats) -> None:
    everything = len(ok) == 0
    for i in range(len(ids)):
        if everything or ok[i]:
            g = ids[i]
            n[g] += 1
            if n[g] == 1:
                mean[g] = values[i]
            else:
                delta = values[i] - mean[g]
                mean[g] = mean[g] + delta / n[g]
                m2[g] = m2[g] + delta * (values[i] - mean[g])


@kernel
def sum_squares(
    ids: Ints, ok: Mask, values: Ints, n: Ints, low: Unsigned, high: Ints, s0: Unsigned, s1: Unsigned, s2: Unsigned
) -> None:
    """The sum in 128 bits (two's complement), that of squares in 192 (they are never negative)."""
    everything = len(ok) == 0
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    for i in range(len(ids)):
        if not (everything or ok[i]):
            continue
        g = ids[i]
        before = low[g]
        low[g] = before + np.uint64(values[i])
        high[g] += (np.int64(1) if low[g] < before else np.int64(0)) - (np.int64(1) if values[i] < 0 else np.int64(0))
        n[g] += 1
        size = np.uint64(values[i]) if values[i] >= 0 else np.uint64(0) - np.uint64(values[i])
        upper, lower = size >> half, size & mask
        crossed = upper * lower  # counts twice, 32 bits up
        least = lower * lower
        square0 = least + (crossed << np.uint64(33))
        square1 = upper * upper + (crossed >> np.uint64(31)) + (np.uint64(1) if square0 < least else np.uint64(0))
        before = s0[g]
        s0[g] = before + square0
        carry = np.uint64(1) if s0[g] < before else np.uint64(0)
        before = s1[g]
        s1[g] = before + square1
        over = np.uint64(1) if s1[g] < before else np.uint64(0)
        before = s1[g]
        s1[g] = before + carry
        s2[g] += over + (np.uint64(1) if s1[g] < before else np.uint64(0))
