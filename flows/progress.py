"""Where a view stands in one partition: position, watermark, counts, and what is remembered of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.errors import StoreError

NO_WATERMARK = -(2**63)
"""Before any event: smaller than every event time (microseconds)."""

COUNTS = ("read", "folded", "other_types", "filtered", "late", "dead_letters", "tombstones", "markers", "pending")
"""Records of a partition, by what became of them. ``read`` is the sum of the others: the conservation law."""


@dataclass(slots=True)
class Progress:
    """Facts of a view about one partition of one category; all of them pure functions of the log up to ``next_offset``.

    ``last_offset`` and ``last_hash``: the last record before the position (-1: none), read again on start.
    ``log_digest``: sum of record hashes since the origin. ``missing``: offsets that compaction had removed. ``lost_contributions``:
    windows that folded records came too late for, of several that they have (stored where there are any).
    """

    next_offset: int
    watermark: int = NO_WATERMARK
    leader_epoch: int = -1
    last_offset: int = -1
    last_hash: int = 0
    log_digest: int = 0
    missing: int = 0
    lost_contributions: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def copy(self) -> Progress:
        return replace(self, counts=dict(self.counts))

    def count(self, read: int, found: Mapping[str, int]) -> None:
        """``read`` more records, and what became of them."""
        self.counts["read"] += read
        for name, more in found.items():
            self.counts[name] += more

    def check_conservation(self, where: str) -> None:
        """Raises ``StoreError`` unless every record that was read is accounted for: nothing is committed then."""
        total = sum(count for name, count in self.counts.items() if name != "read")
        if total != self.counts["read"]:
            msg = f"{self.counts['read']:,} records were read and {total:,} are accounted for; nothing was committed"
            raise StoreError(msg, where=f"{where}: {self.counts}", why="this is a fault of refold", do="report it")

    def to_json(self) -> dict[str, Any]:
        lost = {"lost_contributions": self.lost_contributions} if self.lost_contributions else {}
        return {
            "next_offset": self.next_offset,
            "watermark_us": None if self.watermark == NO_WATERMARK else self.watermark,
            "leader_epoch": self.leader_epoch,
            "last_offset": self.last_offset,
            "last_hash": f"{self.last_hash:016x}",
            "log_digest": f"{self.log_digest:016x}",
            "missing": self.missing,
            **lost,
            "counts": self.counts,
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Progress:
        return cls(
            next_offset=facts["next_offset"],
            watermark=NO_WATERMARK if facts["watermark_us"] is None else facts["watermark_us"],
            leader_epoch=facts["leader_epoch"],
            last_offset=facts["last_offset"],
            last_hash=int(facts["last_hash"], 16),
            log_digest=int(facts["log_digest"], 16),
            missing=facts["missing"],
            lost_contributions=facts.get("lost_contributions", 0),
            counts=dict(facts["counts"]),
        )
