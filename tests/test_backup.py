"""A copy of a view's directory is a backup, also one that was taken while a run commits."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import copies, generation, open_log, open_view
from connectors.generation import Version, place_of
from connectors.reading import newest_manifest
from flows import Projection, agg, run, tumbling, verify
from flows.repairing import repair
from schemas import Category, Event
from schemas.errors import StoreDamaged, UnknownView

START = datetime(2024, 1, 1, tzinfo=UTC)
COMMITS = 6


class Read(Event):
    meter: str
    watts: float


readings = Category("readings", events=[Read])
by_hour = Projection(
    name="by_hour",
    category=readings,
    key=["meter"],
    window=tumbling(timedelta(hours=1)),
    allowed_lateness=timedelta(minutes=20),
    columns={"n": agg.count(), "watts": agg.sum("watts")},
)


@pytest.fixture(autouse=True)
def a_copy_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (generation, copies):
        monkeypatch.setattr(module, "place_of", REAL)


REAL: Callable[[Path], bytes] = place_of
"""As it was when this module was imported: before any fixture."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("readings") / "log")
    with open_log(path) as opened:
        for turn in range(COMMITS):
            times = [START + timedelta(minutes=3 * (turn * 80 + i)) for i in range(80)]
            opened.append(
                readings,
                [Read(subject=f"m{i % 9}", time=at, meter=f"m{i % 9}", watts=i / 7) for i, at in enumerate(times)],
            )
    return path


