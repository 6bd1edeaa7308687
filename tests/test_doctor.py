"""May a view be rebuilt from zero? Every finding with the very topic that has it, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from broker.topics import retried
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from pipelines import here

from connectors import open_log, open_view
from connectors.archive import archive as copy_to
from connectors.redpanda import RedpandaLog
from connectors.topic_settings import TopicSettings
from flows import Projection, agg, rebuild, run
from flows.doctor import FROM_ARCHIVE, HOPEFUL, REBUILDABLE, Diagnosis, doctor, patient_of, planned
from flows.findings import of_settings
from schemas import Category, Event
from schemas.envelope import plain
from schemas.errors import LogError

START = datetime(2024, 8, 1, tzinfo=UTC)


class Seen(Event):
    bird: str


def birds(name: str) -> Category:
    return Category(name, events=[Seen])


def sightings(category: Category, version: int = 1) -> Projection:
    return Projection(name="sightings", version=version, category=category, key=["bird"], columns={"n": agg.count()})


def see(log: Any, category: Category, first: int = 0, last: int = 40) -> None:
    log.append(
        category,
        [Seen(subject=f"s{i}", time=START + timedelta(minutes=i), bird=f"b{i % 5}") for i in range(first, last)],
    )


FOR_EVER = {"retention_ms": -1, "retention_bytes": -1}
Look = Callable[..., Diagnosis]


@pytest.fixture
def examined(broker: str, topic: Callable[..., str], broker_log: RedpandaLog) -> Look:
    """A diagnosis of a view that is only planned, over a topic with these settings."""

    def look(partitions: int = 1, **settings: object) -> Diagnosis:
        name = topic(partitions, **{**FOR_EVER, **settings})
        if "min_insync_replicas" not in settings:
            see(broker_log, birds(name))
        (found,) = doctor([planned(sightings(birds(name)))], log=f"redpanda://{broker}")
        return found

    return look


def kinds(found: Diagnosis) -> set[str]:
    """What was found beside that a single broker has no other with a copy."""
    return {finding.kind for finding in found.findings} - {"replication"}


pytestmark = pytest.mark.broker


def test_a_topic_that_keeps_everything_is_rebuildable(examined: Look) -> None:
    found = examined()
    assert (found.verdict, kinds(found)) == (REBUILDABLE, set())


@pytest.mark.parametrize(
    ("settings", "verdict", "kind", "words", "fix"),
    [
        ({"retention_ms": 604_800_000}, HOPEFUL, "retention", "= 604800000: events vanish after 7.0 days", "--set retention.ms=-1"),
        ({"retention_bytes": 1_000_000}, HOPEFUL, "retention", "retention.bytes = 1000000", "--set retention.bytes=-1"),
        ({"cleanup_policy": "compact"}, HOPEFUL, "compaction", "cleanup.policy = compact", "--set cleanup.policy=delete"),
        ({"cleanup_policy": "compact,delete"}, HOPEFUL, "compaction", "keeps only the last event of each key", "refold archive"),
        ({"message_timestamp_type": "LogAppendTime"}, REBUILDABLE, "timestamps", "LogAppendTime", "message.timestamp.type=CreateTime"),
        ({"unclean_leader_election_enable": True}, REBUILDABLE, "election", "= true", "unclean.leader.election.enable=false"),
        ({"min_insync_replicas": 2}, REBUILDABLE, "insync", "min.insync.replicas = 2, and there are 1 replicas", "min.insync.replicas=1"),
    ],
)  # fmt: skip
def test_a_setting_that_ends_a_past_is_found_and_how_to_change_it(
    examined: Look, settings: dict[str, object], verdict: str, kind: str, words: str, fix: str
) -> None:
    found = examined(**settings)
    assert (found.verdict, kinds(found)) == (verdict, {kind})
    (finding,) = [one for one in found.findings if one.kind == kind]
    assert words in finding.what and fix in finding.fix and finding.why


def test_one_broker_has_no_copy(examined: Look) -> None:
    (finding,) = examined().findings
    assert (finding.kind, finding.severity) == ("replication", "risk")


@pytest.mark.parametrize(
    ("needed", "words"), [(1, "counts as written when one broker has it"), (3, "one broker is down"), (2, None)]
)
def test_how_many_replicas_must_have_an_event(needed: int, words: str | None) -> None:
    """What one broker cannot show: three replicas."""
    found = [*of_settings("t", TopicSettings(3, ("delete",), -1, -1, needed, False, "CreateTime"))]
    assert [words in f"{finding.what} {finding.why}" for finding in found] == ([True] if words else [])


# -- what happened to the topic since


@pytest.fixture
def made(
    broker: str, broker_log: RedpandaLog, topic: Callable[..., str], tmp_path: Path
) -> tuple[str, Projection, Path]:
    """A topic of two partitions, and a committed view of it."""
    name = topic(2, **FOR_EVER)
    projection = sightings(birds(name))
    see(broker_log, projection.category)
    run([projection], log=broker_log, store=tmp_path / "store", until="end", workers=1)
    return name, projection, tmp_path / "store"


def look(broker: str, store: Path, archive: Path | None = None) -> Diagnosis:
    (found,) = doctor([patient_of(open_view(store, "sightings"))], log=f"redpanda://{broker}", archive=archive)
    return found


def test_a_start_that_is_gone(broker: str, admin: KafkaAdminClient, made: Any) -> None:
    name, _, store = made
    assert (look(broker, store).verdict, kinds(look(broker, store))) == (REBUILDABLE, set())
    admin.delete_records({TopicPartition(name, 1): 5})
    found = look(broker, store)
    (finding,) = [one for one in found.findings if one.kind == "start"]
    assert found.verdict == HOPEFUL and (finding.partition, "starts at offset 5" in finding.what) == (1, True)


def test_a_topic_that_was_made_again(broker: str, broker_log: RedpandaLog, admin: KafkaAdminClient, made: Any) -> None:
    name, projection, store = made
    admin.delete_topics([name])
    assert "missing" in kinds(look(broker, store)) and look(broker, store).verdict == HOPEFUL
    retried(lambda: broker_log.create(name, 2), LogError)
    see(broker_log, projection.category)
    found = look(broker, store)
    assert (found.verdict, kinds(found)) == (HOPEFUL, {"identity"})


def test_partitions_that_were_added(broker: str, broker_log: RedpandaLog, admin: KafkaAdminClient, made: Any) -> None:
    name, _, store = made
    admin.create_partitions({name: 3})
    found = look(broker, store)
    assert (found.verdict, kinds(found)) == (REBUILDABLE, {"partitions"})
    assert any("had 2 partitions and has 3 now" in finding.what for finding in found.findings)


def test_a_view_that_says_of_itself_that_it_is_hopeful(
    broker: str, broker_log: RedpandaLog, admin: KafkaAdminClient, made: Any, tmp_path: Path
) -> None:
    name, projection, _ = made
    admin.delete_records({TopicPartition(name, 0): 3})
    run([projection], log=broker_log, store=tmp_path / "late", until="end", origin="earliest", workers=1)
    found = look(broker, tmp_path / "late")
    assert found.verdict == HOPEFUL and {"origin", "start"} <= kinds(found)


def test_events_that_were_appended_twice(broker: str, broker_log: RedpandaLog, made: Any) -> None:
    _, projection, store = made
    see(broker_log, projection.category, 0, 7)
    found = look(broker, store)
    (finding,) = [one for one in found.findings if one.kind == "duplicates"]
    assert found.verdict == REBUILDABLE and finding.what.startswith(
        "7 events of the last 47 have the id of another one"
    )


def test_ids_are_looked_for_where_the_envelope_has_them(broker: str, broker_log: RedpandaLog, topic: Any) -> None:
    name = topic(1, **FOR_EVER)
    category = Category(name, events=[Seen], envelope=plain(type="kind", time="at", id="meta.id"))
    for _ in range(2):
        see(broker_log, category, 0, 3)
    (found,) = doctor([planned(sightings(category))], log=f"redpanda://{broker}")
    assert kinds(found) == {"duplicates"}
    without = Category(name, events=[Seen], envelope=plain(type="kind", time="at"))
    (found,) = doctor([planned(sightings(without))], log=f"redpanda://{broker}")
    assert kinds(found) == set()


@pytest.mark.parametrize("is_idempotent", [False, True])
def test_a_producer_that_may_write_twice(broker: str, made: Any, is_idempotent: bool) -> None:
    name, projection, store = made
    producer = KafkaProducer(bootstrap_servers=broker, enable_idempotence=is_idempotent)
    records = projection.category.encode([Seen(subject="x", time=START, bird=f"b{i}") for i in range(6)])
    for value in records["value"].to_pylist():
        producer.send(name, value, key=b"x", partition=1)
    producer.close()
    found = look(broker, store)
    assert kinds(found) == (set() if is_idempotent else {"producer"})
    if not is_idempotent:
        (finding,) = [one for one in found.findings if one.kind == "producer"]
        assert finding.partition == 1 and finding.what.startswith("6 of the last records")


# -- archives


@pytest.fixture
def fading(
    broker: str, broker_log: RedpandaLog, topic: Callable[..., str], tmp_path: Path
) -> tuple[str, Projection, Path]:
    """A topic with retention, a view of it, and room for an archive."""
    name = topic(1, retention_ms=10**12)
    projection = sightings(birds(name))
    see(broker_log, projection.category)
    run([projection], log=broker_log, store=tmp_path / "store", until="end", workers=1)
    return name, projection, tmp_path


def test_an_archive_that_has_everything_makes_up_for_retention(
    broker: str, broker_log: RedpandaLog, admin: Any, fading: Any
) -> None:
    name, projection, place = fading
    assert look(broker, place / "store").verdict == HOPEFUL
    copy_to(broker_log, name, place / "archive")
    assert look(broker, place / "store", place / "archive").verdict == FROM_ARCHIVE
    admin.delete_records({TopicPartition(name, 0): 20})
    found = look(broker, place / "store", place / "archive")
    assert (found.verdict, kinds(found)) == (FROM_ARCHIVE, {"retention", "start"})
    with open_log(f"redpanda://{broker}", place / "archive") as both:
        assert rebuild(projection, log=both, store=place / "store", workers=1) is not None, "and so it is"


def test_an_archive_with_a_gap_or_a_late_beginning_is_no_help(
    broker: str, broker_log: RedpandaLog, admin: Any, fading: Any
) -> None:
    name, projection, place = fading
    copy_to(broker_log, name, place / "archive")
    see(broker_log, projection.category, 40, 60)
    admin.delete_records({TopicPartition(name, 0): 50})
    found = look(broker, place / "store", place / "archive")
    (finding,) = [one for one in found.findings if one.kind == "archive"]
    assert found.verdict == HOPEFUL and "lost events before they were archived" in finding.what
    copy_to(broker_log, name, place / "late")
    found = look(broker, place / "store", place / "late")
    (finding,) = [one for one in found.findings if one.kind == "archive"]
    assert found.verdict == HOPEFUL and "begins at offset 50" in finding.what


def test_an_archive_of_another_topic_of_the_name_is_no_help(
    broker: str, broker_log: RedpandaLog, admin: Any, fading: Any
) -> None:
    name, projection, place = fading
    copy_to(broker_log, name, place / "archive")
    admin.delete_topics([name])
    retried(lambda: broker_log.create(name, 1), LogError)
    see(broker_log, projection.category)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": "10000000000"})])
    found = look(broker, place / "store", place / "archive")
    assert found.verdict == HOPEFUL and {"identity", "archive", "retention"} <= kinds(found)


# -- an embedded log, the command


def test_an_embedded_log_keeps_everything(tmp_path: Path) -> None:
    log, category = str(tmp_path / "log"), birds("birds")
    with open_log(log) as opened:
        see(opened, category)
        assert opened.settings("birds") is None and opened.records_without_producer_id("birds", 10) == {}
    run([sightings(category)], log=log, store=tmp_path / "store", until="end", workers=1)
    (found,) = doctor([patient_of(open_view(tmp_path / "store", "sightings"))], log=log)
    assert (found.verdict, found.findings) == (REBUILDABLE, ())


def test_the_command_names_what_it_found_and_exits_with_one(
    broker: str, broker_log: RedpandaLog, admin: Any, fading: Any
) -> None:
    name, _, place = fading
    asked = ("doctor", "--log", f"redpanda://{broker}", "--store", place / "store")
    described = ConfigResource(ConfigResourceType.TOPIC, name, {})
    before = admin.describe_configs([described])
    said = here(*asked)
    assert said.code == 1 and said.out.startswith("sightings@1  HOPEFUL\n")
    assert (
        f"fix   rpk topic alter-config {name} --set retention.ms=-1     (or keep its events:  refold archive {name})"
        in said.out
    )
    assert f"  {name}  risk: replication factor 1" in said.out
    (told,) = json.loads(here(*asked, "--json").out)
    assert told["verdict"] == "hopeful" and {"retention", "replication"} == {one["kind"] for one in told["findings"]}
    copy_to(broker_log, name, place / "archive")
    said = here(*asked, "sightings", "--archive", place / "archive")
    assert said.code == 0 and said.out.startswith("sightings@1  rebuildable from archive\n")
    assert admin.describe_configs([described]) == before, "it only asked"


def test_a_view_that_nobody_knows_is_a_wrong_call(tmp_path: Path) -> None:
    said = here("doctor", "nothing", "--log", tmp_path / "log", "--store", tmp_path / "store")
    assert said.code == 2 and "no projection `nothing`" in said.err
    assert here("doctor", "--log", tmp_path / "log", "--store", tmp_path / "store").code == 0


def test_what_breaks_is_told_before_what_may(tmp_path: Path) -> None:
    settings = TopicSettings(1, ("compact",), 5, -1, 1, True, "LogAppendTime")
    found = [*of_settings("t", settings)]
    assert {finding.kind for finding in found} == {"compaction", "replication", "election", "timestamps"}, (
        "no delete, no retention"
    )
    assert {finding.kind for finding in of_settings("t", replace(settings, cleanup_policy=("compact", "delete")))} > {
        "retention"
    }
