"""Versions side by side: readers are led from one to another in one step, never to an older view, and back on demand."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pipelines import beside, following, here, until
from table_model import Crash, failing_at, steps_of

from connectors import open_log, open_view, switching
from connectors.activity import is_written
from connectors.collect import collect
from connectors.generation import Version
from connectors.inventory import inventory
from connectors.retiring import remove_retired, retire
from connectors.switching import Switch
from connectors.switching import promote as switch_to
from connectors.table import open_writer
from flows import Projection, agg, promote, rebuild, rollback, run, verify
from flows.merge import table_specs
from schemas import Category, Event
from schemas.errors import StoreDamaged, StoreError, StoreLocked, UnknownView, UsageError

START = datetime(2024, 5, 1, tzinfo=UTC)
PARTITIONS = 2


class Paid(Event):
    shop: str
    till: int
    cents: int
    day: int


payments = Category("payments", events=[Paid])


def revenue(version: int, key: str = "shop") -> Projection:
    """Versions with another key each, whose sums over all rows are the same at the same cut."""
    columns = {"n": agg.count(), "cents": agg.sum("cents")}
    return Projection(name="revenue", version=version, category=payments, key=[key], columns=columns)


ONE, TWO, THREE = revenue(1), revenue(2, "till"), revenue(3, "day")


def pay(log: str, first: int, last: int) -> None:
    with open_log(log) as opened:
        if "payments" not in opened.categories():
            opened.create("payments", PARTITIONS)
        times = [START + timedelta(seconds=i) for i in range(first, last)]
        events = [
            Paid(subject=f"p{i}", time=at, shop=f"shop {i % 3}", till=i % 11, cents=i % 7, day=i % 5)
            for i, at in enumerate(times, first)
        ]
        opened.append(payments, events)


@functools.cache
def original() -> Path:
    """A log of 60 payments; version 1 at its first half and current, version 2 at its end."""
    place = Path(tempfile.mkdtemp())
    log, store = str(place / "log"), place / "store"
    pay(log, 0, 30)
    run([ONE], log=log, store=store, until="end", workers=1)
    pay(log, 30, 60)
    rebuild(TWO, log=log, store=store, workers=1)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(original(), tmp_path / "place", symlinks=True))


def is_followed(store: Path, *versions: int) -> bool:
    lives = [Version.of(store, "revenue", version).live() for version in versions]
    return all(live is not None and is_written(live) for live in lives)


def current(store: Path) -> int:
    return open_view(store, "revenue").version


# -- the switch


def test_promoting_leads_readers_to_the_other_version_and_a_rollback_back(place: Path) -> None:
    store = place / "store"
    assert current(store) == 1
    done = promote("revenue", 2, store=store)
    assert done is not None and (done.is_done, done.before, done.version) == (True, 1, 2)
    assert open_view(store, "revenue").digest == open_view(store, "revenue", 2).digest
    back = rollback("revenue", store=store)
    assert (back.version, back.before, current(store)) == (1, 2, 1)
    assert back.records_missing == 30, "it says how far the old version is behind"
    with pytest.raises(UsageError, match="no version of view 'revenue' was current before"):
        rollback("revenue", store=store)


def test_a_version_that_is_behind_is_not_promoted_while_nobody_folds_it(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    promote("revenue", 2, store=store)
    with pytest.raises(UsageError, match="nobody follows it") as raised:
        promote("revenue", 1, store=store)
    assert "refold run revenue@1" in str(raised.value)
    assert current(store) == 2
    behind = switch_to(store, "revenue", 1)
    assert not behind.is_done and behind.records_missing == 30
    done = promote("revenue", 1, projection=ONE, log=log, store=store)
    assert done is not None and done.is_done and current(store) == 1
    assert open_view(store, "revenue").cut == open_view(store, "revenue", 2).cut


def test_a_promotion_waits_for_the_run_that_follows_the_version(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    promote("revenue", 2, store=store)
    told: list[Switch] = []
    with open_writer(store, "revenue", 1, table_specs(ONE)):  # somebody has it, and does not move
        late = promote("revenue", 1, store=store, timeout_s=0.0, told=told.append)
        stopped = threading.Event()
        stopped.set()
        assert promote("revenue", 1, store=store, stop=stopped) is None
    assert late is not None and not late.is_done and current(store) == 2
    assert sum(told[0].missing["payments"]) == told[0].records_missing == 30
    with following([ONE], log=log, store=store) as thread:
        until(lambda: is_followed(store, 1), thread)
        done = promote("revenue", 1, store=store)
    assert done is not None and done.is_done and current(store) == 1


def test_both_versions_may_live_in_one_process(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    with following([ONE, TWO], log=log, store=store) as thread:
        until(lambda: is_followed(store, 1, 2), thread)
        for turn in range(6):
            pay(log, 60 + turn * 10, 70 + turn * 10)
            done = promote("revenue", 2 - turn % 2, store=store)
            assert done is not None and done.is_done
            assert current(store) == 2 - turn % 2


def test_what_was_never_committed_or_is_not_there_is_told(place: Path) -> None:
    store = place / "store"
    with pytest.raises(UnknownView, match="never been committed") as raised:
        promote("revenue", 3, store=store)
    assert "refold rebuild revenue@3" in str(raised.value)
    with pytest.raises(UnknownView, match="no view 'nothing'"):
        rollback("nothing", store=store)
    with pytest.raises(UnknownView, match="no version 9"):
        retire(store, "revenue", 9, 0)


def test_a_damaged_version_that_serves_is_not_in_the_way_of_a_whole_one(place: Path) -> None:
    store = place / "store"
    (store / "revenue/v1/latest").unlink()
    done = promote("revenue", 2, store=store)
    assert done is not None and done.is_done and current(store) == 2
    with pytest.raises(StoreDamaged, match="does not lead to a snapshot"):
        rollback("revenue", store=store)
    assert current(store) == 2


@pytest.mark.parametrize("history", [None, b"{", b'{"versions": ["x"]}', b'{"versions": [7, 9]}'])
def test_a_history_that_nobody_can_read_ends_no_promotion(place: Path, history: bytes | None) -> None:
    store = place / "store"
    promote("revenue", 2, store=store)
    path = store / "revenue/promotions.json"
    path.unlink()
    if history is not None:
        path.write_bytes(history)
    with pytest.raises(UsageError, match="refold promote revenue@N"):
        rollback("revenue", store=store)
    rebuild(THREE, log=str(place / "log"), store=store, workers=1)
    promote("revenue", 3, store=store)
    assert rollback("revenue", store=store).version == 2


# -- retiring


def test_what_is_read_or_written_is_not_retired(place: Path) -> None:
    store = place / "store"
    with pytest.raises(UsageError, match="the one that readers"):
        retire(store, "revenue", 1, 0)
    with open_writer(store, "revenue", 2, table_specs(TWO)), pytest.raises(StoreLocked, match="somebody writes"):
        retire(store, "revenue", 2, 0)
    with (
        open_writer(store, "revenue", 2, table_specs(TWO), building=True),
        pytest.raises(StoreLocked, match="somebody writes"),
    ):
        retire(store, "revenue", 2, 0)
    assert verify(TWO, log=str(place / "log"), store=store) is not None


def test_a_retired_version_goes_when_nobody_can_be_reading_it(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    reading = open_view(store, "revenue", 2)
    assert not retire(store, "revenue", 2, 900)
    assert reading.scan().collect().height == 11, "whoever was reading goes on"
    for use in (
        lambda: open_view(store, "revenue", 2),
        lambda: promote("revenue", 2, store=store),
        lambda: run([TWO], log=log, store=store, until="end"),
        lambda: rebuild(TWO, log=log, store=store),
    ):
        with pytest.raises((UnknownView, UsageError), match="was retired"):
            use()
    assert [kept.states for kept in inventory(store)] == [("serving",), ("retired",)]
    assert remove_retired(store, "revenue", 900) == []
    assert remove_retired(store, "revenue", 0) == [2]
    assert not (store / "revenue/v2").exists()
    rebuild(TWO, log=log, store=store, workers=1)
    assert open_view(store, "revenue", 2).digest == reading.digest, "the number is free again"


def test_a_run_removes_what_was_retired_long_ago(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place / "store"
    retire(store, "revenue", 2, 900)
    monkeypatch.setattr("flows.committer.GRACE_S", 0.0)
    run([ONE], log=str(place / "log"), store=store, until="end", workers=1)
    assert not (store / "revenue/v2").exists()


def test_a_rollback_goes_past_versions_that_were_retired(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    promote("revenue", 2, store=store)
    rebuild(THREE, log=log, store=store, workers=1)
    promote("revenue", 3, store=store)
    retire(store, "revenue", 2, 0)
    assert rollback("revenue", store=store).version == 1


@pytest.mark.parametrize("also", ["promoted", "written"])
def test_a_version_that_is_retired_at_the_same_moment_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, also: str
) -> None:
    """Retired after the first look at it, and before the locks are held."""
    store = place / "store"

    def looked_and_retired(home: Version) -> None:
        Version.of(store, "revenue", 2).retired.touch()

    if also == "written":
        monkeypatch.setattr("connectors.table.mend_copy", looked_and_retired)
        with pytest.raises(UsageError, match="was retired"):
            open_writer(store, "revenue", 2, table_specs(TWO))
        return
    locked = switching.fs.locked

    def lock(path: Path, **how: Any) -> Any:
        looked_and_retired(Version.of(store, "revenue", 2))
        return locked(path, **how)

    monkeypatch.setattr(switching, "fs", SimpleNamespace(**{**vars(switching.fs), "locked": lock}))
    with pytest.raises(UnknownView, match="was retired"):
        switch_to(store, "revenue", 2)
    assert current(store) == 1


# -- any step fails


def promote_two(store: Path) -> None:
    assert switch_to(store, "revenue", 2).is_done


def promote_and_roll_back(store: Path) -> None:
    promote_two(store)
    rollback("revenue", store=store)


def retire_two(store: Path) -> None:
    retire(store, "revenue", 2, 0)


@pytest.mark.parametrize("error", [Crash, lambda: OSError(28, "No space left on device")], ids=["crash", "full disk"])
@pytest.mark.parametrize("work", [promote_two, promote_and_roll_back, retire_two])
def test_a_step_that_fails_leaves_readers_a_whole_version_and_may_be_repeated(
    tmp_path: Path, work: Callable[[Path], None], error: Callable[[], BaseException]
) -> None:
    shutil.copytree(original() / "store", tmp_path / "whole", symlinks=True)
    steps = steps_of(lambda: work(tmp_path / "whole"))
    whole = {version: open_view(original() / "store", "revenue", version).digest for version in (1, 2)}
    assert steps > 3
    for step in range(steps):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original() / "store", store, symlinks=True)
        with pytest.raises((Crash, StoreError)), failing_at(step, error):
            work(store)
        seen = open_view(store, "revenue")
        assert seen.digest == whole[seen.version]
        assert seen.scan().collect().height > 0
        if work is promote_and_roll_back and seen.version == 2:
            assert rollback("revenue", store=store).version == 1
        elif work is retire_two:
            if (store / "revenue/v2").exists():
                work(store)
            assert remove_retired(store, "revenue", 0) == []
            assert [path.name for path in (store / "revenue").iterdir() if "v2" in path.name] == []
        else:
            work(store)
        collect(store, "revenue", 1, grace_s=0)
        assert open_view(store, "revenue").digest == whole[current(store)]


# -- any order of events, against a plain model


class Versions(RuleBasedStateMachine):
    """Versions of one view: what is current, what comes back, what is gone."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(shutil.copytree(original(), Path(tempfile.mkdtemp()) / "place", symlinks=True))
        self.store, self.log = self.place / "store", str(self.place / "log")
        self.appended = 60
        self.past = [1]
        self.at = {1: 30, 2: 60}

    def teardown(self) -> None:
        if hasattr(self, "place"):
            shutil.rmtree(self.place.parent)

    @rule(events=st.integers(1, 20))
    def events_come(self, events: int) -> None:
        pay(self.log, self.appended, self.appended + events)
        self.appended += events

    @rule(version=st.sampled_from([1, 2]))
    def a_version_is_folded(self, version: int) -> None:
        projection = {1: ONE, 2: TWO}[version]
        if version in self.at:
            run([projection], log=self.log, store=self.store, until="end", workers=1)
        else:
            rebuild(projection, log=self.log, store=self.store, workers=1)
        self.at[version] = self.appended

    @rule(version=st.sampled_from([1, 2]))
    def a_version_is_promoted(self, version: int) -> None:
        if version not in self.at:
            with pytest.raises(UnknownView):
                switch_to(self.store, "revenue", version)
            return
        switch = switch_to(self.store, "revenue", version)
        now = self.past[-1]
        assert switch.is_done == (version == now or self.at[version] >= self.at[now])
        assert switch.records_missing == (0 if version == now else max(self.at[now] - self.at[version], 0))
        if switch.is_done and version != now:
            self.past.append(version)

    @rule()
    def it_is_rolled_back(self) -> None:
        if len(self.past) < 2:
            with pytest.raises(UsageError):
                rollback("revenue", store=self.store)
            return
        assert rollback("revenue", store=self.store).version == self.past[-2]
        self.past.pop()

    @precondition(lambda self: len(self.at) == 2)
    @rule(version=st.sampled_from([1, 2]))
    def a_version_is_retired(self, version: int) -> None:
        if version == self.past[-1]:
            with pytest.raises(UsageError):
                retire(self.store, "revenue", version, 0)
            return
        assert retire(self.store, "revenue", version, 0)
        del self.at[version]
        left = [one for one in self.past if one != version]
        self.past = [one for place, one in enumerate(left) if not place or left[place - 1] != one]

    @invariant()
    def readers_see_the_version_that_is_current(self) -> None:
        if not hasattr(self, "past"):
            return
        seen = open_view(self.store, "revenue")
        assert seen.version == self.past[-1]
        assert sum(seen.cut["payments"]) == self.at[seen.version]
        assert seen.scan().collect()["n"].sum() == self.at[seen.version]
        assert {kept.version for kept in inventory(self.store)} == set(self.at)


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


