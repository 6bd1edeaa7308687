"""Quantiles within a relative error, from counts of values by bucket (a DDSketch: https://arxiv.org/abs/1908.10693).

A bucket holds the values in (b, b * gamma], gamma = (1 + error) / (1 - error), and is told by b * (1 + error), which is
within ``error`` of each of them. The borders are 1, gamma, gamma * gamma, ... and 1 / gamma, ..., each the product of the one
before, rounded: a table made by multiplication and division alone, which are the same everywhere (a logarithm need not be),
and searched. Counts are whole numbers, so the order of events has no say.

The state of a group is a blob: (bucket, count) in order of buckets, two little-endian int64 each. Buckets are numbered in the
order of their values:

    ... -2 -1     negative values; the least number is -inf
    0             nearer to zero than 2.3e-308, told as 0
    1 2 ...       positive values, then +inf, then NaN
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import Count, Ints, Mask, State, floats_of, numbers_of
from flows.agg import Aggregation
from flows.entries import Blobs, as_binary
from flows.grouping import distinct_rows
from schemas.hashing import binary_buffers

Floats = npt.NDArray[np.float64]

SMALLEST = float(np.finfo(np.float64).tiny)
LARGEST = float(np.finfo(np.float64).max)
SPAN = 1 << 24
"""More than there are buckets, by far: a group and a bucket make one number."""
_PAIR = 16


class Quantile(Count):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "buckets": bytes}
    result = pa.float64()

    def __init__(self, name: str, kind: pa.DataType, aggregation: Aggregation) -> None:
        super().__init__(name, kind)
        self._error: float = aggregation.options["error"]
        self._q = Fraction(str(aggregation.options["q"]))

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        numbers = numbers_of(values, np.float64)
        if len(ok):
            ids, numbers = ids[ok], numbers[ok]
        if not len(ids):
            return
        local, firsts = distinct_rows([pa.array(ids)])
        groups = ids[firsts]
        keys, counts = np.unique(local * SPAN + SPAN // 2 + buckets_of(numbers, self._error), return_counts=True)
        state["buckets"][groups] = _merged(state["buckets"][groups], keys, counts.astype(np.int64))
        state["n"][groups] += np.bincount(local, minlength=len(groups))

    def merge(self, into: State, other: State) -> None:
        into["buckets"] = _merged(into["buckets"], *_unpacked(other["buckets"]))
        into["n"] = into["n"] + other["n"]

    def finish(self, state: State) -> pa.Array:
        keys, counts = _unpacked(state["buckets"])
        rows = keys // SPAN
        # Counts of all rows, one after the other: the bucket in which a row's rank falls is found among their running sums.
        n = state["n"]
        first = np.cumsum(n) - n
        rank = (n - 1) * self._q.numerator // self._q.denominator
        at = np.searchsorted(np.cumsum(counts), first + np.maximum(rank, 0), side="right")
        there = n > 0
        assert (rows[at[there]] == np.flatnonzero(there)).all(), "a row's counts are as many as its values"
        buckets = np.zeros(len(n), np.int64)
        buckets[there] = keys[at[there]] % SPAN - SPAN // 2
        return floats_of(values_of(buckets, self._error), ~there)


@lru_cache(8)
def borders(error: float) -> Floats:
    """The lower borders of the buckets of positive values, ascending; the first is the least normal number."""
    gamma = (1.0 + error) / (1.0 - error)
    above, below = [1.0], []
    while above[-1] * gamma <= LARGEST:
        above.append(above[-1] * gamma)
    border = 1.0 / gamma
    while border > SMALLEST:
        below.append(border)
        border /= gamma
    return np.array([SMALLEST, *reversed(below), *above])


def buckets_of(values: Floats, error: float) -> Ints:
    """The number of each value's bucket."""
    table = borders(error)
    sizes = np.abs(values)
    found = np.searchsorted(table, sizes, side="left")  # (b, b * gamma] has the number of borders below its values
    found = np.where(sizes == SMALLEST, 1, found)
    found = np.where(np.isinf(values), len(table) + 1, found)
    return np.where(np.isnan(values), len(table) + 2, np.where(values < 0, -found, found))


def values_of(buckets: Ints, error: float) -> Floats:
    """What each bucket is told by."""
    table = borders(error)
    with np.errstate(over="ignore"):
        told = np.minimum(table * (1.0 + error), LARGEST)
    sizes = np.concatenate([[0.0], told, [np.inf, np.nan]])[np.abs(buckets)]
    return np.where(buckets < 0, -sizes, sizes)


def _unpacked(blobs: Blobs) -> tuple[Ints, Ints]:
    """Number of the blob and of the bucket in one, ascending, and counts."""
    data, offsets = binary_buffers(as_binary(blobs))
    pairs = np.frombuffer(data[offsets[0] : offsets[-1]].tobytes(), "<i8").reshape(-1, 2)
    rows = np.repeat(np.arange(len(blobs)), np.diff(offsets) // _PAIR)
    return rows * SPAN + SPAN // 2 + pairs[:, 0], pairs[:, 1].astype(np.int64)


def _merged(blobs: Blobs, keys: Ints, counts: Ints) -> Blobs:
    """The blobs with these counts added."""
    mine, my_counts = _unpacked(blobs)
    together, all_counts = np.concatenate([mine, keys]), np.concatenate([my_counts, counts])
    order = np.argsort(together, kind="stable")
    together, all_counts = together[order], all_counts[order]
    starts = np.flatnonzero(np.concatenate([[True], together[1:] != together[:-1]])[: len(together)])
    pairs = np.empty((len(starts), 2), "<i8")
    pairs[:, 0] = together[starts] % SPAN - SPAN // 2
    pairs[:, 1] = np.add.reduceat(all_counts, starts) if len(starts) else 0
    ends = _PAIR * np.searchsorted(together[starts] // SPAN, np.arange(len(blobs) + 1), side="left")
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(pairs.tobytes())]
    return pa.Array.from_buffers(pa.binary(), len(blobs), buffers).to_numpy(zero_copy_only=False)
