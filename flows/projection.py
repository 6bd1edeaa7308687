"""The definition of a view, checked when it is made, and its canonical text.

    departures = Projection(
        name="departures_by_hour", version=1, category=flights, events=[FlightDeparted],
        key=["origin", "carrier"], window=tumbling(timedelta(hours=1)), allowed_lateness=timedelta(minutes=30),
        columns={"departures": agg.count(), "worst": agg.max(pl.col("delay_minutes").abs())},
    )

Expressions see the fields of the events, and ``subject``, ``event_time`` and ``event_type``. The view's columns are
``window_start``, ``window_end`` (with a window; UTC), the key columns, the named columns, ``is_final`` (with a window).

    derive={"euros": pl.col("cents") / 100}      columns computed of each event, for all that follows
    where=pl.col("euros") > 0                    events for which it is not true are left out (counted as filtered)
    finish={"share": pl.col("a") / pl.col("n")}  columns computed of each row (see ``flows.finishing``)
    having=pl.col("n") > 10                      rows for which it is not true are not in the view

An *event table* has no fold: ``select=["event_time", "origin"]`` (or a mapping, name to expression) in the place of key, window and
``columns`` gives one row an event, with the columns ``partition`` (int32), ``offset`` (int64) and those selected.
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
from flows.expressions import render
from flows.windows import Window
from schemas import Category, Event
from schemas.errors import UsageError
from schemas.event import TIMESTAMP, Field

SEMANTICS = 3
"""Raised whenever the meaning of decoding or folding changes; a view of another number must be rebuilt."""

Said = str | pl.Expr
"""The name of a column, or an element-wise expression."""
BUILT_IN = {"subject": pa.string(), "event_time": TIMESTAMP, "event_type": pa.string()}
RESERVED = ("window_start", "window_end", "is_final")
PLACE = {"partition": pa.int32(), "offset": pa.int64()}
"""The primary key of an event table: where in the log the event is."""
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
        derive: Mapping[str, Said] | None = None,
        where: Said | None = None,
        select: Sequence[str] | Mapping[str, Said] = (),
        key: Sequence[str] | Mapping[str, Said] = (),
        window: Window | None = None,
        allowed_lateness: dt.timedelta = dt.timedelta(0),
        finish: Mapping[str, Said] | None = None,
        having: Said | None = None,
    ) -> None:
        self.name, self.version, self.category, self.window = name, version, category, window
        self.events = tuple(category.events if events is None else events)
        self.allowed_lateness_us = allowed_lateness // _US
        self.derive, self.where = _expressions(derive or {}), None if where is None else _expression(where)
        self.finish, self.having = _expressions(finish or {}), None if having is None else _expression(having)
        self.select, self.key = _expressions(select), _expressions(key)
        self.columns = dict(columns or {})
        self._check_kind()
        self._check_names()
        self.fields = self._readable_fields()
        self.reads = self._check_reads()
        self.types = self._expression_types()
        self.accumulators = [self._accumulator(column) for column in self.columns]
        self.finish_types = self._finish_types()

    def over(self, category: Category) -> Projection:
        """The same projection of another category with the same event types (another topic, for example)."""
        return Projection(
            name=self.name,
            version=self.version,
            category=category,
            columns=self.columns,
            events=self.events,
            derive=self.derive,
            where=self.where,
            select=self.select,
            key=self.key,
            window=self.window,
            allowed_lateness=dt.timedelta(microseconds=self.allowed_lateness_us),
            finish=self.finish,
            having=self.having,
        )

    def __repr__(self) -> str:
        return f"<Projection {self.title} of {self.category.name}>"

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def categories(self) -> tuple[Category, ...]:
        return (self.category,)

    @property
    def held_us(self) -> int:
        """How long after its window's end a row may still change: until the watermark has passed that, too."""
        return self.allowed_lateness_us + (self.window.hold_us if self.window else 0)

    def expressions(self) -> dict[str, pl.Expr]:
        """Everything to compute per event that counts, by an internal name."""
        found = {f"key:{name}": expression for name, expression in self.key.items()}
        found |= {f"select:{name}": expression for name, expression in self.select.items()}
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
    def folded_schema(self) -> pa.Schema:
        """The Arrow schema of what comes of the fold."""
        if self.select:
            place = [pa.field(name, kind, nullable=False) for name, kind in PLACE.items()]
            return pa.schema([*place, *(pa.field(name, self.types[f"select:{name}"]) for name in self.select)])
        fields = [pa.field(name, kind) for name, kind in zip(self.key, self.key_types, strict=True)]
        fields += [pa.field(acc.name, acc.result) for acc in self.accumulators]
        if self.window:
            bounds = [pa.field(name, TIMESTAMP, nullable=False) for name in ("window_start", "window_end")]
            fields = [*bounds, *fields, pa.field("is_final", pa.bool_(), nullable=False)]
        return pa.schema(fields)

    @cached_property
    def schema(self) -> pa.Schema:
        """The view's Arrow schema."""
        fields = list(self.folded_schema)
        behind = len(fields) - bool(self.window)  # is_final stays the last one
        fields[behind:behind] = [pa.field(name, kind) for name, kind in self.finish_types.items()]
        return pa.schema([field for field in fields if not _is_hidden(field.name)])

    @cached_property
    def primary_key(self) -> tuple[str, ...]:
        if self.select:
            return tuple(PLACE)
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
            for (name, aggregation), acc in zip(self.columns.items(), self.accumulators, strict=True)
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
            **self._further_definition(place),
        }
        return json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False)

    def _further_definition(self, place: str) -> dict[str, Any]:
        """What a projection may have or not: absent where it is not used."""
        conditions = {"where": self.where, "having": self.having}
        steps = {"derive": self.derive, "select": self.select, "finish": self.finish}
        found: dict[str, Any] = {
            kind: render(said, f"{place}, {kind}") for kind, said in conditions.items() if said is not None
        }
        for kind, named in steps.items():
            if named:
                found[kind] = [[name, render(said, f"{place}, {kind} `{name}`")] for name, said in named.items()]
        return found

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
        names = [*self.select, *self.key, *self.columns, *self.finish]
        taken = PLACE if self.select else RESERVED
        if twice := {name for name in names if names.count(name) > 1 or name in taken}:
            raise self._wrong(f"the column names {sorted(twice)} are reserved or used twice", "rename them")
        if strangers := [event.__name__ for event in self.events if event not in self.category.events]:
            raise self._wrong(
                f"{strangers} are not event types of category {self.category.name}", "add them to the category"
            )
        if self.allowed_lateness_us < 0 or (self.allowed_lateness_us and not self.window):
            raise self._wrong(
                "allowed_lateness without a window, or negative", "lateness is measured against a window's end"
            )

    def _check_kind(self) -> None:
        """It is a fold or an event table."""
        if self.select:
            given = {"key": self.key, "window": self.window, "columns": self.columns, "finish": self.finish}
            if both := [name for name, value in given.items() if value] + ["having"] * (self.having is not None):
                raise self._wrong(
                    f"select= and {', '.join(both)}", "an event table has one row an event: choose one of the two"
                )
            return
        if not self.columns:
            raise self._wrong("no columns", 'give at least one, for example columns={"events": agg.count()}')
        if not self.key and not self.window:
            raise self._wrong(
                "neither key nor window", 'for one row of everything, give a key: key={"all": pl.lit("all")}'
            )
        if hidden := [name for name in self.key if _is_hidden(name)]:
            raise self._wrong(f"the key columns {hidden} would be hidden", "names of the key begin with a letter")

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
        reads: set[str] = set()
        for name, expression in self._all_expressions().items():
            render(expression, f"projection {self.title}, {_words(name)}")
            reads |= set(expression.meta.root_names())
        earlier: set[str] = set()
        for name, expression in self.derive.items():
            if name in self.fields or name in BUILT_IN:
                raise self._wrong(f"the derived column `{name}` has the name of a field", "rename it")
            if early := [root for root in expression.meta.root_names() if root in self.derive and root not in earlier]:
                raise self._wrong(f"the derived column `{name}` reads `{early[0]}`, which comes later", "reorder them")
            earlier.add(name)
        found = sorted(reads - set(self.derive))
        for name in found:
            if name not in self.fields and name not in BUILT_IN:
                raise self._wrong(
                    f"no event has a field `{name}`", _hint(name, [*self.fields, *BUILT_IN, *self.derive])
                )
        return tuple(found)

    def _all_expressions(self) -> dict[str, pl.Expr]:
        """With those that come before the fold."""
        found = {f"derive:{name}": expression for name, expression in self.derive.items()}
        if self.where is not None:
            found["where"] = self.where
        return found | self.expressions()

    def _expression_types(self) -> dict[str, pa.DataType]:
        fields = [pa.field(name, BUILT_IN.get(name) or self.fields[name].type) for name in self.reads]
        frame = pl.from_arrow(pa.schema(fields).empty_table())
        assert isinstance(frame, pl.DataFrame)
        types = {}
        for name, expression in self._all_expressions().items():
            kind = self._type_of(frame, name, expression)
            if name.startswith("derive:"):
                frame = frame.with_columns(expression.alias(name.removeprefix("derive:")))
            else:
                types[name] = self._canonical_type(name, kind)
            if name.startswith("where"):
                self._check_condition(name, kind)
        return types

    def _finish_types(self) -> dict[str, pa.DataType]:
        """The types of the columns that are computed of each row."""
        frame = pl.from_arrow(self.folded_schema.empty_table())
        assert isinstance(frame, pl.DataFrame)
        types = {}
        steps = {f"finish:{name}": expression for name, expression in self.finish.items()}
        if self.having is not None:
            steps["having"] = self.having
        for name, expression in steps.items():
            render(expression, f"projection {self.title}, {_words(name)}")
            if unknown := [root for root in expression.meta.root_names() if root not in frame.columns]:
                raise self._wrong(
                    f"{_words(name)} reads `{unknown[0]}`, which no row has", _hint(unknown[0], frame.columns)
                )
            kind = self._type_of(frame, name, expression)
            if name == "having":
                self._check_condition(name, kind)
                continue
            column = name.removeprefix("finish:")
            types[column] = self._canonical_type(name, kind)
            frame = frame.with_columns(expression.alias(column))
        return types

    def _type_of(self, frame: pl.DataFrame, name: str, expression: pl.Expr) -> pa.DataType:
        try:
            return frame.select(expression.alias(name)).to_arrow().schema.field(0).type
        except pl.exceptions.PolarsError as error:
            raise self._wrong(f"{_words(name)} cannot be computed: {error}", "check the types of its columns") from None

    def _check_condition(self, name: str, kind: pa.DataType) -> None:
        if kind != pa.bool_():
            raise self._wrong(f"{_words(name)} is {kind}, not bool", "give a condition")

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
            f"{_words(name)} has type {kind}",
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


def _expression(said: Said) -> pl.Expr:
    return pl.col(said) if isinstance(said, str) else said


def _expressions(said: Sequence[str] | Mapping[str, Said]) -> dict[str, pl.Expr]:
    pairs = said.items() if isinstance(said, Mapping) else [(name, name) for name in said]
    return {name: _expression(value) for name, value in pairs}


def _is_hidden(column: str) -> bool:
    return column.startswith("_")


def _words(name: str) -> str:
    """``input:amount`` is "input of `amount`"."""
    kind, colon, column = name.partition(":")
    return f"{kind} of `{column}`" if colon else kind


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
