"""What differs: between two versions at one cut, brought there without disturbing anybody, and between two moments of one."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import following, here, until

from connectors import open_log, open_view
from connectors.comparing import compared
from connectors.forking import fork
from connectors.points import Commit
from connectors.table import open_writer
from flows import Projection, agg, rebuild, run, tumbling
from flows.diffing import How, diff, diff_moments
from flows.merge import table_specs
from flows.running import WriterTarget
from flows.verification import Refold, fold_in
from schemas import Category, Event
from schemas.errors import DefinitionChanged, UnknownView, UsageError

START = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


# -- two tables


class Ordered:
    """A value to compare by: floats by their bits (one NaN), everything else as it is."""

    @staticmethod
    def of(value: Any) -> Any:
        if isinstance(value, float):
            return "nan" if math.isnan(value) else struct.pack(">d", value)
        if isinstance(value, list):
            return tuple(Ordered.of(one) for one in value)
        return value


VALUES = st.fixed_dictionaries(
    {
        "x": st.none() | st.sampled_from([0.0, -0.0, math.nan, 1.5, math.inf]),
        "s": st.none() | st.sampled_from(["", "a", "b"]),
        "l": st.none() | st.lists(st.none() | st.sampled_from([0.0, -0.0, 1.0]), max_size=2),
    }
)
KEYS = st.tuples(st.none() | st.integers(-3, 3), st.sampled_from(["p", "q"]))
SCHEMA = pa.schema(
    [("k", pa.int64()), ("p", pa.string()), ("x", pa.float64()), ("s", pa.string()), ("l", pa.list_(pa.float64()))]
)
Rows = dict[tuple[Any, str], dict[str, Any]]


def table(rows: Rows, leave_out: str = "") -> pa.Table:
    made = pa.Table.from_pylist([{"k": k, "p": p, **values} for (k, p), values in rows.items()], SCHEMA)
    return made.drop_columns([leave_out]) if leave_out else made


@given(
    st.dictionaries(KEYS, VALUES, max_size=8),
    st.dictionaries(KEYS, VALUES, max_size=8),
    st.sampled_from(["", "s", "l"]),
)
@settings(max_examples=150)
def test_tables_are_compared_as_one_would_by_hand(before: Rows, after: Rows, gone: str) -> None:
    expected = set()
    for key in {*before, *after}:
        if key not in after:
            expected.add((key, "removed", ()))
        elif key not in before:
            expected.add((key, "added", ()))
        else:
            names = tuple(
                name
                for name in ("x", "s", "l")
                if name != gone and Ordered.of(before[key][name]) != Ordered.of(after[key][name])
            )
            expected |= {(key, "changed", names)} if names else set()
    found = compared(table(before), table(after, gone), ("k", "p"))
    told = [((row["k"], row["p"]), row["change"], tuple(row["changed_columns"])) for row in found.to_pylist()]
    assert set(told) == expected and len(told) == len(expected)
    keys = [(row["k"] is not None, row["k"] or 0, row["p"]) for row in found.to_pylist()]
    assert keys == sorted(keys), "in order of key, null first"
    for row in found.to_pylist():
        key = (row["k"], row["p"])
        for name in ("x", "s", "l"):
            ours = Ordered.of(before[key][name]) if key in before else None
            assert Ordered.of(row[f"{name}_before"]) == ours
            if name != gone:
                assert Ordered.of(row[f"{name}_after"]) == (Ordered.of(after[key][name]) if key in after else None)
    assert f"{gone}_after" not in found.column_names


# -- two versions


class Sold(Event):
    shop: str
    till: int
    cents: int


sales = Category("sales", events=[Sold])


def takings(version: int, key: str = "shop", **more: Any) -> Projection:
    return Projection(
        name="takings",
        version=version,
        category=sales,
        key=[key],
        window=tumbling(dt.timedelta(hours=1)),
        columns={"n": agg.count(), "cents": agg.sum("cents"), **more},
    )


ONE = takings(1)
WITHOUT_SMALL = Projection(
    name="takings",
    version=2,
    category=sales,
    where=pl.col("cents") > 2,
    key=["shop"],
    window=tumbling(dt.timedelta(hours=1)),
    columns={"n": agg.count(), "cents": agg.sum("cents")},
)
WITH_MOST = takings(3, most=agg.max("cents"))
BY_TILL = takings(4, "till")
ALL = (ONE, WITHOUT_SMALL, WITH_MOST, BY_TILL)


def sell(log: str, first: int, last: int) -> dict[str, list[int]]:
    with open_log(log) as opened:
        if "sales" not in opened.categories():
            opened.create("sales", 2)
        times = [START + dt.timedelta(minutes=i) for i in range(first, last)]
        events = [
            Sold(subject=f"o{i}", time=at, shop=f"shop {i % 4}", till=i % 6, cents=i % 9)
            for i, at in enumerate(times, first)
        ]
        return {name: list(cut) for name, cut in opened.append(sales, events).items()}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def store(tmp_path: Path, log: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every version, each at a later cut than the one before."""
    monkeypatch.setenv("REFOLD_FLOWS", "test_diffing")
    store = tmp_path / "store"
    for number, projection in enumerate(ALL):
        sell(log, 100 * number, 100 * number + 100)
        if number == 0:
            run([projection], log=log, store=store, until="end", workers=1)
        else:
            rebuild(projection, log=log, store=store, workers=1)
    return store


