"""Several processes, one table: Bytewax's own runner and its clusters, and `refold run --processes`.

Whoever drives the dataflow, the tables are the same; a process that dies brings the command down, and the next start goes
on from the last commit.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pipelines
import pyarrow as pa
import pytest
from broker.kafka import free_ports
from pipelines import NAMES, append, command, digests, digests_of_all, events, finish, flights_log, started, until

from connectors import open_log, open_view
from connectors.log import Slice
from flows import rebuild, run
from flows.delta import Delta
from flows.flights import aircraft, departures_by_hour
from flows.fold import PartitionFold
from flows.partials import Partials
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from flows.told import GroupsHere
from schemas.errors import RefoldError
from schemas.flights import flights

BYTEWAX = [sys.executable, "-m", "bytewax.run", "flows.flights:flow"]
Process = subprocess.Popen[str]


def places(store: Path, log: str | None = None) -> dict[str, str]:
    return {"REFOLD_LOG": log or flights_log(), "REFOLD_STORE": str(store), "REFOLD_UNTIL": "end"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bytewax_own_runner_gives_the_same_tables(workers: str, tmp_path: Path) -> None:
    said = finish([*BYTEWAX, "-w", workers], **places(tmp_path))
    assert said.code == 0, said.err
    assert digests(tmp_path) == digests_of_all()


def test_bytewax_own_runner_fails_aloud(tmp_path: Path) -> None:
    said = finish(BYTEWAX, **places(tmp_path, log=str(tmp_path / "no-log")))
    assert said.code != 0
    assert "there is no log" in said.err


def test_a_cluster_of_bytewax_own_gives_the_same_tables(tmp_path: Path) -> None:
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
    parts = [[*BYTEWAX, "-i", str(number), "-a", addresses] for number in range(2)]
    with started(parts[0], **places(tmp_path)) as first, started(parts[1], **places(tmp_path)) as second:
        for process in (first, second):
            _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
            assert process.returncode == 0, err
    assert digests(tmp_path) == digests_of_all()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_run_with_two_processes_gives_the_same_tables(workers: str, tmp_path: Path) -> None:
    """Of each other's deltas two workers of one process see the very objects; those of the other process are sent."""
    asked = f"--processes 2 --workers {workers} --until end".split()
    said = finish(command("run", *NAMES, "--log", flights_log(), "--store", tmp_path, *asked))
    assert said.code == 0, said.err
    assert digests(tmp_path) == digests_of_all()


def test_an_error_in_one_process_is_the_error_of_the_command(tmp_path: Path) -> None:
    said = finish(
        command("run", "aircraft", "--processes", "2", "--log", tmp_path / "no-log", "--store", tmp_path / "s")
    )
    assert said.code == 3
    assert "there is no log" in said.err
    assert "Traceback" not in said.err


def follow(log: str, store: Path) -> list[str]:
    return command("run", *NAMES, "--processes", "2", "--log", log, "--store", store, "--commit-interval", "0.05")


def has_read(store: Path, records: int) -> bool:
    try:
        return all(pipelines.counted(open_view(store, name).manifest)["read"] >= records for name in NAMES)
    except RefoldError:
        return False


def children(process: Process) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return sorted(map(int, listed.stdout.split()))


@pytest.mark.parametrize("victim", [0, 1])
def test_killing_a_process_brings_the_command_down_and_a_restart_goes_on(victim: int, tmp_path: Path) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    append(log, events().slice(0, 9000))
    with started(follow(log, store)) as process:
        until(lambda: has_read(store, 1), process)
        append(log, events().slice(9000, 5000))
        parts = children(process)
        os.kill(parts[victim], signal.SIGKILL)
        _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
    assert process.returncode == 3
    assert "was killed by signal 9" in err
    assert "goes on from the last commit" in err
    assert "Traceback" not in err
    assert not any(map(is_alive, parts))
    append(log, events().slice(14000))
    run(pipelines.VIEWS, log=log, store=store, until="end")
    assert digests(store) == digests_of_all()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_cluster_goes_on_from_a_rebuild_and_ends_when_asked(tmp_path: Path) -> None:
    log, store = str(tmp_path / "log"), tmp_path / "store"
    append(log, events().slice(0, 9000))
    with started(follow(log, store)) as process:
        until(lambda: has_read(store, 9000), process)
        assert rebuild(departures_by_hour, log=log, store=store) is not None
        append(log, events().slice(9000))
        until(lambda: has_read(store, events().num_rows), process)
        process.terminate()
        _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
        assert process.returncode == 0, err
    assert "g2" in str(open_view(store, "departures_by_hour").path)
    assert digests(store) == digests_of_all()


# -- what crosses between processes


def slices(partition: int, records: int) -> tuple[Slice, Slice]:
    """The first records of a partition, and the few after them as a part of the same buffers."""
    with open_log(flights_log()) as log:
        whole = log.reader("flights", {partition: 0}, {partition: records}).read()[0].records
    return (
        Slice("flights", partition, 0, records - 20, whole.slice(0, records - 20)),
        Slice("flights", partition, records - 20, records, whole.slice(records - 20)),
    )


def test_a_delta_crosses_whole_and_carries_only_what_changed() -> None:
    many, few = slices(1, 4000)
    fold = PartitionFold(departures_by_hour, "flights", 1, Progress(0), None)
    pipeline = PartitionPipeline(flights, [fold])
    pipeline.fold(many)
    pipeline.deltas()
    pipeline.fold(few)
    (delta,) = pipeline.deltas()
    packed = pickle.dumps(delta)
    arrived: Delta = pickle.loads(packed)
    assert arrived == delta
    assert arrived.groups.equals(delta.groups)
    assert 0 < delta.groups.num_rows <= 20
    assert len(packed) < 20_000, "the slice that it was folded from has hundreds of kilobytes"


def test_a_delta_of_a_view_without_windows_carries_the_keys_of_what_changed_and_no_others() -> None:
    many, few = slices(1, 4000)
    fold = PartitionFold(aircraft, "flights", 1, Progress(0), None)
    pipeline = PartitionPipeline(flights, [fold])
    pipeline.fold(many)
    (first,) = pipeline.deltas()
    pipeline.fold(few)
    (second,) = pipeline.deltas()
    packed = pickle.dumps(second)
    assert isinstance(second.told, GroupsHere)
    assert len(packed) < 20_000, "the fold knows hundreds of aircraft"
    here, there = Partials(aircraft), Partials(aircraft)
    for delta in (first, second):
        sent = pickle.loads(pickle.dumps(delta))
        assert there.put(sent.groups, sent.told).tolist() == here.put(delta.groups, delta.told).tolist()
    every = np.arange(len(here))
    assert len(here) > 400
    assert here.get(every).equals(there.get(every))


def test_late_events_and_dead_letters_cross_without_the_slice_they_came_from() -> None:
    many, few = slices(1, 4000)
    junk = pa.array([b"not json"] * few.records.num_rows, pa.binary())
    spoiled = few.records.set_column(few.records.schema.get_field_index("value"), "value", junk)
    pipeline = PartitionPipeline(flights, [PartitionFold(departures_by_hour, "flights", 1, Progress(0), None)])
    pipeline.fold(many)
    pipeline.deltas()
    pipeline.fold(Slice("flights", 1, few.first_offset, few.next_offset, spoiled))
    (delta,) = pipeline.deltas()
    assert delta.dead_letters.num_rows == 20
    assert len(pickle.dumps(delta)) < 20_000
