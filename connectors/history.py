"""Finding a retained snapshot of a version: by number, by cut, or by event time.

Snapshots are those of the live generation, and of generations before it that were folded from the same definition by the same rules: a
rebuild replaces a generation and changes nothing. Along a chain cuts and watermarks only grow, so that it can be searched in halves.

Readers import this module: no Arrow here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from connectors.generation import Generation, Version
from connectors.manifest import Manifest
from connectors.points import Ago, AtCut, AtTime, Commit, Point, cut_text, instant_text, shown
from schemas.errors import StoreDamaged, UnknownView

BEFORE_ALL = -(2**63)
"""The watermark of a partition without events."""

LOOKS = 5
"""How often names are read again that a collection took away meanwhile."""

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A retained snapshot."""

    generation: Generation
    manifest: Manifest


def watermark_us(manifest: Manifest) -> int:
    """The least watermark of all partitions that the view reads (microseconds since the epoch)."""
    marks = [place["watermark_us"] for log in manifest.facts["log"].values() for place in log["partitions"]]
    return BEFORE_ALL if None in marks else min(marks)


def find(home: Version, point: Point) -> Snapshot:
    """The snapshot at a point: of a commit or a cut exactly that one; by time the newest whose watermark is not beyond it.

    Raises ``UnknownView`` (it is not retained), ``StoreDamaged``.
    """
    for looks_left in reversed(range(LOOKS)):
        generations = [*_alike(home)]
        try:
            found = _find(generations, _absolute(generations[0], point)) if generations else None
        except FileNotFoundError:  # collected since its name was read
            if looks_left:
                continue
            raise
        if found is not None:
            return found
        break
    raise _not_retained(home, generations, point)


def _find(generations: list[Generation], point: Point) -> Snapshot | None:
    if isinstance(point, Commit):
        there = point.seq in generations[0].snapshots()
        return Snapshot(generations[0], generations[0].read(point.seq)) if there else None
    if isinstance(point, AtTime):
        newest = (_newest_until(generation, point.time_us) for generation in generations)
        return max((one for one in newest if one is not None), key=lambda one: _size(one.manifest), default=None)
    assert isinstance(point, AtCut)
    return next((found for one in generations if (found := _at_cut(one, point)) is not None), None)


def _absolute(live: Generation, point: Point) -> Point:
    if not isinstance(point, Ago):
        return point
    newest = watermark_us(live.read(live.snapshots()[-1]))
    return AtTime(max(newest - point.span_us, BEFORE_ALL))


def _newest_until(generation: Generation, time_us: int) -> Snapshot | None:
    numbers = generation.snapshots()
    place = bisect_right(numbers, time_us, key=_of(generation, watermark_us))
    return Snapshot(generation, generation.read(numbers[place - 1])) if place else None


def _at_cut(generation: Generation, point: AtCut) -> Snapshot | None:
    numbers = generation.snapshots()
    place = bisect_left(numbers, sum(map(sum, point.cut.values())), key=_of(generation, _size))
    if place == len(numbers):
        return None
    manifest = generation.read(numbers[place])
    return Snapshot(generation, manifest) if manifest.cut == point.cut else None


def _size(manifest: Manifest) -> int:
    return sum(map(sum, manifest.cut.values()))


def _of(generation: Generation, key: Callable[[Manifest], Key]) -> Callable[[int], Key]:
    return lambda seq: key(generation.read(seq))


def _alike(home: Version) -> Iterator[Generation]:
    """The live generation, then those before it that say the same."""
    live = home.live()
    if live is None or not live.snapshots():
        return
    wanted = _rules(live)
    for generation in home.generations():
        if generation == live or (
            generation.number < live.number and generation.snapshots() and _rules(generation) == wanted
        ):
            yield generation


def _rules(generation: Generation) -> tuple[Any, ...] | None:
    newest = generation.newest_readable()
    return None if newest is None else (newest.facts.get("semantics"), newest.facts.get("fingerprint"))


def _not_retained(home: Version, generations: list[Generation], point: Point) -> UnknownView:
    title = f"{home.path.parent.name}@{home.number}"
    try:
        kept = _kept(generations)
    except (StoreDamaged, FileNotFoundError):
        kept = "none that can be read"
    return UnknownView(
        f"no snapshot of view {title} is kept at {_said(point)}",
        where=f"{shown(home.path)}: {kept}",
        why="a snapshot that was superseded stays for the grace period, and for what `refold retain` says",
        do=f"fold to that cut into a store of its own:  refold rebuild {title} --until CUT --into DIR",
    )


def _kept(generations: list[Generation]) -> str:
    numbers = generations[0].snapshots() if generations else []
    if not numbers:
        return "none is kept"
    first, last = generations[0].read(numbers[0]), generations[0].read(numbers[-1])
    count = "one is kept, commit" if len(numbers) == 1 else f"{len(numbers):,} are kept, commits"
    span = f"{first.seq:,}" if len(numbers) == 1 else f"{first.seq:,} to {last.seq:,}"
    marks = _instant(first) if len(numbers) == 1 else f"{_instant(first)} to {_instant(last)}"
    return f"{count} {span}, watermark {marks}"


def _instant(manifest: Manifest) -> str:
    us = watermark_us(manifest)
    return "before all events" if us == BEFORE_ALL else instant_text(us)


def _said(point: Point) -> str:
    if isinstance(point, Commit):
        return f"commit {point.seq:,}"
    if isinstance(point, AtTime):
        return f"event time {instant_text(point.time_us)}"
    if isinstance(point, Ago):
        return f"{point.span_us / 1e6:,.0f} s of event time before the newest"
    return f"cut {cut_text(point.cut)}"
