"""The command that says whether a view's past can be trusted: ``doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli_options import options, print_json, view_name
from schemas.errors import UnknownView

if TYPE_CHECKING:
    from flows.doctor import Diagnosis, Patient


@click.command()
@click.argument("views", nargs=-1, metavar="[VIEW...]")
@options("log", "archive", "store", "flows")
@click.option(
    "--last",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="Records of each partition to look at.",
)
@options("json", "debug")
def doctor(views: tuple[str, ...], log: str, store: str, modules: tuple[str, ...], last: int, as_json: bool) -> None:
    """May VIEW (all views of the store, when none is named) ever be rebuilt from offset zero? Looks, and changes nothing.

    Asks the broker what retention, compaction and elections may do to each category, compares the topic with the one that was folded and
    with the archive, and looks at the last records. Exit code 1: a view is hopeful.
    """
    from flows.doctor import HOPEFUL
    from flows.doctor import doctor as examine

    patients = _patients(views, store, modules)
    found = examine(patients, log=log, archive=os.environ.get("REFOLD_ARCHIVE") or None, last=last)
    if as_json:
        print_json([asdict(diagnosis) for diagnosis in found])
    elif not found:
        click.echo(f"no views in {store} yet; begin with:  refold run VIEW")
    else:
        click.echo("\n".join(line for diagnosis in found for line in _lines(diagnosis)))
    sys.exit(1 if any(diagnosis.verdict == HOPEFUL for diagnosis in found) else 0)


def _patients(views: tuple[str, ...], store: str, modules: tuple[str, ...]) -> list[Patient]:
    from connectors.view import list_views, open_view
    from flows.discover import pick, projections
    from flows.doctor import patient_of, planned

    known = projections(modules)
    if not views:
        opened = [open_view(store, view.name, version) for view in list_views(Path(store)) for version in view.versions]
        return [patient_of(view, known.get(f"{view.name}@{view.version}")) for view in opened]
    found = []
    for name in views:
        try:
            view = open_view(store, *view_name(name))
            found.append(patient_of(view, known.get(f"{view.name}@{view.version}")))
        except UnknownView:
            found += [planned(projection) for projection in pick((name,), known)]
    return found


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    from flows.doctor import HOPEFUL
    from flows.findings import BREAKS

    verdict = diagnosis.verdict.upper() if diagnosis.verdict == HOPEFUL else diagnosis.verdict
    yield f"{diagnosis.view}@{diagnosis.version}  {verdict}"
    for finding in sorted(diagnosis.findings, key=lambda one: one.severity != BREAKS):
        yield f"  {finding.where}  {'risk: ' if finding.severity != BREAKS else ''}{finding.what}"
        yield f"    why   {finding.why}"
        yield f"    fix   {finding.fix}"


COMMANDS = (doctor,)
