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

A *Python fold* in the place of ``columns`` (``fold=python_fold(...)``, see ``flows.python_folds``) gives one row an entity.
``source=``, in the place of a category: a join (``flows.joins``), or another projection, whose rows are folded (``flows.chains``).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa

from flows import decimal_rules
from flows.accumulators import Count
from flows.agg import Aggregation
from flows.chains import built_in, category_of, check, fields_of, part_of
from flows.definition import definition_of
from flows.entities import EntityStates
from flows.expressions import render
from flows.joins import INTERVAL, Join
from flows.kinds import accumulator
from flows.python_folds import PythonFold
from flows.said import Said, as_expression, as_expressions, canonical_type, hint, is_hidden, words
from flows.sides import Instant, sides_of
from flows.windows import Window
from schemas import Category, Event
from schemas.errors import UsageError
from schemas.event import TIMESTAMP, Field

SEMANTICS = 3
"""Raised whenever the meaning of decoding or folding changes; a view of another number must be rebuilt."""

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
        category: Category | None = None,
        source: Join | Projection | None = None,
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
        fold: PythonFold | None = None,
    ) -> None:
        self.name, self.version, self.window, self.fold = name, version, window, fold
        self.source = source if isinstance(source, Join) else None
        self.upstream = part_of(source, name, version) if isinstance(source, Projection) else None
        self.built_in = built_in(self.upstream) if self.upstream else BUILT_IN
        self.bottom: Projection = self.upstream.bottom if self.upstream else self  # what is folded of events
        self.category = self._main_category(category, events)
        self.events = tuple(self.category.events if events is None else events)
        self.allowed_lateness_us = allowed_lateness // _US
        self.derive, self.where = as_expressions(derive or {}), None if where is None else as_expression(where)
        self.finish, self.having = as_expressions(finish or {}), None if having is None else as_expression(having)
        self.select, self.key = as_expressions(select), as_expressions(key)
        self.columns = dict(columns or {})
        self._check_kind()
        check(self, self.upstream)
        self._check_names()
        self.fields = self._readable_fields()
        self.reads = self._check_reads()
        self.sides = self._sides()
        self.types = self._expression_types()
        self.accumulators = [EntityStates(fold)] if fold else [self._accumulator(column) for column in self.columns]
        self.finish_types = self._finish_types()

    def over(self, category: Category) -> Projection:
        """The same projection of another category with the same event types (another topic, for example)."""
        if self.upstream:
            return self.but(source=self.upstream.over(category))
        return self.but(category=category)

    def but(self, **given: Any) -> Projection:
        """The same projection, except for what is given."""
        said = {
            "name": self.name,
            "version": self.version,
            "category": None if self.upstream or self.source else self.category,
            "source": self.upstream or self.source,
            "events": None if self.upstream or self.source else self.events,
            "allowed_lateness": dt.timedelta(microseconds=self.allowed_lateness_us),
        }
        same = ("columns", "derive", "where", "select", "key", "window", "finish", "having", "fold")
        return Projection(**{**said, **{name: getattr(self, name) for name in same}, **given})

    def __repr__(self) -> str:
        return f"<Projection {self.title} of {self.category.name}>"

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def categories(self) -> tuple[Category, ...]:
        return (
            tuple(stream.category for stream in self.bottom.source.streams) if self.bottom.source else (self.category,)
        )

    def reading(self, category: str) -> Projection:
        """What is folded of each partition of a category: this, or a side of a join, or what this is a projection of."""
        return self.bottom.sides.get(category, self.bottom)

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
            found |= {f"{part}:{name}": expression for part, expression in aggregation.further.items()}
        if self.fold:
            found |= {f"fold:{name}": pl.col(name) for name in self.fold.reads_of([*self.fields, *self.derive])}
        return found

    @cached_property
    def key_types(self) -> list[pa.DataType]:
        return [self.types[f"key:{name}"] for name in self.key]

    @property
    def place(self) -> dict[str, pa.DataType]:
        """The primary key of an event table."""
        pairs = self.source is not None and self.source.kind == INTERVAL
        return PLACE | {f"right_{name}": kind for name, kind in PLACE.items()} if pairs else PLACE

    @cached_property
    def folded_schema(self) -> pa.Schema:
        """The Arrow schema of what comes of the fold."""
        if self.select:
            place = [pa.field(name, kind, nullable=False) for name, kind in self.place.items()]
            return pa.schema([*place, *(pa.field(name, self.types[f"select:{name}"]) for name in self.select)])
        fields = [pa.field(name, kind) for name, kind in zip(self.key, self.key_types, strict=True)]
        fields += [output for acc in self.accumulators for output in acc.outputs]
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
        return pa.schema([field for field in fields if not is_hidden(field.name)])

    @cached_property
    def primary_key(self) -> tuple[str, ...]:
        if self.select:
            return tuple(self.place)
        return (*(("window_start",) if self.window else ()), *self.key)

    # -- identity

    @cached_property
    def definition(self) -> str:
        """Everything that turns bytes into rows, as canonical text: same meaning, same text. Column order does not count."""
        return definition_of(self)

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
        names = [*self.select, *self.key, *self.columns, *self.finish, *(self.fold.names if self.fold else ())]
        taken = self.place if self.select else RESERVED
        if twice := {name for name in names if names.count(name) > 1 or name in taken}:
            raise self._wrong(f"the column names {sorted(twice)} are reserved or used twice", "rename them")
        if (
            strangers := []
            if self.source
            else [event.__name__ for event in self.events if event not in self.category.events]
        ):
            raise self._wrong(
                f"{strangers} are not event types of category {self.category.name}", "add them to the category"
            )
        if self.allowed_lateness_us < 0 or (self.allowed_lateness_us and not (self.window or self.source)):
            raise self._wrong(
                "allowed_lateness without a window, or negative", "lateness is measured against a window's end"
            )

    def _check_kind(self) -> None:
        """It is a fold or an event table."""
        if self.select:
            given = {
                "key": self.key,
                "window": self.window,
                "columns": self.columns,
                "finish": self.finish,
                "fold": self.fold,
            }
            if both := [name for name, value in given.items() if value] + ["having"] * (self.having is not None):
                raise self._wrong(
                    f"select= and {', '.join(both)}", "an event table has one row an event: choose one of the two"
                )
            return
        if self.fold and (self.columns or self.window or not self.key):
            raise self._wrong(
                "a Python fold with columns= or window=, or without a key", "give it a key: its state is the row"
            )
        if self.fold and self.source and self.source.kind == INTERVAL:
            raise self._wrong(
                "a Python fold of pairs: what it refuses would be no event", "fold one stream: in_order() or as_of()"
            )
        if not self.columns and not self.fold:
            raise self._wrong("no columns", 'give at least one, for example columns={"events": agg.count()}')
        if not self.key and not self.window:
            raise self._wrong(
                "neither key nor window", 'for one row of everything, give a key: key={"all": pl.lit("all")}'
            )
        if hidden := [name for name in self.key if is_hidden(name)]:
            raise self._wrong(f"the key columns {hidden} would be hidden", "names of the key begin with a letter")

    def _main_category(self, category: Category | None, events: Sequence[type[Event]] | None) -> Category:
        source = self.source or self.upstream
        if (category is None) == (source is None):
            raise self._wrong("neither or both of category= and source=", "give one of them")
        if source is not None and events is not None:
            raise self._wrong("events= beside source=", "say it of the stream:  stream(category, SomeEvent)")
        return category or category_of(source)

    def _sides(self) -> dict[str, Projection]:
        """The event tables that an ordered projection waits for, by category; the left one is the first."""
        if self.source is None:
            return {}
        made = {}
        for side in sides_of(self.source, self.reads):
            table = Projection(
                name=self.name, version=self.version, category=side.category, events=side.events, where=side.where,
                select=side.select,
            )  # fmt: skip
            for bound in ("lower", "upper"):
                if table.types.get(f"select:{bound}", TIMESTAMP) != TIMESTAMP:
                    raise self._wrong(
                        f"`{bound}` of the join is {table.types[f'select:{bound}']}",
                        "give an instant, a timedelta or None",
                    )
            table.window, table.allowed_lateness_us = Instant(), self.allowed_lateness_us
            made[side.category.name] = table
        return made

    def _readable_fields(self) -> dict[str, Field]:
        if self.source or self.upstream:
            return fields_of(self.source or self.upstream)
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
            render(expression, f"projection {self.title}, {words(name)}")
            reads |= set(expression.meta.root_names())
        earlier: set[str] = set()
        for name, expression in self.derive.items():
            if name in self.fields or name in self.built_in:
                raise self._wrong(f"the derived column `{name}` has the name of a field", "rename it")
            if early := [root for root in expression.meta.root_names() if root in self.derive and root not in earlier]:
                raise self._wrong(f"the derived column `{name}` reads `{early[0]}`, which comes later", "reorder them")
            earlier.add(name)
        found, known = sorted(reads - set(self.derive)), [*self.fields, *self.built_in, *self.derive]
        for name in found:
            if name not in known:
                raise self._wrong(f"no event has a field `{name}`", hint(name, known))
        return tuple(found)

    def _all_expressions(self) -> dict[str, pl.Expr]:
        """With those that come before the fold."""
        found = {f"derive:{name}": expression for name, expression in self.derive.items()}
        if self.where is not None:
            found["where"] = self.where
        return found | self.expressions()

    def _expression_types(self) -> dict[str, pa.DataType]:
        fields = [pa.field(name, self.built_in.get(name) or self.fields[name].type) for name in self.reads]
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
            render(expression, f"projection {self.title}, {words(name)}")
            if unknown := [root for root in expression.meta.root_names() if root not in frame.columns]:
                raise self._wrong(
                    f"{words(name)} reads `{unknown[0]}`, which no row has", hint(unknown[0], frame.columns)
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
        if fault := decimal_rules.fault(expression, frame.schema):
            raise self._wrong(f"{words(name)} is {fault[0]}", fault[1])
        try:
            return frame.select(expression.alias(name)).to_arrow().schema.field(0).type
        except pl.exceptions.PolarsError as error:
            raise self._wrong(f"{words(name)} cannot be computed: {error}", "check the types of its columns") from None

    def _check_condition(self, name: str, kind: pa.DataType) -> None:
        if kind != pa.bool_():
            raise self._wrong(f"{words(name)} is {kind}, not bool", "give a condition")

    def _canonical_type(self, name: str, kind: pa.DataType) -> pa.DataType:
        found = canonical_type(kind)
        if found is None or (pa.types.is_decimal128(found) and name.startswith("key:")):
            raise self._wrong(
                f"{words(name)} has type {kind}",
                "cast it to Int64, Float64, String, Boolean, Date or a UTC Datetime (or a Decimal, where it is no key)",
            )
        return found

    def _accumulator(self, column: str) -> Count:
        try:
            return accumulator(column, self.columns[column], self.types)
        except UsageError as error:
            raise self._wrong(error.what, error.do or "") from None

    def _wrong(self, what: str, do: str) -> UsageError:
        return UsageError(what, where=f"projection {self.name}@{self.version}", do=do)
