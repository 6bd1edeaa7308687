"""The command that says what is in a topic: ``inspect``."""

from __future__ import annotations

import click

from flows.cli_options import options, print_json
from schemas.errors import UsageError


@click.command()
@click.argument("category")
@options("log")
@click.option("--all", "everything", is_flag=True, help="Read every record.")
@click.option("--sample", type=click.IntRange(min=1), help="Read so many records.  [default: 200,000]")
@click.option("--python", "as_python", is_flag=True, help="Print event classes and a Category, ready to paste.")
@options("json", "debug")
def inspect(category: str, log: str, everything: bool, sample: int | None, as_python: bool, as_json: bool) -> None:
    """What is in CATEGORY: its envelope (a guess, and how sure it is), event types, fields, times, keys, lateness, and an example.

    Needs no code of yours. With --python it writes the code that a projection needs.
    """
    from connectors.log import open_log
    from flows.inspected import facts, lines, python
    from flows.inspecting import SAMPLE
    from flows.inspecting import inspect as inspect_category

    if everything and sample:
        raise UsageError("--all and --sample together", do="give one of them")
    with open_log(log) as opened:
        found = inspect_category(opened, category, records=None if everything else sample or SAMPLE)
    if as_python:
        click.echo(python(found), nl=False)
    elif as_json:
        print_json(facts(found))
    else:
        click.echo("\n".join(lines(found)))


COMMANDS = (inspect,)
