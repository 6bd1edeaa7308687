"""The golden corpus of ``tests/golden/batches``: fetched bytes, and the records that were sent (see broker/capture.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batch_fuzz.reference import Row

DIRECTORY = Path(__file__).resolve().parent.parent / "golden" / "batches"


class Golden(NamedTuple):
    """One captured answer. ``rows`` and ``time_types`` are by offset and hold aborted records too."""

    name: str
    raw: bytes
    end: int
    compacted: bool
    aborted_transactions: list[tuple[int, int]]
    control: set[int]
    aborted: set[int]
    rows: dict[int, Row]
    time_types: dict[int, int]

    @property
    def committed(self) -> dict[int, Row]:
        return {offset: row for offset, row in self.rows.items() if offset not in self.aborted}


def corpus() -> Iterator[Golden]:
    for path in sorted(DIRECTORY.glob("*.json")):
        yield _golden(path.stem, json.loads(path.read_text()), path.with_suffix(".batches").read_bytes())


def _golden(name: str, told: dict[str, Any], raw: bytes) -> Golden:
    return Golden(
        name,
        raw,
        told["end"],
        told["compacted"],
        [(producer, first) for producer, first in told["aborted_transactions"]],
        set(told["control"]),
        set(told["aborted"]),
        {record[0]: _row(*record) for record in told["records"]},
        {record[0]: record[2] for record in told["records"]},
    )


def _row(offset: int, moment: int, _: int, key: str | None, value: str | None, headers: list[list[Any]]) -> Row:
    return offset, moment, _bytes(key), _bytes(value), [(name.encode(), _bytes(data)) for name, data in headers]


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
