"""The order of ``columns=`` is no part of a definition: whoever changes it goes on with the same view."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from connectors import open_log, open_view
from flows import Projection, agg, rebuild, run, tumbling, verify
from schemas import Category, Event

START = datetime(2024, 1, 1, tzinfo=UTC)


class Sold(Event):
    shop: str
    cents: int


sales = Category("sales", events=[Sold])


def by_shop(*order: str) -> Projection:
    columns = {
        "n": agg.count(),
        "cents": agg.sum("cents"),
        "_least": agg.min("cents"),
        "last": agg.last("cents"),
    }
    return Projection(
        name="by_shop",
        category=sales,
        key=["shop"],
        window=tumbling(timedelta(hours=1)),
        columns={name: columns[name] for name in order},
        finish={"twice_least": pl.col("_least") * 2},
    )


def per_day(below: tuple[str, ...], *order: str) -> Projection:
    columns = {"hours": agg.count(), "cents": agg.sum("cents")}
    return Projection(
        name="per_day",
        source=by_shop(*below),
        key=["shop"],
        columns={name: columns[name] for name in order},
    )


def per_shops(middle: tuple[str, ...]) -> Projection:
    """A chain of three: rows of the one in the middle are kept encoded, in its order."""
    return Projection(
        name="per_shops",
        source=per_day(ONE, *middle),
        key=["shop"],
        columns={"most": agg.max("cents"), "n": agg.count()},
    )


ONE, OTHER = ("n", "cents", "_least", "last"), ("last", "_least", "n", "cents")

TURNS = [
    (by_shop(*ONE), by_shop(*OTHER)),
    (per_day(ONE, "hours", "cents"), per_day(OTHER, "cents", "hours")),
    (per_shops(("hours", "cents")), per_shops(("cents", "hours"))),
]


def append(log: str, first: int, last: int) -> None:
    with open_log(log) as opened:
        events = [
            Sold(subject=f"s{i % 7}", time=START + timedelta(minutes=11 * i), shop=f"shop {i % 3}", cents=i * 17 % 101)
            for i in range(first, last)
        ]
        opened.append(sales, events)


@pytest.mark.parametrize(("before", "after"), TURNS, ids=lambda projection: projection.name)
def test_a_view_goes_on_in_the_order_of_its_first_commit(tmp_path: Path, before: Projection, after: Projection) -> None:
    log, store, fresh = str(tmp_path / "log"), tmp_path / "store", tmp_path / "fresh"
    append(log, 0, 60)
    run([before], log=log, store=store, until="end")
    append(log, 60, 120)
    run([after], log=log, store=store, until="end")
    run([before], log=log, store=fresh, until="end")
    ours, same = open_view(store, before.name), open_view(fresh, before.name)
    assert ours.digest == same.digest
    assert ours.scan().collect().equals(same.scan().collect())
    proof = verify(after, log=log, store=store)
    assert proof is not None and proof.ok
    rebuilt = rebuild(after, log=log, store=store)
    assert rebuilt is not None and rebuilt.digest == same.digest


def test_a_new_version_takes_the_order_of_the_code(tmp_path: Path) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    append(log, 0, 60)
    run([by_shop(*OTHER)], log=log, store=store, until="end")
    assert open_view(store, "by_shop").schema.names[3:5] == ["last", "n"]
