"""SQL over committed views, by Polars. Each view is a table; a query sees one snapshot of each."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.generation import snapshot_files
from connectors.manifest import ROWS
from connectors.view import View, list_views, open_view
from schemas.errors import StoreDamaged, UsageError

if TYPE_CHECKING:
    import polars as pl

LATE, DEAD_LETTERS = "__late", "__dead_letters"


def query(store: Path, sql: str) -> pl.DataFrame:
    """The result of ``sql`` (DuckDB's ``FROM view`` without SELECT works too). Only views it names are opened.

    ``<view>__late`` and ``<view>__dead_letters`` are the late events and dead letters of a view.
    """
    import polars as pl

    words = set(re.findall(r"\w+", sql))
    known = [view.name for view in list_views(store)]
    named = {name: words & {name, f"{name}{LATE}", f"{name}{DEAD_LETTERS}"} for name in known}
    tables = {table: frame for name, asked in named.items() if asked for table, frame in _tables(store, name, asked)}
    if not tables:
        raise UsageError(
            "the query names no view", where=str(store), do=f"views here: {', '.join(known) or 'none yet'}"
        )
    context = pl.SQLContext(tables)
    try:
        return context.execute(_with_select(sql), eager=True)
    except pl.exceptions.PolarsError as error:
        what = str(error).partition("\n\n")[0]  # after that comes Polars' own plan
        raise UsageError(f"the query cannot be run: {what}", do="see `refold views` for views and columns") from None


def _tables(store: Path, name: str, asked: set[str]) -> Iterator[tuple[str, pl.LazyFrame]]:
    """The tables of one view that are asked for, all of one snapshot."""
    view = open_view(store, name)
    for table in sorted(asked):
        _check_files(view, {f"{name}{LATE}": "late", f"{name}{DEAD_LETTERS}": "dead_letters"}.get(table, ROWS))
    sides = {name: view.scan, f"{name}{LATE}": view.late, f"{name}{DEAD_LETTERS}": view.dead_letters}
    yield from ((table, sides[table]()) for table in sorted(asked))


def _check_files(view: View, table: str) -> None:
    """Raises ``StoreDamaged``. Parquet's readers check no bytes: of a flipped bit they would make other rows, silently.

    It costs about a second a gigabyte, which is less than reading the rows does.
    """
    stored = [view.generation.version.data / chunk.file for chunk in view.manifest.tables[table].chunks]
    shown = [view.path / name for name, _ in snapshot_files(view.manifest)] if table == ROWS else stored
    why: str | None = None
    for path in shown:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            msg, why = "a file of the view cannot be read", str(error)
        else:
            if path.name.endswith(f"{digest}.parquet"):
                continue
            msg = "a file of the view is not what was written"
        raise StoreDamaged(msg, where=str(path), why=why, do=f"refold repair {view.name}")


def _with_select(sql: str) -> str:
    return f"SELECT * {sql}" if sql.lstrip().lower().startswith("from") else sql


def render(frame: pl.DataFrame, form: str) -> str | bytes:
    """``table``, ``csv``, ``json`` (one array of objects) or ``parquet``."""
    import polars as pl

    if form == "csv":
        return frame.write_csv()
    if form == "json":
        return frame.write_json() + "\n"
    if form == "parquet":
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()
    with pl.Config(
        tbl_rows=1000,
        tbl_cols=50,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=80,
        tbl_width_chars=200,
        tbl_formatting="MARKDOWN",
    ):
        return f"{frame}\n{frame.height:,} rows\n"
