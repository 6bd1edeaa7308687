"""What is committed, and how far it is behind the log: facts as plain values, for people and for ``--json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectors.log import Log
from connectors.view import View, list_views, open_view
from flows.display import instant
from schemas.errors import UnknownCategory

US_PER_S = 1_000_000


def all_views(store: Path, names: tuple[str, ...] = ()) -> list[View]:
    """The serving version of each view of a store (or of those named)."""
    return [open_view(store, name) for name in (names or [known.name for known in list_views(store)])]


def summary(view: View) -> dict[str, Any]:
    """Facts of a committed snapshot, from its manifest alone."""
    facts = view.manifest.facts
    tables = view.manifest.tables
    places = [place for log in facts["log"].values() for place in log["partitions"]]
    counts = {name: sum(place["counts"][name] for place in places) for name in places[0]["counts"]}
    return {
        "view": view.manifest.view,
        "version": view.manifest.version,
        "commit": view.manifest.seq,
        "rows": tables["rows"].rows,
        "bytes": sum(chunk.bytes for chunk in tables["rows"].chunks),
        "final_until_us": final_until_us(facts),
        "late_events": counts["late"],
        "dead_letters": counts["dead_letters"],
        "lost_contributions": sum(place.get("lost_contributions", 0) for place in places),
        "events": counts,
        "cut": facts["cut"],
        "hopeful": facts["hopeful"],
        "digest": view.digest,
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


def lag(view: View, log: Log) -> list[dict[str, Any]]:
    """Per partition: position, end of the log, how many records lie between, and who holds finality back."""
    found = []
    facts = view.manifest.facts
    windowed = _definition(facts)["window"] is not None
    for category, logged in facts["log"].items():
        try:
            ends = log.describe(category).ends
        except UnknownCategory:
            ends = ()
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
                    "watermark_us": place["watermark_us"],
                    "holds_finality_back": windowed and place["watermark_us"] == slowest,
                }
            )
    return found


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