# -- readers meanwhile


def through_current(store: Path) -> list[tuple[str, pl.DataFrame]]:
    """What each kind of reader finds in ``current``; names may vanish between listing and opening."""
    files = str(store / "revenue/current/*.parquet")
    return [
        ("polars", pl.read_parquet(files)),
        ("duckdb", duckdb.sql(f"SELECT * FROM read_parquet('{files}')").pl()),
    ]


def test_readers_never_see_an_older_view_nor_a_mix(place: Path) -> None:
    store, log = place / "store", str(place / "log")
    over = threading.Event()
    counts = {"read": 0, "vanished": 0}

    def read() -> None:
        newest = 0
        while not over.is_set():
            view = open_view(store, "revenue")
            rows = view.scan().collect()
            assert rows["n"].sum() == sum(view.cut["payments"]) >= newest
            newest = rows["n"].sum()
            try:
                found = through_current(store)
            except (OSError, pl.exceptions.PolarsError, duckdb.Error):
                counts["vanished"] += 1
                continue
            for _, rows in found:
                assert ("shop" in rows.columns) != ("till" in rows.columns), "columns of one version"
                assert rows["n"].sum() >= newest
            counts["read"] += 1

    with following([ONE, TWO], log=log, store=store) as thread:
        until(lambda: sum(open_view(store, "revenue", 1).cut["payments"]) == 60, thread)
        with beside(read, over.set):
            for turn in range(20):
                pay(log, 60 + turn * 5, 65 + turn * 5)
                done = promote("revenue", 2 - turn % 2, store=store)
                assert done is not None and done.is_done
    assert counts["read"] > 0, counts


