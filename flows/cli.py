"""The command line: it parses, calls and prints. Heavy imports happen inside the commands, so that help is quick."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from flows import (
    cli_archive,
    cli_definition,
    cli_doctor,
    cli_history,
    cli_inspect,
    cli_new,
    cli_produce,
    cli_proof,
    cli_reading,
    cli_rebuild,
    cli_status,
    cli_versions,
)
from flows.cli_options import options, picked
from flows.stopping import stop_on_signals
from schemas.errors import RefoldError, UsageError

OVERVIEW = """\
refold keeps tables that follow event streams, and can prove that they are right.

\b
  refold demo                              a year of flights: fold, break, verify, rebuild
  refold inspect orders                    what is in a topic that nobody has declared yet
  refold new revenue --category orders     a projection, its event classes and a test, from what is in the topic
  refold check                             is every projection well defined? what is wrong, and where
  refold explain departures_by_hour        what a projection reads, keeps and makes
  refold run departures_by_hour            follow the log; Ctrl-C stops, the next start goes on
  refold query "FROM aircraft LIMIT 5"     SQL over the committed views
  refold status                            where each view stands, and how far behind the log
  refold verify departures_by_hour         fold again to the same cut: is it the same table?
  refold repair departures_by_hour         restore damaged files, and only those, from the log
  refold rebuild departures_by_hour        fold from offset zero beside the live view, then take over
  refold promote departures_by_hour@2      lead readers to another version (rollback undoes it; diff compares first)
  refold doctor                            may each view ever be rebuilt from zero, and what is in the way
  refold archive flights                   keep the events of a topic for longer than the topic does

Log and store come from --log / REFOLD_LOG (data/log) and --store / REFOLD_STORE (data/store); a file `.env` is read.
Exit codes: 0 done, 1 the answer is no, 2 the call is wrong, 3 the log or the store failed.
"""


OBJECTS_BETWEEN_LOOKS = 20_000
"""At garbage, that is. Python's own 700 mean hundreds of looks while modules are loaded, a tenth of a start, and none finds any."""


def run_cli() -> NoReturn:
    """Entry point: errors as text (``--debug`` or REFOLD_DEBUG: with the traceback), exit codes as documented."""
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS)
    _read_env_file(Path(".env"))
    try:
        sys.exit(main.main(prog_name="refold", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        print(f"error: {_wrong_call(error)}", file=sys.stderr)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except RefoldError as error:
        if os.environ.get("REFOLD_DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _wrong_call(error: click.ClickException) -> UsageError:
    """What the parser says, as refold says it."""
    told = error.format_message().replace("valid integer range", "whole number").replace("valid float range", "number")
    what, _, hint = told.replace("(Did you mean", "Did you mean").partition(" Did you mean ")
    context = getattr(error, "ctx", None)
    usage = f"see  {context.command_path if context else 'refold'} --help"
    do = f"did you mean {hint.rstrip(')?').replace('one of: ', '').replace(', ', ' or ')}?\n{usage}" if hint else usage
    return UsageError(what[:1].lower() + what[1:].rstrip("."), do=do)


def _read_env_file(path: Path) -> None:
    """``REFOLD_*=value`` lines; what the environment has already wins."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and name.strip().startswith("REFOLD_"):
            os.environ.setdefault(name.strip(), value.strip().strip("\"'"))


@click.group(
    help=OVERVIEW,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="refold", message="%(prog)s %(version)s")
def main() -> None:
    pass


@main.command()
@click.argument("views", nargs=-1, required=True, metavar="VIEW...")
@options("log", "archive", "store", "flows", "workers")
@click.option(
    "--processes",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Processes of one cluster on this machine.",
)
@click.option(
    "--until", type=click.Choice(["end"]), help="Stop at the ends that the log has on start, instead of following."
)
@options("origin", "dead", "interval", "quiet", "debug")
@click.option("--process-id", type=int, hidden=True, help="This process of a cluster.")
@click.option("--addresses", hidden=True, help="Addresses of all processes of a cluster.")
def run(
    views: tuple[str, ...],
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    processes: int,
    until: str | None,
    origin: str | None,
    allow_dead_letters: bool,
    commit_interval: float | None,
    quiet: bool,
    process_id: int | None,
    addresses: str | None,
) -> None:
    """Fold VIEWs and follow the log (VIEW is `name`, its newest version, or `name@version`).

    Goes on from the last commit. Ctrl-C and SIGTERM commit what was folded and stop.
    """
    if processes > 1 and process_id is None:
        from flows.cluster import supervise

        sys.exit(supervise(processes))
    from flows.committer import Pace
    from flows.display import Meter, shown
    from flows.running import run as run_views

    chosen = picked(views, modules)
    stop = stop_on_signals()
    with shown(Meter("Fold", quiet=quiet or bool(process_id))) as meter:
        run_views(
            chosen, log=log, store=store, until=until, workers=workers, origin=origin, stop=stop, watch=meter.watch,
            process=process_id, addresses=addresses.split(";") if addresses else (),
            pace=Pace(commit_interval, allow_dead_letters),
        )  # fmt: skip
    if not quiet and not process_id:
        from connectors.view import open_view
        from flows.status import view_line

        for projection in chosen:
            click.echo(view_line(open_view(store, projection.name, projection.version)))


@main.command()
@click.option(
    "--log",
    metavar="URL",
    help="A broker to run the tour against (redpanda://host:9092); default: an embedded log of its own.",
)
@click.option(
    "--dir",
    "directory",
    default="data/demo",
    show_default=True,
    metavar="DIR",
    help="Where the demo keeps its log and views; emptied first.",
)
@click.option(
    "--days", type=click.IntRange(1, 365), default=365, show_default=True, help="How much of the year to fold."
)
@options("workers", "debug")
def demo(log: str | None, directory: str, days: int, workers: int | None) -> None:
    """A year of real flights: append, fold into three views, break one, find the damage, rebuild, compare."""
    from flows.demo import demo as run_demo

    os.environ.pop("REFOLD_ARCHIVE", None)  # the tour's log has no history elsewhere
    sys.exit(0 if run_demo(log, Path(directory), days, workers, click.echo) else 1)


for family in (
    cli_reading,
    cli_rebuild,
    cli_versions,
    cli_status,
    cli_history,
    cli_doctor,
    cli_definition,
    cli_proof,
    cli_archive,
    cli_produce,
    cli_inspect,
    cli_new,
):
    for command in family.COMMANDS:
        main.add_command(command)

if __name__ == "__main__":
    run_cli()
