"""What a manifest says of a view beside its files, and whether a run may go on from it.

``facts`` is a pure function of the definition, the log and the cut: no clock, host or path.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from connectors.log import CategoryInfo, Log
from connectors.log_digest import record_hashes
from flows.column_order import column_order
from flows.progress import Progress
from flows.projection import SEMANTICS, Projection
from schemas.errors import DefinitionChanged, LogChanged, LogGap, StoreError, UsageError

Place = tuple[str, int]
Cut = dict[str, list[int]]
EARLIEST = "earliest"


@dataclass(slots=True)
class Standing:
    """Where a view stands: its origin, why it is hopeful (or None), the log's identities, progress by place."""

    origin: Cut
    hopeful: str | None
    identities: dict[str, str]
    progress: dict[Place, Progress]

    @property
    def cut(self) -> Cut:
        return cut_of(self.progress)


def cut_of(progress: Mapping[Place, Progress]) -> Cut:
    cut: Cut = {}
    for (category, _), facts in sorted(progress.items()):
        cut.setdefault(category, []).append(facts.next_offset)
    return cut


def begin(projection: Projection, infos: Mapping[str, CategoryInfo], origin: str | Cut | None) -> Standing:
    """A view that has folded nothing yet. Raises ``LogGap`` when the log does not begin at the origin."""
    begins = _origin(infos, origin)
    zeros = {name: [0] * info.partitions for name, info in infos.items()}
    for name, info in infos.items():
        for partition, (first, earliest) in enumerate(zip(begins[name], info.earliest, strict=True)):
            if first < earliest:
                raise LogGap(
                    f"the first events of `{name}` are gone: view `{projection.name}` cannot be folded from offset {first:,}",
                    where=f"{name}/{partition} starts at offset {earliest:,} ({earliest - first:,} events missing)",
                    why="the log keeps only recent events (retention), or records were deleted",
                    do="fold what is left:  --origin earliest  (the view is then hopeful: it can never be proved from zero)\n"
                    "or give a log that holds the whole history",
                )
    hopeful = None if begins == zeros else "its history begins at a later origin than offset zero"
    progress = {(name, p): Progress(next_offset=first) for name in infos for p, first in enumerate(begins[name])}
    return Standing(
        begins, hopeful, {name: info.identity for name, info in infos.items()}, dict(sorted(progress.items()))
    )


def _origin(infos: Mapping[str, CategoryInfo], origin: str | Cut | None) -> Cut:
    if origin == EARLIEST:
        return {name: list(info.earliest) for name, info in infos.items()}
    if isinstance(origin, dict):
        for name, info in infos.items():
            if len(origin.get(name, [])) != info.partitions:
                raise UsageError(
                    f"the origin names {len(origin.get(name, []))} partitions of `{name}`, which has {info.partitions}",
                    do="give one offset a partition",
                )
        return origin
    return {name: [0] * info.partitions for name, info in infos.items()}


def standing_of(facts: Mapping[str, Any]) -> Standing:
    progress = {
        (name, partition): Progress.from_json(found)
        for name, log in facts["log"].items()
        for partition, found in enumerate(log["partitions"])
    }
    identities = {name: log["identity"] for name, log in facts["log"].items()}
    return Standing(facts["origin"], facts["hopeful"], identities, dict(sorted(progress.items())))


def facts_of(projection: Projection, standing: Standing) -> dict[str, Any]:
    log: dict[str, Any] = {}
    hopeful = standing.hopeful
    for (category, _), facts in sorted(standing.progress.items()):
        entry = log.setdefault(category, {"identity": standing.identities[category], "partitions": []})
        entry["partitions"].append(facts.to_json())
        if facts.missing and not hopeful:
            hopeful = f"compaction had removed records of `{category}` before they were read"
    return {
        "semantics": SEMANTICS,
        "definition": projection.definition,
        "fingerprint": projection.fingerprint,
        "column_order": column_order(projection),
        "origin": standing.origin,
        "hopeful": hopeful,
        "cut": standing.cut,
        "log": log,
    }


# -- may a run go on from here?


