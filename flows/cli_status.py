"""The command that says where views stand: ``status``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli_options import options, print_json

if TYPE_CHECKING:
    from connectors.log import Log


@click.command()
@click.argument("views", nargs=-1, metavar="[VIEW...]")
@options("log", "archive", "store")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between looks, with --watch.",
)
@options("json", "debug")
def status(views: tuple[str, ...], log: str, store: str, watch: bool, interval: float, as_json: bool) -> None:
    """Where views stand: what is committed, how fast it moves, how far it is behind the log, who holds finality back, which rebuilds run.

    VIEW is `name`, all its versions, or `name@version`. Rates are those of the commits of the last half minute.
    """
    from flows.running import log_opener
    from flows.stopping import stop_on_signals

    stop = stop_on_signals() if watch else threading.Event()
    opened = log_opener(log)()
    try:
        _show(store, views, opened, as_json)
        while watch and not stop.wait(interval):
            if sys.stdout.isatty():
                click.clear()
            _show(store, views, opened, as_json)
    finally:
        opened.close()


def _show(store: str, views: tuple[str, ...], log: Log, as_json: bool) -> None:
    from flows.status import standing, standings
    from flows.status_text import lines

    found = [standing(view, log) for view in standings(Path(store), views)]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"no views in {store} yet; begin with:  refold run VIEW")
    for facts in found:
        click.echo("\n".join(lines(facts)))


COMMANDS = (status,)