def by_hand(log: str, store: Path, projection: Projection, cut: dict[str, list[int]], tmp_path: Path) -> pl.DataFrame:
    place = tmp_path / f"fresh-{projection.version}"
    run([projection], log=log, store=place, until=cut, workers=1)
    return open_view(place, "takings").scan().collect()


def test_two_versions_are_compared_at_the_greatest_of_their_cuts(log: str, store: Path, tmp_path: Path) -> None:
    before = {version: open_view(store, "takings", version).digest for version in range(1, 5)}
    cut = open_view(store, "takings", 2).cut
    found = diff("takings", 1, 2, projections=(ONE, WITHOUT_SMALL), store=store, how=How(log, 1))
    assert found is not None and found.cuts == (cut, cut) and found.rows is not None
    one, two = (by_hand(log, store, projection, cut, tmp_path) for projection in (ONE, WITHOUT_SMALL))
    joined = one.join(two, on=["window_start", "shop"], how="inner", suffix="_2")
    changed = joined.filter((pl.col("n") != pl.col("n_2")) | (pl.col("cents") != pl.col("cents_2")))
    assert found.changed == changed.height > 0
    assert found.counts == (one.height, two.height)
    ours = pl.DataFrame(found.rows).filter(pl.col("change") == "changed").sort("window_start", "shop")
    assert ours["n_after"].to_list() == changed.sort("window_start", "shop")["n_2"].to_list()
    assert {version: open_view(store, "takings", version).digest for version in range(1, 5)} == before
    assert not (store / ".diff").exists(), "the scratch place is gone"


def test_columns_and_keys_that_differ_are_told(log: str, store: Path) -> None:
    found = diff("takings", 2, 3, projections=(WITHOUT_SMALL, WITH_MOST), store=store, how=How(log, 1))
    assert found is not None and found.columns.added == ("most",) and found.differs
    same = diff("takings", 1, 1, projections=(ONE, ONE), store=store, how=How(log, 1))
    assert same is not None and not same.differs and same.cuts[0] == open_view(store, "takings", 1).cut
    keys = diff("takings", 3, 4, projections=(WITH_MOST, BY_TILL), store=store, how=How(log, 1))
    assert keys is not None and keys.rows is None and keys.differs
    assert (keys.removed, keys.added) == keys.counts


def test_a_version_whose_definition_is_gone_is_compared_where_it_stands(log: str, store: Path, tmp_path: Path) -> None:
    cut = open_view(store, "takings", 1).cut
    found = diff("takings", 1, 2, projections=(None, WITHOUT_SMALL), store=store, how=How(log, 1))
    assert found is not None and found.cuts == (cut, cut), "the other one was folded to it from zero"
    two = by_hand(log, store, WITHOUT_SMALL, cut, tmp_path)
    assert found.counts[1] == two.height
    with pytest.raises(UsageError, match="not in the code"):
        diff("takings", 1, 2, store=store, how=How(log, 1))
    with pytest.raises(DefinitionChanged):
        other = takings(1, most=agg.max("cents"))
        diff("takings", 1, 2, projections=(other, None), store=store, how=How(log, 1))
    with pytest.raises(UnknownView):
        diff("takings", 1, 9, store=store, how=How(log, 1))


