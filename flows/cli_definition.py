"""Commands about definitions, before anything is folded: explain and check."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.cli_options import options, picked, print_json


@click.command()
@click.argument("projection")
@options("flows")
@click.option(
    "--store", metavar="DIR", help="Say as well how much of it is committed there: rows, partials, what waits, memory."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot"]),
    default="text",
    show_default=True,
    help="Words and a picture, or the picture alone.",
)
@options("json", "debug")
def explain(projection: str, modules: tuple[str, ...], store: str | None, form: str, as_json: bool) -> None:
    """What PROJECTION reads, keeps and makes, in words and as a picture (Mermaid), before anything is folded.

    Event types and columns, window and lateness, state and memory of a row, what a join keeps and for how long, what a commit writes
    again. Opens no log, and a store only with --store. Example: refold explain aircraft --format dot | dot -Tsvg > aircraft.svg
    """
    from flows.explained_text import lines_of
    from flows.explaining import explain as facts_of
    from flows.explaining import stored_of
    from flows.picturing import picture_of
    from schemas.errors import UnknownView

    (found,) = picked((projection,), modules)
    facts = facts_of(found)
    picture = picture_of(facts)
    if store is not None:
        try:
            facts["stored"] = stored_of(found, Path(store))
        except UnknownView:
            facts["stored"] = None
    if as_json:
        print_json(facts)
    elif form == "text":
        for line in (*lines_of(facts), "", "```mermaid", picture.mermaid(), "```"):
            click.echo(line)
    else:
        click.echo(picture.mermaid() if form == "mermaid" else picture.dot())


@click.command()
@options("flows", "json", "debug")
def check(modules: tuple[str, ...], as_json: bool) -> None:
    """Import all modules with projections and list everything that is wrong, with file and line; opens neither log nor store.

    Exits with 2 when something is wrong. Warnings (exit code 0) are of definitions that are lawful and may hurt: joins that keep
    events for ever, keys of floats, event types of which nothing is read.
    """
    from dataclasses import asdict

    from flows.checking import check as check_modules

    found = check_modules(modules)
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        for line in found.lines():
            click.echo(line)
    sys.exit(0 if found.ok else 2)


COMMANDS = (explain, check)
