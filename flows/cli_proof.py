"""The commands that prove and restore: ``verify``, ``repair``, ``dead-letters``."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli_options import options, picked, print_json, view_name
from flows.stopping import stop_on_signals

if TYPE_CHECKING:
    from connectors.diff import Difference
    from connectors.view import Damaged
    from flows.verification import TableDifference, Verification

LETTERS_SHOWN = 50
VALUE_CHARACTERS_SHOWN = 160


@click.command()
@click.argument("view")
@options("log", "archive", "store", "flows", "workers")
@click.option("--files", is_flag=True, help="Only check the stored files against their digests: quick, needs no log.")
@click.option(
    "--raw", is_flag=True, help="Decode every record again, whatever columns are kept beside an embedded log."
)
@click.option("--scratch", metavar="DIR", help="Where to fold the view again.  [default: .verify in the store]")
@options("json", "quiet", "debug")
def verify(
    view: str,
    log: str,
    store: str,
    modules: tuple[str, ...],
    workers: int | None,
    files: bool,
    raw: bool,
    scratch: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold VIEW again to its committed cut in a scratch place, compare all tables, and check every stored file.

    Tells damaged files, a log that has changed, and a view that is wrong apart, and names the first rows that differ. A
    verification that was stopped goes on where it stood. Exit code 0: the same, byte for byte; 1: it is not.
    """
    if files:
        sys.exit(_verify_files(view, store, as_json))
    from flows.display import Meter, shown
    from flows.verification import verify as verify_view

    (projection,) = picked((view,), modules)
    stop = stop_on_signals(unfinished=1)
    with shown(Meter("Verify", quiet=quiet)) as meter:
        found = verify_view(
            projection, log=log, store=store, workers=workers, scratch=scratch, stop=stop, watch=meter.watch, raw=raw
        )
    if found is None:
        click.echo("stopped before anything could be compared; the next verification goes on from here")
        sys.exit(1)
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        for line in _said(found):
            click.echo(line)
    sys.exit(0 if found.ok else 1)


def _verify_files(view: str, store: str, as_json: bool) -> int:
    from connectors.view import check_files, open_view

    name, version = view_name(view)
    number = version if version is not None else open_view(store, name).version
    damaged = check_files(store, name, number)
    if as_json:
        print_json({"view": f"{name}@{number}", "ok": not damaged, "damaged": [asdict(found) for found in damaged]})
    elif damaged:
        for line in (*_damage(damaged), f"  do       refold repair {name}@{number}"):
            click.echo(line)
    else:
        tables = open_view(store, name, number).manifest.tables.values()
        chunks = [chunk for table in tables for chunk in table.chunks]
        size = sum(chunk.bytes for chunk in chunks)
        click.echo(f"  ok       {len(chunks):,} files, {size:,} bytes: all as they were written")
    return 1 if damaged else 0


def _said(found: Verification) -> Iterator[str]:
    """What a person reads of a verification."""
    from flows.display import cut_text

    yield f"{found.view} at {cut_text(found.cut)}"
    yield from _damage(found.damaged)
    yield from (f"  LOG CHANGED  {words}" for words in found.log_changes)
    for table in found.tables:
        yield from _differing(table)
    yield from (f"  note     {words}" for words in found.notes)
    if found.ok:
        yield f"  ok       live == refolded  digest {found.digest}"
    elif found.log_changes:
        yield f"  do       fold the log as it is now:  refold rebuild {found.view}"
    elif found.tables:
        yield f"  do       the log is as it was, the view is wrong:  refold rebuild {found.view}"
    else:
        yield f"  do       the rows are right, only files are damaged:  refold repair {found.view}"


def _damage(damaged: tuple[Damaged, ...] | list[Damaged]) -> Iterator[str]:
    yield from (f"  DAMAGED  {found.file} ({found.table}): {found.why}" for found in damaged)


def _differing(table: TableDifference) -> Iterator[str]:
    changed, chunks = table.chunks
    yield (
        f"  DIFFERS  {table.table}: {table.rows:,} rows, refolded {table.refolded_rows:,}; "
        f"{changed:,} of {chunks:,} chunks hold other rows"
    )
    for difference in table.first:
        yield f"    {_words(difference)}"
    if table.unread:
        yield f"    more cannot be told: {table.unread} is damaged"
    yield from (f"    in {file}" for file in table.files[:LETTERS_SHOWN])