def check_definition(projection: Projection, facts: Mapping[str, Any]) -> None:
    """Raises ``StoreError`` for another semantics number, ``DefinitionChanged`` for another definition."""
    where = f"view {projection.title}"
    if facts["semantics"] != SEMANTICS:
        raise StoreError(
            f"the view was folded by the rules of semantics {facts['semantics']}, this refold has {SEMANTICS}",
            where=where,
            do=f"fold it again:  refold rebuild {projection.title}",
        )
    if facts["fingerprint"] == projection.fingerprint:
        return
    lines = difflib.unified_diff(
        facts["definition"].splitlines(),
        projection.definition.splitlines(),
        "committed",
        "in the code",
        lineterm="",
        n=1,
    )
    raise DefinitionChanged(
        f"the definition of view {projection.title} has changed under the same version",
        where="\n".join(lines),
        do=f"give the new definition version={projection.version + 1}, or take the change back",
    )


def check_log(projection: Projection, standing: Standing, infos: Mapping[str, CategoryInfo], log: Log) -> None:
    """Raises ``LogChanged`` when the log is not the one the view was folded from, ``LogGap`` when it lost what comes next."""
    for name, info in infos.items():
        where = f"category {name}, view {projection.title}"
        again = f"fold the view again from the log as it is now:  refold rebuild {projection.title}"
        if info.identity != standing.identities[name]:
            raise LogChanged(
                f"`{name}` was deleted and created again: it is another stream under the same name",
                where=where,
                do=again,
            )
        known = [facts for (category, _), facts in standing.progress.items() if category == name]
        if info.partitions != len(known):
            raise LogChanged(
                f"`{name}` had {len(known)} partitions and has {info.partitions} now",
                where=where,
                why="keys move between partitions when their number changes, and final rows may open again",
                do=again,
            )
        for partition, facts in enumerate(known):
            _check_position(projection, name, partition, facts, info)
        _check_last_records(name, known, info, log, again)


def _check_position(projection: Projection, name: str, partition: int, facts: Progress, info: CategoryInfo) -> None:
    earliest, end = info.earliest[partition], info.ends[partition]
    if facts.next_offset < earliest:
        raise LogGap(
            f"the log lost events that view {projection.title} still needs",
            where=f"{name}/{partition} starts at offset {earliest:,}; the view's next offset is {facts.next_offset:,} "
            f"({earliest - facts.next_offset:,} events missing)",
            why="retention removed them since the view last ran",
            do=f"rebuild with an archive that has them:  refold rebuild {projection.name} --archive DIRECTORY\n"
            f"or from what is left:  refold rebuild {projection.name} --origin earliest",
        )
    if facts.next_offset > end:
        raise LogChanged(
            f"the log is shorter than what view {projection.title} has folded",
            where=f"{name}/{partition} ends at offset {end:,}; the view's next offset is {facts.next_offset:,}",
            why="the log was truncated or replaced (for example by an unclean leader election)",
            do=f"refold rebuild {projection.title}",
        )


def _check_last_records(name: str, known: list[Progress], info: CategoryInfo, log: Log, do: str) -> None:
    """Read the last folded record of each partition again: the same bytes must be there."""
    there = {p: facts for p, facts in enumerate(known) if facts.last_offset >= info.earliest[p]}
    there = {p: facts for p, facts in there.items() if facts.last_offset >= 0}
    if not there or info.compacted:
        return
    until = {p: facts.last_offset + 1 for p, facts in there.items()}
    reader = log.reader(name, {p: facts.last_offset for p, facts in there.items()}, until)
    try:
        while any(reader.positions()[p] < until[p] for p in there):
            for found in reader.read(timeout_ms=100):
                _check_record(name, found.partition, there[found.partition], found.records, do)
    finally:
        reader.close()


def _check_record(name: str, partition: int, facts: Progress, records: pa.RecordBatch, do: str) -> None:
    if records.num_rows and int(record_hashes(records)[0]) != facts.last_hash:
        raise LogChanged(
            "the log was rewritten: the last record that the view folded is another one now",
            where=f"{name}/{partition} at offset {facts.last_offset:,}",
            why="an unclean leader election or a restored log can do that",
            do=do,
        )
