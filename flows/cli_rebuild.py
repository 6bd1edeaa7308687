"""The command that folds a view again: ``rebuild``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.cli_options import options, picked, print_json
from flows.cli_versions import say_promoted
from flows.stopping import stop_on_signals

if TYPE_CHECKING:
    from connectors.manifest import Manifest


@click.command()
@click.argument("view")
@options("log", "archive", "store", "flows", "workers", "origin", "dead")
@click.option("--promote", "then_promote", is_flag=True, help="Then make it the version that readers see.")
@options("json", "quiet", "debug")
def rebuild(
    view: str,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    origin: str | None,
    allow_dead_letters: bool,
    then_promote: bool,
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
    switch = None
    if then_promote:
        from flows.promoting import promote

        switch = promote(
            projection.name, projection.version, projection=projection, log=log, store=store, workers=workers, stop=stop
        )
    if as_json:
        facts = {"view": projection.title, "digest": after.digest, "before": before and before.digest, "cut": after.cut}
        print_json(facts | ({"promoted": switch is not None} if then_promote else {}))
        return
    click.echo(_outcome(projection.title, before, after))
    if switch is not None:
        say_promoted(switch, store, as_json=False)


def _outcome(title: str, before: Manifest | None, after: Manifest) -> str:
    if before is None:
        return f"rebuilt {title}  digest {after.digest}"
    if before.cut != after.cut:
        return f"rebuilt {title}  digest {after.digest}  (at a later cut than before: {before.digest[:12]})"
    same = "==" if before.digest == after.digest else "!="
    return f"rebuilt {same} live\n  rebuilt  {after.digest}\n  live     {before.digest}"


COMMANDS = (rebuild,)
