"""``verify`` folds a view with a Python fold in another process, and so finds what is impure about it."""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import python_folds
from pipelines import here
from python_folds import OrderPaid, OrderPlaced, dated, order_states, orders, timed, unordered

from connectors import open_log, open_view
from flows import Projection, python_fold, repair, run, verify
from schemas import Event

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
ITEMS = "apple,bread,cheese,dates,eggs,figs,garlic,honey"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    events: list[Event] = []
    for number in range(20):
        subject, time = f"o{number}", START + dt.timedelta(minutes=number)
        events += [
            OrderPlaced(subject=subject, time=time, items=ITEMS),
            OrderPaid(subject=subject, time=time, amount=1.5),
        ]
    path = str(tmp_path_factory.mktemp("log"))
    with open_log(path) as opened:
        opened.append(orders, events)
    return path


def test_a_pure_fold_is_the_same_in_another_process(log: str, tmp_path: Path) -> None:
    run([order_states], log=log, store=tmp_path, until="end")
    watched: list[Any] = []
    found = verify(order_states, log=log, store=tmp_path, watch=watched.append)
    assert found is not None and found.ok and found.notes == ()
    assert [sum(job.positions.values()) for job in watched] == [40], "it says how far it is"
    assert not list(tmp_path.glob(".verify/*")), "nothing is left of it"
    said = here("verify", "order_states", "--flows", "python_folds", "--log", log, "--store", tmp_path, "--quiet")
    assert said.code == 0 and "live == refolded" in said.out and "note" not in said.out


def test_it_stops_when_it_is_asked_to(log: str, tmp_path: Path) -> None:
    run([order_states], log=log, store=tmp_path, until="end")
    stop = threading.Event()
    stop.set()
    assert verify(order_states, log=log, store=tmp_path, stop=stop) is None
    found = verify(order_states, log=log, store=tmp_path)
    assert found is not None and found.ok


@pytest.mark.parametrize("view", [unordered, timed, dated], ids=lambda view: view.name)
def test_what_is_impure_shows(view: Projection, log: str, tmp_path: Path) -> None:
    run([view], log=log, store=tmp_path, until="end")
    found = verify(view, log=log, store=tmp_path)
    assert found is not None and not found.ok
    assert not found.damaged and not found.log_changes
    assert any("not a function of its state and its event alone" in note for note in found.notes)
    assert found.first_difference is not None and found.first_difference.column in ("items", "since")


def test_a_fold_that_nobody_can_import_is_verified_here_and_says_so(log: str, tmp_path: Path) -> None:
    nameless = Projection(
        name="nameless",
        category=orders,
        key={"order": "subject"},
        fold=python_fold(python_folds.Order, python_folds.advance),
    )
    run([nameless], log=log, store=tmp_path, until="end")
    found = verify(nameless, log=log, store=tmp_path)
    assert found is not None and found.ok
    (note,) = found.notes
    assert "in this process" in note and "not a name in a module" in note


def test_a_view_of_a_python_fold_is_repaired(log: str, tmp_path: Path) -> None:
    run([order_states], log=log, store=tmp_path, until="end")
    (file,) = open_view(tmp_path, "order_states").path.glob("*.parquet")
    os.truncate(file, file.stat().st_size - 1)
    done = repair(order_states, log=log, store=tmp_path)
    assert done is not None and done.damaged
    assert len(open_view(tmp_path, "order_states").scan().collect()) == 20
