"""The embedded log on disk: crashes at every step, damage, many small appends, one writer, many readers."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import fs, local_writer
from connectors.local import LocalLog
from connectors.log import APPENDS, RECORDS
from connectors.segment import GROUP_BYTES, GROUP_RECORDS, Segment, encode_segment, group_cuts
from connectors.tail import encode_frame, walk
from schemas.errors import LogChanged, LogError, LogGap, UnknownCategory, UsageError

NAME = "orders"
SOME = settings(max_examples=60, deadline=None)


class Killed(BaseException):
    """Stands for the process being killed: nothing in the code may catch it and carry on."""


def batch(first: int, count: int, partition: int = 0, size: int = 0) -> pa.Table:
    values = [b"%d." % at + bytes(size) for at in range(first, first + count)]
    columns = [pa.nulls(count, pa.binary()), values, pa.array(range(first, first + count)), [partition] * count]
    return pa.table(columns, schema=APPENDS)


def stored(path: Path, partition: int = 0, start: int = 0) -> list[int]:
    """The numbers of all records of a partition, after checking that slices meet and are bounded."""
    log = LocalLog(path)
    reader = log.reader(NAME, {partition: start}, {partition: log.describe(NAME).ends[partition]})
    numbers, position = [], start
    while slices := reader.read():
        [piece] = slices
        assert piece.first_offset == position
        assert piece.records["offset"].to_pylist() == list(range(position, piece.next_offset))
        assert len(piece.records) <= GROUP_RECORDS
        assert piece.records.nbytes <= GROUP_BYTES + GROUP_RECORDS * 32 or len(piece.records) == 1
        numbers += [int(value.split(b".")[0]) for value in piece.records["value"].to_pylist()]
        position = piece.next_offset
    reader.close()
    return numbers


def files(path: Path, pattern: str, partition: int = 0) -> list[Path]:
    return sorted((path / NAME / str(partition)).glob(pattern))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal after a few records, so that small tests see every kind of file."""
    monkeypatch.setattr(local_writer, "TAIL_FRAMES", 3)
    monkeypatch.setattr(local_writer, "TAIL_RECORDS", 8)
    monkeypatch.setattr(local_writer, "SETTLED_RECORDS", 5)
    monkeypatch.setattr(local_writer, "SEGMENT_GROUPS", 1)


def one_partition(path: Path, *counts: int) -> int:
    """A log with one partition and an append of each count; returns the number of records."""
    total = 0
    with LocalLog(path) as log:
        log.create(NAME, 1)
        for count in counts:
            log.append_batch(NAME, batch(total, count))
            total += count
    return total


@pytest.mark.usefixtures("small_tails")
def test_a_long_tail_is_sealed_when_its_writer_is_closed(path: Path) -> None:
    one_partition(path, 2, 2)
    assert not files(path, "*.parquet") and files(path, "*.tail")[0].stat().st_size > 0
    with LocalLog(path) as log:
        log.append_batch(NAME, batch(4, 3))
        assert not files(path, "*.parquet")
    assert len(files(path, "*.parquet")) == 1 and [tail.stat().st_size for tail in files(path, "*.tail")] == [0]
    assert stored(path) == [*range(7)]


@pytest.mark.usefixtures("small_tails")
@pytest.mark.parametrize("step", range(12))
def test_a_disk_that_is_full_when_a_tail_is_sealed_loses_nothing(path: Path, step: int) -> None:
    log = LocalLog(path)
    log.create(NAME, 1)
    log.append_batch(NAME, batch(0, 3))
    log.append_batch(NAME, batch(3, 4))
    taken = 0

    def on_step(name: str, at: Path) -> None:
        nonlocal taken
        taken += 1
        if taken > step:
            raise OSError(errno.ENOSPC, "no space left on device", str(at))

    fs.on_step = on_step
    try:
        log.close()
    finally:
        fs.on_step = None
    assert stored(path) == [*range(7)]
    one_more = LocalLog(path)
    one_more.append_batch(NAME, batch(7, 1))
    one_more.close()
    assert stored(path) == [*range(8)]


