"""Archives of topics in a real broker, by the command: all that a topic has is copied, whatever the moment of a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from broker.topics import numbered as values_of
from broker.topics import read, retried, table
from interrupting import lots_of_a_seed
from kafka import TopicPartition
from pipelines import append, command, contents, events, here, started, until
from streams import at_once, offset_by_offset
from test_broker_kills import add_aborted

from connectors.archive import archive
from connectors.local import LocalLog
from schemas.errors import LogError, UnknownCategory

pytestmark = pytest.mark.broker


@pytest.fixture
def redpanda(broker: str) -> str:
    return f"redpanda://{broker}"


def test_a_topic_is_copied_with_all_that_it_has(broker_log, redpanda, broker, topic, tmp_path: Path) -> None:
    name = topic(2, message_timestamp_type="LogAppendTime")
    headers = pa.array([b"\x02\x02a\x02x", None, b"\x00"], pa.binary())
    for number in range(3):
        batch = table([b"a%d" % number, None, b""], keys=[b"k", None, b""]).append_column("headers", headers)
        broker_log.append_batch(name, batch)
        add_aborted(broker, name, number)
        said = here("archive", name, "--log", redpanda, "--to", tmp_path, "--json", "--quiet")
        assert (said.code, json.loads(said.out)["records"]) == (0, 3)
    info = broker_log.describe(name)
    with LocalLog(tmp_path) as copy:
        assert copy.describe(name) == info and info.identity
        begins = (0,) * 2
        assert offset_by_offset(copy, begins, info.ends, name) == offset_by_offset(broker_log, begins, info.ends, name)


def test_a_compacted_topic_is_copied_with_what_is_missing(broker_log, topic, tmp_path: Path) -> None:
    name = topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, min_compaction_lag_ms=0)

    def has_holes() -> bool:
        broker_log.append_batch(name, table(values_of(10), keys=[b"%d" % (at % 3) for at in range(10)], now=True))
        return sum(one.missing for one in read(broker_log, name)) > 20

    until(has_holes)
    done = archive(broker_log, name, tmp_path)
    assert done.info.compacted
    with LocalLog(tmp_path) as copy:
        [(rows, missing, leader)] = at_once(copy, {0: 0}, {0: done.info.ends[0]}, name).values()
    # The broker may have removed more meanwhile, never put anything back.
    [(later, gone, same)] = at_once(broker_log, {0: 0}, {0: done.info.ends[0]}, name).values()
    assert len(rows) + missing == len(later) + gone == done.info.ends[0] and missing > 20
    assert [row for row in rows if row["offset"] in {one["offset"] for one in later}] == later
    assert leader == same


def test_another_topic_under_the_name_is_refused(broker_log, redpanda, admin, topic, tmp_path: Path) -> None:
    name = topic(2)
    ask = ("archive", name, "--log", redpanda, "--to", tmp_path, "--quiet")
    broker_log.append_batch(name, table(values_of(10), partition=1))
    assert here(*ask).code == 0
    before = contents(tmp_path)
    broker_log.append_batch(name, table(values_of(10), partition=1))
    admin.delete_records({TopicPartition(name, 1): 15})
    gap = here(*ask)
    assert (gap.code, "5 missing" in gap.err) == (3, True), gap
    admin.create_partitions({name: 3})
    until(lambda: broker_log.describe(name).partitions == 3)
    more = here(*ask)
    assert (more.code, "had 2 partitions" in more.err) == (3, True), more
    admin.delete_topics([name])
    retried(lambda: broker_log.create(name, 2), LogError)
    again = here(*ask)
    assert (again.code, "created again" in again.err) == (3, True), again
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_there_twice_or_missing(
    kills: int, broker_log, redpanda, broker, topic, tmp_path: Path
) -> None:
    name, lots, share = topic(3), lots_of_a_seed(), events().num_rows // kills
    follow = command("archive", name, "--log", redpanda, "--to", tmp_path, "--follow", "--quiet")
    for number in range(kills):
        append(redpanda, events().slice(number * share, share), name)
        add_aborted(broker, name, number)
        whole = sum(broker_log.describe(name).ends)
        wanted = lots.randint(archived(tmp_path, name), whole)
        with started(follow) as process:
            until(lambda wanted=wanted: archived(tmp_path, name) >= wanted, process)
            process.kill()
    assert here("archive", name, "--log", redpanda, "--to", tmp_path, "--quiet").code == 0
    assert here("archive", name, "--to", tmp_path, "--check", "--quiet").code == 0
    ends = broker_log.describe(name).ends
    with LocalLog(tmp_path) as copy:
        start, until_ = dict.fromkeys(range(3), 0), dict(enumerate(ends))
        assert at_once(copy, start, until_, name) == at_once(broker_log, start, until_, name)


def archived(place: Path, name: str) -> int:
    with LocalLog(place) as copy:
        try:
            return sum(copy.describe(name).ends)
        except UnknownCategory:
            return 0


def test_a_signal_ends_it_in_order(redpanda, topic, tmp_path: Path) -> None:
    name = topic(3)
    append(redpanda, events().slice(0, 500), name)
    with started(command("archive", name, "--log", redpanda, "--to", tmp_path, "--follow")) as process:
        until(lambda: archived(tmp_path, name) == 500, process)
        append(redpanda, events().slice(500, 100), name)
        until(lambda: archived(tmp_path, name) == 600, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith(f"{name}: 600 events added")
    assert "600 events" in err
