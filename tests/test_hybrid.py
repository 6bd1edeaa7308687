"""A log and its archive read as one: the same slices as from the whole log, wherever the archive ends and the log begins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker.topics import numbered as values_of
from broker.topics import table
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, TopicPartition
from memory_log import Entry
from pipelines import append, events, flights_log, here, in_topic
from streams import NAME, Stream, at_once, offset_by_offset, streams
from test_broker_kills import add_aborted

from connectors import open_log, open_view
from connectors.archive import archive
from connectors.hybrid import HybridLog
from connectors.local import LocalLog
from connectors.redpanda import RedpandaLog
from flows import rebuild, run, verify
from schemas.errors import LogChanged, LogGap, UnknownCategory, UsageError


def numbered(count: int) -> list[Entry]:
    return [Entry(b"%d" % number) for number in range(count)]


# -- any stream


@settings(max_examples=60)
@given(partitions=streams, seed=st.integers(0, 2**32), data=st.data())
def test_read_as_one_they_are_the_whole_log(partitions, seed, data, tmp_path_factory):
    place, whole = tmp_path_factory.mktemp("archive"), [len(entries) for entries in partitions]
    log, plain = Stream(partitions, lots=random.Random(seed)), Stream(partitions)
    log.ends = [data.draw(st.integers(0, end)) for end in whole]
    ends = archive(log, NAME, place).info.ends
    log.ends = whole
    log.earliest = tuple(data.draw(st.integers(0, end)) for end in ends)
    both = HybridLog(log, place)
    assert both.describe(NAME) == plain.describe(NAME)
    begins = [0] * len(whole)
    assert offset_by_offset(both, begins, whole) == offset_by_offset(plain, begins, whole)
    start = {p: data.draw(st.integers(0, end)) for p, end in enumerate(whole)}
    until = {p: data.draw(st.integers(first, whole[p])) for p, first in start.items()}
    assert at_once(both, start, until) == at_once(plain, start, until)


def begun(place: Path) -> tuple[Stream, HybridLog]:
    """Five and three records in an archive, of nine each."""
    log = Stream([numbered(9), numbered(9)], ends=[5, 3])
    archive(log, NAME, place)
    log.ends = [9, 9]
    return log, HybridLog(log, place)


def test_what_is_archived_while_it_is_read_may_go_from_the_log(tmp_path: Path) -> None:
    log, both = begun(tmp_path)
    reader = both.reader(NAME, {0: 0, 1: 0}, {0: 9, 1: 9})
    found = reader.read(1000)
    archive(log, NAME, tmp_path)
    log.earliest = (9, 9)
    while any(position < 9 for position in reader.positions().values()):
        found += reader.read(1000)
    assert reader.read(0) == []
    reader.close()
    assert sum(one.records.num_rows for one in found) == 18


def test_a_reader_that_follows_goes_on_with_the_log(tmp_path: Path) -> None:
    log, both = begun(tmp_path)
    reader = both.reader(NAME, {0: 2, 1: 7})
    while reader.positions() != {0: 9, 1: 9}:
        reader.read(1000)
    reader.close()
    assert both.categories() == log.categories()


@pytest.mark.parametrize(
    ("what", "value", "error"),
    [
        ("identity", "another", LogChanged),
        ("earliest", (6, 0), LogGap),
        ("ends", [4, 9], LogChanged),
        ("partitions", [[*numbered(4), Entry(b"other"), *numbered(4)], numbered(9)], LogChanged),
    ],
)
def test_two_streams_of_one_name_are_not_read_as_one(what: str, value: Any, error: Any, tmp_path: Path) -> None:
    log, both = begun(tmp_path)
    setattr(log, what, value)
    for ask in (lambda: both.describe(NAME), lambda: both.reader(NAME, {0: 0, 1: 0})):
        with pytest.raises(error):
            ask()


def test_a_log_made_again_while_its_archive_is_read_is_noticed(tmp_path: Path) -> None:
    log, both = begun(tmp_path)
    reader = both.reader(NAME, {0: 0, 1: 0}, {0: 9, 1: 9})
    while reader.positions() != {0: 5, 1: 3}:
        reader.read(1000)
    log.identity = "another"
    with pytest.raises(LogChanged, match="created again"):
        reader.read(1000)
    assert reader.positions() == {0: 5, 1: 3}
    log.identity = "in memory"
    while reader.positions() != {0: 9, 1: 9}:
        reader.read(1000)
    reader.close()


def test_a_start_outside_is_refused(tmp_path: Path) -> None:
    _, both = begun(tmp_path)
    with pytest.raises(LogChanged):
        both.reader(NAME, {0: 10})
    with pytest.raises(UsageError):
        both.reader(NAME, {2: 0})


def test_a_category_that_only_one_has_is_read_from_that_one(tmp_path: Path) -> None:
    log, both = begun(tmp_path / "archive")
    log.there = False
    assert (both.categories(), both.describe(NAME).ends) == ([NAME], (5, 3))
    assert at_once(both, {0: 0, 1: 0}, {0: 5, 1: 3}) == at_once(
        LocalLog(tmp_path / "archive"), {0: 0, 1: 0}, {0: 5, 1: 3}
    )
    log.there = True
    (tmp_path / "nothing").mkdir()
    alone = HybridLog(log, tmp_path / "nothing")
    assert alone.describe(NAME) == log.describe(NAME)
    assert at_once(alone, {0: 0, 1: 0}, {0: 9, 1: 9}) == at_once(log, {0: 0, 1: 0}, {0: 9, 1: 9})
    with pytest.raises(UnknownCategory):
        both.describe("others")


def test_what_is_appended_goes_to_the_log(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no archive"):
        open_log(str(tmp_path / "log"), archive=tmp_path / "archive")
    (tmp_path / "archive").mkdir()
    with open_log(str(tmp_path / "log"), archive=tmp_path / "archive") as both:
        both.create(NAME, 1)
        assert both.append_batch(NAME, table(values_of(3))) == (3,)
        with LocalLog(tmp_path / "log") as log:
            archive(log, NAME, tmp_path / "archive")
        assert both.append_batch(NAME, table(values_of(3))) == (6,)
        assert both.describe(NAME).ends == (6,)


# -- a broker that loses its history

BEFORE = 12_000
"""Events that are archived; the topic loses them all but a few."""


@pytest.fixture
def lossy(broker: str, admin: KafkaAdminClient, topic: Callable[..., str], tmp_path: Path) -> Iterator[str]:
    """A topic with aborted transactions whose beginning is gone, a view folded from it before, and its archive."""
    name, log = topic(3), f"redpanda://{broker}"
    append(log, events().slice(0, BEFORE), name)
    add_aborted(broker, name, 1)
    run(in_topic(name), log=log, store=tmp_path / "store", until="end")
    with RedpandaLog(broker) as opened:
        archive(opened, name, tmp_path / "archive")
        ends = opened.describe(name).ends
    add_aborted(broker, name, 2)
    append(log, events().slice(BEFORE), name)
    run(in_topic(name), log=log, store=tmp_path / "whole", until="end")
    admin.delete_records({TopicPartition(name, p): end - 10 * p for p, end in enumerate(ends)})
    yield name


def facts(store: Path) -> list[Any]:
    manifests = [open_view(store, view.name).manifest for view in in_topic("any")]
    return [(one.facts, {name: table.digest for name, table in one.tables.items()}) for one in manifests]


@pytest.mark.broker
def test_history_outlives_retention(lossy: str, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, whole = f"redpanda://{broker}", tmp_path / "whole"
    views = in_topic(lossy)
    with pytest.raises(LogGap):
        rebuild(views[0], log=log, store=whole)
    monkeypatch.setenv("REFOLD_ARCHIVE", str(tmp_path / "archive"))
    expected = facts(whole)
    for view in views:
        rebuilt = rebuild(view, log=log, store=whole)
        assert rebuilt is not None
        answer = verify(view, log=log, store=whole)
        assert answer is not None and answer.ok and not answer.notes
    assert facts(whole) == expected, "leaders, counts, watermarks and digests too"
    run(views, log=log, store=tmp_path / "store", until="end")
    assert facts(tmp_path / "store") == expected, "gone on with from a fold of the topic alone"


@pytest.mark.broker
def test_a_view_goes_from_the_broker_to_the_archive_and_back(lossy: str, broker: str, tmp_path: Path) -> None:
    views, log, store = in_topic(lossy), f"redpanda://{broker}", tmp_path / "store"
    with RedpandaLog(broker) as opened:
        archive(opened, lossy, tmp_path / "archive")
    answer = verify(views[0], log=str(tmp_path / "archive"), store=tmp_path / "whole")
    assert answer is not None and answer.ok and not answer.notes
    run(views, log=str(tmp_path / "archive"), store=store, until="end")
    assert facts(store) == facts(tmp_path / "whole")
    with open_log(log) as opened:
        opened.append_batch(lossy, events().slice(0, 100))
    run(views, log=log, store=store, until="end")
    assert sum(open_view(store, views[0].name).cut[lossy]) > sum(
        open_view(tmp_path / "whole", views[0].name).cut[lossy]
    )


@pytest.mark.broker
def test_read_as_one_a_topic_and_its_archive_are_the_topic(lossy: str, broker: str, tmp_path: Path) -> None:
    with RedpandaLog(broker) as log, open_log(f"redpanda://{broker}", archive=tmp_path / "archive") as both:
        info = both.describe(lossy)
        assert info.earliest == (0, 0, 0) and info.ends == log.describe(lossy).ends
        found: dict[int, Any] = at_once(both, dict.fromkeys(range(3), 0), dict(enumerate(info.ends)), lossy)
        assert sum(len(rows) for rows, _, _ in found.values()) == events().num_rows
        late = dict(enumerate(log.describe(lossy).earliest))
        ends = dict(enumerate(info.ends))
        assert at_once(both, late, ends, lossy) == at_once(log, late, ends, lossy)


# -- the command line


def test_commands_take_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_STORE", str(tmp_path / "store"))
    kept, log = str(tmp_path / "archive"), flights_log()
    assert here("archive", "flights", "--log", log, "--to", kept).code == 0
    assert here("run", "aircraft", "--log", log, "--archive", kept, "--until", "end").code == 0
    assert here("verify", "aircraft", "--log", log, "--archive", kept).code == 0
    assert here("repair", "aircraft", "--log", log, "--archive", kept).code == 0
    assert "rebuilt == live" in here("rebuild", "aircraft", "--log", kept).out
    other = str(tmp_path / "other")
    append(other, events().slice(0, 10))
    said = here("rebuild", "aircraft", "--log", other, "--archive", kept)
    assert said.code == 3
    assert "created again" in said.err
