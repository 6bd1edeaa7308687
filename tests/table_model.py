"""What the tests of the table store share: a small schema, plain dictionaries as models, a disk that stops at any step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from connectors import fs
from connectors.changes import Changes, Parts
from connectors.manifest import Manifest, TableSpec
from connectors.table import open_writer
from schemas.canonical import encode

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


def parts_of(upserts: dict[Key, tuple[Any, ...]], deletes: set[Key], count: int) -> Parts:
    """The same in parts of up to so many keys, which are made when they are wanted."""
    ordered = sorted({*upserts, *deletes}, key=lambda key: encoded({key})[0].as_py())
    taken = [set(ordered[first : first + count]) for first in range(0, len(ordered), count)]
    makers = [
        partial(changes_of, {key: row for key, row in upserts.items() if key in keys}, keys & deletes) for keys in taken
    ]
    return Parts(makers)


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


def committed(store: Path, rows: int = 40) -> Manifest:
    with open_writer(store, "view", 1, TABLES) as writer:
        return writer.commit({"rows": Changes(table_of({(n, "k"): (float(n), None) for n in range(rows)}))}, facts(1))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)


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
