"""Joins, against the plainest way to say them: sort everything that is released, and look.

Whatever the slices, workers, commits, pauses and failures (of reading, on disk, anywhere), at every cut the view is what
``expected`` says of the log up to there, and all of its tables are those of a fresh fold.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from disturbed_runs import disturbed
from hypothesis import given, note, settings
from hypothesis import strategies as st
from pipelines import Chopped

from connectors import open_log, open_view
from connectors.log import APPENDS
from connectors.reading import newest_manifest, read_table
from flows import (
    Projection,
    State,
    agg,
    as_of,
    hopping,
    in_order,
    interval_join,
    python_fold,
    run,
    session,
    stream,
    tumbling,
    verify,
)
from flows.committer import Pace
from schemas import Category, Event
from schemas.errors import UsageError

US = dt.timedelta(microseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
STEP = 1_000_000
PARTITIONS = 3


class Opened(Event):
    item: str | None = None
    price: int
    until: dt.datetime | None = None


class Bid(Event):
    item: str | None = None
    amount: int


auctions, bids = Category("auctions", [Opened]), Category("bids", [Bid])
CATEGORIES: dict[str, Category] = {"auctions": auctions, "bids": bids}


@dataclass(frozen=True)
class Fact:
    """An event and where it is. Times are whole steps, so that many are equal."""

    category: str
    partition: int
    offset: int
    time: int
    item: str | None
    number: int
    until: int | None

    @property
    def turn(self) -> tuple[int, int, int, int]:
        return self.time, 0 if self.category == "bids" else 1, self.partition, self.offset

    def event(self) -> Event:
        when = EPOCH + self.time * US
        if self.category == "bids":
            return Bid(subject=self.item, time=when, item=self.item, amount=self.number)
        until = None if self.until is None else EPOCH + self.until * US
        return Opened(subject=self.item, time=when, item=self.item, price=self.number, until=until)


@st.composite
def logs(draw: st.DrawFn) -> list[Fact]:
    """Two categories in three partitions each, of different lengths and paces; times wander forwards."""
    lots = random.Random(draw(st.integers(0, 2**32)))
    facts = []
    for category in CATEGORIES:
        for partition in range(PARTITIONS):
            now = 0
            for offset in range(draw(st.sampled_from([0, 2, 8, 20, 20]))):
                now += lots.choice([0, 0, 1, 2])
                time = max(0, now - lots.choice([0, 0, 0, 1, 3])) * STEP
                until = lots.choice([None, time, time + 2 * STEP, time + 5 * STEP, time - STEP])
                facts.append(
                    Fact(
                        category, partition, offset, time, lots.choice(["a", "b", "c", None]), lots.randint(0, 9), until
                    )
                )
    return facts


def append(log: Any, facts: list[Fact]) -> None:
    for name, category in CATEGORIES.items():
        mine = sorted((f for f in facts if f.category == name), key=lambda f: (f.partition, f.offset))
        table = category.encode([f.event() for f in mine])
        place = pa.array([f.partition for f in mine], pa.int32())
        log.append_batch(name, table.set_column(APPENDS.names.index("partition"), "partition", place))


# -- the plain way


def released(facts: list[Fact], cut: dict[str, list[int]], lateness: int) -> tuple[list[Fact], int, int | None]:
    """The facts before the frontier in their order; how many wait; the frontier."""
    accepted, watermarks = [], []
    for name in cut:
        for partition in range(PARTITIONS):
            watermark: int | None = None
            for fact in sorted(
                (f for f in facts if (f.category, f.partition) == (name, partition)), key=lambda f: f.offset
            ):
                if fact.offset >= cut[name][partition]:
                    continue
                if watermark is None or watermark < fact.time + 1 + lateness:
                    accepted.append(fact)
                watermark = fact.time if watermark is None else max(watermark, fact.time)
            watermarks.append(watermark)
    known = [watermark for watermark in watermarks if watermark is not None]
    if len(known) < len(watermarks):
        return [], len(accepted), None
    frontier = min(known) - lateness
    found = sorted((f for f in accepted if f.time < frontier), key=lambda f: f.turn)
    return found, len(accepted) - len(found), frontier


@dataclass(frozen=True)
class Kind:
    """A join, and which pairs it gives. ``bounds``: of an interval, by the auction."""

    name: str
    lower: Any = None
    upper: Any = None

    def source(self) -> Any:
        if self.name == "as_of":
            return as_of(auctions, stream(bids, prefix="bid_"), on="item")
        bounds = {
            which: bound * US if isinstance(bound, int) else bound
            for which, bound in (("lower", self.lower), ("upper", self.upper))
        }
        return interval_join(stream(auctions), stream(bids, prefix="bid_"), on={"item": "item"}, **bounds)

    def pairs(self, facts: list[Fact]) -> list[tuple[Fact, Fact | None]]:
        found: list[tuple[Fact, Fact | None]] = []
        for i, fact in enumerate(facts):
            earlier = [
                f for f in facts[:i] if f.item == fact.item and f.category != fact.category and f.item is not None
            ]
            if self.name == "as_of":
                if fact.category == "auctions":
                    found.append((fact, earlier[-1] if earlier else None))
                continue
            for other in earlier:
                left, right = (fact, other) if fact.category == "auctions" else (other, fact)
                if self.near(left, right):
                    found.append((left, right))
        return found

    def near(self, auction: Fact, bid: Fact) -> bool:
        low, high = (self.bound(bound, auction) for bound in (self.lower, self.upper))
        if "until" in (self.lower, self.upper) and auction.until is None:
            return False
        return (low is None or bid.time >= low) and (high is None or bid.time <= high)

    def bound(self, bound: Any, auction: Fact) -> int | None:
        return auction.until if bound == "until" else None if bound is None else auction.time + bound


KINDS = [
    Kind("as_of"),
    Kind("interval", 0, 2 * STEP),
    Kind("interval", -2 * STEP, 0),
    Kind("interval", 0, "until"),
    Kind("interval", "until", None),
    Kind("interval", None, None),
]


def table_of(kind: Kind, lateness: int) -> Projection:
    names = ["event_time", "item", "price", "bid_amount", "bid_event_time"]
    return Projection(name="pairs", source=kind.source(), select=names, allowed_lateness=lateness * US)


def folded_by(kind: Kind, lateness: int) -> Projection:
    return Projection(
        name="folded",
        source=kind.source(),
        key=["item"],
        window=tumbling(5 * STEP * US),
        allowed_lateness=lateness * US,
        where=pl.col("price") > 0,
        columns={
            "n": agg.count(),
            "bids": agg.count("bid_amount"),
            "product": agg.sum(pl.col("price") * pl.col("bid_amount") * 0.1),
            "last": agg.last("bid_amount"),
        },
    )


def expected_pairs(pairs: list[tuple[Fact, Fact | None]], kind: Kind) -> dict[tuple[int, ...], tuple[Any, ...]]:
    found = {}
    for left, right in pairs:
        place = (left.partition, left.offset)
        if kind.name == "interval":
            assert right is not None
            place += (right.partition, right.offset)
        time = left.time if right is None else max(left.time, right.time)
        found[place] = (time, left.item, left.number, right and right.number, right and right.time)
    return found


def expected_groups(pairs: list[tuple[Fact, Fact | None]], frontier: int | None) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[tuple[int, Fact, Fact | None]]] = {}
    for left, right in pairs:
        time = left.time if right is None else max(left.time, right.time)
        if left.number > 0:
            groups.setdefault((time // (5 * STEP) * 5 * STEP, left.item), []).append((time, left, right))
    rows = {}
    for (start, item), members in groups.items():
        product, last = None, None
        for time, left, right in members:
            if right is not None:
                value = left.number * right.number * 0.1
                product = value if product is None else product + value
                last = (time, right.number)
        rows[(start, item)] = {
            "n": len(members),
            "bids": sum(right is not None for _, _, right in members),
            "product": product,
            "last": last and last[1],
            "is_final": frontier is not None and start + 5 * STEP <= frontier,
        }
    return rows


# -- the comparison


def microseconds(value: Any) -> Any:
    return (value - EPOCH) // US if isinstance(value, dt.datetime) else value


def rows_of(store: Path, name: str) -> list[dict[str, Any]]:
    """Of the newest commit, be it one that was cut off before its links were made."""
    manifest = newest_manifest(store, name, 1)
    assert manifest is not None
    found = pl.DataFrame(read_table(store, manifest, "rows")).to_dicts()
    return [{column: microseconds(value) for column, value in row.items()} for row in found]


def check(store: Path, facts: list[Fact], kind: Kind, lateness: int) -> None:
    """Each view at its own cut, as far as it was committed at all."""
    for name in ("pairs", "folded"):
        manifest = newest_manifest(store, name, 1)
        if manifest is None:
            continue
        seen, waiting, frontier = released(facts, manifest.cut, lateness)
        pairs = kind.pairs(seen)
        if name == "pairs":
            keys = list(table_of(kind, lateness).place)
            rows = {
                tuple(row[key] for key in keys): tuple(row[c] for c in row if c not in keys)
                for row in rows_of(store, name)
            }
            assert rows == expected_pairs(pairs, kind)
        else:
            groups = {
                (row.pop("window_start"), row.pop("item")): {n: v for n, v in row.items() if n != "window_end"}
                for row in rows_of(store, name)
            }
            assert groups == expected_groups(pairs, frontier)
        places = [place for log in manifest.facts["log"].values() for place in log["partitions"]]
        assert sum(place["counts"]["pending"] for place in places) == waiting


class Noisy(Chopped):
    """Of which reading may be disturbed."""

    on_read: Callable[[], None] | None = None

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> Any:
        return _NoisyReader(self, super().reader(category, start, until))


class _NoisyReader:
    def __init__(self, log: Noisy, inner: Any) -> None:
        self._log, self._inner = log, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, timeout_ms: int = 0) -> Any:
        if self._log.on_read:
            self._log.on_read()
        return self._inner.read(timeout_ms)


def folding(
    views: list[Projection], log: Any, store: Path, cut: dict[str, list[int]]
) -> Callable[[threading.Event, int], None]:
    return lambda stop, workers: run(
        views, log=log, store=store, until=cut, workers=workers, stop=stop, pace=Pace(1.0, allow_dead_letters=True)
    )


@settings(max_examples=int(os.environ.get("REFOLD_EXAMPLES") or 12), deadline=None, print_blob=True)
@given(
    logs(),
    st.sampled_from(KINDS),
    st.sampled_from([0, STEP, 4 * STEP]),
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 1 << 16]),
)
def test_a_join_is_what_sorting_and_looking_gives_at_every_cut(
    facts: list[Fact], kind: Kind, lateness: int, seed: int, block: int
) -> None:
    lots = random.Random(seed)
    window = lots.choice([session(2 * STEP * US), hopping(5 * STEP * US, step=2 * STEP * US)])
    other = Projection(
        name="other",
        source=kind.source(),
        window=window,
        allowed_lateness=lateness * US,
        columns={"n": agg.count(), "product": agg.sum(pl.col("price") * pl.col("bid_amount") * 0.1)},
    )
    views = [table_of(kind, lateness), folded_by(kind, lateness), other]
    with tempfile.TemporaryDirectory(prefix="refold-joins-") as directory:
        store, fresh = Path(directory) / "store", Path(directory) / "fresh"
        with open_log(f"{directory}/log") as log:
            for category in CATEGORIES:
                log.create(category, PARTITIONS)
            append(log, facts)
            ends = {name: list(log.describe(name).ends) for name in CATEGORIES}
            cut = {name: [0] * PARTITIONS for name in CATEGORIES}
            for last in [False] * lots.randint(0, 3) + [True]:
                cut = {
                    name: [
                        end if last else lots.randint(now, end) for now, end in zip(cut[name], ends[name], strict=True)
                    ]
                    for name in CATEGORIES
                }
                noisy: Any = Noisy(log, lots.randint(0, 2**32), 4)
                note(disturbed(noisy, lots, folding(views, noisy, store, cut)))
                check(store, facts, kind, lateness)
            for place in (store, fresh):
                run(views, log=log, store=place, until="end")
            check(store, facts, kind, lateness)
            for view in views:
                manifests = [open_view(place, view.name).manifest for place in (store, fresh)]
                assert len({str({n: t.digest for n, t in m.tables.items()}) for m in manifests}) == 1


def test_events_of_one_instant_come_by_partition_and_wait_for_each_other(tmp_path: Path) -> None:
    """Between two commits and within one; the frontier stands at their time when the first ones are there."""
    late_ones = [Fact("bids", 0, 1, STEP, "a", 2, None), Fact("bids", 0, 2, 9 * STEP, "a", 9, None)]
    first_ones = [Fact("bids", p, 0, STEP, "a", number, None) for p, number in ((0, 1), (1, 3), (2, 4))]
    ends = [Fact("bids", p, 1, 9 * STEP, "b", 0, None) for p in (1, 2)]
    in_turn = Projection(
        name="in_turn", source=in_order(bids), key=["item"], columns={"all": agg.collect("amount", limit=9)}
    )
    with open_log(str(tmp_path / "log")) as log:
        log.create("bids", PARTITIONS)
        append(log, [*first_ones, *ends, *late_ones])
        for seed in range(4):
            store, chopped = tmp_path / str(seed), Chopped(log, seed, 1)
            run([in_turn], log=chopped, store=store, until={"bids": [1, 2, 2]}, workers=1)  # type: ignore[arg-type]
            run([in_turn], log=chopped, store=store, until="end", workers=1)  # type: ignore[arg-type]
            assert rows_of(store, "in_turn") == [{"item": "a", "all": [1, 2, 3, 4]}]


def test_at_one_instant_the_right_stream_speaks_first(tmp_path: Path) -> None:
    facts = [Fact("auctions", 0, 0, STEP, "a", 1, None), Fact("bids", 1, 0, STEP, "a", 5, None)]
    there = {("auctions", 0), ("bids", 1)}
    everywhere = [(name, p) for name in CATEGORIES for p in range(PARTITIONS)]
    facts += [Fact(*place, int(place in there), 9 * STEP, None, 0, None) for place in everywhere]
    with open_log(str(tmp_path / "log")) as log:
        for category in CATEGORIES:
            log.create(category, PARTITIONS)
        append(log, facts)
        run([table_of(KINDS[0], 0)], log=log, store=tmp_path, until="end")
    assert [row["bid_amount"] for row in rows_of(tmp_path, "pairs")] == [5]


def test_what_looks_back_finds_what_came_before_the_frontier(tmp_path: Path) -> None:
    """And nulls meet nobody, not even each other."""
    early, later = Fact("bids", 0, 0, STEP, "a", 5, None), Fact("auctions", 0, 1, 3 * STEP, "a", 1, None)
    nulls = [Fact("bids", 0, 1, 3 * STEP, None, 7, None), Fact("auctions", 0, 2, 3 * STEP, None, 2, None)]
    first = [
        Fact(name, p, 0, 2 * STEP, "z", 0, None)
        for name in CATEGORIES
        for p in range(PARTITIONS)
        if (name, p) != ("bids", 0)
    ]
    last = [
        Fact(name, p, 1 + 2 * (p == 0) - (name == "bids") * (p == 0), 9 * STEP, "z", 0, None)
        for name in CATEGORIES
        for p in range(PARTITIONS)
    ]
    back = Kind("interval", -2 * STEP, 0)
    with open_log(str(tmp_path / "log")) as log:
        for category in CATEGORIES:
            log.create(category, PARTITIONS)
        append(log, [early, later, *nulls, *first, *last])
        run([table_of(back, 0)], log=log, store=tmp_path, until={"auctions": [1, 1, 1], "bids": [2, 1, 1]})
        run([table_of(back, 0)], log=log, store=tmp_path, until="end")
    found = [(row["item"], row["bid_amount"]) for row in rows_of(tmp_path, "pairs") if row["item"] != "z"]
    assert found == [("a", 5)]


# -- a fold in Python whose key is not that of the partitions


class Book(State):
    bids: int
    total: int
    last: str


def enter(book: Book | None, event: Any) -> Book | None:
    if event.amount == 7:
        raise ValueError("not seven")
    if event.amount == 9:
        return None
    if book is None:
        book = Book(bids=0, total=0, last="")
    return Book(bids=book.bids + 1, total=book.total * 2 + event.amount, last=str(event.event_time))


@settings(max_examples=int(os.environ.get("REFOLD_EXAMPLES") or 8), deadline=None, print_blob=True)
@given(logs(), st.sampled_from([0, 4 * STEP]), st.integers(0, 2**32))
def test_a_fold_in_order_does_not_know_the_partitions(facts: list[Fact], lateness: int, seed: int) -> None:
    lots = random.Random(seed)
    books = Projection(
        name="books",
        source=in_order(bids),
        where=pl.col("item").is_not_null(),
        key=["item"],
        allowed_lateness=lateness * US,
        fold=python_fold(Book, enter),
    )
    with tempfile.TemporaryDirectory(prefix="refold-joins-") as directory, open_log(f"{directory}/log") as log:
        for category in CATEGORIES:
            log.create(category, PARTITIONS)
        append(log, facts)
        ends = list(log.describe("bids").ends)
        for cut in ([lots.randint(0, end) for end in ends], ends):
            chopped: Any = Chopped(log, lots.randint(0, 2**32), 4)
            run([books], log=chopped, store=directory, until={"bids": cut}, pace=Pace(0.0, allow_dead_letters=True))
            seen, _, _ = released(facts, {"bids": cut}, lateness)
            expected: dict[str, Any] = {}
            refused = set()
            for fact in (fact for fact in seen if fact.item is not None):
                if fact.number == 7:
                    refused.add((fact.partition, fact.offset))
                elif fact.number == 9:
                    expected.pop(fact.item, None)
                else:
                    count, total, _ = expected.get(fact.item, (0, 0, ""))
                    expected[fact.item] = (count + 1, total * 2 + fact.number, str(EPOCH + fact.time * US))
            view = open_view(directory, "books")
            rows = {row["item"]: (row["bids"], row["total"], row["last"]) for row in rows_of(Path(directory), "books")}
            assert rows == expected
            dead = view.dead_letters().collect()
            assert set(dead.select("partition", "offset").rows()) == refused
            counts = [place["counts"] for place in view.manifest.facts["log"]["bids"]["partitions"]]
            assert sum(place["dead_letters"] for place in counts) == len(refused)
        fresh = f"{directory}/fresh"
        run([books], log=log, store=fresh, until="end", pace=Pace(allow_dead_letters=True))
        tables = [open_view(place, "books").manifest.tables for place in (directory, fresh)]
        assert len({str({name: table.digest for name, table in found.items()}) for found in tables}) == 1


# -- as a user meets it


def test_verify_proves_a_join_and_its_fingerprint_knows_every_part(tmp_path: Path) -> None:
    facts = [Fact("auctions", 0, i, i * STEP, "ab"[i % 2], i, None) for i in range(10)]
    facts += [Fact("bids", 1, i, i * STEP, "ab"[i % 2], i, None) for i in range(10)]
    with open_log(str(tmp_path / "log")) as log:
        for category in CATEGORIES:
            log.create(category, PARTITIONS)
        append(log, facts)
    fingerprints = set()
    for kind in KINDS:
        view = table_of(kind, 0)
        store = tmp_path / view.fingerprint
        fingerprints.add(view.fingerprint)
        run([view], log=str(tmp_path / "log"), store=store, until="end")
        assert verify(view, log=str(tmp_path / "log"), store=store).ok
    assert len(fingerprints) == len(KINDS)


@pytest.mark.parametrize(
    ("said", "what", "do"),
    [
        (lambda: as_of(auctions, bids, on="item"), "both streams of the join have a column `item`", "prefix"),
        (lambda: as_of(bids, bids, on="item"), "category `bids` with itself", "two categories"),
        (lambda: as_of(auctions, stream(bids, prefix="b_"), on="itm"), "has a field `itm`", "known are"),
        (lambda: as_of(auctions, stream(bids, prefix="b_"), on={"price": "item"}), "`price` is int64", "one type"),
        (lambda: as_of(auctions, stream(bids, prefix="b_"), on={}), "a join on nothing", "name the columns"),
        (
            lambda: interval_join(auctions, stream(bids, prefix="b_"), on="item", lower=2 * US, upper=US),
            "an interval join from",
            "lower",
        ),
        (
            lambda: Projection(name="v", source=in_order(bids), category=bids, select=["amount"]),
            "neither or both of category= and source=",
            "one of them",
        ),
        (
            lambda: Projection(name="v", source=in_order(bids), events=[Bid], select=["amount"]),
            "events= beside source=",
            "stream(",
        ),
        (
            lambda: Projection(
                name="v",
                source=interval_join(auctions, stream(bids, prefix="b_"), on="item", lower="price", upper=None),
                select=["item"],
            ),
            "`lower` of the join is int64",
            "instant",
        ),
    ],
)
def test_mistakes_are_found_when_it_is_said(said: Any, what: str, do: str) -> None:
    with pytest.raises(UsageError) as raised:
        said()
    assert what in str(raised.value)
    assert do in str(raised.value)