# --- crashes


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Within the block, the ``step``-th step on disk (from 0) and all after it raise ``Killed``."""
    taken: list[str] = []

    def on_step(name: str, _: Path) -> None:
        if len(taken) >= step:
            raise Killed
        taken.append(name)

    fs.on_step = on_step
    try:
        yield taken
    finally:
        fs.on_step = None


COUNTS = (2, 1, 3, 1, 9, 2, 20, 1, 1, 1, 1)
"""Appends that, with small tails, are sealed after a while, and two that go straight to segments."""


def append_until_killed(path: Path, step: int) -> tuple[int, int, bool]:
    """Records that appends returned for, records of the append that was killed, and whether one was."""
    done = 0
    with killed_at(step):
        log = LocalLog(path)
        try:
            for count in COUNTS:
                log.append_batch(NAME, batch(done, count))
                done += count
        except Killed:
            return done, count, True
        finally:
            log.close()
    return done, 0, False


@pytest.mark.usefixtures("small_tails")
def test_a_kill_between_any_two_steps_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    step, killed = 0, True
    while killed:
        path = tmp_path / str(step)
        done, open_count, killed = append_until_killed(path, step)
        check_after_crash(path, done, open_count)
        shutil.rmtree(path)
        step += 1
    assert step > 60


def check_after_crash(path: Path, done: int, open_count: int) -> None:
    try:
        before = stored(path)
    except UnknownCategory:
        assert done == 0
        before = []
    assert before == list(range(len(before)))
    with LocalLog(path) as log:
        [end, *_] = log.append_batch(NAME, batch(0, 0))
        assert done <= end <= done + open_count
        assert end >= len(before)
        log.append_batch(NAME, batch(end, 1))
    assert stored(path) == list(range(end + 1))
    assert len(files(path, "*.tail")) == 1
    assert not files(path, ".*")


@pytest.mark.usefixtures("small_tails")
def test_a_kill_while_clearing_up_after_a_kill_is_harmless_too(tmp_path: Path) -> None:
    for step in range(20, 70, 3):
        path = tmp_path / str(step)
        done, open_count, _ = append_until_killed(path, step)
        for again in range(8):
            with killed_at(again), LocalLog(path) as log, suppress(Killed):
                log.append_batch(NAME, batch(0, 0))
        check_after_crash(path, done, open_count)


@pytest.mark.usefixtures("small_tails")
@pytest.mark.parametrize("failing", ["write", "fsync", "rename", "fsync_dir", "unlink", "create"])
def test_after_a_failed_step_the_same_writer_goes_on_with_what_is_on_disk(path: Path, failing: str) -> None:
    numbers: list[int] = []
    steps = 0

    def on_step(name: str, where: Path) -> None:
        nonlocal steps
        if name == failing:
            steps += 1
            if steps % 3 == 0:
                raise OSError(28, "No space left on device", str(where))

    with LocalLog(path) as log:
        log.create(NAME, 1)
        fs.on_step = on_step
        try:
            for number in range(40):
                append_again_if_it_failed(log, number)
                numbers.append(number)
        finally:
            fs.on_step = None
    assert list(dict.fromkeys(stored(path))) == numbers  # "may or may not be there": repeated appends may repeat


def append_again_if_it_failed(log: LocalLog, number: int) -> None:
    for _ in range(5):
        try:
            log.append_batch(NAME, batch(number, 1))
            return
        except LogError as error:
            assert "may or may not be there" in str(error)
    pytest.fail("five appends in a row failed")


def test_a_tail_cut_off_at_any_byte_keeps_its_whole_frames(path: Path) -> None:
    one_partition(path, 2, 1, 3)
    [tail] = files(path, "*.tail")
    content = memoryview(tail.read_bytes())
    ends = {0: 0} | {frame.end: frame.next_offset for frame in walk(content, 0)}
    for size in range(len(content) + 1):
        tail.write_bytes(content[:size])
        kept = max(count for end, count in ends.items() if end <= size)
        assert stored(path) == list(range(kept))
        one_partition_more(path, kept, batch(kept, 1))
        assert stored(path) == list(range(kept + 1))


def test_blocks_of_a_last_frame_that_were_never_written_make_it_a_torn_one(path: Path) -> None:
    one_partition(path, 2)
    [tail] = files(path, "*.tail")
    intact = tail.read_bytes()
    one_partition_more(path, 2, batch(2, 1, size=4000))
    content = bytearray(tail.read_bytes())
    content[2048:2560] = bytes(512)
    content[len(intact) + 40] ^= 1
    tail.write_bytes(content)
    assert stored(path) == [0, 1]
    one_partition_more(path, 2, batch(2, 1))
    assert stored(path) == [0, 1, 2]


def one_partition_more(path: Path, first: int, more: pa.Table) -> None:
    with LocalLog(path) as log:
        assert log.append_batch(NAME, more) == (first + len(more),)


# --- damage


@SOME
@given(data=st.data())
def test_a_flipped_bit_in_a_tail_is_found_and_nothing_is_cut(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.mktemp("flip") / "log"
    one_partition(path, 2, 1, 4, 2)
    [tail] = files(path, "*.tail")
    content = bytearray(tail.read_bytes())
    frames = list(walk(memoryview(bytes(content)), 0))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    tail.write_bytes(content)
    hit = next(frame for frame in frames if at < frame.end)
    if hit is not frames[-1]:
        with pytest.raises(LogError, match=f"{tail.name}, byte {hit.start:,} "), LocalLog(path) as log:
            log.append_batch(NAME, batch(9, 1))
        assert tail.read_bytes() == content
        reader = LocalLog(path).reader(NAME, {0: 0})
        with pytest.raises(LogError, match=tail.name):
            while True:
                reader.read()
    else:
        assert stored(path) == list(range(hit.first_offset))
        with LocalLog(path) as log:
            assert_cut_or_refused(log, tail, bytes(content), hit.first_offset)


def assert_cut_or_refused(log: LocalLog, tail: Path, content: bytes, kept: int) -> None:
    """A damaged last frame may look like a torn one; if not, nothing is touched."""
    try:
        assert log.append_batch(NAME, batch(kept, 1)) == (kept + 1,)
    except LogError:
        assert tail.read_bytes() == content


def test_a_damaged_last_frame_is_not_taken_for_a_torn_one(path: Path) -> None:
    one_partition(path, 2, 4)
    [tail] = files(path, "*.tail")
    content = bytearray(tail.read_bytes())
    content[-60] ^= 0xFF
    tail.write_bytes(content)
    with pytest.raises(LogError, match="nothing was changed"):
        one_partition_more(path, 2, batch(2, 1))
    assert tail.read_bytes() == content


@SOME
@given(data=st.data())
def test_any_change_to_a_segment_is_found(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("damage") / "segment"
    columns = [range(5, 205), [7] * 200, [0] * 200, [b"k%d" % (at % 9) for at in range(200)]]
    values = [b"value %d" % at if at % 5 else None for at in range(200)]
    records = pa.record_batch([*columns, values, [None] * 200], schema=RECORDS)
    content = encode_segment(5, 210, [records.slice(0, 120), records.slice(120)])
    changed = bytearray(content)
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    if path.read_bytes() == content:
        assert read_both_groups(path) == (125, 210, records)
    else:
        with pytest.raises(LogError, match=str(path)):
            read_both_groups(path)


def read_both_groups(path: Path) -> tuple[int, int, pa.RecordBatch]:
    segment = Segment(path, 5)
    first, middle = segment.read(5)
    second, end = segment.read(middle)
    segment.close()
    return middle, end, pa.concat_batches([first, second])


@pytest.mark.usefixtures("small_tails")
def test_a_segment_under_a_wrong_name_is_damaged(path: Path) -> None:
    one_partition(path, 8, 8, 8)
    first, second, *_ = files(path, "*.parquet")
    first.write_bytes(second.read_bytes())
    with pytest.raises(LogError, match=first.name):
        stored(path)


@pytest.mark.usefixtures("small_tails")
def test_a_missing_segment_is_a_gap_that_names_its_range(path: Path) -> None:
    one_partition(path, 8, 8, 8, 1)
    files(path, "*.parquet")[1].unlink()
    assert stored(path, start=16) == list(range(16, 25))
    with pytest.raises(LogGap, match=f"{NAME}/0, offsets 8 to 15"):
        stored(path)


@pytest.mark.usefixtures("small_tails")
def test_what_goes_away_while_it_is_read_is_told_from_damage(path: Path) -> None:
    one_partition(path, 8, 8, 8, 1)
    with LocalLog(path) as log:
        reader, other = log.reader(NAME, {0: 0}), log.reader(NAME, {0: 0})
        assert reader.read()[0].next_offset == other.read()[0].next_offset == 8
        files(path, "*.parquet")[1].unlink()
        with pytest.raises(LogGap, match=f"{NAME}/0, offsets 8 to 15"):
            reader.read()
        shutil.rmtree(path / NAME)
        with pytest.raises(LogChanged, match="gone"):
            other.read()


@pytest.mark.usefixtures("small_tails")
def test_missing_newest_segments_are_a_gap_for_readers_and_writers(path: Path) -> None:
    one_partition(path, 8, 8, 8)
    files(path, "*.parquet")[-1].unlink()
    for use in (stored, lambda path: one_partition_more(path, 24, batch(24, 1))):
        with pytest.raises(LogGap, match=f"{NAME}/0, offsets 16 to 23"):
            use(path)


@pytest.mark.usefixtures("small_tails")
def test_a_missing_tail_is_damage(path: Path) -> None:
    one_partition(path, 8, 1)
    [tail] = files(path, "*.tail")
    tail.unlink()
    with pytest.raises(LogError, match=r"00000000000000000008\.tail"):
        stored(path)


@pytest.mark.usefixtures("small_tails")
def test_oldest_segments_may_be_deleted_by_hand(path: Path) -> None:
    one_partition(path, 8, 8, 1)
    files(path, "*.parquet")[0].unlink()
    info = LocalLog(path).describe(NAME)
    assert (info.earliest, info.ends) == ((8,), (17,))
    with pytest.raises(LogGap, match="8 events"):
        stored(path)
    one_partition_more(path, 17, batch(17, 1))
    assert stored(path, start=8) == list(range(8, 18))


def test_a_damaged_category_file_is_an_error_that_names_it(path: Path) -> None:
    one_partition(path, 1)
    (path / NAME / "category.json").write_text('{"format": 3, "identity": "x", "partitions": 1}')
    with pytest.raises(LogError, match="newer refold"):
        LocalLog(path).describe(NAME)
    (path / NAME / "category.json").write_text("{")
    with pytest.raises(LogError, match=r"category\.json"):
        LocalLog(path).describe(NAME)


def test_records_without_a_category_file_are_never_overwritten(path: Path) -> None:
    one_partition(path, 3)
    (path / NAME / "category.json").unlink()
    with pytest.raises(LogError, match=r"category\.json"):
        one_partition_more(path, 0, batch(0, 1))
    assert files(path, "*.tail")[0].stat().st_size > 0


# --- files


def test_ten_thousand_single_appends_leave_fewer_than_ten_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs, "append_fsync", lambda fd, data, **_: fs.os.write(fd, data))  # ten thousand syncs take long
    with LocalLog(path) as log:
        for at in range(10_000):
            log.append_batch(NAME, batch(at, 1, partition=at % 4 if at % 2 else 0))
    assert sum(found.is_file() for found in path.rglob("*")) < 10
    assert sum(len(stored(path, partition)) for partition in range(4)) == 10_000


def test_a_big_append_goes_to_bounded_segments_of_bounded_row_groups(path: Path) -> None:
    with LocalLog(path) as log:
        log.create(NAME, 1)
        log.append_batch(NAME, batch(0, 5))
        log.append_batch(NAME, batch(5, 300_000, size=20))
        log.append_batch(NAME, batch(300_005, 1))
    found = [pq.ParquetFile(segment) for segment in files(path, "*.parquet")]
    assert [each.metadata.num_rows for each in found] == [5, 262_144, 37_856]
    assert [int(each.metadata.metadata[b"refold.range"].split()[0]) for each in found] == [0, 5, 262_149]
    assert found[1].metadata.num_row_groups == 2
    assert stored(path) == list(range(300_006))


def test_any_parquet_reader_can_read_a_segment(path: Path) -> None:
    one_partition(path, 100_000)
    [segment] = files(path, "*.parquet")
    offsets = list(range(100_000))
    assert pq.read_table(segment).schema.equals(RECORDS)
    assert pq.read_table(segment)["offset"].to_pylist() == offsets
    assert pl.read_parquet(segment)["offset"].to_list() == offsets
    found = duckdb.connect().execute(
        'SELECT count(*), max("offset"), sum(octet_length(value)) FROM read_parquet(?)', [str(segment)]
    )
    assert found.fetchone() == (100_000, 99_999, sum(len(b"%d." % at) for at in offsets))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 1000, GROUP_BYTES // 3, GROUP_BYTES // 2, GROUP_BYTES + 1]), max_size=12))
def test_row_groups_are_cut_by_bytes_and_a_bigger_record_is_alone(sizes: list[int]) -> None:
    count = len(sizes)
    shared = pa.py_buffer(bytes(GROUP_BYTES + 1))
    column = pa.array([memoryview(shared)[:size] for size in sizes], pa.binary())
    none = pa.nulls(count, pa.binary())
    records = pa.record_batch([range(count), [0] * count, [0] * count, none, column, none], schema=RECORDS)
    cuts = group_cuts(records)
    assert cuts[0] == 0 and cuts[-1] == count
    for first, end in pairwise(cuts):
        assert end > first
        assert end - first == 1 or sum(sizes[first:end]) <= GROUP_BYTES
        assert end == count or sum(sizes[first : end + 1]) > GROUP_BYTES


def test_a_record_bigger_than_a_slice_is_read_alone(path: Path) -> None:
    with LocalLog(path) as log:
        log.create(NAME, 1)
        log.append_batch(NAME, batch(0, 1))
        log.append_batch(NAME, batch(1, 1, size=GROUP_BYTES + 5))
        log.append_batch(NAME, batch(2, 1))
    assert stored(path) == [0, 1, 2]


def test_frames_are_found_only_where_offsets_continue() -> None:
    def frame(first: int, count: int) -> bytes:
        nothing = [[0] * count, [0] * count, [None] * count, [None] * count, [None] * count]
        return encode_frame(first, pa.record_batch([range(first, first + count), *nothing], schema=RECORDS))

    tail = memoryview(frame(3, 2) + frame(5, 1) + frame(7, 1))
    assert [(found.first_offset, found.next_offset) for found in walk(tail, 3)] == [(3, 5), (5, 6)]
    assert list(walk(tail, 4)) == []


# --- one writer, many readers


def test_a_second_writer_is_refused_until_the_first_closes(path: Path) -> None:
    with LocalLog(path) as first, LocalLog(path) as second:
        first.append_batch(NAME, batch(0, 1))
        with pytest.raises(LogError, match="another process is writing"):
            second.append_batch(NAME, batch(1, 1))
        second.append_batch("other", batch(0, 1))
        assert second.describe(NAME).ends == (1, 0, 0, 0)
        first.close()
        assert second.append_batch(NAME, batch(1, 1)) == (2, 0, 0, 0)


def test_a_closed_log_and_a_closed_reader_say_so(path: Path) -> None:
    one_partition(path, 1)
    log = LocalLog(path)
    reader = log.reader(NAME, {0: 0})
    reader.close()
    log.close()
    calls: list[Callable[[], object]] = [
        reader.read,
        lambda: log.describe(NAME),
        lambda: log.append_batch(NAME, batch(1, 1)),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="closed"):
            call()


def test_a_reader_notices_that_its_category_was_made_again(path: Path) -> None:
    one_partition(path, 3)
    reader = LocalLog(path).reader(NAME, {0: 3})
    assert reader.read() == []
    shutil.rmtree(path / NAME)
    with pytest.raises(LogChanged):
        reader.read()
    one_partition(path, 3)
    with pytest.raises(LogChanged, match="made again"):
        reader.read()


def test_reading_changes_no_file(path: Path) -> None:
    one_partition(path, 3, 70_000, 1)
    (path / NAME / ".lock").unlink()
    before = {found: found.stat().st_mtime_ns for found in path.rglob("*")}
    assert len(stored(path)) == 70_004
    assert {found: found.stat().st_mtime_ns for found in path.rglob("*")} == before


def follow(path: Path, total: int, answer: Any) -> None:
    """What a reader in another process sees until it has seen ``total`` records, in any order of events."""
    reader = LocalLog(path).reader(NAME, {0: 0, 1: 0})
    answer.put("ready")
    seen: dict[int, list[int]] = {0: [], 1: []}
    while sum(map(len, seen.values())) < total:
        for piece in reader.read(5_000):
            assert piece.first_offset == len(seen[piece.partition])
            seen[piece.partition] += [int(value.split(b".")[0]) for value in piece.records["value"].to_pylist()]
    answer.put(seen)


@pytest.mark.usefixtures("small_tails")
def test_a_reader_in_another_process_follows_a_writer_that_seals(path: Path) -> None:
    total = 600
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    with LocalLog(path) as log:
        log.create(NAME, 2)
        other = context.Process(target=follow, args=(path, total, answer), daemon=True)
        other.start()
        try:
            assert answer.get(timeout=60) == "ready"
            for at in range(total // 4):
                log.append_batch(NAME, pa.concat_tables([batch(at * 2, 2, 0), batch(at * 2, 2, 1)]))
            seen = answer.get(timeout=60)
        finally:
            other.terminate()
            other.join()
    assert seen == {0: list(range(300)), 1: list(range(300))}


@pytest.mark.usefixtures("small_tails")
def test_readers_never_see_a_gap_or_a_step_back_while_a_writer_seals(path: Path) -> None:
    """The narrow race: a listing that misses a file because it was renamed or removed meanwhile."""
    with LocalLog(path) as log:
        log.create(NAME, 1)
        writer = threading.Thread(target=lambda: [log.append_batch(NAME, batch(at, 1)) for at in range(400)])
        writer.start()
        looking, end = LocalLog(path), 0
        reader = looking.reader(NAME, {0: 0})
        while writer.is_alive() or reader.positions()[0] < 400:
            now = looking.describe(NAME).ends[0]
            assert now >= end
            end = now
            reader.read()
        writer.join()
    assert stored(path) == list(range(400))


def test_a_log_that_stays_open_sees_what_others_append_seal_and_lose(path: Path) -> None:
    """What it remembers of a tail must not outlive that tail."""
    with LocalLog(path) as reading, LocalLog(path) as writing:
        writing.create(NAME, 1)
        writing.append_batch(NAME, batch(0, 3))
        assert reading.describe(NAME).ends == (3,)
        writing.append_batch(NAME, batch(3, 4))
        assert reading.describe(NAME).ends == (7,)
        [tail] = files(path, "*.tail")
        content = tail.read_bytes()
        tail.write_bytes(content[:-1])  # as after a loss of power: the last frame is not all there
        assert reading.describe(NAME).ends == (3,)
        tail.write_bytes(b"")
        assert reading.describe(NAME).ends == (0,)
        tail.write_bytes(content)
        assert reading.describe(NAME).ends == (7,)
        writing.append_batch(NAME, batch(7, 100_000))
        assert reading.describe(NAME).ends == (100_007,)
