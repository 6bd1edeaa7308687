"""What a projection does, as facts: what it reads, what it makes of it, what it keeps, and why that may be merged.

Everything is taken from the objects that do the work (the projection's sides, its accumulators, its window, the specs of its tables),
so that what is said is what is done. Neither log nor store is opened, but for ``stored_of``, which reads one manifest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flows.explained_joins import kept_of, waiting_of
from flows.explained_words import aggregation_words, duration, expression_words, instant_words, window_words
from flows.merge import table_specs
from flows.projection import BUILT_IN, Projection
from flows.risks import risks_of
from flows.said import is_hidden
from flows.state_size import memory_of, state_of
from flows.windows import Hopping, Session, Window

EXAMPLE = dt.datetime(2026, 3, 29, 1, 30, tzinfo=dt.UTC)
"""Half an hour after the clocks of Europe were set forward."""
_US = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def explain(projection: Projection) -> dict[str, Any]:
    """Plain values, for people and for ``--json``."""
    return {
        "projection": projection.title,
        "fingerprint": projection.fingerprint,
        "one_row": one_row(projection),
        "reads": [_reading(side, projection.bottom) for side in readers(projection.bottom)],
        "below": _below(projection.upstream),
        "waits": waiting_of(projection),
        "derive": _said(projection.derive),
        "where": _condition(projection.where),
        "key": _key(projection),
        "window": _window(projection.window),
        "finality": _finality(projection),
        "fold": _fold(projection),
        "columns": _columns(projection),
        "hidden": [field.name for field in projection.folded_schema if is_hidden(field.name)]
        + [name for name in projection.finish if is_hidden(name)],
        "having": _condition(projection.having),
        "state": None if projection.upstream else state_of(projection),
        "kept": kept_of(projection),
        "merge": _merge(projection),
        "commit": _commit(projection),
        "warnings": [asdict(risk) for risk in risks_of(projection)],
    }


def _below(upstream: Projection | None) -> dict[str, Any] | None:
    """What a chain folds first. Its rows are no table of the view."""
    return None if upstream is None else {**explain(upstream), "commit": None, "warnings": []}


def stored_of(projection: Projection, store: Path) -> dict[str, Any]:
    """What is committed of it. Raises ``StoreError``, ``UnknownView`` where there is nothing."""
    from connectors.view import open_view

    manifest = open_view(store, projection.name, projection.version).manifest
    tables = {name: table.rows for name, table in manifest.tables.items()}
    state = state_of(projection.bottom)
    return {
        "store": str(store),
        "commit": manifest.seq,
        "same_definition": manifest.facts["definition"] == projection.definition,
        "rows": tables,
        "chunks_of_rows": len(manifest.tables["rows"].chunks),
        "bytes": sum(chunk.bytes for table in manifest.tables.values() for chunk in table.chunks),
        "memory_bytes": None if state is None else list(memory_of(state, tables["partials"])),
    }


def readers(projection: Projection) -> list[Projection]:
    """What is read of each category: by the projection, or by the sides of a join."""
    return list(projection.sides.values()) or [projection]


def one_row(projection: Projection) -> str:
    """What a row of the view stands for."""
    if projection.select:
        return "each event" if len(projection.place) == 2 else "each pair of events"
    if projection.fold:
        return f"each {_listed(projection.key)} that there is"
    kind = "session" if isinstance(projection.window, Session) else "window"
    return f"each {_listed([*[kind] * (projection.window is not None), *projection.key])}"


def _listed(names: Iterable[str]) -> str:
    """``a, b and c``"""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# -- what is read


def _reading(side: Projection, whole: Projection) -> dict[str, Any]:
    """Of one category. What the projection itself filters is told beside its derived columns."""
    kinds = BUILT_IN | {name: field.type for name, field in side.fields.items()}
    return {
        "category": side.category.name,
        "envelope": side.category.envelope.name,
        "max_ahead": duration(side.category.max_ahead // _US),
        "of_every_event": [
            {"column": name, "type": str(kinds[name])} for name in side.reads if name not in side.fields
        ],
        "events": [
            {
                "type": event.type_name,
                "columns": [
                    {"column": field.name, "type": str(field.type), "required": not field.nullable, "at": field.path}
                    for field in event.fields
                    if field.name in side.reads
                ],
            }
            for event in side.events
        ],
        "where": _condition(side.where) if side is not whole else None,
    }


def _fold(projection: Projection) -> dict[str, str] | None:
    fold = projection.fold
    if fold is None:
        return None
    return {"function": fold.function.__qualname__, "state": fold.state.__name__, "on_error": fold.on_error}


def _said(named: Mapping[str, pl.Expr]) -> dict[str, str]:
    return {name: expression_words(expression) for name, expression in named.items()}


def _condition(said: pl.Expr | None) -> str | None:
    return None if said is None else expression_words(said)


# -- rows and columns


def _key(projection: Projection) -> list[dict[str, str]]:
    pairs = zip(projection.key.items(), projection.key_types, strict=True)
    return [{"column": name, "type": str(kind), "is": expression_words(said)} for (name, said), kind in pairs]


def _window(window: Window | None) -> dict[str, Any] | None:
    if window is None:
        return None
    time = (EXAMPLE - _EPOCH) // _US
    return {**window.render(), "words": window_words(window), "example": _example(window, time)}


def _example(window: Window, time: int) -> str:
    event = f"an event at {instant_words(time)}"
    starts = starts_of(window, time)
    first, last = (
        f"[{instant_words(start)}, {instant_words(_end(window, start))})" for start in (starts[0], starts[-1])
    )
    if isinstance(window, Session):
        return f"{event}, alone, is a session {first}"
    if len(starts) == 1:
        return f"{event} falls into {first}, {duration(_end(window, starts[0]) - starts[0])} long"
    return f"{event} falls into {len(starts):,} windows, from {first} to {last}"


def starts_of(window: Window, time: int) -> range:
    """Where the windows of an event start, the earliest first."""
    newest = int(window.starts(np.array([time]))[0])
    if not isinstance(window, Hopping):
        return range(newest, newest + 1)
    return range(newest, time - window.size_us, -window.step_us)[::-1]


def _end(window: Window, start: int) -> int:
    return int(window.ends(np.array([start]))[0])


def _finality(projection: Projection) -> dict[str, Any] | None:
    """When an event is late, and when a row stays as it is."""
    window, lateness = projection.window, projection.allowed_lateness_us
    if projection.upstream is not None:
        settled = "no row of the source that starts before window_end can change any more, or come"
        return {"allowed_lateness_us": 0, "late": None, "final": settled} if window else None
    before = "the watermark of its partition before it"
    more = f" + {duration(lateness)}" if lateness else ""
    if projection.source is not None:
        late = f"{before} is beyond its time{f' by more than {duration(lateness)}' if lateness else ''}"
    elif window is None:
        return None
    elif isinstance(window, Hopping):
        late = f"{before} has reached the end{more} of all its windows; one that is late for some of them is folded into the others"
    else:
        end = "of the session that it would be alone" if isinstance(window, Session) else "of its window"
        late = f"{before} has reached the end {end}{more}"
    held = projection.held_us
    final = f"the watermark of every partition has reached window_end{f' + {duration(held)}' if held else ''}"
    return {"allowed_lateness_us": lateness, "late": late, "final": final if window else None}


def _columns(projection: Projection) -> list[dict[str, str]]:
    words = {
        "window_start": "where the window starts",
        "window_end": "where it ends",
        "is_final": "whether the row stays as it is",
        **dict.fromkeys(projection.place, "where the event is"),
        **{name: f"key: {expression_words(said)}" for name, said in projection.key.items()},
        **_said(projection.select),
        **{name: aggregation_words(aggregation) for name, aggregation in projection.columns.items()},
        **{name: f"of the row: {said}" for name, said in _said(projection.finish).items()},
    }
    if projection.fold:
        words |= dict.fromkeys(projection.fold.names, f"the field of {projection.fold.state.__name__}")
    return [{"column": field.name, "type": str(field.type), "is": words[field.name]} for field in projection.schema]


# -- merge and commit


def _merge(projection: Projection) -> dict[str, str]:
    if projection.upstream is not None:
        words = "the rows of the source, already merged, are folded in one place, in order of its primary key"
        return {"kind": "rows_of_the_source", "words": words}
    if projection.source is not None:
        how = "the events of all partitions are taken in one order, of (event time, partition, offset), and folded in one place"
        return {"kind": "one_ordered_place", "words": f"{how}: more workers decode faster, and fold no faster"}
    if projection.fold:
        words = (
            "each partition folds its own keys, in offset order; all events of a key must be in one partition, "
            "and a key that turns up in two is an error"
        )
        return {"kind": "one_partition_per_key", "words": words}
    if projection.select:
        return {"kind": "none", "words": "each event is a row of its own: there is nothing to merge"}
    if isinstance(projection.window, Session):
        words = (
            "each partition finds its own sessions; those that overlap are one row, and their partial results merge in order "
            "of (partition, start)"
        )
        return {"kind": "sessions", "words": words}
    words = "each partition has a partial result of each row, in offset order; they merge in order of partition"
    return {"kind": "partition_order", "words": words}


def _commit(projection: Projection) -> dict[str, Any]:
    """What a commit writes again: the chunks that hold a changed row, and so what the order of the rows makes of it."""
    rows = table_specs(projection)[0]
    order = ", ".join(rows.primary_key)
    if projection.select:
        words = "new rows stand behind those of their partition: a commit rewrites the last chunks of each partition"
    elif projection.window:
        words = "rows that change are those of windows still open: a commit rewrites the recent chunks"
    else:
        words = "any row may change: under updates of keys all over, a commit rewrites most chunks"
    return {"order": list(rows.primary_key), "mean_rows_of_a_chunk": rows.chunk_rows, "words": f"by {order}; {words}"}
