"""A run against a real broker is killed at any moment, its broker is killed under it, and it is asked to stop at any
moment: the table is always that of an undisturbed fold of the same topic.

Moments are drawn from a seed that is printed; REFOLD_TEST_SEED=... draws the same ones again.
"""

from __future__ import annotations

import random
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from pathlib import Path

import pipelines
import pytest
from broker.kafka import Broker
from kafka import KafkaProducer
from pipelines import NAMES, append, command, events, finish, in_topic, started, until
from test_cluster import Process, children
from test_crash import count_files, lots, read, went

from connectors import open_log, open_view
from flows import run, verify

pytestmark = pytest.mark.broker

__all__ = ["lots"]  # the fixture

RUN = """
import sys
import pipelines
from flows import run
from flows.stopping import stop_on_signals
from flows.committer import Pace
topic, log, store, *workers = sys.argv[1:]
run(pipelines.in_topic(topic), log=log, store=store, pace=Pace(0.05), workers=int(*workers or [1]), stop=stop_on_signals())
"""


def follow(topic: str, log: str, store: Path, workers: int = 1) -> list[str]:
    here = str(pipelines.ROOT / "tests")
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {here!r})\n{RUN}",
        topic,
        log,
        str(store),
        str(workers),
    ]


def logged(log: str, topic: str) -> int:
    with open_log(log) as opened:
        return sum(opened.describe(topic).ends)


def add_aborted(address: str, topic: str, number: int) -> None:
    """Records that no view may ever count, and the marker that says so."""
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=f"{topic}-{number}")
    producer.init_transactions()
    producer.begin_transaction()
    for value in events().slice(0, 5).column("value").to_pylist():
        producer.send(topic, value, key=b"aborted")
    producer.flush()
    producer.abort_transaction()
    producer.close()


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_at_random_moments_against_a_broker(
    kills: int, broker: str, topic: Callable[..., str], lots: random.Random, tmp_path: Path
) -> None:
    name, log, store = topic(3), f"redpanda://{broker}", tmp_path / "store"
    share = events().num_rows // kills
    for number in range(kills):
        append(log, events().slice(number * share, share), name)
        if number % 5 == 0:
            add_aborted(broker, name, number)
        with started(follow(name, log, store, lots.randint(1, 2))) as process:
            kill_in_topic(process, log, name, store, lots)
    append(log, events().slice(kills * share), name)
    run(in_topic(name), log=log, store=store, until="end")
    run(in_topic(name), log=log, store=tmp_path / "undisturbed", until="end", workers=1)
    for view in NAMES:
        found, expected = open_view(store, view).manifest, open_view(tmp_path / "undisturbed", view).manifest
        assert found.cut == expected.cut
        assert {n: t.digest for n, t in found.tables.items()} == {n: t.digest for n, t in expected.tables.items()}
        assert found.facts == expected.facts, "counts, watermarks and the digest of the log as well"
        cuts = [manifest.cut[name] for manifest in pipelines.manifests(store, view)]
        assert all(went(before, after) for before, after in pairwise(cuts)), "no commit went back"
    answer = verify(in_topic(name)[0], log=log, store=store)
    assert answer is not None and answer.ok


def kill_in_topic(
    process: pipelines.subprocess.Popen[str], log: str, topic: str, store: Path, lots: random.Random
) -> None:
    """While it starts, while it folds what is there, or among its commits."""
    files, there, whole = lots.randint(0, 40), count_files(store), logged(log, topic)
    aborted = 6 * 20  # at most so many offsets hold no record of ours
    until(lambda: count_files(store) >= there + files or read(store) >= whole - aborted, process)
    process.kill()
    process.wait()


def test_a_run_lives_through_its_broker_killed_and_started_again(broker_process: Broker, tmp_path: Path) -> None:
    name, log, store = "flights-restarted", broker_process.address, tmp_path / "store"
    log = f"redpanda://{log}"
    with open_log(log) as opened:
        opened.create(name, 4)
    append(log, events().slice(0, 9000), name)
    with started(follow(name, log, store), REFOLD_BROKER_TIMEOUT="60") as process:
        until(lambda: read(store) == 9000, process)
        broker_process.kill()
        broker_process.start()
        append(log, events().slice(9000), name)
        until(lambda: all(read(store, view) == events().num_rows for view in NAMES), process)
        process.terminate()
        _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
        assert process.returncode == 0, err
    assert pipelines.digests(store) == pipelines.digests_of_all()


