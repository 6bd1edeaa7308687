"""Definitions: mistakes are found where they are made, and the same meaning has the same fingerprint."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Annotated, Any

import polars as pl
import pytest

from flows import Projection, agg, tumbling
from flows.agg import Aggregation
from flows.expressions import render
from schemas import RECORD_KEY, RECORD_TIME, At, Category, Event, constant, plain
from schemas.errors import UsageError


class Sold(Event):
    shop: str
    amount: float
    items: int | None = None
    at: dt.datetime | None = None


class Returned(Event):
    shop: str
    items: str


sales = Category("sales", [Sold, Returned])


def projection(**change: Any) -> Projection:
    given: dict[str, Any] = {
        "name": "by_shop",
        "category": sales,
        "events": [Sold],
        "key": ["shop"],
        "window": tumbling(dt.timedelta(hours=1)),
        "columns": {"n": agg.count(), "amount": agg.sum("amount")},
    }
    return Projection(**{**given, **change})


def money(column: str, scale: int = 2) -> pl.Expr:
    return pl.col(column).cast(pl.Decimal(38, scale), strict=False)


def columns(**given: Aggregation) -> dict[str, Any]:
    return {"columns": given}


@pytest.mark.parametrize(
    ("change", "what", "do"),
    [
        ({"key": ["shoop"]}, "no event has a field `shoop`", "did you mean `shop`"),
        (columns(a=agg.sum("amout")), "no event has a field `amout`", "did you mean `amount`"),
        (
            {"events": None, "key": ["items"]},
            "`items` is int64 in one event type and string in another",
            "two projections",
        ),
        (columns(a=agg.sum("shop")), "agg.sum of string", "cast"),
        (columns(window_start=agg.count()), "reserved", "rename"),
        (columns(shop=agg.count()), "used twice", "rename"),
        ({"columns": {}}, "no columns", "at least one"),
        ({"key": (), "window": None}, "neither key nor window", "pl.lit"),
        ({"name": "By Shop"}, "the name", "lower-case"),
        (columns(a=agg.max(pl.col("amount") / pl.col("amount").sum())), "`Agg` is not allowed", "element-wise"),
        (columns(a=agg.max(pl.col("amount").rank())), "not allowed", "allowed are"),
        (columns(a=agg.max(pl.col("amount").shift(1))), "not allowed", "allowed are"),
        (columns(a=agg.max(pl.col("amount").map_elements(abs, return_dtype=pl.Float64))), "Python function", "Polars"),
        (columns(a=agg.max(pl.col("shop").str.to_date())), "not allowed", "allowed are"),
        (columns(a=agg.max(pl.col("amount").cast(pl.Int64))), "strict cast", "strict=False"),
        (columns(a=agg.max(pl.col("amount").cast(pl.Int8, wrap_numerical=True))), "wraps numbers", "strict=False"),
        (columns(a=agg.count(where=pl.col("shop").str.contains(pl.col("shop")))), "fails a whole batch", "literal"),
        (columns(a=agg.count(where=pl.col("amount"))), "not bool", "condition"),
        (columns(a=agg.max(pl.col("shop") + pl.col("amount"))), "cannot be computed", "types"),
        (columns(a=agg.sum(money("shop") + money("shop"))), "arithmetic with decimals", "cast to a Decimal at the end"),
        (columns(a=agg.sum(pl.col("amount") * money("shop").abs())), "arithmetic with decimals", "at the end"),
        (columns(a=agg.sum(money("shop").round(1))), "rounding of decimals", "another scale"),
        (
            columns(a=agg.sum(pl.when(pl.col("amount") > 1).then(money("shop")).otherwise(money("shop", 3)))),
            "a choice of decimals of different scales",
            "one scale",
        ),
        (
            {"derive": {"price": money("shop")}, **columns(a=agg.sum(pl.col("price") * 2))},
            "input of `a` is arithmetic with decimals",
            "at the end",
        ),
        (
            {**columns(a=agg.sum(money("shop")), n=agg.count()), "finish": {"mean": pl.col("a") / pl.col("n")}},
            "finish of `mean` is arithmetic with decimals",
            "at the end",
        ),
        ({"key": {"price": money("shop")}}, "has type decimal128(38, 2)", "where it is no key"),
        (columns(a=agg.var("shop")), "agg.var of string", "cast"),
        (columns(a=agg.quantile(money("shop"), 0.5)), "agg.quantile of decimal128(38, 2)", "cast"),
        (columns(a=agg.max_by("shoop", by="amount")), "no event has a field `shoop`", "did you mean `shop`"),
        (columns(a=agg.top(2, by="amount", of={"x": pl.col("shop").cast(pl.Int8)})), "strict cast", "strict=False"),
        ({"allowed_lateness": dt.timedelta(seconds=-1)}, "negative", "window's end"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_a_way_out(change: dict[str, Any], what: str, do: str) -> None:
    with pytest.raises(UsageError) as error:
        projection(**change)
    assert what in error.value.what
    assert do in (error.value.do or "")
    assert "projection" in (error.value.where or "")


def test_column_order_does_not_count_and_meaning_does() -> None:
    base = projection()
    turned = projection(columns={"amount": agg.sum("amount"), "n": agg.count()})
    assert base.fingerprint == turned.fingerprint
    others = [
        projection(columns={"n": agg.count(), "amount": agg.mean("amount")}),
        projection(columns={"n": agg.count(where=pl.col("amount") > 1), "amount": agg.sum("amount")}),
        projection(window=tumbling(dt.timedelta(hours=2))),
        projection(allowed_lateness=dt.timedelta(seconds=1)),
        projection(key=["shop", "items"]),
        projection(category=Category("sales", [Sold, Returned], max_ahead=dt.timedelta(hours=1))),
        projection(category=Category("sales", [Sold, Returned], envelope=plain(type="t", time="at"))),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_the_place_of_a_field_counts_and_its_own_name_is_none() -> None:
    def at(*path: str) -> str:
        kind = type("Moved", (Event,), {"__annotations__": {"speed": Annotated[float, At(*path)] if path else float}})
        return Projection(
            name="moves", category=Category("moves", [kind]), key=["subject"], columns={"top": agg.max("speed")}
        ).fingerprint

    assert at() == at("speed")
    assert len({at(), at("top-speed"), at("top", "speed"), at("top.speed")}) == 4


def test_the_fingerprint_is_of_our_own_text() -> None:
    """Recorded: a library upgrade must not change it, or every view would ask to be rebuilt."""
    assert projection().fingerprint == "ae214d2343b01dd71fd6ff8df4c0ed20"


def test_what_only_some_aggregations_have_is_in_the_text_where_they_have_it() -> None:
    """Recorded, as above."""
    given = columns(
        a=agg.top(2, by=pl.col("amount").abs(), of={"shop": "shop", "items": "items"}),
        b=agg.quantile("amount", 0.99),
        c=agg.sum(money("shop")),
        d=agg.var("items"),
    )
    assert json.loads(projection(**given).definition)["columns"] == {
        "a": {
            "aggregation": "top",
            "input": 'abs(col("amount"))',
            "where": None,
            "type": 'list<struct<"shop": string, "items": int64>>',
            "further": {"of0": 'col("shop")', "of1": 'col("items")'},
            "options": {"limit": 2, "largest": True, "names": ["shop", "items"]},
        },
        "b": {
            "aggregation": "quantile",
            "input": 'col("amount")',
            "where": None,
            "type": "double",
            "options": {"q": 0.99, "error": 0.01},
        },
        "c": {
            "aggregation": "sum",
            "input": 'cast(col("shop"), {"Decimal": [38, 2]})',
            "where": None,
            "type": "decimal128(38, 2)",
        },
        "d": {"aggregation": "var", "input": 'col("items")', "where": None, "type": "double", "options": {"ddof": 1}},
    }
    others = [
        agg.quantile("amount", 0.98),
        agg.quantile("amount", 0.99, error=0.02),
        agg.min_by("shop", by="amount"),
        agg.min_by("items", by="amount"),
        agg.max_by("shop", by="amount"),
        agg.top(2, by="amount", of="shop"),
        agg.top(2, by="amount", of={"shop": "shop"}),
        agg.top(2, by="amount", of="shop", largest=False),
        agg.collect("shop", limit=2),
        agg.collect("shop", limit=3),
    ]
    assert len({projection(**columns(a=one)).fingerprint for one in others}) == len(others)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: agg.collect("shop", limit=0), "agg.collect of 0 values"),
        (lambda: agg.top(1.5, by="amount", of="shop"), "agg.top of 1.5 values"),
        (lambda: agg.top(1, by="amount", of={}), "agg.top of nothing"),
        (lambda: agg.quantile("amount", 1.5), "the 1.5 quantile"),
        (lambda: agg.quantile("amount", 0.1234567), "the 0.1234567 quantile"),
        (lambda: agg.quantile("amount", 0.5, error=0.0), "with an error of 0.0"),
        (lambda: agg.var("amount", ddof=2), "ddof=2"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_where_it_is_said(make: Any, what: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert what in error.value.what
    assert error.value.do


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (pl.col("a").abs() > 60, '(abs(col("a")) > 60)'),
        (pl.when(pl.col("a") > 1).then(1).otherwise(None), 'when((col("a") > 1), 1, null)'),
        (pl.col("a").cast(pl.Float64, strict=False), 'cast(col("a"), "Float64")'),
        (
            pl.col("s").str.to_lowercase().is_in(["x", "y"]),
            'is_in(lower(col("s")), list[String]("x", "y"), {"nulls_equal": false})',
        ),
        (pl.col("a") + pl.lit(5, dtype=pl.Int8), '(col("a") + Int8(5))'),
        (pl.col("s").str.contains("^x"), 'contains(col("s"), "^x", {"literal": false, "strict": true})'),
        (money("s") > pl.lit(Decimal("1.5")), '(cast(col("s"), {"Decimal": [38, 2]}) > Decimal([15, 38, 1]))'),
        (pl.col("t").dt.truncate("1h").alias("hour"), 'truncate(col("t"), "1h")'),
    ],
)
def test_expressions_have_a_canonical_text(expression: pl.Expr, text: str) -> None:
    assert render(expression, "here") == text


def test_an_event_type_tells_its_mistakes() -> None:
    with pytest.raises(UsageError, match="has type"):
        type("Bad", (Event,), {"__annotations__": {"x": list}})
    with pytest.raises(UsageError, match="belong to the envelope"):
        type("Bad", (Event,), {"__annotations__": {"time": dt.datetime}})
    with pytest.raises(UsageError, match="no time zone"):
        sales.encode([Sold(subject="a", time=dt.datetime(2020, 1, 1), shop="x", amount=1.0)])


def test_the_same_fact_has_the_same_id() -> None:
    now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    there = now.astimezone(dt.timezone(dt.timedelta(hours=2)))
    one, same = (Sold(subject="a", time=time, shop="x", amount=1.0) for time in (now, there))
    assert one.derived_id() == same.derived_id()
    assert one.derived_id() != Sold(subject="b", time=now, shop="x", amount=1.0).derived_id()


def test_plain_json_puts_the_parts_where_the_mapping_says() -> None:
    envelope = plain(type=constant("Sold"), time=RECORD_TIME, subject=RECORD_KEY, data="body")
    table = Category("plain", [Sold], envelope=envelope).encode(
        [Sold(subject="a", time=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), shop="x", amount=1.0)]
    )
    assert table["value"].to_pylist() == [b'{"body":{"shop":"x","amount":1.0}}']
    assert table["key"].to_pylist() == [b"a"]
    assert table["timestamp"].to_pylist() == [1_577_836_800_000]
