"""The commands that read committed views: ``query`` and ``path``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.cli_options import options, print_json, view_name
from schemas.errors import UsageError


@click.command()
@click.argument("sql")
@options("store", "debug")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="What to print.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--as-of",
    metavar="POINT",
    help="Each view as it was: at an event time (by watermark), a commit's number, a cut, or a span before the newest watermark (1h).",
)
def query(sql: str, store: str, form: str, as_json: bool, as_of: str | None) -> None:
    """Run SQL over the committed views (Polars SQL; each view is a table). Example: "FROM aircraft LIMIT 5"."""
    from connectors.points import parse_point
    from flows.query import query as run_query
    from flows.query import render

    form = "json" if as_json else form
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError(
            "Parquet on a terminal is no use", do="send it to a file:  refold query ... --format parquet > out.parquet"
        )
    click.echo(render(run_query(Path(store), sql, parse_point(as_of) if as_of else None), form), nl=False)


@click.command()
@click.argument("view")
@options("store", "json", "debug")
def path(view: str, store: str, as_json: bool) -> None:
    """The directory of VIEW's present snapshot: it stays as it is, so any reader may take its time.

    Example: duckdb -c "FROM read_parquet('$(refold path aircraft)/*.parquet')"
    """
    from connectors.view import open_view

    found = open_view(store, *view_name(view))
    if as_json:
        print_json({"view": found.name, "path": str(found.path), "commit": found.manifest.seq, "digest": found.digest})
    else:
        click.echo(str(found.path))


COMMANDS = (
    query,
    path,
)
