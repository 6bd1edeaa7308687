"""What a broker says of a topic beside its records: the settings that decide whether its past stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = (
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "min.insync.replicas",
    "unclean.leader.election.enable",
    "message.timestamp.type",
)

FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
"""What a topic that refold makes is told: keep everything."""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """As the broker says them; None where it says nothing. ``retention_ms``, ``retention_bytes``: -1 is for ever.

    ``replicas``: the least number of any partition.
    """

    replicas: int
    cleanup_policy: tuple[str, ...] = ()
    retention_ms: int | None = None
    retention_bytes: int | None = None
    min_insync_replicas: int | None = None
    unclean_leader_election: bool | None = None
    timestamp_type: str | None = None

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @classmethod
    def of(cls, replicas: int, said: Mapping[str, str | None]) -> TopicSettings:
        """``said``: values by the broker's own ``NAMES``."""
        given = {name: value for name, value in said.items() if value not in (None, "")}

        def number(name: str) -> int | None:
            return int(given[name] or 0) if name in given else None

        unclean = given.get("unclean.leader.election.enable")
        return cls(
            replicas,
            tuple((given.get("cleanup.policy") or "").replace(" ", "").split(",")),
            number("retention.ms"),
            number("retention.bytes"),
            number("min.insync.replicas"),
            None if unclean is None else unclean.lower() == "true",
            given.get("message.timestamp.type"),
        )
