"""The command that appends events: ``produce``."""

from __future__ import annotations

import sys

import click

from flows.cli_options import options, print_json
from flows.stopping import stop_on_signals
from schemas.errors import UsageError


@click.command()
@click.argument("category")
@options("log", "flows")
@click.option("--key", metavar="FIELD", help="The field whose value is the record's key.  [default: the subject]")
@click.option(
    "--markers",
    is_flag=True,
    help="At the end a progress marker in every partition, so that rows up to the last event become final.",
)
@options("json", "quiet", "debug")
def produce(
    category: str, log: str, modules: tuple[str, ...], key: str | None, markers: bool, as_json: bool, quiet: bool
) -> None:
    """Append events to CATEGORY: a JSON object a line from standard input, checked against the event classes.

    {"type": "OrderPlaced", "subject": "c-17", "time": "2024-01-01T00:00:00Z", "amount": 12.5}

    What comes before a wrong line is appended; the error names the line and the field. A broker writes nothing twice, whatever is sent
    again.
    """
    from connectors.clock import monotonic
    from connectors.log import open_log
    from flows.discover import category_named
    from flows.display import PLAIN_S, cut_text
    from flows.feeding import feed, mark_progress

    if sys.stdin.isatty():
        raise UsageError("events come from standard input", do=f"refold produce {category} < events.jsonl")
    found, stop, due = category_named(category, modules), stop_on_signals(), monotonic() + PLAIN_S

    def told(events: int) -> None:
        nonlocal due
        if not quiet and monotonic() >= due:
            due = monotonic() + PLAIN_S
            click.echo(f"Produce  {events:,} events appended to {category}", err=True)

    with open_log(log) as opened:
        fed = feed(opened, found, sys.stdin, key=key, told=told, stop=stop)
        cut = mark_progress(opened, found, fed.until) if markers and fed.until is not None else fed.cut
    if as_json:
        print_json({"category": category, "events": fed.events, "cut": cut})
    else:
        at = f"; the log is at {cut_text({name: list(ends) for name, ends in cut.items()})}" if cut else ""
        click.echo(f"{category}: {fed.events:,} events appended{at}")


COMMANDS = (produce,)
