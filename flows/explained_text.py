"""The facts of a projection as a person reads them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from flows.python_folds import DEAD_LETTER

WIDTH, LABEL = 116, 10
Line = tuple[str, str]
"""A label, or none, and a text."""


def lines_of(facts: dict[str, Any]) -> Iterator[str]:
    """``facts``: as ``flows.explaining.explain`` gives them, maybe with ``stored``."""
    yield from _lines(facts, facts["projection"])


def _lines(facts: dict[str, Any], title: str) -> Iterator[str]:
    yield f"{title}: one row for {facts['one_row']}"
    parts = (_reads, _rows, _waits, _times, _columns, _state, _merge, _stored, _warnings)
    for label, text in (line for part in parts for line in part(facts)):
        yield from _wrapped(label, text)
    if facts["below"]:
        yield ""
        yield from _lines(facts["below"], "the source")


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * (LABEL + 2 + 2 * (len(text) - len(text.lstrip(" "))))
    return textwrap.wrap(
        text.strip(), WIDTH, initial_indent=f"  {label:<{LABEL}}" + indent[LABEL + 2 :],
        subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _reads(facts: dict[str, Any]) -> Iterator[Line]:
    if facts["below"]:
        yield "reads", "the rows of its source, which it folds itself, those that are not final included"
        return
    for reading in facts["reads"]:
        ahead = f"times at most {reading['max_ahead']} ahead of the record's"
        yield "reads", f"category {reading['category']}, envelope {reading['envelope']}, {ahead}"
        for event in reading["events"]:
            columns = [_column(column) for column in event["columns"]]
            yield "", f" {event['type']}: {'; '.join(columns) or 'no field of it'}"
        if common := [f"{column['column']} {column['type']}" for column in reading["of_every_event"]]:
            yield "", f" of every event: {'; '.join(common)}"
        if reading["where"]:
            yield "", f" only those for which it is true: {reading['where']}"
    yield "", "A record is a dead letter when its envelope is bad, or a column of these is bad, or required and missing"


def _column(column: dict[str, Any]) -> str:
    place = "" if tuple(column["at"]) == (column["column"],) else f", at {'.'.join(column['at'])}"
    return f"{column['column']} {column['type']}{', required' if column['required'] else ' or null'}{place}"


def _rows(facts: dict[str, Any]) -> Iterator[Line]:
    if facts["waits"]:
        yield "source", facts["waits"]["words"]
    for label, (name, said) in _labelled("derives", list(facts["derive"].items())):
        yield label, f"{name} = {said}"
    if facts["where"]:
        yield "where", f"only events for which it is true: {facts['where']}"
    for label, (column,) in _labelled("key", [(column,) for column in facts["key"]]):
        yield label, f"{column['column']} {column['type']} = {column['is']}"


def _labelled(label: str, items: list[Any]) -> Iterator[tuple[str, Any]]:
    """The label in front of the first one only."""
    return zip([label, *[""] * len(items)], items, strict=False)


def _waits(facts: dict[str, Any]) -> Iterator[Line]:
    if facts["waits"]:
        yield "waits", facts["waits"]["frontier"]
    for kept in facts["kept"]:
        yield "", f" kept of {kept['category']}: {kept['words']}"


def _times(facts: dict[str, Any]) -> Iterator[Line]:
    if facts["window"]:
        yield "window", facts["window"]["words"]
        yield "", f" {facts['window']['example']}"
    if finality := facts["finality"]:
        if finality["late"]:
            yield "late", f"an event is late when {finality['late']}; late events are a table of their own"
        if finality["final"]:
            yield "final", f"a row is final when {finality['final']}; a partition without events holds all rows back"


def _columns(facts: dict[str, Any]) -> Iterator[Line]:
    for label, column in _labelled("columns", facts["columns"]):
        yield label, f"{column['column']} {column['type']}: {column['is']}"
    if fold := facts["fold"]:
        failed = "is a dead letter" if fold["on_error"] == DEAD_LETTER else "stops the run"
        yield "fold", f"{fold['function']}, one event after the other; an event at which it raises {failed}"
    if facts["hidden"]:
        yield "", f"not shown: {', '.join(facts['hidden'])}"
    if facts["having"]:
        yield "having", f"only rows for which it is true: {facts['having']}"


def _state(facts: dict[str, Any]) -> Iterator[Line]:
    state = facts["state"]
    if facts["below"]:
        yield (
            "state",
            "the rows of the source whose group may still change (table `upstream`), and what the source keeps",
        )
        return
    if state is None:
        yield "state", "none: rows are not touched again"
        yield from _waiting(facts)
        return
    label = "state"
    for column in state["columns"]:
        fields = ", ".join(f"{field['field']} {field['type']}" for field in column["fields"])
        grows = f", and {column['grows']}" if column["grows"] else ""
        yield label, f"{column['column']}: {fields} ({column['bytes']} bytes{grows})"
        label = ""
    key = sum(state["key_bytes"].values())
    yield "", f"key and table: {key} and {state['bytes_to_find_it']} bytes"
    yield "memory", _formula(facts)
    for text in state["grows"]:
        yield "", f" and {text}"
    yield from _waiting(facts)


def _waiting(facts: dict[str, Any]) -> Iterator[Line]:
    if facts["waits"]:
        yield "", " and the columns of the events that wait or are kept, which are rows of the table `pending` as well"


def _formula(facts: dict[str, Any]) -> str:
    state = facts["state"]
    groups = "a group that is not final" if facts["window"] else "a group (none is ever final)"
    each = groups if facts["waits"] else f"{groups} in a partition that has events of it"
    size = f"partials x {state['bytes']} bytes x {state['copies']} (the fold and the merge)"
    return f"{size}, up to {state['spare']} times that as arrays grow. A partial is {each}"


def _merge(facts: dict[str, Any]) -> Iterator[Line]:
    yield "merge", facts["merge"]["words"]
    if facts["commit"] is None:
        return
    size = f"{facts['commit']['mean_rows_of_a_chunk']:,} rows in the mean"
    yield "commit", f"rows lie in files of {size}, {facts['commit']['words']}"


def _stored(facts: dict[str, Any]) -> Iterator[Line]:
    if "stored" not in facts:
        return
    stored = facts["stored"]
    if stored is None:
        yield "stored", "nothing: this version has not been committed there"
        return
    rows = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in stored["rows"].items())
    yield "stored", f"{rows}; {stored['chunks_of_rows']:,} files of rows, {stored['bytes']:,} bytes with all tables"
    if stored["memory_bytes"]:
        least, most = stored["memory_bytes"]
        more = ", and what grows"
        yield "", f" in memory: {stored['rows']['partials']:,} partials, {least:,} to {most:,} bytes{more}"
    if not stored["same_definition"]:
        yield "", " it was folded by another definition of this version: raise the version, or rebuild it"


def _warnings(facts: dict[str, Any]) -> Iterator[Line]:
    for warning in facts["warnings"]:
        yield "WARNING", warning["what"]
        yield "do", warning["do"]
