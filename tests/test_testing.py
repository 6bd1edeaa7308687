"""The test kit for projections: what it says is what a run makes, whatever the partitions, batches and turns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import open_log, open_view
from flows import Projection, State, agg, as_of, python_fold, run, session, stream, tumbling
from flows.testing import Item, Progress, fold_events
from schemas import Category, Event
from schemas.errors import UsageError

T = datetime(2024, 1, 1, tzinfo=UTC)


class Paid(Event):
    shop: str
    amount: float


class Rated(Event):
    shop: str
    rate: float


payments, rates = Category("payments", events=[Paid]), Category("rates", events=[Rated])
by_hour = Projection(
    name="by_hour",
    category=payments,
    key=["shop"],
    window=tumbling(timedelta(hours=1)),
    columns={"n": agg.count(), "amount": agg.sum("amount")},
    having=pl.col("n") > 1,
)
sessions = Projection(
    name="sessions",
    category=payments,
    key=["shop"],
    window=session(gap=timedelta(minutes=9)),
    columns={"n": agg.count()},
)
every = Projection(name="every", category=payments, select=["shop", "amount"])
daily = Projection(name="daily", source=by_hour, key=["shop"], columns={"most": agg.max("n")})
worth = Projection(
    name="worth",
    source=as_of(stream(payments), stream(rates, prefix="r_"), on={"shop": "shop"}),
    key=["shop"],
    columns={"worth": agg.sum(pl.col("amount") * pl.col("r_rate")), "n": agg.count()},
)


class Total(State):
    amount: float


def added(total: Total | None, event: Paid) -> Total:
    return Total(amount=event.amount + (total.amount if total else 0.0))


totals = Projection(name="totals", category=payments, key=["shop"], fold=python_fold(Total, added))


def paid(minute: int, shop: str, amount: float) -> Paid:
    return Paid(subject=shop, time=T + timedelta(minutes=minute), shop=shop, amount=amount)


PAYMENTS = st.lists(
    st.builds(paid, st.integers(0, 300), st.sampled_from("abcdef"), st.sampled_from([0.1, 0.2, 1e16, -1.0])),
    max_size=40,
)


@given(PAYMENTS, st.integers(1, 4), st.integers(1, 9), st.lists(st.integers(0, 3), max_size=5))
@settings(max_examples=20)
def test_batches_and_turns_do_not_matter(events: list[Item], partitions: int, batch: int, order: list[int]) -> None:
    for view in (by_hour, sessions, every, daily, totals):
        for table in ("rows", "late", "dead_letters"):
            plain = fold_events(view, events, partitions=partitions, table=table)
            assert fold_events(view, events, partitions=partitions, batch=batch, order=order, table=table).equals(plain)


@given(PAYMENTS, st.integers(1, 3))
@settings(max_examples=3)
def test_it_says_what_a_run_makes(
    tmp_path_factory: pytest.TempPathFactory, events: list[Item], partitions: int
) -> None:
    place = tmp_path_factory.mktemp("run")
    with open_log(str(place / "log")) as log:
        log.create("payments", partitions)
        log.append(payments, [event for event in events if isinstance(event, Paid)])
    for view in (by_hour, sessions, every, daily):
        run([view], log=str(place / "log"), store=place / "store", until="end", workers=1)
        made = open_view(place / "store", view.name)
        assert fold_events(view, events, partitions=partitions).equals(made.scan().collect())
        assert fold_events(view, events, partitions=partitions, table="late").height == made.late().collect().height


def test_a_cut_is_as_far_as_it_goes() -> None:
    events = [paid(i, "a", 1.0) for i in range(10)]
    assert fold_events(by_hour, events, cut=[4])["n"].to_list() == [4]
    assert fold_events(by_hour, {0: events, 1: events}, cut=[3, 1])["n"].to_list() == [4]
    assert fold_events(by_hour, events, cut={"payments": [0]}).is_empty()
    for wrong in ([11], [1, 1], {"others": [1]}):
        with pytest.raises(UsageError, match="no cut of these events"):
            fold_events(by_hour, events, cut=wrong)


def test_late_events_and_finality_by_progress_markers() -> None:
    events = [paid(0, "a", 1.0), paid(1, "a", 1.0), Progress(T + timedelta(hours=2)), paid(5, "a", 1.0)]
    rows = fold_events(by_hour, events)
    assert (rows["n"].to_list(), rows["is_final"].to_list()) == ([2], [True])
    assert fold_events(by_hour, events, table="late")["offset"].to_list() == [3]
    two = {0: events[:2], 1: [Progress(T + timedelta(hours=2))]}
    assert fold_events(by_hour, two)["is_final"].to_list() == [False], "one partition holds it back"


def test_a_join_reads_every_event_where_it_belongs() -> None:
    events: list[Item] = [
        Rated(subject="a", time=T, shop="a", rate=2.0),
        paid(1, "a", 10.0),
        Rated(subject="a", time=T + timedelta(minutes=2), shop="a", rate=3.0),
        paid(3, "a", 100.0),
        Progress(T + timedelta(hours=1)),
    ]
    rows = fold_events(worth, events)
    assert (rows["worth"].to_list(), rows["n"].to_list()) == ([320.0], [2])
    assert fold_events(worth, events, batch=1).equals(rows)


def test_what_is_no_event_of_the_projection_is_told() -> None:
    with pytest.raises(UsageError, match="Rated is no event type") as raised:
        fold_events(by_hour, [Rated(subject="a", time=T, shop="a", rate=1.0)])
    assert "Paid" in str(raised.value)
    with pytest.raises(UsageError, match="no table"):
        fold_events(by_hour, [], table="partials")
    with pytest.raises(UsageError, match="partitions"):
        fold_events(by_hour, {5: []}, partitions=2)


def test_it_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fold_events(by_hour, [paid(0, "a", 1.0)])
    assert list(tmp_path.iterdir()) == []