def _words(difference: Difference) -> str:
    key = "  ".join(f"{name} {_plain(value)}" for name, value in difference.key.items()) or "the only row"
    if difference.column is not None:
        return f"{key}:  {difference.column}: view {_plain(difference.left)}, log {_plain(difference.right)}"
    values, side = (difference.left, "view") if difference.right is None else (difference.right, "log")
    return f"{key}:  only in the {side}: {', '.join(f'{name} {_plain(value)}' for name, value in values.items())}"


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return _short(value)
    return value.isoformat(sep=" ") if hasattr(value, "isoformat") else str(value)


@click.command()
@click.argument("view")
@options("log", "archive", "store", "flows", "workers", "json", "quiet", "debug")
def repair(
    view: str, log: str, store: str, modules: tuple[str, ...], workers: int | None, as_json: bool, quiet: bool
) -> None:
    """Restore the damaged files of VIEW, and only those, from a fold of its log; keep the damaged ones aside.

    Readers and a running `refold run` may go on meanwhile. A view that differs from its log is not repaired: rebuild it.
    """
    from flows.display import Meter, shown
    from flows.repairing import repair as repair_view

    (projection,) = picked((view,), modules)
    stop = stop_on_signals(unfinished=1)
    with shown(Meter("Refold", quiet=quiet)) as meter:
        done = repair_view(projection, log=log, store=store, workers=workers, stop=stop, watch=meter.watch)
    if done is None:
        click.echo("stopped; nothing was written")
        sys.exit(1)
    if as_json:
        print_json(asdict(done))
        return
    for found in done.damaged:
        click.echo(f"  restored {found.file} ({found.table}): {found.why}")
    for name in done.aside:
        click.echo(f"  kept     {name}")
    state = "repaired" if done.damaged else "nothing was damaged"
    click.echo(f"{done.view}: {state}  digest {done.digest}")


@click.command("dead-letters")
@click.argument("view")
@options("store", "json", "debug")
def dead_letters(view: str, store: str, as_json: bool) -> None:
    """The records that VIEW could not decode or fold: where they are, what they hold, and why, in order of offset.

    `refold query "FROM VIEW__dead_letters"` and `"FROM VIEW__late"` ask with SQL.
    """
    from connectors.view import DEAD_LETTERS, check_table, open_view

    opened = open_view(Path(store), *view_name(view))
    check_table(opened, DEAD_LETTERS)
    frame = opened.dead_letters().collect()
    if as_json:
        for line in _json_array(map(_letter, frame.iter_rows(named=True))):
            click.echo(line)
        return
    for row in frame.head(LETTERS_SHOWN).iter_rows(named=True):
        click.echo(f"{row['category']}/{row['partition']} offset {row['offset']:,}  key {_short(row['key'])}")
        click.echo(f"  why      {row['reason']}")
        click.echo(f"  value    {_short(row['value'])}")
    if frame.height > LETTERS_SHOWN:
        click.echo(f"… and {frame.height - LETTERS_SHOWN:,} more: --json prints all")
    click.echo(f"{frame.height:,} dead letters")


def _json_array(items: Iterator[dict[str, Any]]) -> Iterator[str]:
    """One item a line, so that lines may be looked at one by one."""
    before = "[\n "
    for item in items:
        yield before + json.dumps(item)
        before = ","
    yield "]" if before == "," else "[]"


def _letter(row: dict[str, Any]) -> dict[str, Any]:
    place = {name: row[name] for name in ("category", "partition", "offset", "reason")}
    return {**place, **_as_text("key", row["key"]), **_as_text("value", row["value"])}


def _as_text(name: str, raw: bytes | None) -> dict[str, str | None]:
    """Bytes as text, or in base64 under another name where they are no UTF-8."""
    if raw is None:
        return {name: None}
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


def _short(raw: bytes | None) -> str:
    """Bytes on one line of a terminal, without what would move the cursor."""
    if raw is None:
        return "null"
    text = raw[: 4 * VALUE_CHARACTERS_SHOWN].decode(errors="backslashreplace")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= VALUE_CHARACTERS_SHOWN else shown[:VALUE_CHARACTERS_SHOWN] + "…"


COMMANDS = (verify, repair, dead_letters)
