"""The command that folds a view again: ``rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli_options import options, picked, print_json
from flows.cli_versions import say_promoted
from flows.stopping import stop_on_signals
from schemas.errors import UsageError

if TYPE_CHECKING:
    from connectors.manifest import Manifest
    from flows.projection import Projection


@click.command()
@click.argument("view")
@options("log", "archive", "store", "flows", "workers", "origin", "dead")
@click.option(
    "--max-rate", metavar="RATE", help="Read no faster: events a second (200000/s, 200k/s) or bytes a second (20MB/s)."
)
@click.option(
    "--ungoverned", is_flag=True, help="Go as fast as it can: no backing off from slow fetches, no lower priority."
)
@click.option("--promote", "then_promote", is_flag=True, help="Then make it the version that readers see.")
@click.option(
    "--until", "point", metavar="POINT", help="With --into: fold to a cut, commit or event time of its past ..."
)
@click.option("--into", metavar="DIR", help="... into a store of its own, and leave the view alone.")
@options("json", "quiet", "debug")
def rebuild(
    view: str,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    origin: str | None,
    allow_dead_letters: bool,
    max_rate: str | None,
    ungoverned: bool,
    then_promote: bool,
    point: str | None,
    into: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold VIEW again from offset zero beside the live one, then take over in one step.

    Nobody has to stop: readers keep the old snapshot until the switch, and a run goes on from the new one. No file of the old view is
    trusted: damaged ones are put aside. Reading from a broker it governs itself: it learns how long an unhurried fetch takes, and backs
    off when fetches take longer; and it leaves the cores of its machine to others (a niceness of 10).
    """
    from connectors.throttle import parse_rate
    from connectors.view import open_view
    from flows.committer import Pace
    from flows.display import Meter, shown
    from flows.leaving_cores import leaving_cores
    from flows.running import rebuild as rebuild_view
    from schemas.errors import StoreError

    (projection,) = picked((view,), modules)
    if point or into:
        _past(projection, point, into, (log, store, workers, origin, as_json, quiet))
        return
    try:
        before = open_view(store, projection.name, projection.version).manifest
    except StoreError:
        before = None  # nothing there, or damaged: all the more reason
    rate = parse_rate(max_rate) if max_rate else None
    stop = stop_on_signals()
    with leaving_cores(not ungoverned), shown(Meter("Rebuild from offset zero", quiet=quiet)) as meter:
        after = rebuild_view(
            projection, log=log, store=store, workers=workers, origin=origin, stop=stop, watch=meter.watch,
            pace=Pace(allow_dead_letters=allow_dead_letters), rate=rate, governed=not ungoverned,
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
    elif then_promote:
        click.echo("stopped before it was promoted; readers see what they saw")


def _past(projection: Projection, point: str | None, into: str | None, how: Any) -> None:
    """A view as it was, in a store of its own."""
    from connectors.points import parse_point
    from flows.display import Meter, cut_text, shown
    from flows.running import rebuild_past

    if not point or not into:
        raise UsageError("a rebuild to a point of the past needs both", do="--until POINT --into DIR")
    log, store, workers, origin, as_json, quiet = how
    with shown(Meter("Rebuild from offset zero", quiet=quiet)) as meter:
        made = rebuild_past(
            projection, parse_point(point), Path(into), log=log, store=store, workers=workers, origin=origin,
            stop=stop_on_signals(), watch=meter.watch,
        )  # fmt: skip
    if made is None:
        click.echo("stopped; the same command goes on where it stood")
    elif as_json:
        print_json({"view": projection.title, "digest": made.digest, "cut": made.cut, "path": str(made.path)})
    else:
        click.echo(f"rebuilt {projection.title}  at cut {cut_text(made.cut)}  digest {made.digest}")
        click.echo(f"  read it with  --store {into}   or in {made.path}")


def _outcome(title: str, before: Manifest | None, after: Manifest) -> str:
    if before is None:
        return f"rebuilt {title}  digest {after.digest}"
    if before.cut != after.cut:
        return f"rebuilt {title}  digest {after.digest}  (at a later cut than before: {before.digest[:12]})"
    same = "==" if before.digest == after.digest else "!="
    return f"rebuilt {same} live\n  rebuilt  {after.digest}\n  live     {before.digest}"


COMMANDS = (rebuild,)
