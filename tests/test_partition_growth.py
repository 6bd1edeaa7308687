"""A topic gets more partitions while a view follows it: the run stops and says why, and a rebuild takes them in beside the live view."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pipelines import following, here, until

from connectors import open_log, open_view
from connectors.redpanda import RedpandaLog
from flows import Projection, agg, promote, rebuild, run, verify
from schemas import Category, Event
from schemas.errors import LogChanged

pytestmark = pytest.mark.broker
START = datetime(2024, 9, 1, tzinfo=UTC)


class Drawn(Event):
    account: str
    amount: int


def balance(category: Category, version: int = 1) -> Projection:
    columns = {"n": agg.count(), "amount": agg.sum("amount")}
    return Projection(name="balance", version=version, category=category, key=["account"], columns=columns)


def draw(log: Any, projection: Projection, first: int, last: int) -> None:
    times = [START + timedelta(seconds=i) for i in range(first, last)]
    events = [Drawn(subject=f"a{i % 40}", time=at, account=f"a{i % 40}", amount=i) for i, at in enumerate(times, first)]
    log.append(projection.category, events)


def by_hand(last: int) -> pl.DataFrame:
    rows = pl.DataFrame({"account": [f"a{i % 40}" for i in range(last)], "amount": [*range(last)]})
    return rows.group_by("account").agg(pl.len().cast(pl.Int64).alias("n"), pl.col("amount").sum()).sort("account")


def rows(store: Path, version: int | None = None) -> pl.DataFrame:
    return open_view(store, "balance", version).scan().collect().sort("account")


@pytest.mark.parametrize("where", ["only in new partitions", "nowhere"])
def test_a_run_that_follows_notices_new_partitions(
    broker_log: RedpandaLog, admin: Any, topic: Callable[..., str], tmp_path: Path, where: str
) -> None:
    name = topic(2)
    projection = balance(Category(name, events=[Drawn]))
    draw(broker_log, projection, 0, 100)
    store = tmp_path / "store"
    with (
        pytest.raises(LogChanged, match="had 2 partitions and has 3 now"),
        following([projection], log=broker_log, store=store) as thread,
    ):
        until(lambda: (store / "balance/current").exists() and rows(store)["n"].sum() == 100, thread)
        admin.create_partitions({name: 3})
        if where != "nowhere":
            table = projection.category.encode([Drawn(subject="new", time=START, account="new", amount=1)])
            position = table.schema.get_field_index("partition")
            broker_log.append_batch(
                name, table.set_column(position, "partition", pl.Series([2], dtype=pl.Int32).to_arrow())
            )
        until(lambda: not thread.is_alive())
    assert rows(store).equals(by_hand(100)), "the view is there as it was"


def test_a_rebuild_takes_them_in_beside_the_live_view(
    broker: str, broker_log: RedpandaLog, admin: Any, topic: Callable[..., str], tmp_path: Path
) -> None:
    name = topic(2)
    category = Category(name, events=[Drawn])
    projection, second = balance(category), balance(category, 2)
    store, url = tmp_path / "store", f"redpanda://{broker}"
    draw(broker_log, projection, 0, 200)
    run([projection], log=broker_log, store=store, until="end", workers=1)
    admin.create_partitions({name: 4})
    until(lambda: broker_log.describe(name).partitions == 4)
    draw(broker_log, projection, 200, 400)
    with pytest.raises(LogChanged, match="refold rebuild balance@1"):
        run([projection], log=broker_log, store=store, until="end", workers=1)
    reading = open_view(store, "balance")
    assert rebuild(second, log=broker_log, store=store, workers=1) is not None
    assert rows(store).equals(by_hand(200)), "readers see what they saw"
    assert rows(store, 2).equals(by_hand(400))
    done = promote("balance", 2, store=store)
    assert done is not None and done.is_done and rows(store).equals(by_hand(400))
    assert rebuild(projection, log=broker_log, store=store, workers=1) is not None
    assert rows(store, 1).equals(by_hand(400)) and reading.scan().collect().height == 40
    for one in (projection, second):
        proof = verify(one, log=broker_log, store=store)
        assert proof is not None and proof.ok
    with open_log(url) as log:
        draw(log, projection, 400, 450)
    run([projection, second], log=broker_log, store=store, until="end", workers=1)
    assert rows(store, 1).equals(by_hand(450)) and rows(store, 2).equals(by_hand(450))
    assert here("status", "--log", url, "--store", store).out.count("balance@") == 2
