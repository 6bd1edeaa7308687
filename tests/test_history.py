"""A view's past: any snapshot that is kept, any cut at all by folding to it, and what is kept for how long."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import here
from table_model import Crash, failing_at, steps_of

from connectors import open_log, open_view
from connectors.clock import now_ms
from connectors.collect import collect
from connectors.generation import Version
from connectors.history import watermark_us
from connectors.points import Ago, AtCut, AtTime, Commit, parse_cut, parse_point
from connectors.retention import Age, Retention, kept, read_retention, write_retention
from flows import Projection, agg, rebuild, run, tumbling, verify
from flows.display import cut_text
from flows.running import rebuild_past
from schemas import Category, Event
from schemas.errors import RefoldError, StoreDamaged, StoreError, UnknownView, UsageError

START = datetime(2024, 6, 1, tzinfo=UTC)
COMMITS = 8
HOUR_US = 3_600_000_000


class Measured(Event):
    site: str
    level: float


levels = Category("levels", events=[Measured])
by_hour = Projection(
    name="by_hour",
    category=levels,
    key=["site"],
    window=tumbling(timedelta(hours=1)),
    columns={"n": agg.count(), "level": agg.sum("level")},
)


def measure(log: str, first: int, last: int) -> dict[str, list[int]]:
    with open_log(log) as opened:
        if "levels" not in opened.categories():
            opened.create("levels", 2)
        times = [START + timedelta(minutes=10 * i) for i in range(first, last)]
        events = [
            Measured(subject=f"s{i % 5}", time=at, site=f"s{i % 5}", level=i / 3) for i, at in enumerate(times, first)
        ]
        return {name: list(cut) for name, cut in opened.append(levels, events).items()}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def cuts(log: str, store: Path) -> list[dict[str, list[int]]]:
    """A view with a commit for every two hours, and its cuts."""
    found = []
    for turn in range(COMMITS):
        found.append(measure(log, 12 * turn, 12 * turn + 12))
        run([by_hour], log=log, store=store, until="end", workers=1)
    return found


def home(store: Path) -> Version:
    return Version.of(store, "by_hour", 1)


# -- points


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("12", Commit(12)),
        (" 7 ", Commit(7)),
        ("flights[0:1,200 1:98]", AtCut({"flights": [1200, 98]})),
        ("a[0:1] b-c.d[0:0 1:2_000]", AtCut({"a": [1], "b-c.d": [0, 2000]})),
        ("1h", Ago(HOUR_US)),
        ("1.5h", Ago(HOUR_US * 3 // 2)),
        ("90s", Ago(90_000_000)),
        ("2013-03-10", AtTime(1362873600_000000)),
        ("2013-03-10 02:00", AtTime(1362880800_000000)),
        ("2013-03-10T02:00:00+02:00", AtTime(1362873600_000000)),
    ],
)
def test_a_point_is_written_as_people_write_it(text: str, point: Any) -> None:
    assert parse_point(text) == point


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-1", "1y", "f[0:1 2:3]", "f[0:x]", "f[0:1] and more", "f[1:0]", "[0:1]"]
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError):
        parse_point(text)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9._\-]{1,9}", fullmatch=True),
        st.lists(st.integers(0, 10**12), min_size=1, max_size=4),
        min_size=1,
    )
)
def test_a_cut_that_was_printed_can_be_pasted(cut: dict[str, list[int]]) -> None:
    assert parse_cut(cut_text(cut)) == cut


# -- time travel


def test_every_commit_that_is_kept_reads_as_it_was(
    log: str, store: Path, cuts: list[dict[str, list[int]]], tmp_path: Path
) -> None:
    for seq, cut in enumerate(cuts, 1):
        then = open_view(store, "by_hour", seq=seq)
        assert then.cut == cut and open_view(store, "by_hour", 1, cut=cut).digest == then.digest
        run([by_hour], log=log, store=tmp_path / f"fresh-{seq}", until=cut, workers=1)
        assert open_view(tmp_path / f"fresh-{seq}", "by_hour").digest == then.digest
        assert then.scan().collect()["n"].sum() == 12 * seq


def test_by_time_it_is_the_newest_whose_watermark_is_not_beyond(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    marks = [watermark_us(home(store).live().read(seq)) for seq in range(1, COMMITS + 1)]  # type: ignore[union-attr]
    assert marks == sorted(marks) and len(set(marks)) == COMMITS
    for seq, mark in enumerate(marks, 1):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=mark)
        assert open_view(store, "by_hour", time=at).seq == seq
        assert open_view(store, "by_hour", time=at + timedelta(minutes=30)).seq == seq
    with pytest.raises(UnknownView, match="no snapshot"):
        open_view(store, "by_hour", time=START - timedelta(hours=1))
    with pytest.raises(UsageError, match="no time zone"):
        open_view(store, "by_hour", time=datetime(2024, 6, 1))
    with pytest.raises(UsageError, match="two points"):
        open_view(store, "by_hour", seq=1, cut=cuts[0])


def test_what_is_not_kept_says_what_is_and_another_way(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    for asked in ({"seq": 99}, {"cut": {"levels": [1, 0]}}):
        with pytest.raises(UnknownView) as raised:
            open_view(store, "by_hour", **asked)  # type: ignore[arg-type]
        assert f"{COMMITS} are kept, commits 1 to {COMMITS}" in str(raised.value)
        assert "refold rebuild by_hour@1 --until CUT --into DIR" in str(raised.value)


def test_a_rebuild_does_not_end_what_can_be_read_of_the_past(
    log: str, store: Path, cuts: list[dict[str, list[int]]]
) -> None:
    before = open_view(store, "by_hour", cut=cuts[2]).digest
    rebuild(by_hour, log=log, store=store, workers=1)
    assert open_view(store, "by_hour", cut=cuts[2]).digest == before
    with pytest.raises(UnknownView):
        open_view(store, "by_hour", seq=99)


def test_a_query_may_ask_for_the_past(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    def total(*more: str) -> int:
        said = here("query", "SELECT sum(n) AS n FROM by_hour", "--json", "--store", str(store), *more)
        assert said.code == 0, said
        return int(json.loads(said.out)[0]["n"])

    assert total() == 12 * COMMITS
    assert total("--as-of", "3") == 36
    assert total("--as-of", cut_text(cuts[4])) == 60
    assert total("--as-of", "2h") == 12 * (COMMITS - 1)
    assert here("query", "FROM by_hour", "--store", str(store), "--as-of", "soon").code == 2


# -- any cut at all


@pytest.mark.parametrize("named", ["a cut between commits", "a commit", "a time"])
def test_any_cut_is_folded_into_a_store_of_its_own(
    log: str, store: Path, cuts: list[dict[str, list[int]]], tmp_path: Path, named: str
) -> None:
    cut = {"levels": [max(at - 1, 0) for at in cuts[3]["levels"]]} if "between" in named else cuts[3]
    point = {
        "a cut between commits": cut_text(cut),
        "a commit": "4",
        "a time": str(START + timedelta(hours=8, minutes=5)),
    }[named]
    live = open_view(store, "by_hour").digest
    said = here(
        "rebuild",
        "by_hour",
        "--until",
        point,
        "--into",
        str(tmp_path / "then"),
        "--json",
        "--quiet",
        *options(log, store),
    )
    assert said.code == 0, said
    made = json.loads(said.out)
    run([by_hour], log=log, store=tmp_path / "fresh", until=cut, workers=1)
    assert made["cut"] == cut and made["digest"] == open_view(tmp_path / "fresh", "by_hour").digest
    assert open_view(store, "by_hour").digest == live, "the view itself is left alone"
    proof = verify(by_hour, log=log, store=tmp_path / "then")
    assert proof is not None and proof.ok


def options(log: str, store: Path) -> list[str]:
    os.environ["REFOLD_FLOWS"] = "test_history"
    return ["--log", log, "--store", str(store)]


@pytest.fixture(autouse=True)
def flows_of_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_FLOWS", "test_history")


def test_what_was_begun_is_gone_on_with_and_never_back(
    log: str, store: Path, cuts: list[dict[str, list[int]]], tmp_path: Path
) -> None:
    then = tmp_path / "then"
    assert rebuild_past(by_hour, AtCut(cuts[1]), then, log=log, store=store) is not None
    made = rebuild_past(by_hour, AtCut(cuts[2]), then, log=log, store=store)
    assert made is not None and made.seq == 2 and made.digest == open_view(store, "by_hour", cut=cuts[2]).digest
    for point, into, words in [
        (AtCut(cuts[0]), then, "a later cut"),
        (AtCut(cuts[0]), store, "a store of its own"),
        (AtCut({"levels": [1]}), tmp_path / "x", "one next offset for each partition"),
        (AtCut({"levels": [1, 10_000]}), tmp_path / "x", "before offset 10,000"),
    ]:
        with pytest.raises(UsageError, match=words):
            rebuild_past(by_hour, point, into, log=log, store=store)
    assert here("rebuild", "by_hour", "--until", "3", *options(log, store)).code == 2


# -- what is kept


def aged(store: Path, hours: dict[int, float]) -> None:
    """Commits of so many hours ago."""
    live = home(store).live()
    assert live is not None
    for seq, ago in hours.items():
        at = now_ms() / 1000 - ago * 3600
        os.utime(live.manifest_path(seq), (at, at))
    for path in home(store).data.iterdir():
        os.utime(path, (0, 0))


def seqs(store: Path) -> list[int]:
    live = home(store).live()
    assert live is not None
    return live.snapshots()


def test_snapshots_stay_by_number_and_by_age(log: str, store: Path, cuts: list[dict[str, list[int]]]) -> None:
    aged(store, {seq: 8.0 - seq + 0.01 for seq in range(1, COMMITS + 1)})  # the first 7 hours ago, the last now
    write_retention(store, "by_hour", Retention(snapshots=2, age_s=5 * 3600.0, every_s=2 * 3600.0))
    planned = collect(store, "by_hour", 1, 900, dry_run=True)
    assert seqs(store) == [*range(1, COMMITS + 1)], "that was only a plan"
    done = collect(store, "by_hour", 1, 900)
    assert done == planned
    assert {7, 8} <= set(seqs(store)) and not {1, 2} & set(seqs(store))
    assert 2 <= len(set(seqs(store)) - {7, 8}) <= 4
    for seq in seqs(store):
        assert open_view(store, "by_hour", seq=seq).scan().collect()["n"].sum() == 12 * seq
    for seq in set(range(1, COMMITS)) - set(seqs(store)):
        with pytest.raises(UnknownView):
            open_view(store, "by_hour", seq=seq)
    proof = verify(by_hour, log=log, store=store)
    assert proof is not None and proof.ok


def test_without_a_policy_only_the_grace_period_counts(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    aged(store, {seq: 0.1 * (COMMITS - seq) for seq in range(1, COMMITS + 1)})
    collect(store, "by_hour", 1, 900)
    assert seqs(store) == [5, 6, 7, 8], "5 was superseded by 6, twelve minutes ago"
    collect(store, "by_hour", 1, 0)
    assert seqs(store) == [8]


def test_a_policy_covers_the_generation_before_a_rebuild(
    log: str, store: Path, cuts: list[dict[str, list[int]]]
) -> None:
    write_retention(store, "by_hour", Retention(snapshots=3))
    rebuild(by_hour, log=log, store=store, workers=1)
    collect(store, "by_hour", 1, 0)
    assert open_view(store, "by_hour", cut=cuts[-2]).digest
    with pytest.raises(UnknownView):
        open_view(store, "by_hour", cut=cuts[-3])
    write_retention(store, "by_hour", Retention())
    collect(store, "by_hour", 1, 0)
    assert [generation.number for generation in home(store).generations()] == [2]


def test_a_collection_stopped_at_any_step_leaves_what_is_kept(log: str, tmp_path: Path) -> None:
    import shutil

    original = tmp_path / "original"
    for turn in range(4):
        measure(log, 12 * turn, 12 * turn + 12)
        run([by_hour], log=log, store=original, until="end", workers=1)
    write_retention(original, "by_hour", Retention(snapshots=2))
    shutil.copytree(original, tmp_path / "whole", symlinks=True)
    steps = steps_of(lambda: collect(tmp_path / "whole", "by_hour", 1, 0))
    for step in range(0, steps, 3):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original, store, symlinks=True)
        with pytest.raises((Crash, StoreError)), failing_at(step):
            collect(store, "by_hour", 1, 0)
        assert open_view(store, "by_hour", seq=3).scan().collect()["n"].sum() == 36
        collect(store, "by_hour", 1, 0)
        assert seqs(store) == [3, 4]
        assert sorted(p.name for p in home(store).data.iterdir()) == sorted(
            p.name for p in home(tmp_path / "whole").data.iterdir()
        )


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(0, 200),
    st.integers(1, 40),
)
def test_what_a_policy_keeps(gaps: list[int], snapshots: int, age: int, every: int) -> None:
    """Against the same said another way: seconds from the end, the newest now."""
    now = 1_000_000
    committed = [now - sum(gaps[i:]) for i in range(len(gaps))] + [now]
    ages = [
        Age(at * 1000, after * 1000 if after else None)
        for at, after in zip(committed, [*committed[1:], 0], strict=True)
    ]
    found = kept(ages, Retention(snapshots, float(age), float(every)), now * 1000)
    assert found[-snapshots:] == [True] * len(found[-snapshots:])
    for number, (at, stays) in enumerate(zip(committed, found, strict=True)):
        if number >= len(found) - snapshots:
            continue
        alike = [
            i for i in range(len(found) - 1)
            if committed[i] // every == at // every and age and committed[i + 1] > now - age
        ]  # fmt: skip
        assert stays == (bool(alike) and alike[0] == number)


@pytest.mark.parametrize(
    "policy",
    [{"snapshots": 0}, {"snapshots": 20_000}, {"age_s": 3600.0}, {"age_s": 1e9, "every_s": 1.0}, {"age_s": -1.0}],
)
def test_a_policy_that_cannot_be_kept_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Retention(**policy)


def test_a_policy_that_cannot_be_read_removes_nothing(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    (store / "by_hour/retention.json").write_text('{"snapshots": "all"}')
    with pytest.raises(StoreDamaged, match="nothing is removed"):
        collect(store, "by_hour", 1, 0)
    assert seqs(store) == [*range(1, COMMITS + 1)]


def test_a_policy_that_the_disk_does_not_give_is_an_error_of_the_store(
    store: Path, cuts: list[dict[str, list[int]]]
) -> None:
    with pytest.raises(StoreError, match="cleaning up failed"), failing_at(0, lambda: OSError(5, "Input/output error")):
        collect(store, "by_hour", 1, 0)
    assert seqs(store) == [*range(1, COMMITS + 1)]


def test_the_commands_say_what_is_kept_and_what_goes(store: Path, cuts: list[dict[str, list[int]]]) -> None:
    where = ("--store", str(store))
    assert here("retain", "by_hour", *where).out == "by_hour keeps its newest 1 snapshot\n"
    said = here("retain", "by_hour", "--snapshots", "3", "--age", "1d", "--every", "2h", *where).out
    assert (
        said == "by_hour keeps its newest 3 snapshots, and one every 7,200 s of those superseded in the last 86,400 s\n"
    )
    assert read_retention(store / "by_hour") == Retention(3, 86_400.0, 7_200.0)
    assert here("retain", "by_hour", "--age", "soon", *where).code == 2
    assert here("retain", "nothing", "--snapshots", "3", *where).code == 3
    here("retain", "by_hour", "--snapshots", "3", *where)
    (told,) = json.loads(here("collect", "--dry-run", "--grace", "0s", "--json", *where).out)
    assert told["manifests"] == COMMITS - 3 and len(seqs(store)) == COMMITS
    assert f"removed {COMMITS - 3} commits" in here("collect", "by_hour", "--grace", "0s", *where).out
    assert seqs(store) == [6, 7, 8]


def test_reading_the_past_is_lazy_frames_like_reading_the_present(
    store: Path, cuts: list[dict[str, list[int]]]
) -> None:
    past = open_view(store, "by_hour", seq=2)
    assert isinstance(past.scan(), pl.LazyFrame) and isinstance(past.late(), pl.LazyFrame)
    assert issubclass(UnknownView, RefoldError)
