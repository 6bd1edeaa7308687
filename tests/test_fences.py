"""The second fence: what still holds when the first one is not there.

A file system may take every lock; a stream that was made again may hold the very records of the old one.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from pipelines import appends, contents
from table_model import TABLES, applied, canonical, changes_of, expected, facts

from connectors import fs, open_log
from connectors.table import open_writer
from flows import Projection, agg, run
from schemas import Category, Event
from schemas.errors import LogChanged, StoreLocked


def test_without_working_locks_a_second_writer_cannot_take_the_place_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    def anybody(path: Path, *, shared: bool = False, wait: bool = True) -> int:
        """A lock that everybody gets."""
        return os.open(f"{path}.{next(numbers)}", os.O_RDWR | os.O_CREAT, 0o644)

    first, second = {(1, "a"): (1.0, None)}, {(2, "b"): (2.0, None)}
    with open_writer(tmp_path, "view", 1, TABLES) as begun:
        begun.commit({"rows": changes_of(first, set())}, facts(1))
    monkeypatch.setattr(fs, "lock", anybody)
    with open_writer(tmp_path, "view", 1, TABLES) as one, open_writer(tmp_path, "view", 1, TABLES) as other:
        one.commit({"rows": changes_of(second, set())}, facts(2))
        manifests = contents(one.generation.manifests)
        with pytest.raises(StoreLocked, match="in spite of its lock"):
            other.commit({"rows": changes_of({(3, "c"): (3.0, None)}, set())}, facts(3))
        kept = {name: there for name, there in contents(one.generation.manifests).items() if name in manifests}
        assert kept == manifests
        assert canonical(one.read("rows")) == expected(applied(first, second, set()))


class Rang(Event):
    pass


bells = Category("bells", [Rang])
rung = Projection(name="rung", category=bells, key=["event_type"], columns={"n": agg.count()})


def test_a_stream_made_again_with_the_same_records_is_another_stream(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    rings = appends([b'{"type":"Rang","time":5}'] * 3, partition=0, timestamp_ms=5)
    for turn in range(2):
        with open_log(str(log)) as opened:
            opened.append_batch(bells.name, rings)
        if turn == 0:
            run([rung], log=str(log), store=store, until="end")
            shutil.rmtree(log)
    before = contents(store)
    with pytest.raises(LogChanged, match="deleted and created again"):
        run([rung], log=str(log), store=store, until="end")
    assert contents(store) == before
