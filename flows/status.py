"""What is committed, and how far it is behind the log: facts as plain values, for people and for ``--json``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from connectors.activity import Building, activity, buildings
from connectors.log import Log
from connectors.manifest import Manifest
from connectors.points import view_name
from connectors.reading import load_chunk
from connectors.view import View, list_views, open_view
from flows.display import instant
from flows.log_ends import end_times_us, time_paths
from schemas.errors import UnknownCategory

US_PER_S, MS_PER_S = 1_000_000, 1000


def all_views(store: Path, names: tuple[str, ...] = ()) -> list[View]:
    """The serving version of each view of a store (or of those named)."""
    return [open_view(store, name) for name in (names or [known.name for known in list_views(store)])]


def summary(view: View) -> dict[str, Any]:
    """Facts of a committed snapshot, from its manifest alone."""
    return facts_of_snapshot(view.manifest)


def facts_of_snapshot(manifest: Manifest) -> dict[str, Any]:
    """The same, of a manifest."""
    facts = manifest.facts
    tables = manifest.tables
    places = [place for log in facts["log"].values() for place in log["partitions"]]
    counts = {name: sum(place["counts"][name] for place in places) for name in places[0]["counts"]}
    return {
        "view": manifest.view,
        "version": manifest.version,
        "commit": manifest.seq,
        "rows": tables["rows"].rows,
        "bytes": sum(chunk.bytes for chunk in tables["rows"].chunks),
        "final_until_us": final_until_us(facts),
        "late_events": counts["late"],
        "dead_letters": counts["dead_letters"],
        "lost_contributions": sum(place.get("lost_contributions", 0) for place in places),
        "events": counts,
        "cut": facts["cut"],
        "hopeful": facts["hopeful"],
        "digest": manifest.digest,
    }


def final_until_us(facts: Mapping[str, Any]) -> int | None:
    """Windows that end at or before this instant are final; None: none is, or the view has no windows."""
    definition = _definition(facts)
    if (below := definition.get("source", {}).get("projection")) is not None:
        return _settled_until_us(facts, definition, below)
    marks = [place["watermark_us"] for log in facts["log"].values() for place in log["partitions"]]
    if definition["window"] is None or None in marks:
        return None
    held = definition["window"].get("gap_us", 0)  # a session may go on for as long after its end
    return min(marks) - definition["allowed_lateness_us"] - held


def _settled_until_us(facts: Mapping[str, Any], definition: dict[str, Any], below: dict[str, Any]) -> int | None:
    """Of a projection of a projection: up to where no window starts that is open. None also where that cannot be told from facts
    alone: over sessions, and over days of a calendar."""
    until = final_until_us({**facts, "definition": json.dumps(below)})
    window = below["window"]
    if definition["window"] is None or until is None or "size_us" not in window:
        return None
    step = window.get("step_us", window["size_us"])
    return int((until - window["size_us"]) // step * step + step)


def _definition(facts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(facts["definition"])
    return found


def standings(store: Path, names: tuple[str, ...] = ()) -> list[View]:
    """The newest snapshot of every version of each view of a store, or of the views (``name`` or ``name@version``) that are named."""
    wanted = [view_name(name) for name in names]
    known = {view.name: view.versions for view in list_views(store)}
    found = []
    for name, version in wanted or [(name, None) for name in known]:
        versions = known.get(name, ()) if version is None else (version,)
        found += [open_view(store, name, one) for one in versions] or [open_view(store, name)]
    return found


def standing(view: View, log: Log) -> dict[str, Any]:
    """All that ``refold status`` says of a version: what is committed, what goes on, and per partition how far it is behind."""
    home = view.generation.version
    now = activity(view.generation, view.manifest)
    places = lag(view, log)
    whole = sum(place["end"] or place["next_offset"] for place in places) - sum(
        map(sum, view.manifest.facts["origin"].values())
    )
    return {
        **summary(view),
        "is_current": home.is_current(),
        "is_running": now.is_running,
        "committed_s_ago": now.committed_ms / MS_PER_S,
        "records_per_s": now.records_per_s,
        "open_windows": open_windows(view),
        "rebuilds": [_rebuild(building, whole) for building in buildings(home)],
        "partitions": places,
    }


def open_windows(view: View) -> int | None:
    """Windows with rows that are not final; None for a view without windows. Raises ``StoreDamaged``."""
    if "is_final" not in view.schema.names:
        return None
    load = load_chunk(view.generation.version.path.parents[1], view.manifest, "rows")
    # Windows of one length become final in the order of their starts, and so do rows: the open ones are at the end.
    in_order = _definition(view.manifest.facts)["window"]["kind"] != "session"
    found: set[Any] = set()
    for chunk in reversed(view.manifest.tables["rows"].chunks):
        rows = load(chunk)
        still_open = rows.filter(pc.invert(rows["is_final"]))["window_start"].unique().to_pylist()
        found.update(still_open)
        if in_order and not still_open and rows.num_rows:
            break
    return len(found)


def _rebuild(building: Building, whole: int) -> dict[str, Any]:
    rate = building.records_per_s
    return {
        "generation": building.generation,
        "records": building.records,
        "of_records": whole,
        "percent": 100.0 * building.records / whole if whole else 0.0,
        "records_per_s": rate,
        "seconds_left": max(whole - building.records, 0) / rate if rate else None,
    }


def lag(view: View, log: Log) -> list[dict[str, Any]]:
    """Per partition: position, end of the log, how many records and how much event time lie between, and who holds finality back."""
    found = []
    facts = view.manifest.facts
    definition = _definition(facts)
    windowed = definition["window"] is not None
    paths = time_paths(definition)
    for category, logged in facts["log"].items():
        at = [place["next_offset"] for place in logged["partitions"]]
        ends: tuple[int, ...] = ()
        newest_us: dict[int, int] = {}
        with contextlib.suppress(UnknownCategory):
            info = log.describe(category)
            ends = info.ends
            behind = [partition for partition, end in enumerate(ends[: len(at)]) if end > at[partition]]
            newest_us = end_times_us(log, info, paths[category], behind)
        marks = [place["watermark_us"] for place in logged["partitions"]]
        slowest = None if None in marks else min(marks)  # a partition without events holds back more than any other
        for partition, place in enumerate(logged["partitions"]):
            end = ends[partition] if partition < len(ends) else None
            found.append(
                {
                    "category": category,
                    "partition": partition,
                    "next_offset": place["next_offset"],
                    "end": end,
                    "lag_records": None if end is None else end - place["next_offset"],
                    "lag_us": _behind_us(place["watermark_us"], newest_us.get(partition), end, place["next_offset"]),
                    "watermark_us": place["watermark_us"],
                    "holds_finality_back": windowed and place["watermark_us"] == slowest,
                }
            )
    return found


def _behind_us(watermark_us: int | None, newest_us: int | None, end: int | None, position: int) -> int | None:
    """Event time between the watermark and the end of a partition; None where either is not known."""
    if end is not None and position >= end:
        return 0
    if watermark_us is None or newest_us is None:
        return None
    return max(newest_us - watermark_us, 0)


def view_line(view: View) -> str:
    """A view in one line, for people."""
    facts = summary(view)
    parts = [f"{facts['view']:<20} v{facts['version']}", f"{facts['rows']:>9,} rows"]
    if facts["final_until_us"] is not None:
        parts.append(f"final to {instant(facts['final_until_us'])}")
    parts += [
        f"late {facts['late_events']:,}",
        f"dead letters {facts['dead_letters']:,}",
        f"digest {facts['digest'][:12]}",
    ]
    return "  ".join([*parts, *(["HOPEFUL"] if facts["hopeful"] else [])])