SILENCE = {"REFOLD_BROKER_TIMEOUT": "3600", "REFOLD_STOP_SECONDS": "1.5"}
"""Nobody answers, and whoever waits for that would outlast the patience of a test."""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_commands_that_wait_for_a_dead_broker(
    number: int, broker_process: Broker, tmp_path: Path
) -> None:
    name, log, store = "flights-silent", f"redpanda://{broker_process.address}", tmp_path / "store"
    append(log, events().slice(0, 6000), name)
    with started(follow(name, log, store), **SILENCE) as following:
        until(lambda: all(read(store, view) == 6000 for view in NAMES), following)
        broker_process.kill()
        with started(follow(name, log, tmp_path / "2"), **SILENCE) as opening, cluster(log, tmp_path / "3") as both:
            until(lambda: is_asking(opening.pid) and len(children(both)) == 2, opening)
            until(lambda: all(map(is_asking, children(both))), both)
            for process in (following, opening, both):
                process.send_signal(number)
            for process in (following, opening, both):
                _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
                assert process.returncode == 0, err
                assert "Traceback" not in err and "error" not in err
    broker_process.start()
    append(log, events().slice(6000), name)
    run(in_topic(name), log=log, store=store, until="end")
    assert pipelines.digests(store) == pipelines.digests_of_all()


def test_a_run_whose_broker_stays_away_says_so_and_the_next_start_goes_on(
    broker_process: Broker, tmp_path: Path
) -> None:
    log, store = f"redpanda://{broker_process.address}", tmp_path / "store"
    append(log, events().slice(0, 6000))
    follow_them = command("run", *NAMES, "--log", log, "--store", store, "--quiet")
    with started(follow_them, REFOLD_BROKER_TIMEOUT="1") as following:
        until(lambda: all(read(store, view) == 6000 for view in NAMES), following)
        broker_process.kill()
        _, err = following.communicate(timeout=pipelines.PATIENCE_SECONDS)
    assert following.returncode == 3, err
    assert err.endswith(
        f"error: the broker does not answer\n  where   {log}\n  why     nothing listens there (connection refused)\n"
        "  do      see whether it runs, then try again\n"
    ), err
    broker_process.start()
    append(log, events().slice(6000))
    said = finish([*follow_them, "--until", "end"])
    assert said.code == 0, said
    assert pipelines.digests(store) == pipelines.digests_of_all()


def cluster(log: str, store: Path) -> AbstractContextManager[Process]:
    return started(command("run", *NAMES, "--processes", "2", "--log", log, "--store", store), **SILENCE)


def is_asking(pid: int) -> bool:
    """Its handlers are there: they are laid before the log is opened."""
    with suppress(FileNotFoundError):
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


@pytest.mark.slow
def test_signals_at_random_moments_end_a_run_in_order(
    broker: str, topic: Callable[..., str], lots: random.Random, tmp_path: Path
) -> None:
    """Forty signals, while it starts, folds, commits and waits; how long each took to be obeyed is printed."""
    name, log, store, took = topic(3), f"redpanda://{broker}", tmp_path / "store", []
    share = events().num_rows // 40
    for number in range(40):
        append(log, events().slice(number * share, share), name)
        with started(follow(name, log, store, lots.randint(1, 2)), REFOLD_STOP_SECONDS="1.5") as process:
            files, there = lots.randint(0, 40), count_files(store)
            whole = (number + 1) * share
            until(lambda n=files, t=there, w=whole: count_files(store) > t + n or read(store) == w, process)  # type: ignore[misc]
            began = time.monotonic()
            process.send_signal(lots.choice([signal.SIGTERM, signal.SIGINT]))
            _, err = process.communicate(timeout=pipelines.PATIENCE_SECONDS)
            took.append(time.monotonic() - began)
            assert process.returncode == 0, err
            assert "Traceback" not in err
    print(
        f"seconds from signal to exit: median {statistics.median(took):.2f}, greatest {max(took):.2f}, of {len(took)}"
    )
    append(log, events().slice(40 * share), name)
    run(in_topic(name), log=log, store=store, until="end")
    run(in_topic(name), log=log, store=tmp_path / "undisturbed", until="end", workers=1)
    assert pipelines.digests(store) == pipelines.digests(tmp_path / "undisturbed")
