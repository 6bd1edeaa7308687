"""Aggregations of decimals: exact, 128-bit numbers of 38 digits and some scale. Sums run in 192 bits, so that only a result
can be too large, which is an error.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.accumulators import ByTimeText, Count, Ints, Mask, State
from schemas.canonical import decode, encode
from schemas.compiled import kernel
from schemas.errors import DataError

Unsigned = npt.NDArray[np.uint64]
DIGITS = 38


class SumDecimals(Count):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "low": np.uint64, "middle": np.uint64, "high": np.int64}

    def __init__(self, name: str, kind: pa.DataType) -> None:
        super().__init__(name, kind)
        self.result = kind

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        assert values is not None
        words = np.frombuffer(values.buffers()[1], np.uint64, 2 * len(values), 16 * values.offset).reshape(-1, 2)
        sum_words(ids, ok, words, state["n"], state["low"], state["middle"], state["high"])

    def merge(self, into: State, other: State) -> None:
        low = into["low"] + other["low"]
        carry = (low < into["low"]).astype(np.uint64)
        half = into["middle"] + other["middle"]
        middle = half + carry
        over = (half < into["middle"]) | (middle < half)
        into["high"] = into["high"] + other["high"] + over
        into["low"], into["middle"], into["n"] = low, middle, into["n"] + other["n"]

    def finish(self, state: State) -> pa.Array:
        words = np.ascontiguousarray(np.stack([state["low"], state["middle"]], axis=1))
        found = pa.Array.from_buffers(self.result, len(words), [None, pa.py_buffer(words)])
        if not (state["high"] == (state["middle"].view(np.int64) >> 63)).all() or not _has_few_digits(found):
            worst = max(self._totals(state), key=abs)
            msg = f"the sum in column `{self.name}` does not fit {self.result}: {worst:,} / 10**{self.result.scale}"
            raise DataError(msg, do="give the decimals a smaller scale, or sum a float")
        there = state["n"] > 0
        return found.filter(pa.array(there)).take(_places(there))

    @staticmethod
    def _totals(state: State) -> list[int]:
        words = zip(*(state[name].tolist() for name in ("low", "middle", "high")), strict=True)
        return [low + (middle << 64) + (high << 128) for low, middle, high in words]


class MeanDecimals(SumDecimals):
    def __init__(self, name: str, kind: pa.DataType) -> None:
        super().__init__(name, kind)
        self.result, self._unit = pa.float64(), 10**kind.scale

    def finish(self, state: State) -> pa.Array:
        # Python's int / int is correctly rounded, whatever the size.
        rows = zip(self._totals(state), state["n"].tolist(), strict=True)
        return pa.array([total / (n * self._unit) if n else None for total, n in rows], pa.float64())


class LastDecimal(ByTimeText):
    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "time": np.int64, "value": bytes}

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        super().update(state, ids, ok, encode([values]), time)

    def finish(self, state: State) -> pa.Array:
        return _decoded(state, self.kind)


class FirstDecimal(LastDecimal):
    latest = False


def _has_few_digits(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(state: State, kind: pa.DataType | None) -> pa.Array:
    there = state["n"] > 0
    (found,) = decode(pa.array(state["value"][there], pa.binary()), [kind])
    return found.take(_places(there))


def _places(there: Mask) -> pa.Array:
    """The place of each among those that are there; null for the others."""
    return pa.array(np.cumsum(there) - 1, mask=~there)


@kernel
def sum_words(
    ids: Ints, ok: Mask, values: npt.NDArray[np.uint64], n: Ints, low: Unsigned, middle: Unsigned, high: Ints
) -> None:
    """192-bit two's complement. ``values``: 128 bits each, the low word first."""
    everything = len(ok) == 0
    for i in range(len(ids)):
        if not (everything or ok[i]):
            continue
        g = ids[i]
        before = low[g]
        low[g] = before + values[i, 0]
        carry = np.uint64(1) if low[g] < before else np.uint64(0)
        before = middle[g]
        middle[g] = before + values[i, 1]
        over = np.int64(1) if middle[g] < before else np.int64(0)
        before = middle[g]
        middle[g] = before + carry
        over += np.int64(1) if middle[g] < before else np.int64(0)
        high[g] += over - np.int64(values[i, 1] >> np.uint64(63))
        n[g] += 1