def cuts(log: str) -> Iterator[dict[str, list[int]]]:
    with open_log(log) as opened:
        ends = opened.describe("readings").ends
    for turn in range(1, COMMITS + 1):
        yield {"readings": [end * turn // COMMITS for end in ends]}


def copy(source: Path, target: Path, lots: random.Random, meanwhile: Callable[[], None]) -> None:
    """As ``cp -r`` does it: names as they are found when a directory is entered, in any order; what is gone by then is left out."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir()
        names = sorted(path.name for path in source.iterdir())
        lots.shuffle(names)
        for name in names:
            if lots.random() < 0.2:
                meanwhile()
            if (source / name).exists() or (source / name).is_symlink():
                copy(source / name, target / name, lots, meanwhile)
    else:
        shutil.copy2(source, target)


@given(seed=st.integers(0, 2**32), before=st.integers(1, COMMITS - 1))
@settings(max_examples=12)
def test_a_copy_taken_while_a_run_commits_goes_on(
    log: str, tmp_path_factory: pytest.TempPathFactory, seed: int, before: int
) -> None:
    place = tmp_path_factory.mktemp("backup")
    to_come = cuts(log)

    def commit() -> None:
        if (cut := next(to_come, None)) is not None:
            run([by_hour], log=log, store=place / "store", until=cut, workers=1)

    for _ in range(before):
        commit()
    at_least = newest_manifest(place / "store", "by_hour", 1)
    copy(place / "store", place / "copy", random.Random(seed), commit)
    run([by_hour], log=log, store=place / "copy", until="end", workers=1)
    run([by_hour], log=log, store=place / "fresh", until="end", workers=1)
    ours, fresh = open_view(place / "copy", "by_hour"), open_view(place / "fresh", "by_hour")
    assert ours.digest == fresh.digest
    assert ours.scan().collect().equals(fresh.scan().collect())
    assert at_least is not None and ours.seq > at_least.seq - 1, "it went on from a commit, not from offset zero"
    proof = verify(by_hour, log=log, store=place / "copy")
    assert proof is not None and proof.ok
    shutil.rmtree(place)


def torn(log: str, tmp_path: Path) -> Path:
    """A copy that has a manifest and not its files: they were listed before it came."""
    first, second, *_ = cuts(log)
    run([by_hour], log=log, store=tmp_path / "store", until=first, workers=1)
    data = {path.name for path in (tmp_path / "store/by_hour/v1/data").iterdir()}
    run([by_hour], log=log, store=tmp_path / "store", until=second, workers=1)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", symlinks=True)
    for path in (tmp_path / "copy/by_hour/v1/data").iterdir():
        if path.name not in data:
            path.unlink()
    return tmp_path / "copy"


def test_a_torn_copy_goes_on_from_the_commit_that_is_whole(log: str, tmp_path: Path) -> None:
    store = torn(log, tmp_path)
    run([by_hour], log=log, store=store, until=next(iter(cuts(log))), workers=1)
    assert open_view(store, "by_hour").cut == next(iter(cuts(log)))


def test_a_snapshot_that_was_copied_in_part_is_not_kept(log: str, tmp_path: Path) -> None:
    """The past is read whole or not at all."""
    for cut in cuts(log):
        run([by_hour], log=log, store=tmp_path / "store", until=cut, workers=1)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", symlinks=True)
    snapshots = tmp_path / "copy/by_hour/v1/g1/snapshots"
    next(iter((snapshots / "0000000002").iterdir())).unlink()
    (tmp_path / "copy/by_hour/v1/g1/manifests/0000000003.json").unlink()
    run([by_hour], log=log, store=tmp_path / "copy", until="end", workers=1)
    assert open_view(tmp_path / "copy", "by_hour", seq=1).scan().collect().height > 0
    for seq in (2, 3):
        with pytest.raises(UnknownView):
            open_view(tmp_path / "copy", "by_hour", seq=seq)


def test_in_the_place_where_a_view_was_made_the_same_is_damage(log: str, tmp_path: Path) -> None:
    torn(log, tmp_path)
    shutil.rmtree(tmp_path / "store/by_hour/v1/data")
    shutil.copytree(tmp_path / "copy/by_hour/v1/data", tmp_path / "store/by_hour/v1/data")
    with pytest.raises(StoreDamaged, match="a file of the view is missing"):
        run([by_hour], log=log, store=tmp_path / "store", until="end", workers=1)


def test_a_view_at_home_that_is_taken_for_a_copy_goes_on_under_its_readers(log: str, tmp_path: Path) -> None:
    """A device may get another number; whoever reads meanwhile must not notice."""
    run([by_hour], log=log, store=tmp_path / "store", until=next(iter(cuts(log))), workers=1)
    reading = open_view(tmp_path / "store", "by_hour")
    inode = reading.path.stat().st_ino
    reading.generation.place.write_text("1:1\n")
    run([by_hour], log=log, store=tmp_path / "store", until="end", workers=1)
    assert reading.path.stat().st_ino == inode and reading.scan().collect().height > 0
    assert open_view(tmp_path / "store", "by_hour").seq == reading.seq + 1


def test_links_that_were_copied_as_directories_are_links_again(log: str, tmp_path: Path) -> None:
    run([by_hour], log=log, store=tmp_path / "store", until=list(cuts(log))[1], workers=1)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", symlinks=False)
    run([by_hour], log=log, store=tmp_path / "copy", until="end", workers=1)
    assert open_view(tmp_path / "copy", "by_hour", 1).path.parent.name == "snapshots"


def test_a_copy_without_a_whole_commit_is_told(log: str, tmp_path: Path) -> None:
    run([by_hour], log=log, store=tmp_path / "store", until="end", workers=1)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", symlinks=True)
    shutil.rmtree(tmp_path / "copy/by_hour/v1/data")
    with pytest.raises(StoreDamaged, match="no commit that is whole"):
        run([by_hour], log=log, store=tmp_path / "copy", until="end", workers=1)


def test_a_missing_file_of_a_copy_can_be_restored_from_the_log_all_the_same(log: str, tmp_path: Path) -> None:
    store = torn(log, tmp_path)
    before = newest_manifest(store, "by_hour", 1)
    done = repair(by_hour, log=log, store=store)
    assert done is not None and before is not None and done.digest == before.digest
    assert Version.of(store, "by_hour", 1).live() is not None
