"""``doctor``: may this view ever be rebuilt from offset zero?

*rebuildable*: its log keeps everything. *rebuildable from archive*: its log does not, and the archive that was given does. *hopeful*:
neither; what goes missing then can never be folded again. Findings that break a rebuild decide that; risks are told beside them.

It only asks: nothing of the log, the archive or the store is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.local import LocalLog
from connectors.log import CategoryInfo, Log, open_log
from connectors.view import View
from flows.duplicates import duplicates
from flows.findings import BREAKS, Finding, of_expectation, of_settings, of_start
from flows.log_ends import TimePath, envelopes
from flows.projection import Projection
from schemas.errors import LogChanged, LogGap, UnknownCategory

REBUILDABLE, FROM_ARCHIVE, HOPEFUL = "rebuildable", "rebuildable from archive", "hopeful"
LAST = 10_000
"""Records at the end of each partition that are looked at for duplicates, and for who wrote them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a view knows of a category. ``identity``, ``partitions``: of the log that it was folded from (None: not folded yet).

    ``id_path``: where a record has the event's id (None: nowhere).
    """

    category: str
    identity: str | None = None
    partitions: int | None = None
    id_path: TimePath = None


@dataclass(frozen=True, slots=True)
class Patient:
    """A view to examine. ``hopeful``: why its own record says that it is (None: it does not)."""

    view: str
    version: int
    categories: tuple[Expected, ...]
    hopeful: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    view: str
    version: int
    verdict: str
    findings: tuple[Finding, ...]


def patient_of(view: View, projection: Projection | None = None) -> Patient:
    """A committed view; its definition, if the code has it, says where event ids are."""
    facts = view.manifest.facts
    known = {category.name: category.envelope.id for category in projection.categories} if projection else {}
    structured = {
        name for name, envelope in envelopes(json.loads(facts["definition"])) if envelope["name"] == "cloudevents"
    }
    categories = tuple(
        Expected(
            name, log["identity"], len(log["partitions"]), known.get(name, ("id",) if name in structured else None)
        )
        for name, log in facts["log"].items()
    )
    return Patient(view.name, view.version, categories, facts["hopeful"])


def planned(projection: Projection) -> Patient:
    """A view that was not committed yet."""
    expected = tuple(Expected(category.name, id_path=category.envelope.id) for category in projection.categories)
    return Patient(projection.name, projection.version, expected)


def doctor(
    patients: Sequence[Patient], *, log: str, archive: str | Path | None = None, last: int = LAST
) -> list[Diagnosis]:
    """Examine views against a log and, if given, an archive; ``last``: how many records of each partition are looked at.

    Raises ``LogUnreachable``, ``LogError``, ``UsageError`` (no such archive).
    """
    seen: dict[Expected, tuple[tuple[Finding, ...], bool]] = {}
    with open_log(log) as opened:
        examiner = _Examiner(opened, log, archive, last)
        for patient in patients:
            for expected in patient.categories:
                if expected not in seen:
                    seen[expected] = examiner.examine(expected)
    return [_diagnosis(patient, [seen[expected] for expected in patient.categories]) for patient in patients]


def _diagnosis(patient: Patient, examined: Sequence[tuple[tuple[Finding, ...], bool]]) -> Diagnosis:
    findings = [finding for found, _ in examined for finding in found]
    uncovered = [
        f for found, archived in examined for f in found if f.severity == BREAKS and not (archived and f.archive_helps)
    ]
    if patient.hopeful:
        title = f"{patient.view}@{patient.version}"
        own = Finding(
            patient.categories[0].category,
            None,
            "origin",
            BREAKS,
            f"the view says of itself: {patient.hopeful}",
            "it can be checked against what is left of its log, never from zero",
            f"refold rebuild {title}   (where the whole history is)",
        )
        findings, uncovered = [own, *findings], [own, *uncovered]
    broken = any(finding.severity == BREAKS for finding in findings)
    verdict = HOPEFUL if uncovered else FROM_ARCHIVE if broken else REBUILDABLE
    return Diagnosis(patient.view, patient.version, verdict, tuple(findings))


class _Examiner:
    """``archive``: its directory, if one was given."""

    def __init__(self, log: Log, url: str, archive: str | Path | None, last: int) -> None:
        self._log, self._url, self._archive, self._last = log, url, archive, last

    def examine(self, expected: Expected) -> tuple[tuple[Finding, ...], bool]:
        """Findings of a category, and whether the archive has all of it from offset zero."""
        name = expected.category
        in_archive, of_archive = self._archived(name)
        try:
            info = self._log.describe(name)
        except UnknownCategory:
            gone = Finding(
                name,
                None,
                "missing",
                BREAKS,
                "there is no such category in the log",
                "what the view was folded from is gone",
                "name the log that has it:  --log URL",
                archive_helps=True,
            )
            return (gone, *of_archive), in_archive
        settings = self._log.settings(name)
        found = [
            *of_expectation(name, expected.identity, expected.partitions, info),
            *of_start(info),
            *(of_settings(name, settings) if settings else ()),
            *self._of_records(expected, info),
        ]
        return (*found, *of_archive), in_archive

    def _archived(self, name: str) -> tuple[bool, list[Finding]]:
        """Whether the archive has everything from zero up to what the log has, and what is wrong with it."""
        if self._archive is None:
            return False, []
        with open_log(self._url, self._archive) as both, LocalLog(self._archive) as archive:
            if not archive.archived(name):
                return False, []
            try:
                info = both.describe(name)
            except (LogChanged, LogGap) as error:
                return False, [_archive_finding(name, f"{error.what} ({error.where})")]
            ours = archive.describe(name)
        gone = [(p, first) for p, first in enumerate(info.earliest) if first > 0]
        words = [f"it begins at offset {first:,} of partition {p}" for p, first in gone]
        words += ["it was made after compaction had removed records, or may have been"] if ours.compacted else []
        return not words, [_archive_finding(name, text) for text in words]

    def _of_records(self, expected: Expected, info: CategoryInfo) -> Iterator[Finding]:
        name = expected.category
        for partition, records in sorted(self._log.records_without_producer_id(name, self._last).items()):
            yield Finding(
                name,
                partition,
                "producer",
                "risk",
                f"{records:,} of the last records come from a producer that is not idempotent",
                "a retry after a lost answer writes them twice, or in another order",
                "set  enable.idempotence=true  in the producer",
            )
        if expected.id_path is not None:
            found = duplicates(self._log, info, expected.id_path, self._last)
            if found.events:
                yield Finding(
                    name,
                    None,
                    "duplicates",
                    "risk",
                    f"{found.events:,} events of the last {found.looked_at:,} have the id of another one, {found.example!r} for example",
                    "each is folded, and counts twice",
                    "find out who appends twice; events that are facts have an id of their own",
                )


def _archive_finding(name: str, words: str) -> Finding:
    return Finding(
        name,
        None,
        "archive",
        "risk",
        f"the archive is no help: {words}",
        "it must hold everything from offset zero up to what the log still has",
        f"begin another one:  refold archive {name} --to DIR",
    )
