"""The table store against a plain dictionary: any changes, any crash, any second writer, the same rows and digest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from table_model import (
    PARTIALS,
    ROWS,
    SCHEMA,
    TABLES,
    Crash,
    Model,
    applied,
    canonical,
    change,
    changes_of,
    committed,
    data_files,
    expected,
    facts,
    failing_at,
    flip,
    fresh_digest,
    parts_of,
    scratch,
    shown_rows,
    table_of,
)

from connectors.changes import Changes, Parts
from connectors.chunks import file_bytes, file_name, row_digest
from connectors.collect import collect
from connectors.generation import Version
from connectors.manifest import TableSpec, parse_schema, render_schema
from connectors.table import Writer, open_writer
from connectors.view import open_view
from schemas.errors import (
    DefinitionChanged,
    StoreError,
    StoreLocked,
    Superseded,
    UsageError,
)

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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(change, min_size=1, max_size=4), st.integers(1, 9))
def test_changes_in_parts_are_changes_in_one(batches: list[Any], count: int) -> None:
    with scratch() as one, scratch() as other:
        with open_writer(one, "view", 1, TABLES) as whole, open_writer(other, "view", 1, TABLES) as parted:
            for n, (upserts, deletes) in enumerate(batches):
                first = whole.commit({"rows": changes_of(upserts, deletes)}, facts(n))
                assert parted.commit({"rows": parts_of(upserts, deletes, count)}, facts(n)) == first
        assert data_files(one) == data_files(other)


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
        after = lambda: Changes(table_of({(0, "a"): (1.0, b"x")}))  # noqa: E731
        with pytest.raises(UsageError, match="do not follow each other"):
            writer.commit({"rows": Parts([lambda: Changes(good), after])}, facts(1))
        with pytest.raises(UsageError, match="JSON"):
            writer.commit({}, {"cut": {"orders": [float("nan")]}})
        assert writer.manifest is None
        assert writer.commit({"rows": Changes(good)}, facts(1)).seq == 1


def test_a_superseded_writer_is_told_and_changes_nothing(tmp_path: Path) -> None:
    old, new = {(1, "a"): (1.0, None)}, {(1, "a"): (2.0, None)}
    live = open_writer(tmp_path, "view", 1, TABLES)
    live.commit({"rows": changes_of(old, set())}, facts(1))
    with open_writer(tmp_path, "view", 1, TABLES, building=True) as rebuild:
        rebuild.commit({"rows": changes_of(new, set())}, facts(0))
        assert rebuild.take_over() == {"orders": [1, 0]}
        assert shown_rows(tmp_path) == expected(old)
        rebuild.commit({}, facts(1))
        assert rebuild.take_over() is None
        assert shown_rows(tmp_path) == expected(new)
        with pytest.raises(Superseded, match="took over"):
            live.commit({}, facts(9))
        with pytest.raises(StoreError, match="took over"):
            live.commit({}, facts(9))
        live.close()
        assert shown_rows(tmp_path) == expected(new)
        rebuild.commit({}, facts(2))  # what was a rebuild goes on as the live view
        assert open_view(tmp_path, "view").cut == {"orders": [2, 0]}


def test_the_pieces_that_rows_came_in_do_not_show_in_a_file() -> None:
    # Long distinct texts: the writer's pages then end where its input does (short ones would not show it).
    whole = pa.table({"n": pa.array(range(50_000)), "text": [f"row {n * 7919} " * 20 for n in range(50_000)]})
    pieces = pa.concat_tables([whole.slice(0, 12_345), whole.slice(12_345, 1), whole.slice(12_346)])
    assert file_bytes(pieces) == file_bytes(whole) == file_bytes(whole.slice(0))
    assert row_digest(pieces) == row_digest(whole)


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
        open_writer(tmp_path, "view", 1, [TableSpec("rows", pa.schema([("x", pa.list_(pa.float32()))]), ("x",))])


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
        writer.commit(
            {"rows": Changes(table_of({(1, "a"): (None, None)}).replace_schema_metadata({"x": "y"}))}, facts(1)
        )
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


def test_schemas_are_written_in_words_of_our_own() -> None:
    kinds = [pa.bool_(), pa.uint8(), pa.float64(), pa.date32(), pa.timestamp("us", "UTC"), pa.decimal128(9, -2)]
    schema = pa.schema([pa.field(f"c{n}", kind, nullable=n % 2 == 0) for n, kind in enumerate(kinds)])
    words = ["bool", "uint8", "float64", "date32", "timestamp[us, UTC]", "decimal128(9, -2)"]
    assert [kind for _, kind, _ in render_schema(schema)] == words
    assert parse_schema(render_schema(schema)) == schema


# -- all of it together


class TableMachine(RuleBasedStateMachine):
    """A live writer, at most one rebuild, crashes. ``models``: the rows of each generation; ``cuts``: how far it is."""

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

    def _commit(self, writer: Writer, changes: Any, cut: int = 0) -> None:
        number = writer.generation.number
        model = applied(self.models.get(number, {}), *changes)
        cut = max(cut, self.cuts.get(number, 0) + 1)
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
        self._commit(self.building, changes, self.cuts[self.live_number()])

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
    names = {"view", "version", "seq", "previous", "role", "facts", "tables", "digest", "format", "checksum"}
    assert set(body) == names
