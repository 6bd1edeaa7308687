"""What can be wrong with a category stream that a view wants to be rebuilt from: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from connectors.log import CategoryInfo
from connectors.topic_settings import TopicSettings

BREAKS, RISK = "breaks", "risk"
FOR_EVER = -1
MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Finding:
    """``severity``: *breaks* (a rebuild from zero is or will be impossible) or *risk*. ``fix``: what to do, a command where there is one.

    ``archive_helps``: whether an archive that holds everything cures it.
    """

    category: str
    partition: int | None
    kind: str
    severity: str
    what: str
    why: str
    fix: str
    archive_helps: bool = False

    @property
    def where(self) -> str:
        return self.category if self.partition is None else f"{self.category}/{self.partition}"


def of_start(info: CategoryInfo) -> Iterator[Finding]:
    """Partitions that do not begin at offset zero any more."""
    for partition, first in enumerate(info.earliest):
        if first > 0:
            yield Finding(
                info.name,
                partition,
                "start",
                BREAKS,
                f"starts at offset {first:,}: its first events are gone",
                "retention or somebody removed them",
                "give an archive that has them:  --archive DIR",
                archive_helps=True,
            )


def of_expectation(name: str, identity: str | None, partitions: int | None, info: CategoryInfo) -> Iterator[Finding]:
    """Whether the category is still the one that a view was folded from."""
    if identity is not None and identity != info.identity:
        yield Finding(
            name,
            None,
            "identity",
            BREAKS,
            "it was deleted and created again since the view was folded",
            "it is another stream under the same name: what the view holds can never come of it",
            "fold the view from what is there now:  refold rebuild VIEW",
        )
    if partitions is not None and info.partitions > partitions:
        yield Finding(
            name,
            None,
            "partitions",
            RISK,
            f"it had {partitions} partitions and has {info.partitions} now",
            "keys moved between partitions: a run stops, because final rows may open again",
            "refold rebuild VIEW   (it takes the new ones in)",
        )


def of_settings(name: str, settings: TopicSettings) -> Iterator[Finding]:
    """What a topic's settings will do to its past."""
    yield from _of_retention(name, settings)
    if settings.is_compacted:
        policy = ",".join(settings.cleanup_policy)
        yield Finding(
            name,
            None,
            "compaction",
            BREAKS,
            f"cleanup.policy = {policy}: compaction keeps only the last event of each key",
            "the events before it are history, and gone",
            f"{_alter(name, 'cleanup.policy=delete')}     {_or_archive(name)}",
            archive_helps=True,
        )
    yield from _of_replicas(name, settings)
    if settings.unclean_leader_election:
        yield Finding(
            name,
            None,
            "election",
            RISK,
            "unclean.leader.election.enable = true: a broker that is behind may become leader",
            "events that were acknowledged, and folded, are gone then",
            _alter(name, "unclean.leader.election.enable=false"),
        )
    if settings.timestamp_type == "LogAppendTime":
        yield Finding(
            name,
            None,
            "timestamps",
            RISK,
            "message.timestamp.type = LogAppendTime: record times are the broker's own",
            "a topic that is copied or restored gets others, and `max_ahead` is judged by them",
            _alter(name, "message.timestamp.type=CreateTime"),
        )


def _of_retention(name: str, settings: TopicSettings) -> Iterator[Finding]:
    if "delete" not in settings.cleanup_policy:
        return
    limits = [
        (
            "retention.ms",
            settings.retention_ms,
            f"events vanish after {(settings.retention_ms or 0) / MS_PER_DAY:,.1f} days",
        ),
        ("retention.bytes", settings.retention_bytes, "a partition keeps its newest bytes only"),
    ]
    for setting, limit, words in limits:
        if limit is not None and limit != FOR_EVER:
            yield Finding(
                name,
                None,
                "retention",
                BREAKS,
                f"{setting} = {limit}: {words}",
                "a rebuild from zero will be impossible, or is",
                f"{_alter(name, f'{setting}=-1')}     {_or_archive(name)}",
                archive_helps=True,
            )


def _of_replicas(name: str, settings: TopicSettings) -> Iterator[Finding]:
    replicas, needed = settings.replicas, settings.min_insync_replicas
    if replicas < 2:
        yield Finding(
            name,
            None,
            "replication",
            RISK,
            f"replication factor {replicas}: its events are on one broker's disk only",
            "they go with that disk",
            f"{_alter(name, 'replication.factor=3')}     {_or_archive(name)}",
        )
    if needed is None:
        return
    if needed < 2 <= replicas:
        yield Finding(
            name,
            None,
            "insync",
            RISK,
            f"min.insync.replicas = {needed}: an event counts as written when one broker has it",
            "if that one is lost before others have it, the event is",
            _alter(name, "min.insync.replicas=2"),
        )
    if needed >= max(replicas, 2):
        yield Finding(
            name,
            None,
            "insync",
            RISK,
            f"min.insync.replicas = {needed}, and there are {replicas} replicas",
            "nobody can append while one broker is down" if needed == replicas else "nobody can append",
            _alter(name, f"min.insync.replicas={max(replicas - 1, 1)}"),
        )


def _alter(name: str, setting: str) -> str:
    return f"rpk topic alter-config {name} --set {setting}"


def _or_archive(name: str) -> str:
    return f"(or keep its events:  refold archive {name})"