def test_versions_that_live_are_compared_and_not_disturbed(log: str, store: Path) -> None:
    with following([ONE, WITHOUT_SMALL], log=log, store=store) as thread:
        for turn in range(3):
            cut = sell(log, 400 + 50 * turn, 450 + 50 * turn)
            found = diff("takings", 1, 2, projections=(ONE, WITHOUT_SMALL), store=store, how=How(log, 1))
            assert found is not None and found.cuts[0] == found.cuts[1] and found.changed > 0
        until(lambda: open_view(store, "takings", 1).cut == open_view(store, "takings", 2).cut == cut, thread)


@pytest.mark.parametrize("projection", [ONE, BY_TILL], ids=lambda projection: projection.title)
def test_a_fork_folded_on_is_the_view_folded_from_zero(
    log: str, store: Path, tmp_path: Path, projection: Projection
) -> None:
    """All tables, partials included; the fork shares files and changes none."""
    committed = open_view(store, "takings", projection.version).manifest
    with open_log(log) as opened:
        end = {"sales": list(opened.describe("sales").ends)}
    fork(store, committed, tmp_path / "fork")
    made = []
    for place in (tmp_path / "fork", tmp_path / "zero"):
        with open_writer(place, "takings", projection.version, table_specs(projection)) as writer:
            target = WriterTarget(projection, writer)
            assert (target.load() is None) == (place.name == "zero")
        run([projection], log=log, store=place, until=end, workers=1)
        made.append(open_view(place, "takings", projection.version).manifest)
    assert [table.digest for table in made[0].tables.values()] == [table.digest for table in made[1].tables.values()]
    assert open_view(store, "takings", projection.version).manifest == committed
    fold_in(projection, made[0], tmp_path / "again", Refold(log, 1)).close()


# -- two moments


def test_what_the_last_commits_changed(log: str, store: Path) -> None:
    before = open_view(store, "takings", 1).scan().collect()
    run([ONE], log=log, store=store, until="end", workers=1)
    after = open_view(store, "takings", 1).scan().collect()
    found = diff_moments("takings", 1, Commit(1), None, store=store)
    assert found.rows is not None
    assert found.added == after.join(before, on=["window_start", "shop"], how="anti").height > 0
    assert found.removed == 0
    assert found.changed == after.join(before, on=after.columns, how="anti").height - found.added > 0
    assert not diff_moments("takings", 1, Commit(2), Commit(2), store=store).differs


# -- the command


def test_the_command_shows_examples_and_exits_with_one(log: str, store: Path, tmp_path: Path) -> None:
    where = ("--store", str(store), "--log", log, "--quiet", "--workers", "1")
    said = here("diff", "takings@1", "takings@2", "--examples", "2", "--into", str(tmp_path / "all.parquet"), *where)
    assert said.code == 1
    assert said.out.startswith("takings@1 and takings@2  at cut sales[0:")
    assert "changed  window_start 2024-07-01 00:00:00 UTC, shop shop 0:  n " in said.out and " -> " in said.out
    rows = pq.read_table(tmp_path / "all.parquet")
    assert f"... and {rows.num_rows - 2:,} more" in said.out
    told = json.loads(here("diff", "takings@1", "takings@2", "--json", *where).out)
    assert told["rows"]["changed"] + told["rows"]["added"] + told["rows"]["removed"] == rows.num_rows
    assert here("diff", "takings@1", "takings@1", *where).code == 0
    said = here("diff", "takings@3", "takings@4", "--into", str(tmp_path / "none.parquet"), *where)
    assert said.code == 1 and "no row of one is a row of the other" in said.out
    assert "was not written" in said.out and not (tmp_path / "none.parquet").exists()
    run([ONE], log=log, store=store, until="end", workers=1)
    said = here("diff", "takings@1", "--from", "1", "--to", "2", *where)
    assert said.code == 1 and "takings@1 at commit 2" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("diff takings@1", "what is to be compared?"),
        ("diff takings@1 takings", "which version?"),
        ("diff takings@1 others@2", "no versions of one view"),
        ("diff takings@1 takings@2 --from 1", "at one cut"),
        ("diff takings@1 --from nonsense", "no point"),
    ],
)
def test_a_wrong_call_is_told(store: Path, log: str, arguments: str, words: str) -> None:
    said = here(*arguments.split(), "--store", str(store), "--log", log)
    assert said.code == 2 and words in said.err
