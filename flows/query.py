"""SQL over committed views, by Polars. Each view is a table; a query sees one snapshot of each."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.manifest import ROWS
from connectors.unknown import unknown_view
from connectors.view import DEAD_LETTERS, LATE, at_point, check_table, list_views, open_view
from schemas.errors import UsageError
from schemas.hints import meant

if TYPE_CHECKING:
    import polars as pl

    from connectors.points import Point


def query(store: Path, sql: str, as_of: Point | None = None) -> pl.DataFrame:
    """The result of ``sql`` (DuckDB's ``FROM view`` without SELECT works too). Only views it names are opened.

    ``as_of``: every view as it was at that point of its life. ``<view>__late`` and ``<view>__dead_letters`` are the late events and
    dead letters of a view.
    """
    import polars as pl

    words = set(re.findall(r"\w+", sql))
    known = [view.name for view in list_views(store)]
    named = {name: words & {name, f"{name}__late", f"{name}__dead_letters"} for name in known}
    tables = {
        table: frame for name, asked in named.items() if asked for table, frame in _tables(store, name, asked, as_of)
    }
    if not known:
        raise unknown_view(store, "")
    if not tables:
        asked_for = re.search(r"\bfrom\s+(\w+)", sql, re.IGNORECASE)
        do = meant(asked_for[1] if asked_for else "", known, f"views here: {', '.join(known) or 'none yet'}")
        raise UsageError("the query names no view", where=str(store), do=do)
    context = pl.SQLContext(tables)
    try:
        return context.execute(_with_select(sql), eager=True)
    except pl.exceptions.PolarsError as error:
        what = str(error).partition("\n\n")[0]  # after that comes Polars' own plan
        raise UsageError(f"the query cannot be run: {what}", do="see `refold views` for views and columns") from None


def _tables(store: Path, name: str, asked: set[str], as_of: Point | None) -> Iterator[tuple[str, pl.LazyFrame]]:
    """The tables of one view that are asked for, all of one snapshot."""
    view = open_view(store, name)
    view = view if as_of is None else at_point(view, as_of)
    sides = {
        name: (ROWS, view.scan),
        f"{name}__late": (LATE, view.late),
        f"{name}__dead_letters": (DEAD_LETTERS, view.dead_letters),
    }
    for asked_for in sorted(asked):
        table, scan = sides[asked_for]
        check_table(view, table)
        yield asked_for, scan()


def _with_select(sql: str) -> str:
    return f"SELECT * {sql}" if sql.lstrip().lower().startswith("from") else sql


def render(frame: pl.DataFrame, form: str) -> str | bytes:
    """``table``, ``csv``, ``json`` (one array of objects) or ``parquet``."""
    import polars as pl

    if form == "csv":
        return frame.with_columns(_json_texts(frame)).write_csv()
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


def _json_texts(frame: pl.DataFrame) -> list[pl.Series]:
    """Columns of lists and structs, which CSV has no form for, as JSON texts."""
    import polars as pl

    return [
        pl.Series(
            column.name,
            [None if value is None else json.dumps(value, default=str) for value in column.to_list()],
            pl.String,
        )
        for column in frame.get_columns()
        if column.dtype.is_nested()
    ]