# -- the commands


def ask(place: Path, *arguments: str) -> Any:
    return here(*arguments, "--store", str(place / "store"))


def test_the_life_of_a_version_by_commands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_FLOWS", "test_promoting")
    logged = ("--log", str(place / "log"))
    said = ask(place, "promote", "revenue@2", *logged)
    assert said.code == 0 and said.out.startswith("promoted revenue@2  at cut payments[0:")
    assert "was revenue@1  (refold rollback revenue undoes it)" in said.out
    assert "nobody follows it now; go on:  refold run revenue@2" in said.out
    assert "current already" in ask(place, "promote", "revenue@2", *logged).out
    assert "revenue@2  serving  11 rows" in ask(place, "views").out
    said = ask(place, "rollback", "revenue")
    assert "revenue@1 is current" in said.out and "30 events behind revenue@2" in said.out
    (found,) = [json.loads(ask(place, "promote", "revenue@2", "--json", *logged).out)]
    assert (found["current"], found["before"], found["records_missing"]) == (2, 1, 0)
    said = ask(place, "rebuild", "revenue@3", "--promote", "--quiet", "--workers", "1", *logged)
    assert said.code == 0 and "promoted revenue@3" in said.out and "was revenue@2" in said.out
    assert ask(place, "retire", "revenue@1").out == "retired revenue@1; its files go in 900 s\n"
    assert ask(place, "retire", "revenue@1", "--grace", "0").out == "retired revenue@1; its files are gone\n"
    kept = {(one["version"]): one["states"] for one in json.loads(ask(place, "views", "--json").out)}
    assert kept == {2: ["ready"], 3: ["serving"]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("promote revenue", 2, "which version?"),
        ("promote revenue@x", 2, "is no version"),
        ("promote revenue@9", 3, "refold rebuild revenue@9"),
        ("rollback revenue@1", 2, "goes to the version before"),
        ("rollback revenue", 2, "was current before"),
        ("retire revenue", 2, "which version?"),
        ("retire revenue@1", 2, "promote another one first"),
    ],
)
def test_a_wrong_call_is_told_with_a_way_out(place: Path, arguments: str, code: int, words: str) -> None:
    said = ask(place, *arguments.split())
    assert said.code == code and words in said.err, said


def test_the_directory_of_a_view_holds_what_the_architecture_says(place: Path) -> None:
    promote("revenue", 2, store=place / "store")
    found = {path.name for path in (place / "store/revenue").iterdir()}
    assert found == {"v1", "v2", "current", "promotions.json", ".lock"}
    assert Version.of(place / "store", "revenue", 2).is_current()
