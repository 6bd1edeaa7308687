"""Filling and reading topics in tests: records that say where they belong, reads that check what every read promises."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa

from connectors.log import APPENDS, CategoryInfo, Log, Reader, Slice

PATIENCE_SECONDS = 60.0

Values = list[bytes | None]


def table(values: Values, *, partition: int | None = None, keys: Values | None = None, now: bool = False) -> pa.Table:
    count = len(values)
    moments = [None if now else index for index in range(count)]
    columns = [keys or [b"k"] * count, values, moments, [partition] * count]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, APPENDS, strict=True)], schema=APPENDS)


def numbered(count: int, first: int = 0) -> list[bytes | None]:
    return [b"%d" % index for index in range(first, first + count)]


def slices_to_end(reader: Reader, until: dict[int, int]) -> list[Slice]:
    """All slices up to ``until``; they must meet exactly and count every offset."""
    positions, found = reader.positions(), []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(reader.positions()[partition] < end for partition, end in until.items()):
        assert time.monotonic() < deadline, f"stuck at {reader.positions()}, to reach {until}"
        for one in reader.read(1000):
            one.records.validate(full=True)
            assert one.first_offset == positions[one.partition]
            assert one.first_offset < one.next_offset <= until[one.partition]
            positions[one.partition] = one.next_offset
            found.append(one)
        assert reader.positions() == positions
    assert reader.read(0) == []
    return found


def read(
    log: Log, category: str, start: dict[int, int] | None = None, until: dict[int, int] | None = None
) -> list[Slice]:
    info = log.describe(category)
    first = start or dict(enumerate(info.earliest))
    pinned = until or {partition: info.ends[partition] for partition in first}
    reader = log.reader(category, first, pinned)
    try:
        return slices_to_end(reader, pinned)
    finally:
        reader.close()


def values(slices: list[Slice], partition: int = 0) -> list[bytes | None]:
    return [v for one in slices if one.partition == partition for v in one.records["value"].to_pylist()]


def offsets(slices: list[Slice], partition: int = 0) -> list[int]:
    return [v for one in slices if one.partition == partition for v in one.records["offset"].to_pylist()]


def follow(reader: Reader, end: int) -> list[Slice]:
    found: list[Slice] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while reader.positions()[0] < end:
        assert time.monotonic() < deadline
        found += reader.read(1000)
    return found


def retried(attempt: Callable[[], CategoryInfo], error: type[Exception]) -> CategoryInfo:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return attempt()
        except error:
            assert time.monotonic() < deadline
