"""Somebody else's topic, and a view of one's own: what the README tells, run against a real broker; and every file that ``new`` writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from pipelines import here
from test_inspect import log_of
from test_readme import BIN, README

from flows.newly import Homes

TOPIC = "till-feed"
MS = 1_704_067_200_000


def sales() -> list[tuple[bytes, dict[str, Any]]]:
    """What the tills of three shops write, in plain JSON, in names of their own."""
    shops = ("oslo", "bergen", "tromsø")
    return [
        (
            f"till {i % 7}".encode(),
            {
                "evt": "sale" if i % 11 else "refund",
                "ts": MS + 20_000 * (i - (3 if i % 5 == 0 else 0)),
                "body": {
                    "shop": shops[i % 3],
                    "total": round(i % 40 * 2.5, 2),
                    "unit-price": 2.5,
                    "loyal": i % 2 == 0,
                    "ref": f"r{i}",
                },
            },
        )
        for i in range(1200)
    ]


@pytest.mark.broker
def test_the_readme_goes_from_a_strange_topic_to_a_view(broker: str, admin: KafkaAdminClient, tmp_path: Path) -> None:
    (block,) = re.findall(r"```console theirs\n(.*?)```", README, re.S)
    admin.create_topics({TOPIC: {"num_partitions": 3, "configs": {}}}, wait_for_metadata=True)
    try:
        producer = KafkaProducer(bootstrap_servers=broker)
        for key, record in sales():
            producer.send(TOPIC, json.dumps(record, ensure_ascii=False).encode(), key=key)
        producer.close()
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, expected = part.partition("\n")
            if command.startswith("export "):
                environment["REFOLD_LOG"] = f"redpanda://{broker}"
                continue
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120
            )
            assert done.stdout.rstrip() == expected.rstrip(), (command, done.stdout, done.stderr)
    finally:
        admin.delete_topics([TOPIC])


RECORDS = [
    {
        "kind": "Moved" if i % 3 else "Lost",
        "at": MS + 1000 * i,
        "place": f"p{i % 4}",
        "class": "x",
        "speed": i / 2,
        "note": None if i % 2 else "n",
    }
    for i in range(60)
]


ODD = [
    {
        "evtName": "event.moved" if i % 3 else "Event",
        "ts": MS + 1000 * i,
        "payload": {"from": {"id": f"p{i % 4}"}, "to-x": i / 2, "3d": i, "data": True, "tags": {f"t{i}": 1}},
    }
    for i in range(90)
]


@pytest.mark.parametrize(("records", "of_main_type"), [(RECORDS, 40), (ODD, 60)], ids=["plain names", "odd names"])
def test_what_is_written_works_at_once(records: list[Any], of_main_type: int, tmp_path: Path) -> None:
    log, into = log_of(tmp_path, records), tmp_path / "mine"
    said = here("new", "moves", "--category", "things", "--log", log, "--into", into)
    assert said.code == 0, said
    assert sorted(path.name for path in into.iterdir()) == ["moves.py", "test_moves.py", "things_events.py"]
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_moves.py"], cwd=into, capture_output=True, text=True, timeout=120
    )
    assert tested.returncode == 0, tested.stdout
    run = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        "moves",
        "--flows",
        "moves",
        "--until",
        "end",
        "--log",
        log,
        "--quiet",
    ]
    done = subprocess.run(run, cwd=into, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = here("query", "SELECT sum(events) AS n FROM moves", "--json", "--store", into / "data/store")
    assert json.loads(told.out) == [{"n": of_main_type}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("moves", "--category", "things"), 2, "such a file already"),
        (("Moves!", "--category", "things"), 2, "no name of a view"),
        (("other", "--category", "thing"), 3, "did you mean things?"),
    ],
)
def test_nothing_is_overwritten_and_mistakes_are_told(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    log = log_of(tmp_path, RECORDS)
    (tmp_path / "moves.py").write_text("mine")
    said = here("new", *arguments, "--log", log, "--into", tmp_path)
    assert said.code == code and words in said.err, said
    assert (tmp_path / "moves.py").read_text() == "mine"


def test_an_empty_topic_gives_nothing_to_write(tmp_path: Path) -> None:
    said = here("new", "moves", "--category", "things", "--log", log_of(tmp_path, []), "--into", tmp_path / "mine")
    assert said.code == 2 and "holds no events" in said.err


def test_in_the_tree_of_refold_files_go_where_they_belong(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root: Callable[[str], Path] = lambda name: request.config.rootpath / name  # noqa: E731
    homes = Homes.of("moves", "till-feed", None, request.config.rootpath)
    assert (homes.events, homes.view) == (root("schemas/till_feed.py"), root("flows/moves.py"))
    assert (homes.events_module, homes.view_module) == ("schemas.till_feed", "flows.moves")
    assert Homes.of("moves", "till-feed", None, tmp_path).view == tmp_path / "moves.py"
