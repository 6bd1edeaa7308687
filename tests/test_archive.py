"""Archives: what was copied is read as the original is, whatever it was copied from and however often it was interrupted."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import Acknowledge, Effort, Rig, Work
from memory_log import CONTROL, RECORD, REMOVED, Entry
from pipelines import Said, contents, here
from streams import NAME, Stream, at_once, offset_by_offset, streams

from connectors import archive as archiving
from connectors import local_writer
from connectors.archive import Copying, archive
from connectors.local import LocalLog
from connectors.log import APPENDS
from connectors.log_digest import digest
from connectors.overlap import slices
from connectors.segment import Segment, encode_segment
from schemas.errors import LogChanged, LogError, LogGap, UnknownCategory, UsageError


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Tails, segments and pieces so small that a few records fill them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_writer, "TAIL_FRAMES", 3)
        patch.setattr(local_writer, "TAIL_RECORDS", 6)
        patch.setattr(local_writer, "SETTLED_RECORDS", 5)
        patch.setattr(local_writer, "SEGMENT_GROUPS", 1)
        patch.setattr(archiving, "PIECE_RECORDS", 4)
        patch.setattr(os, "fsync", lambda fd: None)  # what is durable is what the model of a disk says
        yield


def numbered(count: int, **how: Any) -> list[Entry]:
    return [Entry(b"%d" % number, **how) for number in range(count)]


# -- a copy is the same


@settings(max_examples=150)
@given(partitions=streams, seed=st.integers(0, 2**32), data=st.data())
def test_a_copy_is_read_as_the_original_is(partitions, seed, data, tmp_path_factory):
    """Copied in any number of turns from slices of any size; read offset by offset, and in ranges."""
    place, whole = tmp_path_factory.mktemp("archive"), [len(entries) for entries in partitions]
    log, plain = Stream(partitions, lots=random.Random(seed), ends=[0] * len(partitions)), Stream(partitions)
    for _ in range(data.draw(st.integers(0, 3))):
        log.ends = [data.draw(st.integers(end, whole[p])) for p, end in enumerate(log.ends)]
        assert archive(log, NAME, place).info == log.describe(NAME)
    log.ends = whole
    done = archive(log, NAME, place)
    assert (done.info, done.stopped) == (log.describe(NAME), False)
    with LocalLog(place) as copy:
        begins = [0] * len(whole)
        assert offset_by_offset(copy, begins, whole) == offset_by_offset(plain, begins, whole)
        start = {p: data.draw(st.integers(0, end)) for p, end in enumerate(whole)}
        until = {p: data.draw(st.integers(first, whole[p])) for p, first in start.items()}
        assert at_once(copy, start, until) == at_once(plain, start, until)


def test_a_slice_with_both_kinds_of_holes_keeps_their_number(tmp_path: Path) -> None:
    entries = [Entry(b"a"), Entry(kind=CONTROL), Entry(b"b"), Entry(kind=REMOVED), Entry(kind=REMOVED), Entry(b"c")]
    entries += [Entry(kind=CONTROL), Entry(kind=REMOVED)]
    log = Stream([entries])
    log.reader = super(Stream, log).reader  # type: ignore[method-assign]
    archive(log, NAME, tmp_path)
    with LocalLog(tmp_path) as copy:
        [(rows, missing, _)] = at_once(copy, {0: 0}, {0: 8}).values()
        assert ([row["value"] for row in rows], missing) == ([b"a", b"b", b"c"], 3)
        parts = [at_once(copy, {0: at}, {0: at + 1})[0] for at in range(8)]
        assert [missing for _, missing, _ in parts] == [0, 1, 0, 1, 1, 0, 0, 0], "the first are taken to be removed"


def test_a_stream_without_any_record_is_copied(tmp_path: Path) -> None:
    """Nothing but aborted transactions; and enough of them to seal a tail."""
    log = Stream([[Entry(kind=CONTROL, leader_epoch=at) for at in range(12)]], ends=[0])
    for end in range(1, 13):
        log.ends = [end]
        assert archive(log, NAME, tmp_path).info.ends == (end,)
    assert list(tmp_path.glob("*/0/*.parquet"))
    with LocalLog(tmp_path) as copy:
        assert offset_by_offset(copy, [0], [12]) == offset_by_offset(log, [0], [12])


def test_what_the_original_has_lost_before_is_not_in_the_archive(tmp_path: Path) -> None:
    log = Stream([numbered(9), numbered(3)])
    log.earliest = (4, 3)
    assert archive(log, NAME, tmp_path).info == log.describe(NAME)
    with LocalLog(tmp_path) as copy:
        assert at_once(copy, {0: 4, 1: 3}, {0: 9, 1: 3}) == at_once(log, {0: 4, 1: 3}, {0: 9, 1: 3})
        with pytest.raises(LogGap):
            copy.reader(NAME, {0: 0})


def test_an_embedded_log_can_be_archived(tmp_path: Path) -> None:
    headers = pa.array([b"\x02\x02a\x02x", None, b"\x00"], pa.binary())
    rows = {"key": [b"k", None, b""], "value": [b"1", b"", None], "timestamp": [1, 2, 3], "partition": [0, 0, 1]}
    table = pa.table(rows, schema=APPENDS).append_column("headers", headers)
    with LocalLog(tmp_path / "log") as log, LocalLog(tmp_path / "copy") as copy:
        log.append_batch(NAME, table)
        archive(log, NAME, tmp_path / "copy")
        ends = log.describe(NAME).ends
        assert copy.describe(NAME) == log.describe(NAME)
        assert offset_by_offset(copy, (0,) * 4, ends) == offset_by_offset(log, (0,) * 4, ends)


# -- what is refused, with nothing written


def begun(place: Path) -> Stream:
    log = Stream([numbered(5), numbered(3)])
    archive(log, NAME, place)
    log.partitions = [numbered(9), numbered(9)]
    log.ends = [9, 9]
    return log


def made_again(log: Stream) -> None:
    log.identity = "another"


def repartitioned(log: Stream) -> None:
    log.partitions, log.ends = [*log.partitions, []], [*log.ends, 0]


def cut_short(log: Stream) -> None:
    log.ends = [4, 9]


def rewritten(log: Stream) -> None:
    log.partitions = [log.partitions[0], [*numbered(2), Entry(b"other"), *numbered(6)]]


def emptied(log: Stream) -> None:
    log.earliest = (0, 5)


@pytest.mark.parametrize(
    ("happened", "error"),
    [
        (made_again, LogChanged),
        (repartitioned, LogChanged),
        (cut_short, LogChanged),
        (rewritten, LogChanged),
        (emptied, LogGap),
    ],
)
def test_another_stream_is_refused_and_nothing_is_written(happened, error, tmp_path: Path) -> None:
    log = begun(tmp_path)
    before = contents(tmp_path)
    happened(log)
    with pytest.raises(error) as raised:
        archive(log, NAME, tmp_path)
    assert raised.value.where and NAME in raised.value.where and raised.value.do
    assert contents(tmp_path) == before


def test_retention_up_to_the_end_of_the_archive_is_no_gap(tmp_path: Path) -> None:
    log = begun(tmp_path)
    log.earliest = (5, 3)
    assert archive(log, NAME, tmp_path).info.ends == (9, 9)
    assert archive(log, NAME, tmp_path).info.earliest == (0, 0)


def test_a_log_made_again_while_it_is_copied_is_noticed(tmp_path: Path) -> None:
    log = Stream([numbered(9)], lots=random.Random(1))
    plain, log.reader = log.reader, lambda *how: (made_again(log), plain(*how))[1]  # type: ignore[method-assign]
    with pytest.raises(LogChanged, match="created again"):
        archive(log, NAME, tmp_path)
    with LocalLog(tmp_path) as copy:
        assert copy.describe(NAME).ends == (0,)


def test_that_the_original_compacts_now_is_told_by_the_archive_too(tmp_path: Path) -> None:
    log = begun(tmp_path)
    log.partitions = [[*numbered(5), Entry(kind=REMOVED), *numbered(3)], log.partitions[1]]
    with LocalLog(tmp_path) as copy:
        reader = copy.reader(NAME, {0: 0})
        assert not copy.describe(NAME).compacted
        assert archive(log, NAME, tmp_path).info.compacted
        assert copy.describe(NAME).compacted
        while reader.positions()[0] < 9:
            reader.read(1000)
        assert reader.read(0) == [], "it is the same category all the same"
        reader.close()


def test_nothing_can_be_appended_to_an_archive_nor_copied_to_what_is_none(tmp_path: Path) -> None:
    log = begun(tmp_path / "archive")
    with LocalLog(tmp_path / "archive") as copy, pytest.raises(UsageError, match="is an archive"):
        copy.append_batch(NAME, pa.table({field.name: pa.array([], field.type) for field in APPENDS}))
    assert archive(log, NAME, tmp_path / "archive").records == 10, "nor does the attempt keep it locked"
    with LocalLog(tmp_path / "log") as own:
        own.create(NAME, 2)
    with pytest.raises(UsageError, match="is no archive"):
        archive(log, NAME, tmp_path / "log")
    with pytest.raises(UnknownCategory):
        archive(log, "others", tmp_path / "archive")


def test_one_at_a_time_writes_an_archive(tmp_path: Path) -> None:
    log = begun(tmp_path)
    with LocalLog(tmp_path) as copy:
        writer = copy.copier(log.describe(NAME))
        with pytest.raises(LogError, match="another process"):
            archive(log, NAME, tmp_path)
        writer.close()
    assert archive(log, NAME, tmp_path).info.ends == (9, 9)


# -- interrupted at every step on disk


class Archiving(Work):
    """An archive made, and gone on with in turns, small and large, with holes, until it has all."""

    ENTRIES = tuple(
        [Entry(b"%d" % at, kind=CONTROL if at % 5 == p else RECORD, leader_epoch=at // 8) for at in range(26)]
        for p in (1, 2)
    )
    TURNS = (2, 3, 5, 6, 7, 19, 26)

    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        log = Stream(self.ENTRIES, ends=[0, 0])
        for turn in self.TURNS:
            log.ends = [max(turn, end) for end in self.ends(place)]
            acknowledge(min(archive(log, NAME, place / "archive").info.ends))

    def look(self, place: Path, acknowledged: int) -> None:
        ends = self.ends(place)
        assert acknowledged <= min(ends)
        with LocalLog(place / "archive") as copy:
            if ends != (0, 0):
                assert offset_by_offset(copy, (0, 0), ends) == offset_by_offset(Stream(self.ENTRIES), (0, 0), ends)

    def outcome(self, place: Path) -> Any:
        names = sorted(path.suffix for path in (place / "archive" / NAME).glob("[01]/*.t*"))
        return self.ends(place), names

    def ends(self, place: Path) -> tuple[int, ...]:
        with LocalLog(place / "archive") as copy:
            try:
                return copy.describe(NAME).ends
            except UnknownCategory:
                return (0, 0)


@pytest.mark.parametrize(
    "effort",
    [Effort(mixtures=1, again=1, every=3), pytest.param(Effort(mixtures=20, again=40), marks=pytest.mark.slow)],
)
def test_interrupted_anywhere_it_goes_on_from_its_own_ends(effort: Effort, tmp_path: Path) -> None:
    Rig(Archiving(), tmp_path).interrupt_everywhere(effort)


# -- following


def test_following_copies_what_comes_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "FOLLOW_SECONDS", 0)
    log, stop = Stream([numbered(20), numbered(20)], ends=[1, 0]), threading.Event()
    seen: list[Copying] = []

    def goes_on() -> None:
        log.ends = [min(end + 1, 20) for end in log.ends]
        if seen[0].records == 40:
            stop.set()

    log.on_read = goes_on
    done = archive(log, NAME, tmp_path, follow=True, stop=stop, watch=seen.append)
    assert (done.info.ends, done.records, done.stopped) == ((20, 20), 40, False)
    assert seen[0].until is None and sum(seen[0].positions.values()) == sum(seen[0].ends.values()) == 40
    with LocalLog(tmp_path) as copy:
        assert offset_by_offset(copy, (0, 0), (20, 20)) == offset_by_offset(log, (0, 0), (20, 20))


def test_stopped_before_the_end_it_keeps_what_it_has_read(tmp_path: Path) -> None:
    log, stop = Stream([[Entry(b"", leader_epoch=at) for at in range(40)]]), threading.Event()  # each a slice
    calls = iter(range(100))
    log.on_read = lambda: stop.set() if next(calls) == 5 else None
    done = archive(log, NAME, tmp_path, stop=stop)
    assert (done.stopped, done.info.ends, done.records) == (True, (6,), 6)
    assert archive(log, NAME, tmp_path).records == 34


def test_other_partitions_are_noticed_while_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "FOLLOW_SECONDS", 0)
    log = Stream([numbered(9)])
    log.on_read = lambda: repartitioned(log)
    with pytest.raises(LogChanged, match="2 now"):
        archive(log, NAME, tmp_path, follow=True)


# -- checked against its digests


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """An archive of two partitions, with segments and tails."""
    log = Stream([numbered(30), numbered(30)], ends=[9, 3])
    archive(log, NAME, tmp_path / "archive")
    log.ends = [30, 28]
    archive(log, NAME, tmp_path / "archive")
    log.ends = [30, 30]
    archive(log, NAME, tmp_path / "archive")
    return tmp_path / "archive"


def check(place: Path) -> Said:
    return here("archive", NAME, "--to", place, "--check", "--quiet")


def test_an_archive_as_it_was_written_is_so(checked: Path) -> None:
    assert "60 events in" in check(checked).out
    found = json.loads(here("archive", NAME, "--to", checked, "--check", "--json").out)
    hashes = [digest([one.records]) for one in slices(Stream([numbered(30)]), NAME, {0: 0}, {0: 30})]
    assert found["ok"] and found["damaged"] == []
    assert {part["digest"] for part in found["partitions"]} == {f"{sum(hashes) % 2**64:016x}"}
    assert [(part["earliest"], part["end"], part["records"]) for part in found["partitions"]] == [(0, 30, 30)] * 2


def test_every_file_that_is_not_what_was_written_is_named(checked: Path) -> None:
    for path in sorted(checked.glob("*/*/*.*")):
        content = path.read_bytes()
        if content:
            path.write_bytes(content[: len(content) // 3] + b"\x00\xff" + content[len(content) // 3 + 2 :])
            said = check(checked)
            assert (said.code, str(path.relative_to(checked)) in said.out) == (1, True), path
            assert said.out.count("DAMAGED") == 1
            path.write_bytes(content)
    assert check(checked).code == 0


def test_a_segment_with_other_records_than_its_digest_says_is_named(checked: Path) -> None:
    """As if it had been written by a machine whose memory is bad: its checksums are right."""
    path = min(checked.glob("*/0/*.parquet"))
    segment = Segment(path, 0)
    records, end = segment.read(0)
    assert segment.note and end == segment.next_offset
    values = pa.array([b"other", *records["value"].to_pylist()[1:]], pa.binary())
    altered = pa.RecordBatch.from_arrays(
        [values if name == "value" else records[name] for name in records.schema.names], schema=records.schema
    )
    path.write_bytes(encode_segment(0, end, [altered], segment.note))
    segment.close()
    said = check(checked)
    assert said.code == 1 and "digest" in said.out and said.out.count("DAMAGED") == 1


def test_a_segment_that_is_missing_is_told(checked: Path) -> None:
    first, second, *_ = sorted(checked.glob("*/0/*.parquet"))
    end = int(second.name.split(".")[0])
    second.unlink()
    said = check(checked)
    assert said.code == 1
    assert f"offsets {end:,} to" in said.out and str(first.relative_to(checked)) not in said.out


def test_what_is_no_archive_is_not_checked(checked: Path) -> None:
    with LocalLog(checked) as own:
        own.create("own", 1)
    assert here("archive", "own", "--to", checked, "--check").code == 2
    assert here("archive", "nothing", "--to", checked, "--check").code == 3
    assert here("archive", NAME, "--to", checked, "--check", "--follow").code == 2
