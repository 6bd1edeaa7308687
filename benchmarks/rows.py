"""The rows of the table: which process each is, what it reads, when its clock runs.

A row is one process that prints a ``Result``. Their order is that of the run: the limits first, then what one would write
by hand, then refold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prepare import ORDERS_A_KEY, archive, columns_file, topic_of

START_ROWS_MAX = 1_000_000
LIVE_SECONDS = 10


@dataclass(frozen=True)
class Place:
    """Where the inputs are, and how big: ``address`` of a broker, ``directory`` of the embedded logs and files."""

    address: str
    directory: Path
    events: int
    baseline_events: int

    @property
    def url(self) -> str:
        return f"redpanda://{self.address}"

    @property
    def archive(self) -> str:
        return str(archive(self.directory))

    def topic(self, kind: str) -> str:
        return topic_of(kind, self.events)


@dataclass(frozen=True)
class Row:
    """``input``: what ``prepare`` makes for it (``""``: it makes its own). ``clock``: from when to when, in words.
    ``is_exact``: whether its output must hold every event of the input; ``after``: a row that must have run before."""

    name: str
    title: str
    module: str
    arguments: Callable[[Place], list[str]]
    clock: str
    input: str = "orders"
    is_exact: bool = True
    after: str = ""


FROM_CLIENT = "from the first call of a client to the last result; process start and imports are out"
TO_COMMIT = (
    "from opening the log to the last commit, loading the compiled kernels and the clearing up of the engine included; process start "
    "and imports are out; a first replay decodes JSON and leaves columns beside the log, which later ones (the row of 1 s windows too) read"
)
LIVE = (
    "from when the producer begins to send a batch (every 20 ms) to when a look at the view (every 5 ms) finds all of it; "
    "broker, refold run --commit-interval 0.05"
)
START = (
    "from the start of the process until an event appended just before is readable: interpreter, imports, manifest, partials, "
    "checks of the log, fold, commit"
)


def _baseline(place: Place) -> list[str]:
    return [place.address, place.topic("orders"), str(place.baseline_events)]


def _live(rate: int) -> Callable[[Place], list[str]]:
    return lambda place: [place.address, str(rate), str(LIVE_SECONDS)]


ROWS = [
    Row(
        "fetch",
        "limit: fetching whole batches, nothing decoded",
        "benchmarks.limit_fetch",
        lambda place: [place.address, place.topic("orders")],
        FROM_CLIENT,
    ),
    Row(
        "columns",
        "limit: grouping typed columns in memory (Polars)",
        "benchmarks.limit_columns",
        lambda place: [str(columns_file(place.directory))],
        "while it groups (the best of three; CPU of all three)",
    ),
    Row(
        "bytewax",
        "hand-written Bytewax flow, fold_window",
        "benchmarks.baseline_bytewax",
        _baseline,
        FROM_CLIENT,
        is_exact=False,
    ),
    Row(
        "loop",
        "plain kafka-python loop, orjson and a dict",
        "benchmarks.baseline_loop",
        _baseline,
        FROM_CLIENT,
        is_exact=False,
    ),
    Row(
        "refold",
        "refold from the broker",
        "benchmarks.refold_orders",
        lambda place: [place.url, place.topic("orders")],
        TO_COMMIT,
    ),
    Row(
        "shapes",
        "refold from the broker, 200 shapes of JSON, 1 in 100 odd",
        "benchmarks.refold_orders",
        lambda place: [place.url, place.topic("shapes")],
        TO_COMMIT,
        input="shapes",
    ),
    Row(
        "archive-cold",
        "refold from the embedded log, first replay",
        "benchmarks.refold_orders",
        lambda place: [place.archive, place.topic("orders")],
        TO_COMMIT,
    ),
    Row(
        "archive-warm",
        "refold from the embedded log, second replay",
        "benchmarks.refold_orders",
        lambda place: [place.archive, place.topic("orders")],
        TO_COMMIT,
        after="archive-cold",
    ),
    Row(
        "windows",
        "refold, 1 s windows that stay open for 2 h",
        "benchmarks.refold_orders",
        lambda place: [place.archive, place.topic("orders"), "by_second"],
        TO_COMMIT,
        after="archive-cold",
    ),
    Row(
        "keys",
        "refold, no window, a row a customer, embedded log, first replay",
        "benchmarks.refold_orders",
        lambda place: [place.archive, place.topic("keys"), "by_customer"],
        TO_COMMIT,
        input="keys",
    ),
    Row(
        "keys-warm",
        "refold, no window, a row a customer, embedded log, second replay",
        "benchmarks.refold_orders",
        lambda place: [place.archive, place.topic("keys"), "by_customer"],
        TO_COMMIT,
        input="keys",
        after="keys",
    ),
    Row(
        "inspect",
        "refold inspect --all, from the broker",
        "benchmarks.inspecting",
        lambda place: [place.url, place.topic("orders")],
        "from opening the log to all that is said of its records; process start and imports are out",
    ),
    Row(
        "get",
        "one row by its key, a row a customer",
        "benchmarks.getting",
        lambda place: [place.archive, place.topic("keys"), str(place.events // ORDERS_A_KEY)],
        "while 500 rows are looked up, each in the newest snapshot, opened anew; 20 before are not counted",
        input="keys",
        is_exact=False,
        after="keys",
    ),
    Row("live-10k", "live, 10,000 events/s", "benchmarks.live", _live(10_000), LIVE, input=""),
    Row("live-50k", "live, 50,000 events/s", "benchmarks.live", _live(50_000), LIVE, input=""),
    Row(
        "start",
        "start of a run on a keyed view",
        "benchmarks.starting",
        lambda place: [str(min(START_ROWS_MAX, place.events))],
        START,
        input="",
    ),
]

SAME_DIGEST = (("refold", "shapes", "archive-cold", "archive-warm"), ("keys", "keys-warm"))
"""Rows that fold the same orders into the same view, however they are written and wherever they lie."""


def picked(names: list[str]) -> list[Row]:
    """The rows of these names (none: all) and those that must come before them, in order."""
    wanted = set(names or [row.name for row in ROWS])
    wanted |= {row.after for row in ROWS if row.name in wanted}
    return [row for row in ROWS if row.name in wanted]
