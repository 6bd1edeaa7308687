"""Whether an archive and a log hold one and the same stream: asked before an archive is gone on with, and before both are read as one.

Promises: reads only. Where both hold a record, the last such is the same in both, byte for byte, or it is ``LogChanged``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from connectors.log import CategoryInfo, Log, Slice
from connectors.log_digest import record_hashes
from schemas.errors import LogChanged, LogGap

READ_WAIT_MS = 100
WINDOW_OFFSETS = 256
"""How far before the end of an archive its last record is looked for first."""

Places = dict[int, int]
"""An offset by partition."""


def check_identity(archive: CategoryInfo, log: CategoryInfo) -> None:
    """Raises ``LogChanged`` when these are not of one stream."""
    where = f"category {log.name}"
    if archive.identity != log.identity:
        msg = f"`{log.name}` was deleted and created again: the archive is of another stream under the same name"
        raise LogChanged(msg, where=where, why=f"{archive.identity} then, {log.identity} now", do=_ANOTHER)
    if archive.partitions != log.partitions:
        msg = (
            f"`{log.name}` had {archive.partitions} partitions when its archive was made, and has {log.partitions} now"
        )
        raise LogChanged(msg, where=where, do=_ANOTHER)


def check_stream(archive: CategoryInfo, log: CategoryInfo) -> None:
    """Raises ``LogChanged`` when these are not of one stream, ``LogGap`` when the log lost what the archive has not taken yet."""
    check_identity(archive, log)
    for partition, (ours, first, end) in enumerate(zip(archive.ends, log.earliest, log.ends, strict=True)):
        where = f"{log.name}/{partition}: the archive ends at offset {ours:,}, the log"
        if first > ours:
            msg = f"the log lost events before they were archived ({first - ours:,} missing)"
            why = "retention removed them since they were last archived"
            raise LogGap(msg, where=f"{where} begins at {first:,}", why=why, do=_ANOTHER)
        if end < ours:
            msg = "the log is shorter than its archive"
            why = "it was truncated or replaced (for example by an unclean leader election)"
            raise LogChanged(msg, where=f"{where} ends at {end:,}", why=why, do=_ANOTHER)


_ANOTHER = "keep this archive for what it holds, and begin another in a directory of its own"


def check_overlap(archive: Log, log: Log, ours: CategoryInfo, theirs: CategoryInfo) -> None:
    """Compare the last archived record that the log still has, in each partition. Raises ``LogChanged``."""
    firsts = {p: max(first, theirs.earliest[p]) for p, first in enumerate(ours.earliest)}
    places = last_records(archive, ours, firsts)
    try:
        found = _hashes(log, theirs.name, {p: offset for p, (offset, _) in places.items()})
    except LogGap:
        now = log.describe(theirs.name)
        if now.earliest == theirs.earliest:
            raise
        return check_overlap(archive, log, ours, now)  # removed just now
    for partition, (offset, known) in places.items():
        if found.get(partition, known if theirs.compacted else None) != known:
            msg = "the log was rewritten: the last record that it shares with its archive is another one now"
            where, why = f"{theirs.name}/{partition} at offset {offset:,}", "an unclean leader election can do that"
            raise LogChanged(msg, where=where, why=why, do=_ANOTHER)
    return None


def last_records(log: Log, info: CategoryInfo, firsts: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Offset and hash of the last record of each partition at or after ``firsts``, where there is one."""
    found: dict[int, tuple[int, int]] = {}
    width, left = WINDOW_OFFSETS, {p: first for p, first in firsts.items() if first < info.ends[p]}
    while left:
        start = {p: max(first, info.ends[p] - width) for p, first in left.items()}
        for one in slices(log, info.name, start, {p: info.ends[p] for p in left}):
            if one.records.num_rows:
                last = one.records.slice(one.records.num_rows - 1)
                found[one.partition] = (last["offset"][0].as_py(), int(record_hashes(last)[0]))
        left = {p: first for p, first in left.items() if p not in found and start[p] > first}
        width *= 16
    return found


def _hashes(log: Log, category: str, at: Places) -> Places:
    """The hash of the record at an offset, where there is one."""
    until = {p: offset + 1 for p, offset in at.items()}
    read = slices(log, category, at, until)
    return {one.partition: int(record_hashes(one.records)[0]) for one in read if one.records.num_rows}


def slices(log: Log, category: str, start: Mapping[int, int], until: Mapping[int, int]) -> Iterator[Slice]:
    """Everything between two cuts."""
    if all(start[p] >= end for p, end in until.items()):
        return
    reader = log.reader(category, start, until)
    try:
        while any(reader.positions()[p] < end for p, end in until.items()):
            yield from reader.read(timeout_ms=READ_WAIT_MS)
    finally:
        reader.close()
