"""``verify`` tells what is wrong, and where; ``repair`` restores what is damaged and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipelines
import polars as pl
import pyarrow as pa
import pytest
from pipelines import contents, flights_log, here
from table_model import Crash, failing_at, flip

from connectors import fs, open_log, open_view
from connectors.changes import Changes
from connectors.collect import collect
from connectors.log import Log, Reader, Slice
from connectors.table import open_writer
from connectors.view import check_files, list_views
from flows import repair, run, verify
from flows.committer import Pace
from flows.delta import Delta
from flows.flights import departures_by_hour as view
from flows.job import Arrival, Job
from flows.merge import table_specs
from flows.progress import Progress
from schemas.errors import LogChanged, StoreDamaged, StoreError, UnknownView

LOG = flights_log


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The view of the whole log, for copying."""
    store = tmp_path_factory.mktemp("original")
    run([view], log=LOG(), store=store, until="end")
    return store


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A store of the test's own; hard links stay hard links."""
    subprocess.run(["cp", "-a", original, tmp_path / "store"], check=True)
    return tmp_path / "store"


def data(store: Path) -> Path:
    return store / view.name / "v1" / "data"


def rows_file(store: Path) -> Path:
    return data(store) / open_view(store, view.name).manifest.tables["rows"].chunks[0].file


# -- a view that is wrong


def commit_other_rows(store: Path, change: Callable[[pa.Table], Changes]) -> None:
    """What a fault of the fold would do: other rows under the same cut."""
    with open_writer(store, view.name, 1, table_specs(view)) as writer:
        assert writer.manifest is not None
        writer.commit({"rows": change(writer.read("rows"))}, writer.manifest.facts)


def another_count(rows: pa.Table) -> Changes:
    row = rows.slice(5, 1).to_pylist()[0]
    return Changes(pa.Table.from_pylist([{**row, "departures": 7_777}], schema=rows.schema))


def test_a_wrong_value_is_named_with_its_key_and_file(store: Path) -> None:
    right: list[dict[str, Any]] = []

    def change(rows: pa.Table) -> Changes:
        right.extend(rows.slice(100, 1).to_pylist())
        return Changes(pa.Table.from_pylist([{**right[0], "departures": 1_000_000}], schema=rows.schema))

    commit_other_rows(store, change)
    found = verify(view, log=LOG(), store=store)
    assert found is not None and not found.ok
    assert found.digest != found.refolded
    assert not found.damaged and not found.log_changes
    (table,) = found.tables
    (difference,) = table.first
    assert difference.key == {name: right[0][name] for name in ("window_start", "origin", "carrier")}
    assert (difference.column, difference.left, difference.right) == ("departures", 1_000_000, right[0]["departures"])
    assert table.files == (f"data/{rows_file(store).name}",)
    said = here("verify", view.name, "--log", LOG(), "--store", store, "--quiet")
    assert said.code == 1
    assert f"departures: view 1000000, log {right[0]['departures']}" in said.out
    assert right[0]["carrier"] in said.out and table.files[0] in said.out
    assert f"refold rebuild {view.title}" in said.out


def test_rows_that_only_one_side_has_are_named(store: Path) -> None:
    def change(rows: pa.Table) -> Changes:
        invented = {**rows.slice(0, 1).to_pylist()[0], "carrier": "ZZ"}
        keys = [rows.slice(7, 1).column(name).combine_chunks() for name in view.primary_key]
        from schemas.canonical import encode

        return Changes(pa.Table.from_pylist([invented], schema=rows.schema), encode(keys))

    commit_other_rows(store, change)
    said = here("verify", view.name, "--log", LOG(), "--store", store, "--quiet")
    assert said.code == 1
    assert "carrier ZZ:  only in the view" in said.out
    assert "only in the log" in said.out
    answer = json.loads(here("verify", view.name, "--log", LOG(), "--store", store, "--quiet", "--json").out)
    assert answer["ok"] is False
    assert [one["column"] for one in answer["tables"][0]["first"]] == [None, None]


def test_a_lost_late_event_is_a_difference_too(store: Path) -> None:
    with open_writer(store, view.name, 1, table_specs(view)) as writer:
        late = writer.read("late")
        from schemas.canonical import encode

        key = encode([late.slice(3, 1).column(name).combine_chunks() for name in table_specs(view)[2].primary_key])
        assert writer.manifest is not None
        writer.commit({"late": Changes(late.slice(0, 0), key)}, writer.manifest.facts)
    found = verify(view, log=LOG(), store=store)
    assert found is not None
    assert [table.table for table in found.tables] == ["late"]
    assert found.tables[0].first[0].key["offset"] == late["offset"][3].as_py()


