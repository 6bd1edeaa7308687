"""The definition of a view, checked when it is made, and its canonical text.

    departures = Projection(
        name="departures_by_hour", version=1, category=flights, events=[FlightDeparted],
        key=["origin", "carrier"], window=tumbling(timedelta(hours=1)), allowed_lateness=timedelta(minutes=30),
        columns={"departures": agg.count(), "worst": agg.max(pl.col("delay_minutes").abs())},
    )

Expressions see the fields of the events, and ``subject``, ``event_time`` and ``event_type``. The view's columns are
``window_start``, ``window_end`` (with a window; UTC), the key columns, the named columns, ``is_final`` (with a window).
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa

from flows.accumulators import Count, accumulator
from flows.agg import Aggregation
from flows.entities import EntityStates
from flows.expressions import render
from flows.python_folds import PythonFold
from flows.windows import Tumbling
from schemas import Category, Event
from schemas.errors import UsageError
from schemas.event import TIMESTAMP, Field

SEMANTICS = 2
"""Raised whenever the meaning of decoding or folding changes; a view of another number must be rebuilt."""

BUILT_IN = {"subject": pa.string(), "event_time": TIMESTAMP, "event_type": pa.string()}
RESERVED = ("window_start", "window_end", "is_final")
_US = dt.timedelta(microseconds=1)


class Projection:
    """Identity: (name, version). Raises ``UsageError`` for a definition that cannot be folded."""

    def __init__(
        self,
        *,
        name: str,
        version: int = 1,
        category: Category,
        columns: Mapping[str, Aggregation] | None = None,
        events: Sequence[type[Event]] | None = None,
        key: Sequence[str] | Mapping[str, str | pl.Expr] = (),
        window: Tumbling | None = None,
        allowed_lateness: dt.timedelta = dt.timedelta(0),
        fold: PythonFold | None = None,
    ) -> None:
        self.name, self.version, self.category, self.window, self.fold = name, version, category, window, fold
        self.events = tuple(category.events if events is None else events)
        self.allowed_lateness_us = allowed_lateness // _US
        pairs = key.items() if isinstance(key, Mapping) else [(part, part) for part in key]
        self.key = {part: pl.col(value) if isinstance(value, str) else value for part, value in pairs}
        self.columns = dict(columns or {})
        self._check_names()
        self.fields = self._readable_fields()
        self.reads = self._check_reads()
        self.types = self._expression_types()
        self.accumulators = [self._accumulator(column) for column in self.columns] + (
            [EntityStates(fold)] if fold else []
        )

    def over(self, category: Category) -> Projection:
        """The same projection of another category with the same event types (another topic, for example)."""
        return Projection(
            name=self.name,
            version=self.version,
            category=category,
            columns=self.columns,
            events=self.events,
            key=self.key,
            window=self.window,
            allowed_lateness=dt.timedelta(microseconds=self.allowed_lateness_us),
            fold=self.fold,
        )

    def __repr__(self) -> str:
        return f"<Projection {self.title} of {self.category.name}>"

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def categories(self) -> tuple[Category, ...]:
        return (self.category,)

    def expressions(self) -> dict[str, pl.Expr]:
        """Everything to compute per event, by an internal name."""
        found = {f"key:{name}": expression for name, expression in self.key.items()}
        for name, aggregation in self.columns.items():
            if aggregation.input is not None:
                found[f"input:{name}"] = aggregation.input
            if aggregation.where is not None:
                found[f"where:{name}"] = aggregation.where
        return found

    @cached_property
    def key_types(self) -> list[pa.DataType]:
        return [self.types[f"key:{name}"] for name in self.key]

    @cached_property
    def schema(self) -> pa.Schema:
        """The view's Arrow schema."""
        fields = [pa.field(name, kind) for name, kind in zip(self.key, self.key_types, strict=True)]
        fields += [output for acc in self.accumulators for output in acc.outputs]
        if self.window:
            bounds = [pa.field(name, TIMESTAMP, nullable=False) for name in ("window_start", "window_end")]
            fields = [*bounds, *fields, pa.field("is_final", pa.bool_(), nullable=False)]
        return pa.schema(fields)

    @cached_property
    def primary_key(self) -> tuple[str, ...]:
        return (*(("window_start",) if self.window else ()), *self.key)

    # -- identity

    @cached_property
    def definition(self) -> str:
        """Everything that turns bytes into rows, as canonical text: same meaning, same text. Column order does not count."""
        place = f"projection {self.title}"
        envelope = self.category.envelope
        columns = {
            name: {
                "aggregation": aggregation.kind,
                "input": None if aggregation.input is None else render(aggregation.input, f"{place}, column `{name}`"),
                "where": None if aggregation.where is None else render(aggregation.where, f"{place}, column `{name}`"),
                "type": str(acc.result),
            }
            for (name, aggregation), acc in zip(self.columns.items(), self.accumulators, strict=not self.fold)
        }
        text = {
            "category": self.category.name,
            "envelope": {part: str(getattr(envelope, part)) for part in ("name", "type", "time", "subject", "data")},
            "max_ahead_us": self.category.max_ahead // _US,
            "events": {event.type_name: _fields_text(event, self.reads) for event in self.events},
            "key": [[name, render(expression, f"{place}, key `{name}`")] for name, expression in self.key.items()],
            "window": self.window.render() if self.window else None,
            "allowed_lateness_us": self.allowed_lateness_us if self.window else None,
            "columns": columns,
            **({"fold": self.fold.definition()} if self.fold else {}),
        }
        return json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.blake2b(self.definition.encode(), digest_size=16).hexdigest()

    # -- checks

    def _check_names(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.version < 1:
            raise self._wrong(
                f"the name `{self.name}` version {self.version}",
                "use lower-case letters, digits and _; versions begin at 1",
            )
        names = [*self.key, *self.columns, *(field.name for field in (self.fold.fields if self.fold else ()))]
        if twice := {name for name in names if names.count(name) > 1 or name in RESERVED}:
            raise self._wrong(f"the column names {sorted(twice)} are reserved or used twice", "rename them")
        if self.fold and (self.columns or self.window or not self.key):
            raise self._wrong(
                "a Python fold with columns, with a window or without a key",
                "give it a key and nothing else: its state is the view",
            )
        if not self.columns and not self.fold:
            raise self._wrong("no columns", 'give at least one, for example columns={"events": agg.count()}')
        if not self.key and not self.window:
            raise self._wrong(
                "neither key nor window", 'for one row of everything, give a key: key={"all": pl.lit("all")}'
            )
        if strangers := [event.__name__ for event in self.events if event not in self.category.events]:
            raise self._wrong(
                f"{strangers} are not event types of category {self.category.name}", "add them to the category"
            )
        if self.allowed_lateness_us < 0 or (self.allowed_lateness_us and not self.window):
            raise self._wrong(
                "allowed_lateness without a window, or negative", "lateness is measured against a window's end"
            )

    def _readable_fields(self) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for event in self.events:
            for field in event.fields:
                known = fields.setdefault(field.name, field)
                if known.type != field.type:
                    raise self._wrong(
                        f"`{field.name}` is {known.type} in one event type and {field.type} in another",
                        "fold them in two projections, or rename one",
                    )
        return fields

    def _check_reads(self) -> tuple[str, ...]:
        for name, expression in self.expressions().items():
            render(expression, f"projection {self.title}, {name.replace(':', ' of `')}`")
        roots = {root for expression in self.expressions().values() for root in expression.meta.root_names()}
        reads = sorted(roots.union(self.fold.reads_of(self.fields) if self.fold else ()))
        for name in reads:
            if name not in self.fields and name not in BUILT_IN:
                known = [*self.fields, *BUILT_IN]
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
                raise self._wrong(f"no event has a field `{name}`", hint)
        return tuple(reads)

    def _expression_types(self) -> dict[str, pa.DataType]:
        fields = [pa.field(name, BUILT_IN.get(name) or self.fields[name].type) for name in self.reads]
        frame = pl.from_arrow(pa.schema(fields).empty_table())
        assert isinstance(frame, pl.DataFrame)
        types = {}
        for name, expression in self.expressions().items():
            try:
                kind = frame.select(expression.alias(name)).to_arrow().schema.field(0).type
            except pl.exceptions.PolarsError as error:
                raise self._wrong(
                    f"{name.replace(':', ' of `')}` cannot be computed: {error}", "check the types of its columns"
                ) from None
            types[name] = self._canonical_type(name, kind)
            if name.startswith("where:") and types[name] != pa.bool_():
                raise self._wrong(f"{name.replace(':', ' of `')}` is {types[name]}, not bool", "give a condition")
        return types

    def _canonical_type(self, name: str, kind: pa.DataType) -> pa.DataType:
        if pa.types.is_integer(kind) and kind != pa.uint64():
            return pa.int64()
        if pa.types.is_floating(kind):
            return pa.float64()
        if pa.types.is_large_string(kind) or pa.types.is_string(kind) or kind == pa.string_view():
            return pa.string()
        if pa.types.is_timestamp(kind) and kind.tz:
            return TIMESTAMP
        if kind in (pa.bool_(), pa.date32()):
            return kind
        raise self._wrong(
            f"{name.replace(':', ' of `')}` has type {kind}",
            "cast it to Int64, Float64, String, Boolean, Date or a UTC Datetime",
        )

    def _accumulator(self, column: str) -> Count:
        try:
            return accumulator(column, self.columns[column].kind, self.types.get(f"input:{column}"))
        except UsageError as error:
            raise self._wrong(error.what, error.do or "") from None

    def _wrong(self, what: str, do: str) -> UsageError:
        return UsageError(what, where=f"projection {self.name}@{self.version}", do=do)


def _fields_text(event: type[Event], reads: Sequence[str]) -> dict[str, Any]:
    return {f.name: f"{f.type}{'' if f.nullable else ' required'}" for f in event.fields if f.name in reads}
