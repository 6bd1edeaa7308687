"""The tour: real flights from a log to views, a view broken on purpose, found, rebuilt, and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from connectors.clock import monotonic, now_ms
from connectors.log import open_log
from connectors.view import open_view
from flows.display import Meter, instant, shown
from flows.flights import aircraft, arrivals_by_day, departures_by_hour
from flows.flights_feed import events_table
from flows.projection import Projection
from flows.query import query, render
from flows.running import rebuild, run
from flows.status import summary
from flows.verification import verify
from schemas import Category
from schemas.flights import flights

Say = Callable[[str], None]
VIEWS = [departures_by_hour, arrivals_by_day, aircraft]
QUERY = "SELECT origin, sum(departures) AS n, sum(very_late) AS late FROM departures_by_hour GROUP BY origin ORDER BY n DESC"


def demo(url: str | None, directory: Path, days: int, workers: int | None, say: Say) -> bool:
    """Everything in ``directory`` (emptied first), or against a broker in a topic of its own. True: all as promised."""
    if url is not None:
        with open_log(url) as reached:
            reached.categories()  # before anything is removed
    shutil.rmtree(directory, ignore_errors=True)
    store, log = directory / "store", url or str(directory / "log")
    views = VIEWS if url is None else _in_topic(f"flights-demo-{now_ms()}")
    _append(log, views[0].category, days, say)
    with shown(Meter("Fold  ")) as meter:
        run(views, log=log, store=store, until="end", workers=workers, watch=meter.watch)
    say("Views")
    for view in views:
        _say_view(store, view, say)
    broken = _break(store, views[0], say)
    noticed = _verify(log, store, views[0], broken, workers, say)
    same = _rebuild(log, store, views[0], workers, say)
    say("")
    say(f'Query  refold query --store {store} "{QUERY}"')
    say(str(render(query(store, QUERY), "table")))
    return noticed and same


def _in_topic(name: str) -> list[Projection]:
    """The same projections over a topic of this tour alone."""
    category = Category(name, flights.events)
    return [view.over(category) for view in VIEWS]


def _append(url: str, category: Category, days: int, say: Say) -> None:
    began = monotonic()
    table = events_table(limit_days=None if days == 365 else days)
    with open_log(url) as log:
        log.append_batch(category.name, table)
        info = log.describe(category.name)
    took = monotonic() - began
    say(
        f"Log    {url}: {category.name}, {info.partitions} partitions, {table.num_rows:,} events in order of becoming known, {took:.1f} s"
    )


def _say_view(store: Path, view: Projection, say: Say) -> None:
    facts = summary(open_view(store, view.name))
    final = f"final to {instant(facts['final_until_us'])}" if view.window else "one row an aircraft"
    say(
        f"  {facts['view']:<20} {facts['rows']:>8,} rows  {final:<32}  late {facts['late_events']:>5,}  "
        f"dead letters {facts['dead_letters']:,}  digest {_short(facts['digest'])}"
    )


def _break(store: Path, view: Projection, say: Say) -> str:
    """Flip three bytes in the middle of a data file."""
    manifest = open_view(store, view.name).manifest
    chunk = max(manifest.tables["rows"].chunks, key=lambda found: found.rows)
    file = store / view.name / f"v{view.version}" / "data" / chunk.file
    file.chmod(0o644)
    with file.open("r+b") as raw:
        raw.seek(chunk.bytes // 2)
        bytes_there = raw.read(3)
        raw.seek(chunk.bytes // 2)
        raw.write(bytes(byte ^ 0xFF for byte in bytes_there))
    say(f"Break  flipped 3 bytes in {file}")
    return chunk.file


def _verify(log: str, store: Path, view: Projection, broken: str, workers: int | None, say: Say) -> bool:
    with shown(Meter("Verify")) as meter:
        found = verify(view, log=log, store=store, workers=workers, watch=meter.watch)
    assert found is not None
    for file in found.damaged:
        say(f"Verify {view.name}: DAMAGED: {file.file}")
    return not found.ok and [Path(file.file).name for file in found.damaged] == [broken]


def _rebuild(log: str, store: Path, view: Projection, workers: int | None, say: Say) -> bool:
    before = open_view(store, view.name).digest
    began = monotonic()
    with shown(Meter("Rebuild from offset zero")) as meter:
        after = rebuild(view, log=log, store=store, workers=workers, watch=meter.watch)
    assert after is not None
    took = monotonic() - began
    again = verify(view, log=log, store=store, workers=workers)
    same = after.digest == before and again is not None and again.ok
    say(f"       rebuilt {'==' if same else '!='} live   ({took:.1f} s; the damaged file was put aside)")
    say(f"       rebuilt  {after.digest}")
    say(f"       live     {before}")
    return same


def _short(digest: str) -> str:
    return f"{digest[:4]}…{digest[-4:]}"