def test_a_damaged_file_among_those_that_differ_is_told(store: Path) -> None:
    commit_other_rows(store, another_count)
    flip(rows_file(store), 200)
    found = verify(view, log=LOG(), store=store)
    assert found is not None and not found.ok
    assert found.tables[0].unread is not None and rows_file(store).name in found.tables[0].unread
    assert [one.file for one in found.damaged] == [f"data/{rows_file(store).name}"]


# -- a log that has changed


class Altered:
    """A log in which what is read is not what it was."""

    def __init__(self, log: Log, alter: Callable[[Slice], Slice]) -> None:
        self._log, self._alter = log, alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Reader:
        inner = self._log.reader(category, start, until)
        read = inner.read
        inner.read = lambda *args, **how: [self._alter(found) for found in read(*args, **how)]  # type: ignore[method-assign]
        return inner


def another_value(offset: int) -> Callable[[Slice], Slice]:
    """Partition 1 has another value at this offset."""

    def alter(found: Slice) -> Slice:
        offsets = found.records.column("offset").to_pylist()
        if found.partition != 1 or offset not in offsets:
            return found
        values = found.records.column("value").to_pylist()
        values[offsets.index(offset)] = b'{"another":"record"}'
        at = found.records.schema.get_field_index("value")
        changed = found.records.set_column(at, "value", pa.array(values, pa.binary()))
        return replace(found, held=changed, stored=None)

    return alter


def test_another_record_in_the_middle_of_the_log_is_the_log_not_the_view(store: Path) -> None:
    with open_log(LOG()) as log:
        found = verify(view, log=Altered(log, another_value(1000)), store=store)
    assert found is not None and not found.ok
    (change,) = found.log_changes
    assert change.startswith("flights/1 before offset")
    with pytest.raises(LogChanged, match="nothing was repaired"), open_log(LOG()) as log:
        flip(rows_file(store), 99)
        repair(view, log=Altered(log, another_value(1000)), store=store)


def test_another_last_record_is_the_log_before_anything_is_folded(store: Path) -> None:
    last = open_view(store, view.name).cut["flights"][1] - 1
    with open_log(LOG()) as log:
        found = verify(view, log=Altered(log, another_value(last)), store=store)
    assert found is not None and not found.ok
    assert found.refolded is None
    assert "rewritten" in found.log_changes[0] and "flights/1" in found.log_changes[0]


def test_the_same_records_under_another_leader_epoch_are_worth_a_note(store: Path) -> None:
    with open_log(LOG()) as log:
        found = verify(view, log=Altered(log, lambda one: replace(one, leader_epoch=7)), store=store)
    assert found is not None and found.ok
    assert len(found.notes) == 4 and "7 now" in found.notes[0]


# -- a verification that does not come to its end


def stopped_after_a_slice(store: Path) -> None:
    stop = threading.Event()

    def watch(job: Job) -> None:
        fold = job.fold

        def fold_and_stop(arrival: Arrival) -> list[tuple[str, Delta | None]]:
            stop.set()
            return fold(arrival)

        job.fold = fold_and_stop  # type: ignore[method-assign]

    with open_log(LOG()) as log:
        chopped = pipelines.Chopped(log, seed=0, records_max=500)
        assert verify(view, log=chopped, store=store, workers=1, stop=stop, watch=watch) is None


def test_a_stopped_verification_goes_on_where_it_stood_and_leaves_nothing(store: Path) -> None:
    before = contents(store)
    stopped_after_a_slice(store)
    assert (store / ".verify").exists()
    jobs: list[Job] = []
    found = verify(view, log=LOG(), store=store, watch=jobs.append)
    assert found is not None and found.ok
    assert sum(jobs[0].begins.values()) > 0
    assert contents(store) == before
    assert not (store / ".verify").exists()


@pytest.mark.parametrize("damage", ["data", "manifests"])
def test_what_was_left_by_a_stopped_verification_is_not_trusted_when_damaged(store: Path, damage: str) -> None:
    stopped_after_a_slice(store)
    for path in sorted((store / ".verify").rglob("*")):
        if path.is_file() and path.parent.name == damage:
            flip(path, 77)
    found = verify(view, log=LOG(), store=store)
    assert found is not None and found.ok
    assert not (store / ".verify").exists()


