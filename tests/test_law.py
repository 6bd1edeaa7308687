"""The law, through everything: random projections over random logs, by the real engine, into a real store on disk.

However a view was folded (in which slices, by how many workers, committed when, stopped, failed in the middle of
reading or at any step on disk, folded in one go or as the log grew, with another view beside it or alone), its tables are
those of a fresh fold in one piece, *partials included*, and the rows are those of ``tests/reference.py``.

Hypothesis prints what failed, and how to draw it again. ``REFOLD_EXAMPLES=5000 pytest tests/test_law.py`` tries more.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import reference
from disturbed_runs import PACE, Clock, check, clock, digests, disturbed, fold, fresh, new_store, outcome
from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_log import CONTROL, REMOVED, Entry, MemoryLog
from random_chain import chains
from random_fold import folded_pairs, of_partition
from random_projection import TYPES, Moved, Pair, pairs, things
from random_records import SEEDS, entry, partitions, value

from connectors import open_view
from connectors.collect import collect
from connectors.manifest import Manifest
from connectors.reading import newest_manifest
from flows import Projection, agg, rebuild, verify
from schemas.errors import DataError


def examples(default: int, **more: Any) -> settings:
    number = int(os.environ.get("REFOLD_EXAMPLES") or default)
    return settings(max_examples=number, deadline=None, print_blob=True, **more)


# -- any schedule

BLOCKS = st.sampled_from([1, 3, 1 << 16])


@dataclass(frozen=True)
class Case:
    views: list[Pair]
    log: list[list[Entry]]
    origin: list[int] | None
    lots_seed: int
    block: int
    """Groups of which a commit makes rows together."""


@st.composite
def cases(draw: st.DrawFn, *, large: bool) -> Case:
    """One view or two of other columns, a log, sometimes a later origin, and a seed of what happens."""
    log = draw(partitions(large=large))
    views = [draw(pairs("drawn", sums=large))] + ([draw(pairs("neighbour"))] if draw(st.booleans()) else [])
    if draw(st.integers(0, 3)) == 3:
        views[-1] = draw(folded_pairs(views[-1].projection.name))
        log = [of_partition(entries, partition) for partition, entries in enumerate(log)]
    origin = [draw(st.integers(0, len(part))) for part in log] if draw(st.integers(0, 5)) == 5 else None
    return Case(views, log, origin, draw(SEEDS), draw(BLOCKS))


def follow(case: Case) -> int:
    """Fold a log that grows, in several disturbed runs and a last one; compare after each. Returns how many there were."""
    lots = random.Random(case.lots_seed)
    log = MemoryLog(things.name, case.log, lots=lots)
    ends = list(log.ends)
    log.ends = [0 if case.origin is None else case.origin[p] for p in range(len(ends))]
    with new_store() as store:
        lives = lots.randint(0, 4)
        for _ in range(lives):
            log.ends = [
                lots.choice([now, lots.randint(now, end), end]) for now, end in zip(log.ends, ends, strict=True)
            ]
            some = lots.sample(case.views, lots.randint(1, len(case.views)))
            until = lots.choice(["end", list(log.ends)])
            with patch("flows.merge.BLOCK_GROUPS", case.block):
                note(disturbed(log, lots, folding(some, log, store, until=until, origin=case.origin)))
            for pair in case.views:
                check(store, pair, case.log, case.origin)
        log.ends = ends
        finish(case, log, store)
    return lives + 1


def folding(views: Sequence[Pair], log: MemoryLog, store: Path, **how: Any) -> Callable[[threading.Event, int], None]:
    return lambda stop, workers: fold(views, log, store, stop=stop, workers=workers, **how)


def finish(case: Case, log: MemoryLog, store: Path) -> None:
    """To the end of the log with one commit, and then it is what a fresh fold gives: if there is such a table."""
    fitting = [pair for pair in case.views if outcome(pair, case.log, log.ends, case.origin).fits]
    for pair in case.views:
        if pair not in fitting:
            with (
                pytest.raises(DataError, match="does not fit int64"),
                clock(lambda: 0.0),
                patch("flows.merge.BLOCK_GROUPS", case.block),
            ):
                fold([pair], log, store, until="end", origin=case.origin)
    with clock(lambda: 0.0), patch("flows.merge.BLOCK_GROUPS", case.block):
        if fitting:
            fold(
                fitting,
                log,
                store,
                until="end",
                workers=random.Random(case.lots_seed).randint(1, 3),
                origin=case.origin,
            )
    for pair in fitting:
        manifest = check(store, pair, case.log, case.origin)
        again = fresh(pair, case.log, log.ends, case.origin)
        assert manifest is not None
        assert manifest.cut == again.cut == {things.name: log.ends}
        assert digests(manifest) == digests(again)
        assert manifest.facts == again.facts
        assert open_view(store, pair.projection.name).digest == again.digest


@examples(30)
@given(case=cases(large=False))
def test_whatever_happens_on_the_way_the_tables_are_those_of_a_fresh_fold(case: Case) -> None:
    follow(case)


@st.composite
def cases_of_folds(draw: st.DrawFn) -> Case:
    """A view with a Python fold alone; whole numbers may be beyond what a state can hold."""
    log = draw(st.booleans().flatmap(lambda large: partitions(large=large)))
    return Case(
        [draw(folded_pairs())],
        [of_partition(part, number) for number, part in enumerate(log)],
        None,
        draw(SEEDS),
        draw(BLOCKS),
    )


@examples(12)
@given(case=cases_of_folds())
def test_whatever_happens_on_the_way_a_python_fold_takes_the_same_entities_on(case: Case) -> None:
    follow(case)


@st.composite
def cases_of_chains(draw: st.DrawFn) -> Case:
    """A view of the rows of another, beside one that has nothing to do with it."""
    large = draw(st.integers(0, 5)) == 5
    views = [draw(chains(sums=large)), *([draw(pairs("neighbour"))] if draw(st.booleans()) else [])]
    log = draw(partitions(large=large))
    origin = [draw(st.integers(0, len(part))) for part in log] if draw(st.integers(0, 5)) == 5 else None
    return Case(views, log, origin, draw(SEEDS))


@examples(25)
@given(case=cases_of_chains())
def test_whatever_happens_on_the_way_a_chain_is_folded_from_the_rows_at_the_cut(case: Case) -> None:
    follow(case)


@examples(10)
@given(case=cases(large=True))
def test_a_sum_that_does_not_fit_is_an_error_whatever_happens_on_the_way(case: Case) -> None:
    follow(case)


@pytest.mark.slow
@examples(2000)
@given(case=cases_of_chains() | st.booleans().flatmap(lambda large: cases(large=large)))
def test_whatever_happens_on_the_way_many_times(case: Case) -> None:
    follow(case)


# -- any sequence of what one does with a view


class Lives(RuleBasedStateMachine):
    """One view of a log that grows: run, stopped, failed, rebuilt, verified and collected in any order."""

    @initialize(
        pair=pairs() | pairs() | folded_pairs() | chains(),
        partitions=st.integers(1, 4),
        gaps=st.sampled_from([CONTROL, REMOVED]),
    )
    def begin(self, pair: Pair, partitions: int, gaps: str) -> None:
        self.pair, self.gaps = pair, gaps
        self.store = Path(tempfile.mkdtemp(prefix="refold-lives-"))
        self.log = MemoryLog(things.name, [[] for _ in range(partitions)], lots=random.Random(0))
        self.seen: dict[tuple[int, ...], tuple[dict[str, str], dict[str, Any]]] = {}
        self.is_shown = False

    @rule(partition=st.integers(0, 3), seeds=st.lists(SEEDS, min_size=1, max_size=30))
    def append(self, partition: int, seeds: list[int]) -> None:
        place = partition % len(self.log.partitions)
        end = self.log.ends[place]
        fresh = [entry(seed, end + n, large=False, gaps=self.gaps) for n, seed in enumerate(seeds)]
        self.log.partitions[place].extend(of_partition(fresh, place) if self.pair.projection.fold else fresh)
        self.log.ends[place] += len(fresh)

    @rule(seed=SEEDS)
    def run_to_the_end(self, seed: int) -> None:
        with clock(Clock(random.Random(seed))):
            self._fold(workers=seed % 3 + 1, until="end")
        assert self._cut() == self.log.ends

    @rule(seed=SEEDS)
    def run_to_a_cut(self, seed: int) -> None:
        lots = random.Random(seed)
        cut = [lots.randint(now, end) for now, end in zip(self._cut(), self.log.ends, strict=True)]
        with clock(Clock(lots)):
            self._fold(workers=lots.randint(1, 3), until=cut)
        assert self._cut() == cut

    @rule(seed=SEEDS)
    def run_disturbed(self, seed: int) -> None:
        note(
            disturbed(
                self.log, random.Random(seed), lambda stop, workers: self._fold(stop=stop, workers=workers, until="end")
            )
        )

    @rule(seed=SEEDS)
    def rebuild_disturbed(self, seed: int) -> None:
        note(disturbed(self.log, random.Random(seed), lambda stop, workers: self._rebuild(stop=stop, workers=workers)))

    @rule(workers=st.integers(1, 3))
    def rebuild(self, workers: int) -> None:
        assert self._rebuild(workers=workers) is not None
        assert self._cut() == self.log.ends

    @precondition(lambda self: self._manifest() is not None)
    @rule(workers=st.integers(1, 3))
    def verify(self, workers: int) -> None:
        found = verify(self.pair.projection, log=self.log, store=self.store, workers=workers)  # type: ignore[arg-type]
        assert found is not None
        assert not (found.log_changes or found.tables), found
        # A first commit that was interrupted before it had made its links (those of its snapshot, too) is told, and finished by
        # the next run.
        unlinked = all(damaged.table == "links" or "/snapshots/" in damaged.file for damaged in found.damaged)
        assert found.ok or (not self.is_shown and unlinked), found

    @rule()
    def collect(self) -> None:
        collect(self.store, self.pair.projection.name, 1, 0.0)

    @invariant()
    def the_view_is_that_of_its_cut(self) -> None:
        """Equal cuts, equal tables, however they were reached; and the rows of the reference."""
        manifest = check(self.store, self.pair, self.log.partitions)
        if manifest is not None:
            cut = tuple(manifest.cut[things.name])
            there = (digests(manifest), manifest.facts)
            assert self.seen.setdefault(cut, there) == there
            self.is_shown |= (self.store / self.pair.projection.name / "current").exists()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.rebuild(1)
            assert digests(self._manifest()) == digests(fresh(self.pair, self.log.partitions, self.log.ends))
            shutil.rmtree(self.store)

    def _fold(self, **how: Any) -> None:
        fold([self.pair], self.log, self.store, **how)

    def _rebuild(self, **how: Any) -> Manifest | None:
        return rebuild(self.pair.projection, log=self.log, store=self.store, pace=PACE, **how)  # type: ignore[arg-type]

    def _manifest(self) -> Manifest | None:
        return newest_manifest(self.store, self.pair.projection.name, 1)

    def _cut(self) -> list[int]:
        manifest = self._manifest()
        return [0] * len(self.log.ends) if manifest is None else manifest.cut[things.name]


class ManyLives(Lives):
    pass


TestLives = Lives.TestCase
TestLives.settings = examples(12, stateful_step_count=12)
TestManyLives = pytest.mark.slow(ManyLives.TestCase)
TestManyLives.settings = examples(60, stateful_step_count=25)


# -- found by the above, and kept


def event(time: int) -> bytes:
    return value("Moved", time, '"s"', {"place": '"a"', "number": "1"})


COUNTED = Pair(
    Projection(name="counted", category=things, key=["event_type"], columns={"n": agg.count()}, events=[Moved]),
    reference.Spec(
        types={"Moved": TYPES["Moved"]},
        reads=("event_type",),
        key=lambda event: (event["event_type"],),
        columns={"n": ("count", lambda event: 1, lambda event: True)},
        size_us=None,
    ),
)
BESIDE = Pair(COUNTED.projection.over(things), COUNTED.spec)
BESIDE.projection.name = "beside"


def test_what_a_view_remembers_of_leaders_does_not_depend_on_slices() -> None:
    """The last batch may hold no record of its own: the end of a transaction, written by the next leader."""
    log = [[Entry(event(1), leader_epoch=0), Entry(kind=CONTROL, leader_epoch=1)]]
    with new_store() as store:
        for end in (1, 2):
            fold([COUNTED], MemoryLog(things.name, log), store, until=[end])
        manifest = newest_manifest(store, "counted", 1)
    assert manifest is not None
    assert manifest.facts == fresh(COUNTED, log, [2]).facts


def test_what_compaction_took_is_counted_once_whoever_else_is_there() -> None:
    """The first record is folded by one view alone; the other joins in the middle of a slice with a hole at its end."""
    log = [[Entry(event(1)), Entry(event(2)), Entry(kind=REMOVED)]]
    with new_store() as store:
        fold([COUNTED], MemoryLog(things.name, log), store, until=[1])
        fold([COUNTED, BESIDE], MemoryLog(things.name, log), store, until=[3])
        for pair in (COUNTED, BESIDE):
            manifest = newest_manifest(store, pair.projection.name, 1)
            assert manifest is not None
            assert manifest.facts == fresh(pair, log, [3]).facts
