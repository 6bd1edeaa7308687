"""The life of a view, told once from end to end on a real broker, by commands, under load, with readers who never stop."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from pipelines import PATIENCE_SECONDS, beside, command, finish, started, until
from story_views import Charged, by_customer, charges

from connectors import open_view
from connectors.redpanda import RedpandaLog
from schemas import Category

pytestmark = pytest.mark.broker
START = datetime(2024, 10, 1, tzinfo=UTC)
PROMOTIONS = 100


class Load:
    """Somebody who appends charges until he is told to stop."""

    def __init__(self, log: RedpandaLog, topic: str) -> None:
        self._log, self._category = log, Category(topic, charges.events)
        self._over = threading.Event()
        self.appended = 0

    def work(self) -> None:
        while not self._over.wait(0.02):
            numbers = range(self.appended, self.appended + 25)
            self._log.append(
                self._category,
                [
                    Charged(
                        subject=f"c{i % 97}",
                        time=START + timedelta(seconds=i),
                        customer=f"c{i % 97}",
                        plan=f"p{i % 5}",
                        cents=i % 1000,
                    )
                    for i in numbers
                ],
            )
            self.appended += 25

    def stop(self) -> None:
        self._over.set()


class Reader:
    """Loops over a view through its resolved path, and over ``current`` with Polars and DuckDB, and checks what it finds."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._over = threading.Event()
        self.read = self.vanished = self.newest = 0
        self.may_go_back = threading.Event()
        self.versions: set[int] = set()

    def work(self) -> None:
        while not self._over.is_set():
            view = open_view(self._store, "revenue")
            rows = view.scan().collect()
            self._check(rows, sum(view.cut.popitem()[1]))
            self.versions.add(view.version)
            for look in (self._by_polars, self._by_duckdb):
                try:
                    found = look()
                except (OSError, pl.exceptions.PolarsError, duckdb.Error):
                    self.vanished += 1  # a name that was listed and gone when it was opened
                else:
                    self._check(found, None)
            self.read += 1

    def stop(self) -> None:
        self._over.set()

    def _by_polars(self) -> pl.DataFrame:
        return pl.read_parquet(str(self._store / "revenue/current/*.parquet"))

    def _by_duckdb(self) -> pl.DataFrame:
        with duckdb.connect() as own:
            return own.sql(f"FROM read_parquet('{self._store}/revenue/current/*.parquet')").pl()

    def _check(self, rows: pl.DataFrame, at: int | None) -> None:
        assert ("customer" in rows.columns) != ("plan" in rows.columns), "the columns of one version"
        total = int(rows["n"].sum())
        assert at is None or total == at, "all that the cut says, and nothing else"
        if total < self.newest and self.may_go_back.is_set():
            self.newest = total
            return
        assert total >= self.newest, "never older than before"
        self.newest = total


@pytest.fixture
def life(broker: str, topic: Callable[..., str], tmp_path: Path) -> dict[str, str]:
    return {
        "STORY_TOPIC": topic(3),
        "REFOLD_FLOWS": "story_views",
        "REFOLD_LOG": f"redpanda://{broker}",
        "REFOLD_STORE": str(tmp_path / "store"),
        "PYTHONPATH": str(Path(__file__).parent),
    }


def test_the_story(broker_log: RedpandaLog, life: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"

    def refold(*arguments: str, code: int = 0) -> str:
        said = finish(command(*arguments), **life)
        assert said.code == code, said
        return said.out

    def states() -> dict[int, list[str]]:
        return {one["version"]: one["states"] for one in json.loads(refold("views", "--json"))}

    def followed(*views: str) -> Any:
        return started(command("run", *views, "--quiet", "--commit-interval", "0.1"), **life)

    load, reader = Load(broker_log, life["STORY_TOPIC"]), Reader(store)
    with beside(load.work, load.stop), followed("revenue@1") as first:
        until(lambda: (store / "revenue/current").exists(), first)
        with beside(reader.work, reader.stop):
            # v2, with another key, is built beside v1; readers notice nothing
            assert "rebuilt revenue@2" in refold("rebuild", "revenue@2", "--quiet")
            told = json.loads(refold("diff", "revenue@1", "revenue@2", "--json", "--quiet", code=1))
            assert told["keys"] == [["customer"], ["plan"]] and told["cuts"][0] == told["cuts"][1]
            assert reader.versions == {1}
            with followed("revenue@2") as second:
                until(lambda: states()[2] == ["ready", "running"], second)
                assert "promoted revenue@2" in refold("promote", "revenue@2")
                until(lambda: 2 in reader.versions, second)
                assert states() == {1: ["ready", "running"], 2: ["serving", "running"]}
                reader.may_go_back.set()
                assert "revenue@1 is current" in refold("rollback", "revenue")
                assert "promoted revenue@2" in refold("promote", "revenue@2")
                first.terminate()
                assert first.wait(PATIENCE_SECONDS) == 0
                assert "its files go in 900 s" in refold("retire", "revenue@1")
                seen = reader.read
                until(lambda: reader.read > seen + 3, second)
                load.stop()
                until(lambda: int(open_view(store, "revenue").scan().collect()["n"].sum()) == load.appended, second)
    assert "ok" in refold("verify", "revenue@2", "--quiet")
    rows = open_view(store, "revenue").scan().collect().sort("plan")
    assert rows["cents"].sum() == sum(i % 1000 for i in range(load.appended)), "nothing was lost"
    assert reader.read > 10 and reader.versions == {1, 2}
    print(f"{reader.read:,} times read, {reader.vanished:,} names had vanished through current")


def test_a_hundred_promotions_in_a_row_under_load(
    broker_log: RedpandaLog, life: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    from flows import promote

    load, reader = Load(broker_log, life["STORY_TOPIC"]), Reader(store)
    views = started(command("run", "revenue@1", "revenue@2", "--quiet", "--commit-interval", "0.05"), **life)
    with beside(load.work, load.stop), views as run:
        until(lambda: all((store / f"revenue/v{version}/latest").exists() for version in (1, 2)), run)
        with beside(reader.work, reader.stop):
            for number in range(PROMOTIONS):
                now = open_view(store, "revenue").version
                done = promote("revenue", 3 - now, store=store, timeout_s=PATIENCE_SECONDS)
                assert done is not None and done.is_done and done.before == now, (number, done)
        load.stop()
        for version in (1, 2):
            until(
                lambda version=version: sum(open_view(store, "revenue", version).cut.popitem()[1]) == load.appended, run
            )
        run.terminate()
        assert run.wait(PATIENCE_SECONDS) == 0
    for version in (1, 2):
        said = finish(command("verify", f"revenue@{version}", "--quiet"), **life)
        assert said.code == 0, said
    assert reader.versions == {1, 2} and reader.read > 0
    history = json.loads((store / "revenue/promotions.json").read_text())["versions"]
    assert len(history) == PROMOTIONS + 1
    print(f"{reader.read:,} times read, {reader.vanished:,} names had vanished through current")
    assert by_customer.name == "revenue"
