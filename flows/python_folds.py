"""Folds in Python, for what columns cannot say: a typed state, and a pure function that an event takes it on by.

    class Order(State):
        status: str
        paid: float = 0.0

    def advance(order: Order | None, event: Any) -> Order | None:
        if event.event_type == "OrderPlaced":
            return Order("placed")
        if order is None or event.event_type == "OrderForgotten":
            return None                              # no such entity (any more): no row
        order.paid += event.amount
        return order

    order_states = Projection(
        name="order_states", category=orders, events=[...], key={"order": "subject"}, fold=python_fold(Order, advance),
    )

The view has a row for each entity that is there, with the fields of its state. The function sees one event at a time, in
offset order: the state before it (a fresh object, None at first and after a deletion) and an object with the fields of the
events, ``subject``, ``event_time`` (aware, UTC) and ``event_type``. What it may refer to is in ``flows.purity``.

All events of one entity must be in one partition, as they are when the key is the subject: between partitions there is no order.
An entity that turns up in two is an error.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flows.code_text import tree_of
from flows.purity import references
from schemas.errors import UsageError
from schemas.event import ARROW_TYPES, Field

DEAD_LETTER, STOP = "dead_letter", "stop"
FIELDS_MAX = 62
"""Which fields of a state are there is kept as bits of one number."""
OWN_WAYS = frozenset("__init__ __new__ __post_init__ __getattr__ __getattribute__ __setattr__ __delattr__".split())
"""Methods that would make a state something else than its fields."""
ALWAYS = ("subject", "event_time", "event_type")
"""What a fold sees of every event, beside the fields that it reads."""

Function = Callable[[Any, Any], Any]


@typing.dataclass_transform()
class State:
    """Base of the states of Python folds: makes a class a dataclass. A plain dataclass does as well, frozen or not.

    Fields are str, int (64 bits), float, bool, datetime (aware) or date, each maybe ``| None``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(cls)


