"""The command that begins a view of one's own: ``new``."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli_options import options


@click.command()
@click.argument("view")
@click.option("--category", required=True, help="The topic whose events it folds.")
@options("log")
@click.option("--into", metavar="DIR", help="Write into this directory.  [default: the current one]")
@options("debug")
def new(view: str, category: str, log: str, into: str | None) -> None:
    """Write a working projection VIEW, the event classes of its category, and a test for it, from what is in the topic.

    It groups by what looks like something to group by, by the hour; change it as you like. Nothing is overwritten.
    """
    from connectors.log import open_log
    from flows.inspecting import inspect
    from flows.newly import Homes, write_view

    homes = Homes.of(view, category, Path(into) if into else None, Path())
    with open_log(log) as opened:
        written = write_view(view, inspect(opened, category), homes)
    click.echo(f"wrote {', '.join(str(path) for path in written)}")
    inside = f"cd {into} && " if into and into != "." else ""
    click.echo(f"  test  {inside}python -m pytest {homes.test.name if into else homes.test}")
    flows = "" if homes.view_module.startswith("flows.") else f" --flows {homes.view_module}"
    click.echo(f"  run   {inside}refold run {view}{flows}")
    click.echo(f'  read  refold query "FROM {view} LIMIT 5"')


COMMANDS = (new,)
