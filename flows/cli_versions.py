"""The commands about the versions of a view: ``views``."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli_options import options, print_json


@click.command()
@options("store", "json", "debug")
def views(store: str, as_json: bool) -> None:
    """The views of a store: rows, size, columns, digest."""
    from flows.status import all_views, summary

    found = all_views(Path(store))
    if as_json:
        print_json([{**summary(view), "columns": {f.name: str(f.type) for f in view.schema}} for view in found])
        return
    if not found:
        click.echo(f"no views in {store} yet; begin with:  refold run VIEW")
    for view in found:
        facts = summary(view)
        click.echo(
            f"{facts['view']}  v{facts['version']}  {facts['rows']:,} rows  {facts['bytes']:,} bytes  digest {facts['digest'][:12]}"
        )
        click.echo(f"  {', '.join(view.schema.names)}")


COMMANDS = (views,)