@dataclasses.dataclass(frozen=True)
class PythonFold:
    """What ``python_fold`` made and checked. ``touched``: the attributes that the function asks of an event, as far as can be seen."""

    state: type
    function: Function
    on_error: str
    reads: tuple[str, ...] | None
    fields: tuple[Field, ...]
    touched: frozenset[str]
    code: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Of the columns that come of it."""
        return _names(self.fields)

    def reads_of(self, known: Iterable[str]) -> tuple[str, ...]:
        """The names to read of events that have the ``known`` fields. Raises ``UsageError`` for one that they do not have."""
        names = {*ALWAYS, *(known if self.reads is None else self.reads)}
        for name in sorted(self.touched - names):
            raise _wrong(self.function, f"`event.{name}` is asked for", f"known are {', '.join(sorted(names))}")
        return tuple(sorted(names))

    def definition(self) -> dict[str, Any]:
        """What makes it this fold and no other."""
        defaults = {field.name: field.default for field in dataclasses.fields(self.state)}
        return {
            "function": self.function.__qualname__,
            "on_error": self.on_error,
            "state": {
                field.name: f"{field.type}{' | None' if field.nullable else ''}"
                + ("" if defaults[field.name] is dataclasses.MISSING else f" = {defaults[field.name]!a}")
                for field in self.fields
            },
            "code": self.code,
        }


def python_fold(
    state: type, function: Function, *, on_error: str = DEAD_LETTER, reads: Sequence[str] | None = None
) -> PythonFold:
    """A fold for ``Projection(fold=...)``: ``function(state or None, event) -> state or None``.

    ``on_error``: what an event comes to at which the function raises, or returns something else than such a state: ``"dead_letter"``
    (the state stays as it was) or ``"stop"`` (an error that names the place; what exhausts the stack or the memory always is).
    ``reads``: the fields that events are decoded for; an event with a bad one is a dead letter. All fields when left out.

    Raises ``UsageError``; ``ImpureFold`` where the code refers to what is not the same for every run.
    """
    if on_error not in (DEAD_LETTER, STOP):
        raise UsageError(f"on_error={on_error!r}", do=f'give "{DEAD_LETTER}" or "{STOP}"')
    fields = _fields_of(state)
    _check_function(function)
    assert isinstance(function, types.FunctionType)
    touched = _check_attributes(function, state, fields)
    return PythonFold(
        state, function, on_error, None if reads is None else tuple(reads), fields, touched, references(function, state)
    )


def _fields_of(state: type) -> tuple[Field, ...]:
    where = f"state {getattr(state, '__name__', state)}"
    if not (isinstance(state, type) and dataclasses.is_dataclass(state)):
        raise UsageError("a state must be a class with typed fields", where=where, do="derive it from State")
    known = dataclasses.fields(state)
    if own := sorted(OWN_WAYS & {name for base in state.__mro__[:-1] for name in _written(base)}):
        raise UsageError("a state is made of its fields alone", where=where, do=f"leave {', '.join(own)} out")
    if not 0 < len(known) <= FIELDS_MAX:
        raise UsageError(f"a state of {len(known)} fields", where=where, do=f"give it 1 to {FIELDS_MAX}")
    for field in known:
        if not field.init or field.kw_only or field.default_factory is not dataclasses.MISSING:
            do = "give it no field(...), or only a default"
            raise UsageError(f"field `{field.name}` is made in a way of its own", where=where, do=do)
    try:
        hints = typing.get_type_hints(state)
    except NameError as error:
        raise UsageError(
            f"a type is not known: {error}", where=where, do="import it at the top of the module"
        ) from None
    return tuple(_field(field.name, hints[field.name], where) for field in known)


def _written(base: type) -> list[str]:
    """Names of what was written in a class, and not made by ``dataclasses``."""
    codes = {name: getattr(value, "__code__", None) for name, value in vars(base).items()}
    return [name for name, code in codes.items() if code is None or code.co_filename != "<string>"]


def _field(name: str, hint: Any, where: str) -> Field:
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    kinds = [option for option in options if option is not types.NoneType]
    if len(kinds) != 1 or kinds[0] not in ARROW_TYPES:
        allowed = ", ".join(kind.__name__ for kind in ARROW_TYPES)
        raise UsageError(
            f"field `{name}` has type {hint}", where=where, do=f"use one of {allowed}, or one of them | None"
        )
    return Field(name, ARROW_TYPES[kinds[0]], len(options) > 1)


def _check_function(function: Any) -> None:
    flags = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    if not isinstance(function, types.FunctionType) or function.__code__.co_flags & flags:
        raise UsageError(f"a fold must be a plain function, not {function!r:.80}", do="def fold(state, event): ...")
    if hasattr(function, "__wrapped__"):
        raise _wrong(function, "it is wrapped by a decorator", "give the function itself")
    takes = [p.kind for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if takes not in ([inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2, [inspect.Parameter.POSITIONAL_ONLY] * 2):
        raise _wrong(function, "it does not take two arguments", "take the state and the event: def fold(state, event)")


def _check_attributes(function: types.FunctionType, state: type, fields: Sequence[Field]) -> frozenset[str]:
    """What the code asks of its event by name. Raises ``UsageError`` where it asks a state for what that does not have."""
    tree = tree_of(function, function.__qualname__)
    of_state, of_event = function.__code__.co_varnames[:2]
    touched = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == of_event:
                touched.add(node.attr)
            elif node.value.id == of_state and not hasattr(state, node.attr) and node.attr not in _names(fields):
                known = f"{state.__name__} has {', '.join(_names(fields))}"
                raise _wrong(function, f"`{of_state}.{node.attr}` is no field of its state", known)
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset() if of_event in stored else frozenset(touched)


def _names(fields: Sequence[Field]) -> list[str]:
    return [field.name for field in fields]


def _wrong(function: Function, what: str, do: str) -> UsageError:
    return UsageError(what, where=f"fold `{function.__qualname__}`", do=do)
