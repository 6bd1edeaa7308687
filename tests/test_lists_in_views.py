"""A view whose columns are lists, structs and decimals: run, read by others, verified, wrong on purpose and named."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pytest

from connectors import open_log, open_view
from connectors.changes import Changes
from connectors.log import Log
from connectors.table import open_writer
from flows import Projection, agg, query, rebuild, run, verify
from flows.merge import table_specs
from schemas import Category, Event


class Sold(Event):
    shop: str
    item: str
    price: str
    weight: float | None = None


sales = Category("sales", [Sold])
CENTS = pl.col("price").cast(pl.Decimal(38, 2), strict=False)
best = Projection(
    name="best",
    category=sales,
    key=["shop"],
    columns={
        "takings": agg.sum(CENTS),
        "dearest": agg.top(2, by=CENTS, of={"item": "item", "price": CENTS}),
        "weights": agg.collect("weight", limit=3),
        "items": agg.count_distinct("item"),
        "middle": agg.median("weight"),
    },
)
BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    opened = open_log(str(tmp_path / "log"))
    opened.append(
        sales,
        [
            Sold(subject=shop, time=BEGIN + dt.timedelta(seconds=n), shop=shop, item=item, price=price, weight=weight)
            for n, (shop, item, price, weight) in enumerate(
                [
                    ("a", "pen", "1.10", 0.5),
                    ("a", "ink", "7.05", -0.0),
                    ("b", "pen", "free", None),
                    ("a", "pen", "2", 1.5),
                ]
            )
        ],
    )
    return opened


def test_a_view_of_lists_is_read_by_others_and_verified(log: Log, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([best], log=log, store=store, until="end")
    view = open_view(store, "best")
    rows = view.scan().collect().to_dicts()
    assert rows == duckdb.sql(f"SELECT * FROM '{view.path}/*.parquet' ORDER BY shop").pl().to_dicts()
    assert rows[0]["takings"] == Decimal("10.15")
    assert rows[0]["dearest"] == [
        {"item": "ink", "price": Decimal("7.05")},
        {"item": "pen", "price": Decimal("2.00")},
    ]
    assert rows[0]["weights"] == [0.5, -0.0, 1.5]
    assert rows[1] == {"shop": "b", "takings": None, "dearest": None, "weights": None, "items": 1, "middle": None}
    assert verify(best, log=log, store=store).ok
    assert rebuild(best, log=log, store=store) is not None
    assert open_view(store, "best").digest == view.digest
    frame = query.query(store, "SELECT shop, weights, dearest FROM best")
    line = str(query.render(frame, "csv")).splitlines()[1]
    assert json.loads(line.split('"', 1)[1].split('","')[0]) == [0.5, -0.0, 1.5]
    assert json.loads(query.render(frame, "json"))[0]["weights"] == [0.5, -0.0, 1.5]


def test_a_list_that_is_wrong_is_named(log: Log, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run([best], log=log, store=store, until="end")
    with open_writer(store, "best", 1, table_specs(best)) as writer:
        rows, manifest = writer.read("rows"), writer.manifest
        assert manifest is not None
        weights = rows.schema.names.index("weights")
        wrong = rows.set_column(weights, rows.schema.field(weights), [[[0.5, 0.0, 1.5], None]])  # 0.0 is not -0.0
        writer.commit({"rows": Changes(wrong.cast(rows.schema))}, manifest.facts)
    found = verify(best, log=log, store=store)
    assert found is not None
    assert found.first_difference is not None
    difference = found.first_difference
    assert (difference.key, difference.column) == ({"shop": "a"}, "weights")
    assert (difference.left, difference.right) == ([0.5, 0.0, 1.5], [0.5, -0.0, 1.5])
