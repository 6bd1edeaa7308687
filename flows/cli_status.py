"""The command that says where views stand: ``status``."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli_options import options, print_json


@click.command()
@click.argument("views", nargs=-1, metavar="[VIEW...]")
@options("log", "store", "json", "debug")
def status(views: tuple[str, ...], log: str, store: str, as_json: bool) -> None:
    """Where views stand: position and lag per partition, finality, late events, dead letters."""
    from connectors.log import open_log
    from flows.display import instant
    from flows.status import all_views, lag, summary, view_line

    found = all_views(Path(store), views)
    with open_log(log) as opened:
        lags = [lag(view, opened) for view in found]
    if as_json:
        print_json([{**summary(view), "partitions": places} for view, places in zip(found, lags, strict=True)])
        return
    if not found:
        click.echo(f"no views in {store} yet; begin with:  refold run VIEW")
    for view, places in zip(found, lags, strict=True):
        click.echo(view_line(view))
        for place in places:
            behind = (
                "the log has no such partition"
                if place["lag_records"] is None
                else f"lag {place['lag_records']:,} events"
            )
            holds = "  <- holds finality back" if place["holds_finality_back"] and len(places) > 1 else ""
            click.echo(
                f"  {place['category']}/{place['partition']}  next offset {place['next_offset']:,}  {behind}  "
                f"watermark {instant(place['watermark_us'])}{holds}"
            )


COMMANDS = (status,)
