"""The command that keeps history: ``archive``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from flows.cli_options import options, print_json
from flows.stopping import stop_on_signals
from schemas.errors import UsageError

if TYPE_CHECKING:
    from connectors.archive import Archived
    from connectors.archive_check import Checked


@click.command()
@click.argument("category")
@options("log")
@click.option(
    "--to",
    metavar="DIR",
    envvar="REFOLD_ARCHIVE",
    default="data/archive",
    show_default=True,
    help="Directory of the archive; made when it is not there (REFOLD_ARCHIVE).",
)
@click.option("--follow", is_flag=True, help="Go on copying what comes, until Ctrl-C.")
@click.option("--check", is_flag=True, help="Copy nothing; read the archive again and check it against its digests.")
@options("json", "quiet", "debug")
def archive(category: str, log: str, to: str, follow: bool, check: bool, as_json: bool, quiet: bool) -> None:
    """Copy CATEGORY of the log to an archive: a directory that keeps what retention will remove.

    Goes on where the archive ends, and stops at the ends that the log has on start. Then give it to `run`, `rebuild`, `verify` or
    `repair` with --archive, or use it as a log by itself:  --log DIR
    """
    if check and follow:
        raise UsageError("--check copies nothing: there is nothing to follow", do="give one of --check and --follow")
    if check:
        sys.exit(_check(category, to, as_json, quiet))
    from connectors.archive import archive as copy
    from connectors.log import open_log
    from flows.display import Meter, shown

    stop = stop_on_signals()
    with shown(Meter("Archive", quiet=quiet)) as meter, open_log(log) as opened:
        done = copy(opened, category, to, follow=follow, stop=stop, watch=meter.watch)
    if as_json:
        print_json({"archive": to, **asdict(done)})
        return
    for line in _said(done, to):
        click.echo(line)


def _said(done: Archived, to: str) -> Iterator[str]:
    info = done.info
    offsets = sum(end - first for first, end in zip(info.earliest, info.ends, strict=True))
    state = "  stopped: the next one goes on from here" if done.stopped else ""
    yield f"{info.name}: {done.records:,} events added; {offsets:,} offsets in {info.partitions} partitions in {to}{state}"
    lost = {partition: first for partition, first in enumerate(info.earliest) if first}
    for partition, first in lost.items():
        yield f"  note     {info.name}/{partition} begins at offset {first:,}: the log had lost what was before when the archive began"


def _check(category: str, to: str, as_json: bool, quiet: bool) -> int:
    from connectors.archive_check import check_archive
    from flows.display import Meter, shown

    stop = stop_on_signals(unfinished=1)
    with shown(Meter("Check", quiet=quiet)) as meter:
        found = check_archive(to, category, stop=stop, watch=meter.watch)
    if found is None:
        click.echo("stopped before everything was read")
        return 1
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        for line in _checked(found):
            click.echo(line)
    return 0 if found.ok else 1


def _checked(found: Checked) -> Iterator[str]:
    yield from (f"  DAMAGED  {damaged.file}: {damaged.why}" for damaged in found.damaged)
    if found.ok:
        segments = sum(one.segments for one in found.partitions)
        records = sum(one.records for one in found.partitions)
        yield f"  ok       {found.category}: {records:,} events in {segments:,} segments: all as they were written"
        yield from (f"           {found.category}/{one.partition}  digest {one.digest}" for one in found.partitions)
    else:
        yield "  do       restore these files from a copy, or archive the category again in another directory"


COMMANDS = (archive,)
