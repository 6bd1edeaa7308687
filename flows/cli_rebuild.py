"""The command that folds a view again: ``rebuild``."""

from __future__ import annotations

import click

from flows.cli_options import options, picked, print_json
from flows.stopping import stop_on_signals


@click.command()
@click.argument("view")
@options("log", "archive", "store", "flows", "workers", "origin", "dead", "json", "quiet", "debug")
def rebuild(
    view: str,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    origin: str | None,
    allow_dead_letters: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold VIEW again from offset zero beside the live one, then take over in one step.

    Nobody has to stop: readers keep the old snapshot until the switch, and a run goes on from the new one. No file of
    the old view is trusted: damaged ones are put aside.
    """
    from connectors.view import open_view
    from flows.committer import Pace
    from flows.display import Meter, shown
    from flows.running import rebuild as rebuild_view
    from schemas.errors import StoreError

    (projection,) = picked((view,), modules)
    try:
        before = open_view(store, projection.name, projection.version).manifest
    except StoreError:
        before = None  # nothing there, or damaged: all the more reason
    stop = stop_on_signals()
    with shown(Meter("Rebuild from offset zero", quiet=quiet)) as meter:
        after = rebuild_view(
            projection, log=log, store=store, workers=workers, origin=origin, stop=stop, watch=meter.watch,
            pace=Pace(allow_dead_letters=allow_dead_letters),
        )  # fmt: skip
    if after is None:
        click.echo("stopped; the live view is as it was")
        return
    if as_json:
        print_json(
            {"view": projection.title, "digest": after.digest, "before": before and before.digest, "cut": after.cut}
        )
        return
    if before is None:
        click.echo(f"rebuilt {projection.title}  digest {after.digest}")
    elif before.cut != after.cut:
        click.echo(
            f"rebuilt {projection.title}  digest {after.digest}  (at a later cut than before: {before.digest[:12]})"
        )
    else:
        same = "==" if before.digest == after.digest else "!="
        click.echo(f"rebuilt {same} live\n  rebuilt  {after.digest}\n  live     {before.digest}")


COMMANDS = (rebuild,)
