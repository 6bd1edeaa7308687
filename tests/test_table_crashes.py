"""The table store on a bad day: a crash or an error at every step on disk, damaged files, and cleaning up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import (
    TABLES,
    Crash,
    canonical,
    changes_of,
    committed,
    data_files,
    expected,
    facts,
    failing_at,
    flip,
    scratch,
    shown_rows,
    steps_of,
    table_of,
)

from connectors import fs
from connectors.changes import Changes
from connectors.collect import collect
from connectors.generation import Version
from connectors.manifest import Manifest, from_bytes, to_bytes
from connectors.table import Writer, open_writer
from schemas.errors import (
    CommitUnknown,
    StoreDamaged,
    StoreError,
    Superseded,
)

# -- damage


def test_a_damaged_chunk_is_named_when_it_is_read(tmp_path: Path) -> None:
    chunk = committed(tmp_path).tables["rows"].chunks[1]
    flip(tmp_path / "view/v1/data" / chunk.file, 99)
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        with pytest.raises(StoreDamaged, match=chunk.file):
            writer.read("rows")
        with pytest.raises(StoreDamaged, match=chunk.file):
            writer.commit({"rows": changes_of({}, {(n, "k") for n in range(40)})}, facts(2))
        assert writer.commit({}, facts(2)).seq == 2


def test_a_missing_chunk_is_named_before_anything_is_committed(tmp_path: Path) -> None:
    chunk = committed(tmp_path).tables["rows"].chunks[0]
    path = tmp_path / "view/v1/data" / chunk.file
    data = path.read_bytes()
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        path.unlink()
        with pytest.raises(StoreDamaged, match=chunk.file):
            writer.commit({}, facts(2))
        path.write_bytes(data)
        assert writer.commit({}, facts(2)).seq == 2


def test_a_rebuild_replaces_damaged_files_and_takes_over(tmp_path: Path) -> None:
    before = committed(tmp_path)
    for chunk in before.tables["rows"].chunks:
        flip(tmp_path / "view/v1/data" / chunk.file, 50)
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as writer:
        rows = table_of({(n, "k"): (float(n), None) for n in range(40)})
        assert writer.commit({"rows": Changes(rows)}, facts(1)).digest == before.digest
        assert writer.take_over() is None
    aside = list((tmp_path / "view/v1/data").glob("*.damaged-1"))
    assert len(aside) == len(before.tables["rows"].chunks)
    assert shown_rows(tmp_path) == canonical(rows)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_in_a_manifest_is_noticed(at: int, bit: int) -> None:
    with scratch() as store:
        good = to_bytes(committed(store, 3))
    bad = bytearray(good)
    bad[at % len(good)] ^= 1 << bit
    with pytest.raises(StoreDamaged, match="here"):
        from_bytes(bytes(bad), "here")
    assert to_bytes(from_bytes(good, "here")) == good


def test_a_damaged_manifest_that_readers_saw_stops_a_run_but_not_a_rebuild(tmp_path: Path) -> None:
    committed(tmp_path)
    flip(tmp_path / "view/v1/g1/manifests/0000000001.json", 40)
    with pytest.raises(StoreDamaged, match="0000000001"):
        open_writer(tmp_path, "view", 1, TABLES)
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as writer:
        writer.commit({}, facts(1))
        assert writer.take_over() is None
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        assert writer.generation.number == 2


def test_a_damaged_manifest_that_nobody_saw_is_put_aside(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as writer:
        first = writer.commit({}, facts(1))
        second = writer.commit({}, facts(2))
        path = writer.generation.manifest_path(second.seq)
    path.write_bytes(path.read_bytes()[:100])
    with open_writer(tmp_path, "view", 1, TABLES, building=True, resume=True) as writer:
        assert writer.manifest == first
        assert writer.commit({}, facts(2)) == second
    assert path.with_name(path.name + ".damaged-1").exists()


def test_a_missing_manifest_that_readers_saw_stops_a_run_but_not_a_rebuild(tmp_path: Path) -> None:
    """Going on from the one before would show the rows of the lost commit under the name of another."""
    committed(tmp_path)
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        second_commit(writer)
    (tmp_path / "view/v1/g1/manifests/0000000002.json").unlink()
    with pytest.raises(StoreDamaged, match=r"0000000002\.json"):
        open_writer(tmp_path, "view", 1, TABLES)
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as writer:
        writer.commit({"rows": Changes(table_of(FIRST))}, facts(2))
        assert writer.take_over() is None
    assert shown_rows(tmp_path) == expected(FIRST)
    open_writer(tmp_path, "view", 1, TABLES).close()


@pytest.mark.parametrize("instead", [None, "v9/latest", "nowhere", b"v1/latest"])
def test_the_next_writer_sets_a_damaged_current_again(instead: str | bytes | None, tmp_path: Path) -> None:
    """Missing, leading nowhere, or made a file by a tool that knows no links."""
    committed(tmp_path)
    current = tmp_path / "view/current"
    current.unlink()
    if isinstance(instead, bytes):
        current.write_bytes(instead)
    elif instead:
        current.symlink_to(instead)
    open_writer(tmp_path, "view", 1, TABLES).close()
    assert str(current.readlink()) == "v1/latest"


def test_of_two_versions_that_commit_first_the_one_that_was_first_stays_current(tmp_path: Path) -> None:
    """Also when it was stopped at any step, and so `current` leads nowhere yet."""

    def commit(store: Path, version: int) -> None:
        with open_writer(store, "view", version, TABLES) as writer:
            writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))

    claimed = set()
    for step in range(steps_of(lambda: commit(tmp_path / "whole", 2))):
        store = tmp_path / f"stopped-{step}"
        with failing_at(step), pytest.raises(Crash):
            commit(store, 2)
        first = (store / "view/current").is_symlink()
        commit(store, 1)
        commit(store, 2)
        assert str((store / "view/current").readlink()) == f"v{2 if first else 1}/latest"
        claimed.add(first)
    assert claimed == {True, False}


# -- crashes


FIRST = {(n, "k"): (float(n), None) for n in range(12)}
SECOND = {(n, "k"): (float(-n), b"x") for n in range(0, 20, 3)}


def second_commit(writer: Writer) -> Manifest:
    return writer.commit({"rows": Changes(table_of(SECOND)), "partials": Changes(pa.table({"n": [1]}))}, facts(2))


@pytest.mark.parametrize("error", [Crash, lambda: OSError(28, "No space left on device")])
def test_a_commit_stopped_at_any_step_is_there_or_not(tmp_path: Path, error: Callable[[], BaseException]) -> None:
    original = tmp_path / "original"
    with open_writer(original, "view", 1, TABLES) as writer:
        writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))
        shutil.copytree(original, tmp_path / "whole", symlinks=True)
    with open_writer(tmp_path / "whole", "view", 1, TABLES) as writer:
        steps = steps_of(lambda: second_commit(writer))
    before, after = expected(FIRST), expected(FIRST | SECOND)
    outcomes = set()
    for step in range(steps):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original, store, symlinks=True)
        failures = pytest.raises((Crash, StoreError, CommitUnknown))
        with open_writer(store, "view", 1, TABLES) as writer, failures as raised, failing_at(step, error):
            second_commit(writer)
        seen = shown_rows(store)
        assert seen in (before, after)
        collect(store, "view", 1, grace_s=0)
        assert shown_rows(store) == seen
        with open_writer(store, "view", 1, TABLES) as writer:
            there = canonical(writer.read("rows"))
            assert there in (before, after)
            assert seen == before or there == after, "what was seen is not taken back"
            assert shown_rows(store) == there
            if isinstance(raised.value, StoreError):
                assert there == before, "an error that says 'nothing was changed' must be true"
            outcomes.add((type(raised.value), there == after))
            assert canonical(pa.table(second_commit(writer) and writer.read("rows"))) == after
    assert {there for _, there in outcomes} == {True, False}


def test_a_first_commit_stopped_at_any_step_leaves_a_store_that_works(tmp_path: Path) -> None:
    def run(store: Path) -> Manifest:
        with open_writer(store, "view", 1, TABLES) as writer:
            return writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))

    steps = steps_of(lambda: run(tmp_path / "whole"))
    for step in range(steps):
        store = tmp_path / f"stopped-{step}"
        with failing_at(step), pytest.raises(Crash):
            run(store)
        assert run(store).tables == run(tmp_path / "whole").tables
        assert shown_rows(store) == expected(FIRST)


def test_taking_over_stopped_at_any_step(tmp_path: Path) -> None:
    original = tmp_path / "original"
    with open_writer(original, "view", 1, TABLES) as writer:
        writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))
    with open_writer(original, "view", 1, TABLES, building=True) as writer:
        writer.commit({"rows": Changes(table_of(SECOND))}, facts(1))
    for step in range(100):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original, store, symlinks=True)
        live = open_writer(store, "view", 1, TABLES)
        try:
            with open_writer(store, "view", 1, TABLES, building=True, resume=True) as writer, failing_at(step):
                writer.take_over()
            break
        except Crash:
            assert shown_rows(store) in (expected(FIRST), expected(SECOND))
            taken_over = (store / "view/v1/g2/manifests/0000000002.json").exists()
            try:
                live.commit({}, facts(2))
                assert not taken_over
            except Superseded:
                assert taken_over
                live.close()
                with open_writer(store, "view", 1, TABLES) as reopened:
                    assert reopened.generation.number == 2
                assert shown_rows(store) == expected(SECOND)
            else:
                assert shown_rows(store) == expected(FIRST)
        finally:
            live.close()
    assert step > 5


def test_collection_after_taking_over_was_stopped_at_any_step(tmp_path: Path) -> None:
    original = tmp_path / "original"
    with open_writer(original, "view", 1, TABLES) as writer:
        writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))
    with open_writer(original, "view", 1, TABLES, building=True) as writer:
        writer.commit({"rows": Changes(table_of(SECOND))}, facts(1))
    for step in range(100):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original, store, symlinks=True)
        try:
            with open_writer(store, "view", 1, TABLES, building=True, resume=True) as writer, failing_at(step):
                writer.take_over()
            break
        except Crash:
            seen = shown_rows(store)
            collect(store, "view", 1, grace_s=0)
            assert shown_rows(store) == seen
    assert step > 5


def test_after_an_unknown_outcome_a_writer_is_of_no_use(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:

        def on_step(name: str, path: Path) -> None:
            if name == "link" and path.suffix == ".json":
                raise OSError(5, "Input/output error")

        fs.on_step = on_step
        try:
            with pytest.raises(CommitUnknown, match="reopen"):
                writer.commit({}, facts(1))
        finally:
            fs.on_step = None
        with pytest.raises(StoreError, match="unknown"):
            writer.commit({}, facts(1))


# -- collection


def test_collection_keeps_what_is_young_or_in_use(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        for n in range(4):
            writer.commit({"rows": Changes(table_of({(n, "k"): (float(n), None)}))}, facts(n))
        snapshots = tmp_path / "view/v1/g1/snapshots"
        assert collect(tmp_path, "view", 1, grace_s=3600).files == 0
        assert len(list(snapshots.iterdir())) == 4
        gone = collect(tmp_path, "view", 1, grace_s=0)
        assert (gone.manifests, gone.generations) == (3, 0)
        assert [p.name for p in snapshots.iterdir()] == ["0000000004"]
        named = {c.file for t in writer.manifest.tables.values() for c in t.chunks} if writer.manifest else set()
        assert set(data_files(tmp_path)) == named
        writer.commit({}, facts(5))
    assert len(shown_rows(tmp_path)) == 4


def test_dead_generations_go_and_living_ones_stay(tmp_path: Path) -> None:
    committed(tmp_path)
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as held:
        held.commit({"rows": Changes(table_of(SECOND))}, facts(1))
        with open_writer(tmp_path, "view", 1, TABLES, building=True) as dead:
            dead.commit({"rows": Changes(table_of(FIRST))}, facts(1))
        assert collect(tmp_path, "view", 1, grace_s=0).generations == 1
        assert [g.number for g in Version.of(tmp_path, "view", 1).generations()] == [2, 1]
        assert canonical(held.read("rows")) == expected(SECOND)
        assert held.take_over() is None
    assert collect(tmp_path, "view", 1, grace_s=3600).generations == 0
    assert collect(tmp_path, "view", 1, grace_s=0).generations == 1
    assert shown_rows(tmp_path) == expected(SECOND)
    assert collect(tmp_path, "nothing", 1, grace_s=0).generations == 0


def test_collection_waits_for_a_commit(tmp_path: Path) -> None:
    committed(tmp_path)
    with fs.locked(tmp_path / "view/v1/.files", shared=True):
        (tmp_path / "view/v1/data/unused.parquet").write_bytes(b"")
        assert collect(tmp_path, "view", 1, grace_s=0).files == 0
    assert collect(tmp_path, "view", 1, grace_s=0).files == 1


def test_collection_stopped_at_any_step_loses_nothing(tmp_path: Path) -> None:
    original = tmp_path / "original"
    with open_writer(original, "view", 1, TABLES) as writer:
        writer.commit({"rows": Changes(table_of(FIRST))}, facts(1))
        second_commit(writer)
    with open_writer(original, "view", 1, TABLES, building=True) as writer:
        writer.commit({"rows": Changes(table_of(FIRST | SECOND))}, facts(2))
    for step in range(200):
        store = tmp_path / f"stopped-{step}"
        shutil.copytree(original, store, symlinks=True)
        try:
            with failing_at(step):
                collect(store, "view", 1, grace_s=0)
            break
        except Crash:
            collect(store, "view", 1, grace_s=0)
            with open_writer(store, "view", 1, TABLES) as writer:
                assert canonical(writer.read("rows")) == shown_rows(store) == expected(FIRST | SECOND)
    assert step > 5
