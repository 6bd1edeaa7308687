"""Nexmark's queries: the views that refold folds are what DuckDB's SQL says of the same events, however those arrived."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from nexmark import feed, oracle
from nexmark.generator import Drawn, Market, draw
from nexmark.queries import QUERIES, Query
from polars.testing import assert_frame_equal

from connectors import open_log, open_view
from flows import run

MARKET = Market(events=30_000, seed=1)
ARRIVALS = (1, 2)
AGAIN = "again"
"""The first arrival's log, folded once more: to the middle, and by another run with other workers to the end."""

PROJECTIONS = [projection for query in QUERIES.values() for projection in query.projections]


@functools.cache
def drawn() -> Drawn:
    return draw(MARKET)


@functools.cache
def truth(name: str) -> pl.DataFrame:
    with oracle.Oracle(drawn()) as asked:
        return oracle.QUERIES[name](asked)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing here is about what a crash leaves."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[int | str, Path]]:
    """All views of each arrival."""
    with tempfile.TemporaryDirectory(prefix="refold-nexmark-") as directory:
        logs = {
            arrival: feed.write(Path(directory, f"log-{arrival}"), MARKET, arrival, drawn()) for arrival in ARRIVALS
        }
        found: dict[int | str, Path] = {}
        for arrival, log in logs.items():
            found[arrival] = Path(directory, f"store-{arrival}")
            run(PROJECTIONS, log=log, store=found[arrival], until="end", workers=1)
        found[AGAIN] = Path(directory, "store-again")
        for until in (middle(logs[ARRIVALS[0]]), "end"):
            run(PROJECTIONS, log=logs[ARRIVALS[0]], store=found[AGAIN], until=until, workers=2)
        yield found


def middle(log: str) -> dict[str, list[int]]:
    with open_log(log) as opened:
        names = {category.name for projection in PROJECTIONS for category in projection.categories}
        return {name: [end // 2 for end in opened.describe(name).ends] for name in names}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("fold", [*ARRIVALS, AGAIN])
def test_a_view_is_what_the_query_says(stores: dict[int | str, Path], name: str, fold: int | str) -> None:
    check(stores[fold], QUERIES[name], truth(name))


def check(store: Path, query: Query, expected: pl.DataFrame) -> None:
    view = open_view(store, query.view)
    rows = view.scan().collect()
    found = query.reshaped(rows).select(expected.columns).sort(expected.columns)
    assert_frame_equal(found, expected, check_exact=True)
    assert "is_final" not in rows.columns or rows["is_final"].all()
    assert view.late().collect().is_empty()
    assert view.dead_letters().collect().is_empty()


@pytest.mark.parametrize("name", QUERIES)
def test_digests_tell_the_rows_and_nothing_else(stores: dict[int | str, Path], name: str) -> None:
    first, second, again = (open_view(stores[fold], QUERIES[name].view).digest for fold in (*ARRIVALS, AGAIN))
    assert first == again
    assert (first == second) is not QUERIES[name].by_place


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_other_markets(tmp_path: Path, seed: int) -> None:
    """Of other sizes and speeds, where other events share a window, a session or a millisecond."""
    market = Market(events=(5_000, 50_000, 100_000)[seed % 3], per_second=(40, 300, 1_000, 20_000)[seed % 4], seed=seed)
    events = draw(market)
    log = feed.write(tmp_path / "log", market, seed, events)
    run(PROJECTIONS, log=log, store=tmp_path / "store", until="end")
    with oracle.Oracle(events) as asked:
        for name, query in QUERIES.items():
            check(tmp_path / "store", query, oracle.QUERIES[name](asked))
