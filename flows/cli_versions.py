"""The commands about the versions of a view: ``promote``, ``rollback``, ``retire``, ``views``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectors.collect import GRACE_S
from flows.cli_options import options, print_json, view_name
from flows.stopping import stop_on_signals
from schemas.errors import UsageError

if TYPE_CHECKING:
    from connectors.inventory import Kept
    from connectors.switching import Switch
    from flows.projection import Projection


def numbered(view: str) -> tuple[str, int]:
    """``name@version`` in two. Raises ``UsageError`` where the version is missing."""
    name, version = view_name(view)
    if version is None:
        raise UsageError("which version?", where=view, do=f"say its number:  {name}@2   (see  refold views)")
    return name, version


@click.command()
@click.argument("view", metavar="VIEW@N")
@options("log", "archive", "store", "flows", "workers")
@click.option("--timeout", type=click.FloatRange(min=0.0), metavar="SECONDS", help="Give up after so long (exit 1).")
@options("json", "quiet", "debug")
def promote(
    view: str,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    timeout: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make version N of VIEW the one that readers see, in one atomic step.

    Waits until it has reached the cut that they see now, so that nobody ever reads an older view than before, and shows how far it is. A
    version that nobody follows is folded on here. `refold rollback VIEW` undoes it.
    """
    from flows.promoting import promote as promote_view

    name, version = numbered(view)
    stop = stop_on_signals(unfinished=1)
    switch = promote_view(
        name, version, projection=_defined(view, modules), log=log, store=store, workers=workers, timeout_s=timeout,
        stop=stop, told=None if quiet else _teller(),
    )  # fmt: skip
    if switch is None:
        click.echo("stopped; readers see what they saw")
        sys.exit(1)
    say_promoted(switch, store, as_json)
    sys.exit(0 if switch.is_done else 1)


def _defined(view: str, modules: tuple[str, ...]) -> Projection | None:
    """The definition of a version, if the code still has it: it is needed only where nobody follows the version."""
    from flows.discover import projections

    return projections(modules).get(view)


def _teller() -> Callable[[Switch], None]:
    """Says now and then, on standard error, how far a version is behind."""
    from connectors.clock import monotonic
    from flows.display import PLAIN_S, cut_text

    due = monotonic()

    def tell(switch: Switch) -> None:
        nonlocal due
        if not switch.is_done and monotonic() >= due:
            due = monotonic() + PLAIN_S
            click.echo(
                f"Promote {switch.view}@{switch.version}  {switch.records_missing:,} events behind {switch.view}@{switch.before}: "
                f"{cut_text(switch.missing)}",
                err=True,
            )

    return tell


def say_promoted(switch: Switch, store: str, as_json: bool) -> None:
    """What a promotion came to."""
    from flows.display import cut_text

    title = f"{switch.view}@{switch.version}"
    if as_json:
        print_json(_facts(switch))
    elif not switch.is_done:
        click.echo(
            f"not promoted: {title} is still {switch.records_missing:,} events behind; readers see what they saw"
        )
    elif switch.before == switch.version:
        click.echo(f"{title} is current already  at cut {cut_text(switch.cut)}")
    else:
        was = (
            f"   was {switch.view}@{switch.before}  (refold rollback {switch.view} undoes it)" if switch.before else ""
        )
        click.echo(f"promoted {title}  at cut {cut_text(switch.cut)}{was}")
        _say_who_follows(switch, store)


def _say_who_follows(switch: Switch, store: str) -> None:
    from connectors.activity import is_written
    from connectors.generation import Version

    live = Version.of(Path(store), switch.view, switch.version).live()
    if live is not None and not is_written(live):
        click.echo(f"  nobody follows it now; go on:  refold run {switch.view}@{switch.version}")


def _facts(switch: Switch) -> dict[str, Any]:
    return {
        "view": switch.view,
        "current": switch.version if switch.is_done else switch.before,
        "before": switch.before,
        "asked_for": switch.version,
        "cut": switch.cut,
        "records_missing": switch.records_missing,
        "missing": switch.missing,
    }


@click.command()
@click.argument("view")
@options("store", "json", "debug")
def rollback(view: str, store: str, as_json: bool) -> None:
    """Lead the readers of VIEW back to the version that was current before: at once, even if that one is behind."""
    from flows.display import cut_text
    from flows.promoting import rollback as roll_back

    name, version = view_name(view)
    if version is not None:
        raise UsageError("a rollback goes to the version before", where=view, do=f"refold rollback {name}")
    switch = roll_back(name, store=store)
    if as_json:
        print_json(_facts(switch))
        return
    click.echo(
        f"rolled back {name}: {name}@{switch.version} is current  at cut {cut_text(switch.cut)}   was {name}@{switch.before}"
    )
    if switch.records_missing:
        click.echo(
            f"  it is {switch.records_missing:,} events behind {name}@{switch.before}: {cut_text(switch.missing)}"
        )
    _say_who_follows(switch, store)


@click.command()
@click.argument("view", metavar="VIEW@N")
@options("store")
@click.option(
    "--grace",
    type=click.FloatRange(min=0.0),
    default=GRACE_S,
    show_default=True,
    metavar="SECONDS",
    help="Keep its files for so long, because somebody may be reading them; 0 removes them now.",
)
@options("json", "debug")
def retire(view: str, store: str, grace: float, as_json: bool) -> None:
    """Remove version N of VIEW: nobody can read or run it from now on. Refused for the one that readers see, or that somebody writes.

    Its files go after the grace period, with the next collection of the view (every run makes some), or when this is said again.
    """
    from connectors.retiring import retire as retire_version

    name, version = numbered(view)
    is_gone = retire_version(Path(store), name, version, grace)
    if as_json:
        print_json({"view": name, "version": version, "removed": is_gone})
    else:
        click.echo(f"retired {view}; " + ("its files are gone" if is_gone else f"its files go in {grace:,.0f} s"))


@click.command()
@options("store", "json", "debug")
def views(store: str, as_json: bool) -> None:
    """The views of a store, a version a line: serving, running, building, ready or retired; rows, size, columns, digest."""
    from connectors.inventory import inventory

    found = inventory(Path(store))
    if as_json:
        print_json([_kept_facts(kept) for kept in found])
        return
    if not found:
        click.echo(f"no views in {store} yet; begin with:  refold run VIEW")
    for kept in found:
        click.echo(_kept_line(kept))
        if kept.newest:
            click.echo(f"  {', '.join(kept.newest.tables['rows'].schema.names)}")


def _kept_facts(kept: Kept) -> dict[str, Any]:
    from flows.status import facts_of_snapshot

    facts = facts_of_snapshot(kept.newest) if kept.newest else {"view": kept.view, "version": kept.version}
    columns = {field.name: str(field.type) for field in kept.newest.tables["rows"].schema} if kept.newest else {}
    return {**facts, "states": list(kept.states), "columns": columns}


def _kept_line(kept: Kept) -> str:
    head = f"{kept.view}@{kept.version}  {', '.join(kept.states)}"
    if kept.newest is None:
        return head
    from flows.status import facts_of_snapshot
    from flows.status_text import size

    facts = facts_of_snapshot(kept.newest)
    hopeful = "  HOPEFUL" if facts["hopeful"] else ""
    return f"{head}  {facts['rows']:,} rows  {size(facts['bytes'])}  commit {facts['commit']:,}  digest {facts['digest'][:12]}{hopeful}"


COMMANDS = (promote, rollback, retire, views)