def test_verifications_at_once_keep_out_of_each_others_way(store: Path) -> None:
    (store / ".verify").mkdir()
    held = fs.lock(store / ".verify" / f"{view.title}.0.lock", wait=False)
    assert held is not None
    found = verify(view, log=LOG(), store=store)
    assert found is not None and found.ok
    os.close(held)


def test_a_place_to_fold_in_that_cannot_be_had_is_told(store: Path) -> None:
    (store / "in-the-way").write_text("")
    with pytest.raises(StoreError, match="--scratch"):
        verify(view, log=LOG(), store=store, scratch=store / "in-the-way" / "place")


# -- repair


def written(store: Path) -> dict[str, tuple[int, int]]:
    """Which file each name is, and when it was written."""
    found = {path.name: path.stat() for path in data(store).glob("*.parquet")}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


@pytest.mark.parametrize("table", ["rows", "partials", "late"])
@pytest.mark.parametrize("how", ["flipped", "cut off", "removed"])
def test_a_repair_restores_the_damaged_file_and_touches_no_other(store: Path, table: str, how: str) -> None:
    opened, before = open_view(store, view.name), written(store)
    name = opened.manifest.tables[table].chunks[0].file
    path, sound = data(store) / name, (data(store) / name).read_bytes()
    {"flipped": lambda: flip(path, 150), "cut off": lambda: os.truncate(path, 40), "removed": path.unlink}[how]()
    assert check_files(store, view.name, 1)[0].file == f"data/{name}"
    done = repair(view, log=LOG(), store=store)
    assert done is not None and done.digest == opened.digest
    assert path.read_bytes() == sound
    changed = {file for file, one in written(store).items() if before[file] != one}
    assert changed == {name}
    assert len(done.aside) == (0 if how == "removed" else 1)
    assert all((store / view.name / "v1" / kept).exists() for kept in done.aside)
    assert check_files(store, view.name, 1) == []
    assert pl.read_parquet(f"{store}/{view.name}/current/*.parquet").equals(opened.scan().collect())
    found = verify(view, log=LOG(), store=store)
    assert found is not None and found.ok


def test_what_was_put_aside_outlives_the_next_collection(store: Path) -> None:
    path = rows_file(store)
    os.truncate(path, 40)
    os.utime(path, (0, 0))
    repair(view, log=LOG(), store=store)
    collect(store, view.name, 1, grace_s=900)
    assert list(data(store).glob("*.damaged-*"))
    collect(store, view.name, 1, grace_s=0)
    assert not list(data(store).glob("*.damaged-*"))


def test_a_file_that_only_the_snapshot_lost_needs_no_log(store: Path) -> None:
    shown = next(open_view(store, view.name).path.glob("*.parquet"))
    shown.unlink()
    assert [one.table for one in check_files(store, view.name, 1)] == ["rows"]
    assert repair(view, log=str(store / "no-log"), store=store) is not None
    assert shown.samefile(rows_file(store))


@pytest.mark.parametrize("link", ["current", "v1/latest"])
@pytest.mark.parametrize("how", ["missing", "dangling"])
def test_a_link_that_leads_nowhere_is_told_to_readers_and_restored(store: Path, link: str, how: str) -> None:
    digest, path = open_view(store, view.name).digest, store / view.name / link
    path.unlink()
    if how == "dangling":
        path.symlink_to("nowhere")
    with pytest.raises(StoreDamaged, match="refold repair"):
        open_view(store, view.name)
    assert [known.name for known in list_views(store)] == [view.name]
    for command in (["views"], ["query", f"FROM {view.name}"], ["path", view.name]):
        said = here(*command, "--store", store)
        assert said.code == 3
        assert "refold repair" in said.err
    said = here("verify", "--files", f"{view.name}@1", "--store", store)
    assert said.code == 1
    assert path.name in said.out
    assert here("repair", view.name, "--store", store, "--log", store / "no-log", "--quiet").code == 0
    assert open_view(store, view.name).digest == digest


@pytest.mark.parametrize("table", ["late", "dead_letters"])
def test_damaged_side_tables_are_not_shown(store: Path, table: str) -> None:
    """A flipped bit in a Parquet file may read as other rows: it is found before anything is shown."""
    flip(data(store) / open_view(store, view.name).manifest.tables[table].chunks[0].file, 99)
    asked = ["dead-letters", view.name] if table == "dead_letters" else ["query", f"FROM {view.name}__late"]
    said = here(*asked, "--store", store)
    assert said.code == 3
    assert "is not what was written" in said.err and f"refold repair {view.title}" in said.err


