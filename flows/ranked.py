"""Aggregations that keep the first few events by some order: collect, top, min_by and max_by; and count_distinct.

All are entries of a blob (flows/entries.py): the key says the order, the payload what is shown.

    kind              key                                           payload            limit
    collect           event time                                    the value          as asked
    top, max_by       by, every bit turned around; event time       the values         as asked; 1
    min_by            by; event time                                the value          1
    count_distinct    the value                                     -                  none, and equal keys are one

Equal keys stand in (partition, offset) order: rows come in offset order, partials merge in partition order, and what comes
later goes behind what is there. So an entry need not say where it came from.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows import entries
from flows.accumulators import Count, Ints, Mask, State
from flows.agg import Aggregation
from flows.entries import Blobs
from flows.grouping import distinct_rows
from schemas.canonical import decode, encode
from schemas.compiled import maker
from schemas.hashing import binary_buffers

Bytes = npt.NDArray[np.uint8]
AFTER_ALL = b"\xff" * 8
"""In the place of a key's event time: behind all of them."""


class Entries(Count):
    """What all of them share. ``_entries`` says keys and payloads of rows, ``finish`` what is shown."""

    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "entries": bytes}
    limit = entries.ALL
    unique = False
    ties = entries.NO_TIES

    def update(self, state: State, ids: Ints, ok: Mask, values: pa.Array | None, time: Ints) -> None:
        assert values is not None
        if len(ok):
            rows = np.flatnonzero(ok)
            ids, values, time = ids[rows], values.take(pa.array(rows)), time[rows]
        if not len(ids):
            return
        local, firsts = distinct_rows([pa.array(ids)])
        groups = ids[firsts]
        blobs = entries.packed(local, len(groups), *self._entries(values, time), self.limit, self.unique, self.ties)
        state["n"][groups] += np.bincount(local, minlength=len(groups))
        self._join(state, groups, blobs)

    def _join(self, state: State, groups: Ints, blobs: Blobs) -> None:
        state["entries"][groups] = entries.joined(state["entries"][groups], blobs, self.limit, self.unique, self.ties)

    def merge(self, into: State, other: State) -> None:
        into["entries"] = entries.joined(into["entries"], other["entries"], self.limit, self.unique, self.ties)
        into["n"] = into["n"] + other["n"]

    def _entries(self, values: pa.Array, time: Ints) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        raise NotImplementedError


class CountDistinct(Entries):
    unique = True

    def _entries(self, values: pa.Array, time: Ints) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        return encode([values]), _nothing(len(values))

    def finish(self, state: State) -> pa.Array:
        return pa.array(entries.counted(state["entries"]))


class Limited(Entries):
    """Those that keep a few. ``last`` is the last key of a full list (null: there is room): what is not before it changes nothing,
    and the list need not be touched, which may be long."""

    fields: ClassVar[dict[str, Any]] = {"n": np.int64, "last": bytes, "entries": bytes}

    def _join(self, state: State, groups: Ints, blobs: Blobs) -> None:
        last, first = state["last"][groups], entries.keys_at(blobs, 1)
        full = last.astype(np.bool_)  # None is false, and no key is empty
        wanted = ~full
        wanted[full] = first[full] < last[full]
        super()._join(state, groups[wanted], blobs[wanted])
        state["last"][groups[wanted]] = self._last(state["entries"][groups[wanted]])

    def merge(self, into: State, other: State) -> None:
        super().merge(into, other)
        into["last"] = self._last(into["entries"])

    def _last(self, blobs: Blobs) -> Blobs:
        """The key that others must be before; where ties stay, behind all that are equal."""
        found = entries.keys_at(blobs, self.limit)
        if self.ties >= 0:
            found[:] = [None if key is None else key[: -self.ties] + AFTER_ALL for key in found]
        return found


class Collect(Limited):
    """The first values by event time."""

    def __init__(self, name: str, kind: pa.DataType, aggregation: Aggregation) -> None:
        super().__init__(name, kind)
        self.limit = aggregation.options["limit"]
        self.result = pa.list_(kind)

    def _entries(self, values: pa.Array, time: Ints) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        return _with_time(_nothing(len(values)), time, False), encode([values])

    def finish(self, state: State) -> pa.Array:
        counts, found = entries.payloads(state["entries"])
        return _lists(counts, decode(found, [self.result.value_type])[0])


class Ranked(Limited):
    """The first values by another one. ``kinds``: the types of the values that are shown."""

    def __init__(self, name: str, kind: pa.DataType, aggregation: Aggregation, kinds: list[pa.DataType]) -> None:
        super().__init__(name, kind)
        self.further = tuple(f"{part}:{name}" for part in aggregation.further)
        self._kinds, self._options = kinds, aggregation.options
        self.limit = self._options.get("limit", 1)
        self.ties = len(AFTER_ALL) if self._options.get("ties") else entries.NO_TIES
        self._largest = aggregation.kind == "max_by" or self._options.get("largest", False)
        names = self._options.get("names")
        self._item = pa.struct(list(zip(names, kinds, strict=True))) if names else kinds[0]
        self.result = pa.list_(self._item) if "limit" in self._options else self._item

    def value(self, values: dict[str, pa.Array]) -> pa.Array:
        """By what, and what is shown, side by side; not there where the former is not."""
        by = values[f"input:{self.name}"]
        columns = [by, *(values[part] for part in self.further)]
        names = [str(number) for number in range(len(columns))]
        return pa.StructArray.from_arrays(columns, names, mask=by.is_null())

    def _entries(self, values: pa.Array, time: Ints) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        by, *shown = (values.field(number) for number in range(values.type.num_fields))
        return _with_time(encode([by]), time, self._largest), encode(shown)

    def finish(self, state: State) -> pa.Array:
        counts, found = entries.payloads(state["entries"])
        columns = decode(found, self._kinds)
        names = self._options.get("names")
        items = pa.StructArray.from_arrays(columns, names) if names else columns[0]
        if "limit" in self._options:
            return _lists(counts, items)
        at = np.cumsum(counts) - 1
        return items.take(pa.array(at, mask=counts == 0))


def _lists(counts: Ints, items: pa.Array) -> pa.Array:
    """Lists of so many items; null where there are none."""
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), items, mask=pa.array(counts == 0))


def _nothing(count: int) -> pa.BinaryArray:
    return pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(np.zeros(count + 1, np.int32)), pa.py_buffer(b"")]
    )


def _with_time(keys: pa.BinaryArray, time: Ints, turned: bool) -> pa.BinaryArray:
    """Keys followed by the event time as eight bytes. ``turned``: every bit of the key is the other one, so that what was
    least is greatest."""
    data, offsets = binary_buffers(keys)
    out = _timed(data, offsets, time, np.uint8(255 if turned else 0))
    ends = (offsets - offsets[0] + 8 * np.arange(len(offsets))).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(out)])


@maker
def _timed(data: Bytes, offsets: Ints, time: Ints, turn: np.uint8) -> Bytes:
    n = len(time)
    out, end = np.empty(offsets[n] - offsets[0] + 8 * n, np.uint8), 0
    for i in range(n):
        for j in range(offsets[i], offsets[i + 1]):
            out[end] = data[j] ^ turn
            end += 1
        word = np.uint64(time[i]) ^ np.uint64(1 << 63)
        for j in range(8):
            out[end] = np.uint8((word >> np.uint64(56 - 8 * j)) & np.uint64(0xFF))
            end += 1
    return out
