"""The commands about a view's past: ``diff``, ``retain``, ``collect``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectors.collect import GRACE_S
from flows.cli_options import options, print_json, view_name
from flows.stopping import stop_on_signals
from schemas.errors import UsageError

if TYPE_CHECKING:
    from flows.diffing import Diff

SPAN = "as in 90s, 15m, 1h, 7d"


@click.command()
@click.argument("before", metavar="VIEW[@N]")
@click.argument("after", metavar="[VIEW@M]", required=False)
@options("log", "archive", "store", "flows", "workers")
@click.option("--from", "start", metavar="POINT", help="One version, from this point of its life ...")
@click.option("--to", "end", metavar="POINT", help="... to this one.  [default: its newest commit]")
@click.option(
    "--examples", type=click.IntRange(min=0), default=10, show_default=True, help="How many differing rows to show."
)
@click.option("--into", metavar="FILE", help="Write all differing rows to this Parquet file.")
@options("json", "quiet", "debug")
def diff(
    before: str,
    after: str | None,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    start: str | None,
    end: str | None,
    examples: int,
    into: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """What differs between two versions of a view, both at the same cut; or with --from between two moments of one.

    Versions that stand at different cuts are brought to one in a scratch place; nobody notices. A POINT is a commit's number, a cut, an
    event time, or a span of event time before the newest watermark (1h). Exit code 0: the same rows and columns; 1: not.
    """
    found = _moments(before, start, end, store) if after is None else _versions(
        before, after, (start, end), (log, store, modules, workers, quiet)
    )  # fmt: skip
    if found is None:
        click.echo("stopped before there was an answer")
        sys.exit(1)
    if into and found.rows is not None:
        import pyarrow.parquet as pq

        pq.write_table(found.rows, into)
    if as_json:
        print_json(_facts(found, examples))
    else:
        click.echo("\n".join(_lines(found, examples, into)))
    sys.exit(1 if found.differs else 0)


def _moments(view: str, start: str | None, end: str | None, store: str) -> Diff:
    from connectors.points import parse_point
    from flows.diffing import diff_moments

    if start is None:
        do = f"two versions:  refold diff {view}@1 {view}@2   or two moments of one:  refold diff {view} --from 1h"
        raise UsageError("what is to be compared?", where=view, do=do)
    return diff_moments(*view_name(view), parse_point(start), parse_point(end) if end else None, store=store)


def _versions(before: str, after: str, points: tuple[str | None, str | None], how: Any) -> Diff | None:
    from flows.cli_versions import numbered
    from flows.diffing import How
    from flows.diffing import diff as diff_versions
    from flows.discover import projections
    from flows.display import Meter, shown

    if any(points):
        raise UsageError("two versions are compared at one cut", do="leave --from and --to out, or one of the versions")
    (name, one), (other_name, other) = numbered(before), numbered(after)
    if name != other_name:
        raise UsageError(f"{before} and {after} are no versions of one view", do=f"refold diff {name}@1 {name}@2")
    log, store, modules, workers, quiet = how
    known = projections(modules)
    with shown(Meter("Fold to one cut", quiet=quiet)) as meter:
        return diff_versions(
            name, one, other, projections=(known.get(before), known.get(after)), store=store,
            how=How(log, workers, stop_on_signals(unfinished=1), meter.watch),
        )  # fmt: skip


def _lines(found: Diff, examples: int, into: str | None) -> Iterator[str]:
    from flows.display import cut_text

    same_cut = found.cuts[0] == found.cuts[1]
    yield f"{found.before} and {found.after}" + (f"  at cut {cut_text(found.cuts[0])}" if same_cut else "")
    if not same_cut:
        yield from (
            f"  {title}  at cut {cut_text(cut)}"
            for title, cut in zip((found.before, found.after), found.cuts, strict=True)
        )
    columns = found.columns
    words = [*(f"+ {name}" for name in columns.added), *(f"- {name}" for name in columns.removed)]
    words += [f"~ {name} (of another type)" for name in columns.retyped]
    if found.rows is None:
        yield f"  keys     {', '.join(found.keys[0])}  became  {', '.join(found.keys[1])}: no row of one is a row of the other"
    if words:
        yield f"  columns  {'  '.join(words)}"
    counts = f"{found.counts[0]:,} before, {found.counts[1]:,} after"
    yield f"  rows     {found.changed:,} changed, {found.added:,} added, {found.removed:,} removed  ({counts})"
    if found.rows is not None:
        yield from (f"    {line}" for line in _examples(found, examples))
    if into:
        yield (
            f"  all {found.rows.num_rows:,} are in {into}"
            if found.rows is not None
            else f"  no rows were compared: {into} was not written"
        )


def _examples(found: Diff, examples: int) -> Iterator[str]:
    assert found.rows is not None
    key = found.keys[0]
    for row in found.rows.slice(0, examples).to_pylist():
        where = ", ".join(f"{name} {_value(row[name])}" for name in key)
        if row["change"] == "changed":
            what = ", ".join(
                f"{name} {_value(row[f'{name}_before'])} -> {_value(row[f'{name}_after'])}"
                for name in row["changed_columns"]
            )
        else:
            side = "after" if row["change"] == "added" else "before"
            values = {name.removesuffix(f"_{side}"): value for name, value in row.items() if name.endswith(f"_{side}")}
            what = ", ".join(f"{name} {_value(value)}" for name, value in values.items())
        yield f"{row['change']:<8} {where}:  {what}"
    if found.rows.num_rows > examples:
        yield f"... and {found.rows.num_rows - examples:,} more"


def _value(value: Any) -> str:
    return (
        value.strftime("%Y-%m-%d %H:%M:%S UTC") if hasattr(value, "strftime") and hasattr(value, "hour") else str(value)
    )


def _facts(found: Diff, examples: int) -> dict[str, Any]:
    return {
        "before": found.before,
        "after": found.after,
        "cuts": list(found.cuts),
        "keys": list(found.keys),
        "columns": asdict(found.columns),
        "rows": {
            "changed": found.changed,
            "added": found.added,
            "removed": found.removed,
            "before": found.counts[0],
            "after": found.counts[1],
        },
        "examples": None if found.rows is None else found.rows.slice(0, examples).to_pylist(),
    }


@click.command()
@click.argument("view")
@options("store")
@click.option("--snapshots", type=click.IntRange(min=1), help="Keep so many of the newest.")
@click.option("--age", metavar="SPAN", help=f"Keep some of those that were superseded less than so long ago, {SPAN}.")
@click.option("--every", metavar="SPAN", help="Of those the first of each such span.")
@options("json", "debug")
def retain(view: str, store: str, snapshots: int | None, age: str | None, every: str | None, as_json: bool) -> None:
    """Say, or see, which snapshots of VIEW stay to be read with --as-of, beyond the 15 minutes that each one has.

    Ages are wall-clock time. What is not said is as if never said: `refold retain VIEW --snapshots 1` keeps nothing.
    """
    from connectors.retention import Retention, read_retention, write_retention
    from connectors.unknown import unknown_view

    name, _ = view_name(view)
    if snapshots is not None or age or every:
        write_retention(Path(store), name, Retention(snapshots or 1, _seconds(age), _seconds(every)))
    elif not (Path(store) / name).is_dir():
        raise unknown_view(store, name)
    policy = read_retention(Path(store) / name)
    if as_json:
        print_json({"view": name, **asdict(policy)})
        return
    by_age = (
        f", and one every {policy.every_s:,.0f} s of those superseded in the last {policy.age_s:,.0f} s"
        if policy.age_s
        else ""
    )
    click.echo(f"{name} keeps its newest {policy.snapshots:,} snapshot{'s' * (policy.snapshots > 1)}{by_age}")


def _seconds(span: str | None) -> float:
    from connectors.points import parse_span_us

    if span is None:
        return 0.0
    us = parse_span_us(span)
    if us is None:
        raise UsageError(f"no span of time: {span!r}", do=f"write it {SPAN}")
    return us / 1e6


@click.command()
@click.argument("views", nargs=-1, metavar="[VIEW...]")
@options("store")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--grace",
    metavar="SPAN",
    default=f"{GRACE_S / 60:.0f}m",
    show_default=True,
    help="Leave what was of use so recently.",
)
@options("json", "debug")
def collect(views: tuple[str, ...], store: str, dry_run: bool, grace: str, as_json: bool) -> None:
    """Remove superseded snapshots, abandoned rebuilds and files that nobody names. Every run does that for its views, now and then.

    Nothing that is kept by `refold retain`, or was of use within the grace period, goes.
    """
    from connectors.collect import collect as collect_version
    from connectors.generation import versions_of
    from connectors.retiring import remove_retired
    from connectors.view import list_views
    from flows.status_text import size

    grace_s, told = _seconds(grace), []
    for name in [view_name(view)[0] for view in views] or [view.name for view in list_views(store)]:
        gone = [] if dry_run else remove_retired(Path(store), name, grace_s)
        for home in versions_of(Path(store) / name):
            done = collect_version(Path(store), name, home.number, grace_s, dry_run=dry_run)
            told.append({"view": name, "version": home.number, **asdict(done)})
        told += [{"view": name, "version": number, "retired": True} for number in gone]
    if as_json:
        print_json(told)
        return
    if not told:
        click.echo(f"no views in {store}: nothing to remove")
    would = "would remove" if dry_run else "removed"
    for one in told:
        title = f"{one['view']}@{one['version']}"
        if one.get("retired"):
            click.echo(f"{title}  removed: it was retired")
        else:
            click.echo(
                f"{title}  {would} {one['manifests']:,} commits, {one['generations']:,} generations, "
                f"{one['files']:,} files ({size(one['bytes'])})"
            )


COMMANDS = (diff, retain, collect)
