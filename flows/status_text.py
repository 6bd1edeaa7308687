"""What ``refold status`` shows to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.display import instant

US_PER_S = 1_000_000
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a version, from ``flows.status.standing``."""
    yield f"{facts['view']}@{facts['version']}  {_state(facts)}{'  HOPEFUL: ' + facts['hopeful'] if facts['hopeful'] else ''}"
    yield (
        f"  {facts['rows']:,} rows  {size(facts['bytes'])}  commit {facts['commit']:,} {duration(facts['committed_s_ago'])} ago"
        f"  {facts['records_per_s']:,.0f} events/s  digest {facts['digest'][:12]}"
    )
    yield f"  {_outcome(facts)}"
    yield from _table(facts["partitions"])
    for rebuild in facts["rebuilds"]:
        yield f"  {_rebuild(rebuild)}"


def _state(facts: Mapping[str, Any]) -> str:
    return f"{'serving' if facts['is_current'] else 'beside'}, {'running' if facts['is_running'] else 'not running'}"


def _outcome(facts: Mapping[str, Any]) -> str:
    parts = [f"late {facts['late_events']:,}", f"dead letters {facts['dead_letters']:,}"]
    if facts["lost_contributions"]:
        parts.append(f"lost contributions {facts['lost_contributions']:,}")
    if facts["final_until_us"] is not None:
        parts.append(f"final to {instant(facts['final_until_us'])}")
    if facts["open_windows"] is not None:
        parts.append(f"open windows {facts['open_windows']:,}")
    return "  ".join(parts)


def _table(places: list[dict[str, Any]]) -> Iterator[str]:
    """Positions, in columns as wide as they must be."""
    rows = [("partition", "next offset", "end", "lag", "in event time", "watermark"), *map(_row, places)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    holds = [False, *(place["holds_finality_back"] and len(places) > 1 for place in places)]
    for row, held in zip(rows, holds, strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield f"    {'  '.join(cells)}{'  <- holds finality back' if held else ''}"


def _row(place: Mapping[str, Any]) -> tuple[str, ...]:
    where = f"{place['category']}/{place['partition']}"
    if place["end"] is None:
        return (where, f"{place['next_offset']:,}", "not there", "-", "-", instant(place["watermark_us"]))
    behind = "-" if place["lag_us"] is None else duration(place["lag_us"] / US_PER_S)
    return (
        where,
        f"{place['next_offset']:,}",
        f"{place['end']:,}",
        f"{place['lag_records']:,} events",
        behind,
        instant(place["watermark_us"]),
    )


def _rebuild(rebuild: Mapping[str, Any]) -> str:
    left = "" if rebuild["seconds_left"] is None else f", {duration(rebuild['seconds_left'])} left"
    return (
        f"rebuild running: {rebuild['percent']:.0f} % committed ({rebuild['records']:,} of {rebuild['of_records']:,} events, "
        f"{rebuild['records_per_s']:,.0f}/s{left})"
    )


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3.5 min``, ``2.0 h``, ``9.1 d``."""
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes as people write them: ``18.2 MB``."""
    for length, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count} bytes"