def test_a_first_commit_that_was_interrupted_hides_no_other_view(store: Path) -> None:
    """Its manifest is there and no link is: nobody can see it yet, and it is no damage either."""
    subprocess.run(["cp", "-a", store / view.name, store / "begun"], check=True)
    (store / "begun" / "current").unlink()
    (store / "begun" / "v1" / "latest").unlink()
    said = here("views", "--store", store)
    assert said.code == 0
    assert view.name in said.out and "begun" not in said.out
    with pytest.raises(UnknownView, match="not finished"):
        open_view(store, "begun")


def test_a_view_that_is_wrong_is_not_repaired(store: Path) -> None:
    commit_other_rows(store, another_count)
    flip(rows_file(store), 99)
    before = contents(store)
    with pytest.raises(StoreDamaged, match="nothing was repaired"):
        repair(view, log=LOG(), store=store)
    assert contents(store) == before


def test_a_repair_killed_at_any_step_is_done_by_the_next(original: Path, tmp_path: Path) -> None:
    """Readers find the newest snapshot whole, or with the file damaged as it was: never with one missing."""
    for step in range(200):
        store = tmp_path / f"killed-{step}"
        subprocess.run(["cp", "-a", original, store], check=True)
        flip(rows_file(store), 99)
        sound = repaired_bytes(original)
        try:
            with failing_at(step):
                from connectors.restoring import restore

                restore(store, view.name, 1, {rows_file(store).name: sound})
            break
        except Crash:
            shown = open_view(store, view.name).path
            assert len(list(shown.glob("*.parquet"))) == 1
            assert repair(view, log=LOG(), store=store) is not None
            assert check_files(store, view.name, 1) == []
        shutil.rmtree(store)
    assert step > 5


def repaired_bytes(original: Path) -> bytes:
    return rows_file(original).read_bytes()


# -- dead letters and late events


def test_dead_letters_are_listed_with_place_reason_and_value(tmp_path: Path) -> None:
    log, store = pipelines.own_log(tmp_path), tmp_path / "store"
    bad: list[bytes | None] = [b"not json", b"\xff\xfe", b'{"type":"FlightDeparted"}']
    pipelines.append(log, pipelines.appends(bad, partition=2, timestamp_ms=1_357_000_000_000))
    run([view], log=log, store=store, until="end")
    first = open_view(store, view.name).cut["flights"][2] - 3
    said = here("dead-letters", view.name, "--store", store)
    assert said.code == 0
    assert f"flights/2 offset {first:,}" in said.out
    assert "not json" in said.out and "\\xff\\xfe" in said.out and "3 dead letters" in said.out
    letters = json.loads(here("dead-letters", view.name, "--store", store, "--json").out)
    assert [letter["offset"] for letter in letters] == [first, first + 1, first + 2]
    assert [letter.get("value", letter.get("value_base64")) for letter in letters] == [
        "not json",
        "//4=",
        '{"type":"FlightDeparted"}',
    ]
    assert all(letter["reason"] and letter["key"] == "N1" for letter in letters)
    counted = json.loads(
        here("query", f"SELECT count(*) AS n FROM {view.name}__dead_letters", "--store", store, "--json").out
    )
    assert counted == [{"n": 3}]


def test_late_events_can_be_asked_for_with_sql(original: Path) -> None:
    sql = f"SELECT count(*) AS n, min(event_time < watermark) AS behind FROM {view.name}__late"
    (answer,) = json.loads(here("query", sql, "--store", original, "--json").out)
    assert answer == {"n": open_view(original, view.name).late().collect().height, "behind": True}


# -- the books


def test_books_that_do_not_balance_commit_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that the fold forgets to count is found before it is committed."""
    copied = Progress.copy

    def forget(self: Progress) -> Progress:
        found = copied(self)
        found.counts["folded"] = max(found.counts["folded"] - 1, 0)
        return found

    monkeypatch.setattr(Progress, "copy", forget)
    with pytest.raises(StoreError, match="accounted for; nothing was committed"):
        run([view], log=LOG(), store=tmp_path, until="end")
    assert list_views(tmp_path) == []


def test_a_view_of_mostly_dead_letters_is_verified_too(tmp_path: Path) -> None:
    """Whoever made it said --allow-dead-letters; whoever proves it need not."""
    log, store = str(tmp_path / "log"), tmp_path / "store"
    pipelines.append(log, pipelines.appends([b"no event"] * 3))
    run(pipelines.VIEWS, log=log, store=store, until="end", pace=Pace(allow_dead_letters=True))
    found = verify(pipelines.VIEWS[0], log=log, store=store)
    assert found is not None and found.ok
