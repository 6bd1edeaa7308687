"""A run may be killed at any moment, and asked to stop at any moment: the table is the checkpoint.

Moments are drawn from a seed that is printed; REFOLD_TEST_SEED=... draws the same ones again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pipelines
import pytest
from pipelines import NAMES, append, command, digests, digests_of_all, events, flights_log, started, until

from connectors import open_log, open_view
from flows import run, verify
from flows.committer import Pace
from flows.flights import departures_by_hour
from flows.running import LiveTarget
from schemas.errors import RefoldError

Process = subprocess.Popen[str]


def follow(log: str, store: Path, *more: str) -> list[str]:
    return command("run", *NAMES, "--log", log, "--store", store, "--commit-interval", "0.05", "--quiet", *more)


def read(store: Path, name: str = "departures_by_hour") -> int:
    """Records that the newest commit of a view has read; 0 before the first."""
    try:
        return pipelines.counted(open_view(store, name).manifest)["read"]
    except RefoldError:
        return 0


@pytest.fixture
def lots() -> random.Random:
    seed = int(os.environ.get("REFOLD_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"REFOLD_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_kill_at_random_moments_and_the_table_is_the_same(kills: int, lots: random.Random, tmp_path: Path) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    share = events().num_rows // kills
    for number in range(kills):
        append(log, events().slice(number * share, share))
        with started(follow(log, store, "--workers", str(lots.randint(1, 2)))) as process:
            kill_somewhere(process, log, store, lots)
    append(log, events().slice(kills * share))
    run(pipelines.VIEWS, log=log, store=store, until="end")
    assert digests(store) == digests_of_all()


def kill_somewhere(process: Process, log: str, store: Path, lots: random.Random) -> None:
    """While it starts, while it folds what is there, or among its commits; then check what it left."""
    files = lots.randint(0, 30)
    there = count_files(store)
    until(lambda: count_files(store) >= there + files or read(store) == logged(log), process)
    process.kill()
    process.wait()
    for name in NAMES:
        assert read(store, name) <= logged(log)


def count_files(store: Path) -> int:
    """Names in the store, each a step on the way of a commit: data, manifests, snapshots, temporary ones."""
    return sum(len(files) + len(directories) for _, directories, files in os.walk(store))


def logged(log: str) -> int:
    with open_log(log) as opened:
        return sum(opened.describe("flights").ends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_order_with_all_that_was_folded_committed(number: int, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with started(follow(flights_log(), store)) as process:
        until(lambda: read(store) > 0, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    assert all(read(store, name) > 0 for name in NAMES), "what was folded of every view was committed"
    run(pipelines.VIEWS, log=flights_log(), store=store, until="end")
    assert digests(store) == digests_of_all()


def test_a_signal_before_anything_is_committed_ends_a_run_in_order_too(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with started(follow(flights_log(), store)) as process:
        until(lambda: store.exists(), process)
        process.terminate()
        _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
        assert process.returncode == 0, err
    run(pipelines.VIEWS, log=flights_log(), store=store, until="end")
    assert digests(store) == digests_of_all()


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    log, store = pipelines.own_log(tmp_path), tmp_path / "store"
    with started(follow(log, store)) as process:
        until(lambda: read(store) == events().num_rows, process)
        said = pipelines.here("run", "departures_by_hour", "--log", log, "--store", store, "--until", "end")
        assert said.code == 3
        assert "another process writes this view" in said.err
        assert "do " in said.err
        append(log, events().slice(0, 500))
        until(lambda: read(store) == events().num_rows + 500, process)
        process.terminate()
        assert process.wait(pipelines.PATIENCE_SECONDS) == 0
    assert verify(departures_by_hour, log=log, store=store).ok


def test_a_run_that_looked_just_before_another_committed_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading where the view stands and getting the writer's lock, somebody else may have committed."""
    looked, overtake = LiveTarget.load, iter([True])

    def look(target: LiveTarget) -> object:
        found = looked(target)
        if next(overtake, False):
            run([departures_by_hour], log=flights_log(), store=tmp_path, until={"flights": [4000, 10, 2000, 0]})
        return found

    run([departures_by_hour], log=flights_log(), store=tmp_path, until={"flights": [1000, 5, 1000, 0]})
    monkeypatch.setattr(LiveTarget, "load", look)
    with open_log(flights_log()) as log:
        chopped = pipelines.Chopped(log, seed=0, records_max=500)
        run([departures_by_hour], log=chopped, store=tmp_path, until="end", pace=Pace(interval_s=0.0))
    cuts = [manifest.cut["flights"] for manifest in pipelines.manifests(tmp_path, "departures_by_hour")]
    assert [4000, 10, 2000, 0] in cuts
    assert all(went(before, after) for before, after in pairwise(cuts)), "no commit went back"
    assert open_view(tmp_path, "departures_by_hour").digest == digests_of_all()["departures_by_hour"]


def went(before: list[int], after: list[int]) -> bool:
    return all(old <= new for old, new in zip(before, after, strict=True))
