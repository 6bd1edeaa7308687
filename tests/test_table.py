"""The table store against a plain dictionary: any changes, any crash, any second writer, the same rows and digest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from connectors import fs
from connectors.changes import Changes
from connectors.chunks import file_name
from connectors.collect import collect
from connectors.generation import Version
from connectors.manifest import Manifest, TableSpec, from_bytes, parse_schema, render_schema, to_bytes
from connectors.table import Writer, open_writer
from schemas.canonical import encode
from schemas.errors import CommitUnknown, DefinitionChanged, StoreDamaged, StoreError, StoreLocked, Superseded, UsageError

SCHEMA = pa.schema(
    [
        pa.field("window", pa.int64(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("amount", pa.float64()),
        pa.field("note", pa.binary()),
    ]
)
ROWS = TableSpec("rows", SCHEMA, ("window", "key"), chunk_rows=4)
PARTIALS = TableSpec("partials", pa.schema([pa.field("n", pa.int64())]), ("n",), chunk_rows=2)
TABLES = [ROWS, PARTIALS]

Key = tuple[int, str | None]
Model = dict[Key, tuple[Any, ...]]

keys = st.tuples(st.integers(0, 7), st.sampled_from([None, "", "a", "a\x00", "b", "é"]))
values = st.tuples(st.none() | st.floats(), st.none() | st.binary(max_size=3))
change = st.tuples(st.dictionaries(keys, values, max_size=25), st.sets(keys, max_size=12))


class Crash(BaseException):
    """Nothing catches it: what happens behind it does not happen, as when the process is killed."""


@contextmanager
def failing_at(step: int, error: Callable[[], BaseException] = Crash) -> Iterator[None]:
    """Raise instead of the ``step``-th file-system step and of all that follow."""
    count = 0

    def on_step(name: str, path: Path) -> None:
        nonlocal count
        count += 1
        if count > step:
            raise error()

    fs.on_step = on_step
    try:
        yield
    finally:
        fs.on_step = None


def table_of(rows: dict[Key, tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*((*k, *v) for k, v in rows.items()), strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def encoded(keys: set[Key]) -> pa.BinaryArray:
    ordered = sorted(keys, key=repr)
    return encode([pa.array([k[0] for k in ordered], pa.int64()), pa.array([k[1] for k in ordered], pa.string())])


def changes_of(upserts: dict[Key, tuple[Any, ...]], deletes: set[Key]) -> Changes:
    return Changes(table_of(upserts), encoded(deletes))


def applied(model: Model, upserts: dict[Key, tuple[Any, ...]], deletes: set[Key]) -> Model:
    return {k: v for k, v in model.items() if k not in deletes} | upserts


def canonical(table: pa.Table) -> list[bytes]:
    """Rows as comparable bytes: NaN equals itself, -0.0 does not equal 0.0."""
    table = table.cast(SCHEMA).combine_chunks()
    return encode([c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in table.columns]).to_pylist()  # type: ignore[no-any-return]


def expected(model: Model) -> list[bytes]:
    return sorted(canonical(table_of(model)))


def facts(n: int) -> dict[str, Any]:
    return {"cut": {"orders": [n, 0]}}


@contextmanager
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def fresh_digest(model: Model) -> str:
    """The digest of a new table that got all rows at once."""
    with scratch() as store, open_writer(store, "view", 1, [ROWS]) as writer:
        return writer.commit({"rows": Changes(table_of(model))}, facts(0)).digest


def data_files(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (store / "view/v1/data").iterdir()}


def shown_rows(store: Path) -> list[bytes]:
    """What somebody sees who knows only the directory."""
    return canonical(pl.read_parquet(f"{store}/view/current/*.parquet").to_arrow())


# -- history does not matter


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(change, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_equal_rows_are_equal_files_whatever_the_way_there(batches: list[Any], random: Any) -> None:
    model: Model = {}
    with scratch() as one, scratch() as other:
        with open_writer(one, "view", 1, [ROWS]) as writer:
            for n, (upserts, deletes) in enumerate(batches):
                first = writer.commit({"rows": changes_of(upserts, deletes)}, facts(n))
                model = applied(model, upserts, deletes)
        rows = list(model.items())
        random.shuffle(rows)
        with open_writer(other, "view", 1, [ROWS]) as writer:
            second = writer.commit({"rows": Changes(table_of(dict(rows)))}, facts(0))
        assert first.tables == second.tables
        assert first.digest == second.digest
        assert {n: data_files(one)[n] for n in data_files(other)} == data_files(other)
        assert shown_rows(one) == shown_rows(other) == expected(model)


def test_columns_may_come_in_another_order_and_in_pieces(tmp_path: Path) -> None:
    rows = {(n % 50, str(n)): (n / 3, None) for n in range(500)}
    pieces = pa.concat_tables([table_of(dict(list(rows.items())[a : a + 70])) for a in range(0, 500, 70)])
    with open_writer(tmp_path, "view", 1, [ROWS]) as writer:
        manifest = writer.commit({"rows": Changes(pieces.select(["note", "amount", "key", "window"]))}, facts(1))
    assert manifest.digest == fresh_digest(rows)
    assert len(manifest.tables["rows"].chunks) > 20


def test_every_nan_is_one(tmp_path: Path) -> None:
    other = pa.array([-float("nan")], pa.float64())
    rows = pa.table([pa.array([1]), pa.array(["a"]), other, pa.array([None], pa.binary())], schema=SCHEMA)
    with open_writer(tmp_path, "view", 1, [ROWS]) as writer:
        manifest = writer.commit({"rows": Changes(rows)}, facts(1))
    with scratch() as store, open_writer(store, "view", 1, [ROWS]) as writer:
        assert writer.commit({"rows": Changes(table_of({(1, "a"): (float("nan"), None)}))}, facts(1)) == manifest


def test_a_small_change_reads_and_writes_few_chunks(tmp_path: Path) -> None:
    rows = {(n, "k"): (1.0, None) for n in range(400)}
    with open_writer(tmp_path, "view", 1, [ROWS]) as writer:
        before = writer.commit({"rows": Changes(table_of(rows))}, facts(1)).tables["rows"].chunks
        for chunk in before[:-1]:
            flip(tmp_path / "view/v1/data" / chunk.file, 60)  # it would notice if it read one
        after = writer.commit({"rows": Changes(table_of({(999, "k"): (2.0, None)}))}, facts(2)).tables["rows"].chunks
    assert after[: len(before) - 1] == before[:-1]


# -- what the caller is told


def test_wrong_rows_are_refused_and_change_nothing(tmp_path: Path) -> None:
    good = table_of({(1, "a"): (1.0, b"x")})
    with open_writer(tmp_path, "view", 1, [ROWS]) as writer:
        for bad, text in [
            (pa.concat_tables([good, good]), "one primary key"),
            (good.drop_columns(["note"]), "another schema"),
            (good.set_column(0, "window", pa.array([1], pa.int32())), "another schema"),
            (good.set_column(0, "window", pa.array([None], pa.int64())), "a null in column"),
        ]:
            with pytest.raises(UsageError, match=text):
                writer.commit({"rows": Changes(bad)}, facts(1))
        with pytest.raises(UsageError, match="JSON"):
            writer.commit({}, {"cut": {"orders": [float("nan")]}})
        assert writer.manifest is None
        assert writer.commit({"rows": Changes(good)}, facts(1)).seq == 1


def test_tables_of_another_shape_ask_for_a_new_version(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        writer.commit({}, facts(1))
    for tables in ([ROWS], [TableSpec("rows", SCHEMA, ("key", "window")), PARTIALS]):
        with pytest.raises(DefinitionChanged):
            open_writer(tmp_path, "view", 1, tables)
    with open_writer(tmp_path, "view", 2, [ROWS]):
        pass


def test_a_type_that_no_table_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no canonical form"):
        open_writer(tmp_path, "view", 1, [TableSpec("rows", pa.schema([("x", pa.list_(pa.int8()))]), ("x",))])


def test_one_writer_a_generation(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES):
        with pytest.raises(StoreLocked):
            open_writer(tmp_path, "view", 1, TABLES)
        with open_writer(tmp_path, "view", 1, TABLES, building=True), open_writer(tmp_path, "view", 2, TABLES):
            pass
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        assert writer.generation.number == 1


def test_an_empty_table_shows_its_schema(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        first = writer.commit({}, facts(1))
        writer.commit({"rows": Changes(table_of({(1, "a"): (None, None)}))}, facts(2))
        again = writer.commit({"rows": changes_of({}, {(1, "a")})}, facts(3))
        assert writer.read("rows").schema == SCHEMA
    assert again.tables == first.tables
    shown = pl.read_parquet(f"{tmp_path}/view/current/*.parquet")
    assert (shown.columns, len(shown)) == (SCHEMA.names, 0)


def test_files_hold_no_arrow_or_pandas_metadata(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, [ROWS]) as writer:
        writer.commit({"rows": Changes(table_of({(1, "a"): (None, None)}).replace_schema_metadata({"x": "y"}))}, facts(1))
    (file,) = (tmp_path / "view/current/").glob("*.parquet")
    assert pq.ParquetFile(file).metadata.metadata is None
    assert pq.read_table(file).schema.equals(SCHEMA, check_metadata=True)


def test_facts_come_back(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        made = writer.commit({}, {"cut": {"a": (1, 2), "b": [3]}, "watermarks": {"a": [None, 5]}, "text": "é"})
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        assert writer.manifest == made
        assert made.cut == {"a": [1, 2], "b": [3]}
        assert made.facts["watermarks"] == {"a": [None, 5]}


# -- damage


def committed(store: Path, rows: int = 40) -> Manifest:
    with open_writer(store, "view", 1, TABLES) as writer:
        return writer.commit({"rows": Changes(table_of({(n, "k"): (float(n), None) for n in range(rows)}))}, facts(1))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)


def test_a_damaged_chunk_is_named_when_it_is_read(tmp_path: Path) -> None:
    chunk = committed(tmp_path).tables["rows"].chunks[1]
    flip(tmp_path / "view/v1/data" / chunk.file, 99)
    with open_writer(tmp_path, "view", 1, TABLES) as writer:
        with pytest.raises(StoreDamaged, match=chunk.file):
            writer.read("rows")
        with pytest.raises(StoreDamaged, match=chunk.file):
            writer.commit({"rows": changes_of({(5, "a"): (0.0, None) for _ in [0]}, {(n, "k") for n in range(40)})}, facts(2))
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


def test_schemas_are_written_in_words_of_our_own() -> None:
    kinds = [pa.bool_(), pa.uint8(), pa.float64(), pa.date32(), pa.timestamp("us", "UTC"), pa.decimal128(9, -2)]
    schema = pa.schema([pa.field(f"c{n}", kind, nullable=n % 2 == 0) for n, kind in enumerate(kinds)])
    words = ["bool", "uint8", "float64", "date32", "timestamp[us, UTC]", "decimal128(9, -2)"]
    assert [kind for _, kind, _ in render_schema(schema)] == words
    assert parse_schema(render_schema(schema)) == schema


# -- crashes


def steps_of(action: Callable[[], object]) -> int:
    count = 0

    def on_step(name: str, path: Path) -> None:
        nonlocal count
        count += 1

    fs.on_step = on_step
    try:
        action()
    finally:
        fs.on_step = None
    return count


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
        with open_writer(store, "view", 1, TABLES) as writer, failing_at(step, error):
            with pytest.raises((Crash, StoreError, CommitUnknown)) as raised:
                second_commit(writer)
        seen = shown_rows(store)
        assert seen in (before, after)
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
            try:
                live.commit({}, facts(2))
            except Superseded:
                live.close()
                with open_writer(store, "view", 1, TABLES) as reopened:
                    assert reopened.generation.number == 2
                assert shown_rows(store) == expected(SECOND)
            else:
                assert shown_rows(store) == expected(FIRST)
        finally:
            live.close()
    assert step > 5


def test_after_an_unknown_outcome_a_writer_is_of_no_use(tmp_path: Path) -> None:
    with open_writer(tmp_path, "view", 1, TABLES) as writer:

        def on_step(name: str, path: Path) -> None:
            if name == "link":
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


# -- all of it together


class TableMachine(RuleBasedStateMachine):
    """A live writer, at most one rebuild, crashes; ``models`` are the rows per generation, ``cuts`` how far they are."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Path(tempfile.mkdtemp())
        self.live: Writer | None = None
        self.building: Writer | None = None
        self.models: dict[int, Model] = {}
        self.cuts: dict[int, int] = {}

    @initialize()
    def start(self) -> None:
        self.live = open_writer(self.store, "view", 1, TABLES)
        self.commit(({}, set()))

    def _commit(self, writer: Writer, changes: Any) -> None:
        number = writer.generation.number
        model = applied(self.models.get(number, {}), *changes)
        cut = self.cuts.get(number, 0) + 1
        writer.commit({"rows": changes_of(*changes)}, facts(cut))
        self.models[number], self.cuts[number] = model, cut

    @rule(changes=change)
    def commit(self, changes: Any) -> None:
        assert self.live is not None
        try:
            self._commit(self.live, changes)
        except Superseded:
            assert max(self.models) > self.live.generation.number
            self.reopen()

    @rule()
    def reopen(self) -> None:
        assert self.live is not None
        self.live.close()
        self.live = open_writer(self.store, "view", 1, TABLES)
        assert self.live.generation.number == self.live_number()
        assert self.live.manifest is not None
        assert self.live.manifest.cut == facts(self.cuts[self.live_number()])["cut"]

    @rule(changes=change, step=st.integers(0, 60))
    def crash(self, changes: Any, step: int) -> None:
        assert self.live is not None
        superseded = self.live.generation.number != self.live_number()
        number = self.live_number()
        old, new = self.models[number], applied(self.models[number], *changes)
        try:
            with failing_at(step):
                self._commit(self.live, changes)
        except Crash:
            assert shown_rows(self.store) in (expected(old), expected(new))
        except Superseded:
            assert superseded
        self.live.close()
        self.live = open_writer(self.store, "view", 1, TABLES)
        assert self.live.manifest is not None
        there = canonical(self.live.read("rows"))
        (cut,) = (self.live.manifest.cut["orders"][0],)
        assert there == (expected(new) if cut == self.cuts[number] + 1 else expected(self.models[number]))
        if cut == self.cuts[number] + 1:
            self.models[number], self.cuts[number] = new, cut

    @rule()
    def second_writer_is_refused(self) -> None:
        if self.live is not None and self.live.generation.number == self.live_number():
            with pytest.raises(StoreLocked):
                open_writer(self.store, "view", 1, TABLES)

    @precondition(lambda self: self.building is None)
    @rule()
    def begin_rebuild(self) -> None:
        self.building = open_writer(self.store, "view", 1, TABLES, building=True)

    @precondition(lambda self: self.building is not None)
    @rule(changes=change)
    def fold_on(self, changes: Any) -> None:
        assert self.building is not None
        self._commit(self.building, changes)

    @precondition(lambda self: self.building is not None)
    @rule()
    def stop_and_resume_rebuild(self) -> None:
        assert self.building is not None
        self.building.close()
        number = self.building.generation.number
        self.building = open_writer(self.store, "view", 1, TABLES, building=True, resume=True)
        assert self.building.generation.number == number

    @precondition(lambda self: self.building is not None and self.building.manifest is not None)
    @rule()
    def take_over(self) -> None:
        assert self.building is not None
        mine, live = self.building.generation.number, self.live_number()
        behind = self.building.take_over()
        assert (behind is None) == (self.cuts[mine] >= self.cuts[live])
        if behind is None:
            self.building.close()
            self.building = None
            assert shown_rows(self.store) == expected(self.models[mine])

    @rule()
    def collect(self) -> None:
        collect(self.store, "view", 1, grace_s=0)

    def live_number(self) -> int:
        building = self.building.generation.number if self.building else None
        return max(number for number in self.models if number != building)

    @invariant()
    def readers_see_one_committed_snapshot(self) -> None:
        if not self.models:
            return
        model = self.models[self.live_number()]
        assert shown_rows(self.store) == expected(model)
        generation = Version.of(self.store, "view", 1).live()
        newest = generation.newest() if generation else None
        assert newest is not None
        assert newest.digest == fresh_digest(model)
        for chunk in newest.tables["rows"].chunks:
            assert file_name((self.store / "view/v1/data" / chunk.file).read_bytes()) == chunk.file

    def teardown(self) -> None:
        for writer in (self.live, self.building):
            if writer is not None:
                writer.close()
        shutil.rmtree(self.store)


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(deadline=None, max_examples=25, stateful_step_count=20)


def test_manifests_hold_no_time_host_or_path(tmp_path: Path) -> None:
    committed(tmp_path)
    body = json.loads((tmp_path / "view/v1/g1/manifests/0000000001.json").read_text())
    assert str(tmp_path) not in json.dumps(body)
    assert os.uname().nodename not in json.dumps(body)
    assert set(body) == set("view version seq previous role facts tables digest format checksum".split())
