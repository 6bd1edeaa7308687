"""The reference for projections of projections: the rows below, one after the other, are what events are to ``tests/reference.py``.

A row is final when nothing that may still come could change it: said of the windows below, one by one, whether their rows are shown
or not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import reference
from reference import Outcome, Record, Spec, identity, row_of


@dataclass
class Chain:
    """``own``: what is done with the rows of ``upstream``, whose key columns are called ``names``."""

    upstream: Spec | Chain
    names: tuple[str, ...]
    own: Spec

    @property
    def is_windowed(self) -> bool:
        return self.own.is_windowed


@dataclass
class ChainOutcome(Outcome):
    below: Outcome = field(default_factory=Outcome)


def fold(partitions: list[list[Record]], spec: Spec | Chain) -> Outcome:
    if isinstance(spec, Spec):
        return reference.fold(partitions, spec)
    below, own = fold(partitions, spec.upstream), spec.own
    outcome = ChainOutcome(
        left_out=[*below.rows.values(), *below.left_out],
        late=below.late,
        lost=below.lost,
        dead=below.dead,
        counts=below.counts,
        watermarks=below.watermarks,
        below=below,
    )
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for key, values in sorted(below.rows.items(), key=lambda item: [place(part) for part in item[0]]):
        row = seen(key, values, spec)
        if own.where(row) is True:
            time = row.get("event_time", 0)
            window = own.windows_of(time)[0] if own.is_windowed else (None, None)
            groups.setdefault((window, *(identity(part) for part in own.key(row))), []).append((time, row))
    for ((start, end), *group), rows in groups.items():
        row = row_of([rows], own)
        for name, value_of in own.finish.items():
            row[name] = value_of(row)
        if own.having(row) is not True:
            outcome.left_out.append(row)
            continue
        row = outcome.rows[(start, *group)] = {n: value for n, value in row.items() if not n.startswith("_")}
        if own.is_windowed:
            row |= {"window_end": end, "is_final": settled(spec.upstream, below, end)}
    return outcome


def settled(spec: Spec | Chain, outcome: Outcome, instant: int) -> bool:
    """Whether no row that starts before the instant can change any more, or come."""
    if isinstance(spec, Chain):
        assert isinstance(outcome, ChainOutcome)
        return settled(spec.upstream, outcome.below, spec.own.windows_of(instant - 1)[0][1])
    if None in outcome.watermarks:
        return False
    until = min(mark for mark in outcome.watermarks if mark is not None) - spec.lateness_us - (spec.gap_us or 0)
    if spec.gap_us is not None:
        return instant <= until and all(start >= instant or end <= until for start, end in outcome.windows)
    return all(end <= until for _, end in spec.windows_of(instant - 1))


def seen(key: tuple[Any, ...], values: dict[str, Any], spec: Chain) -> dict[str, Any]:
    """A row below as what is folded here."""
    start, *parts = key
    row = dict(zip(spec.names, map(said, parts), strict=True)) | values
    return row | {"window_start": start, "event_time": start} if spec.upstream.is_windowed else row


def said(part: Any) -> Any:
    """The value that an identity is of."""
    if not isinstance(part, tuple):
        return part
    ordered = part[1]
    bits = ordered ^ ((ordered >> 63) & (2**63 - 1))
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def place(part: Any) -> tuple[Any, ...]:
    """Sorts as a key does: nulls first."""
    return (0,) if part is None else (1, part)
