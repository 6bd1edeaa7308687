"""The state of every entity of a Python fold, and one event after the other taken through the function.

States are arrays like those of any accumulator (so they are stored, merged and dropped as all partials are):

    n          events that the entity was taken through; 0: this partition knows nothing of it
    present    0: there is no such entity (any more); else bit 0, and bit i + 1 where field i is not null
    value:f    field f: int64 (also of bool, date and datetime), float64 or text

Of a slice, the states of its entities become Python values once, and arrays again at the end: what a fold sees of a state, or
of an event, is never more than was in the log, however it was sliced.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows import kernels
from flows.accumulators import Count, Ints, Mask, State, from_order
from flows.fold_guard import caught, guarded
from flows.python_folds import STOP, PythonFold
from flows.returned import EPOCH, keeper
from schemas.dictionary import TEXTS
from schemas.errors import DataError
from schemas.event import TIMESTAMP, Field

if TYPE_CHECKING:
    from flows.projection import Projection

EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
US = dt.timedelta(microseconds=1)
REASON_MAX = 300
_ALL = np.empty(0, np.bool_)
Values = list[Any]


class EntityStates(Count):
    """The accumulator of a Python fold. It merges what at most one partition has: see ``flows.merge``."""

    def __init__(self, fold: PythonFold) -> None:
        super().__init__("state", None)
        self._fields = fold.fields
        self.fields = {"n": np.int64, "present": np.int64, **{_stored(f): _kind(f) for f in fold.fields}}  # type: ignore[misc]

    @property
    def outputs(self) -> list[pa.Field]:
        return [pa.field(field.name, field.type) for field in self._fields]

    def merge(self, into: State, other: State) -> None:
        take = other["n"] > 0
        for field, array in other.items():
            into[field] = np.where(take, array, into[field])

    def finish_all(self, state: State) -> list[pa.Array]:
        return [
            _column(field, state[_stored(field)], state["present"] & bit == 0)
            for field, bit in _with_bits(self._fields)
        ]

    def load(self, state: State, ids: Ints) -> list[tuple[Any, ...] | None]:
        """The states of these groups as Python values; None where there is no entity."""
        present = state["present"][ids]
        columns = [
            _loaded(field, state[_stored(field)][ids], present & bit == 0) for field, bit in _with_bits(self._fields)
        ]
        return [
            values if there else None
            for there, values in zip(present.tolist(), zip(*columns, strict=True), strict=True)
        ]

    def save(self, state: State, ids: Ints, states: Sequence[tuple[Any, ...] | None]) -> None:
        here = [place for place, values in enumerate(states) if values is not None]
        present = np.zeros(len(ids), np.int64)
        present[here] = 1
        columns = list(zip(*(values for values in states if values is not None), strict=True))
        for (field, bit), column in zip(_with_bits(self._fields), columns or [()] * len(self._fields), strict=True):
            array = np.zeros(len(ids), _kind(field))
            if _kind(field) is object:
                array[:] = None
            array[here] = _numbers(field, column)
            present[here] |= np.fromiter((value is not None for value in column), np.bool_, len(column)) * bit
            state[_stored(field)][ids] = array
        state["present"][ids] = present


class Entities:
    """Takes the rows of a slice through the function of a fold."""

    def __init__(self, title: str, fold: PythonFold, accumulator: EntityStates, reads: Sequence[str]) -> None:
        self._title, self._fold, self._accumulator = title, fold, accumulator
        self._event_class = _event_class(reads)
        self._kept = keeper(fold.state, fold.fields)

    def run(
        self, state: State, ids: Ints, values: Mapping[str, pa.Array], place: Callable[[int], str]
    ) -> dict[int, str]:
        """Take each row's entity on by the row's event, whose fields are ``fold:name`` in ``values``. Returns the rows that were
        refused, with the reasons; their entities are as they were. ``place``: of a row, in words. Raises ``DataError``.
        """
        groups, local = np.unique(ids, return_inverse=True)
        states = self._accumulator.load(state, groups)
        with guarded():
            refused = self._take_through(states, local.tolist(), self._event_class(_Columns(values)), place)
        self._accumulator.save(state, groups, states)
        kernels.count(without_rows(ids, refused), _ALL, state["n"])
        return refused

    def _take_through(
        self, states: list[tuple[Any, ...] | None], numbers: list[int], event: Any, place: Callable[[int], str]
    ) -> dict[int, str]:
        refused: dict[int, str] = {}
        function, make, kept = self._fold.function, self._fold.state, self._kept
        for row, number in enumerate(numbers):
            event._row = row
            before = states[number]
            try:
                # A fresh object each time: one that was changed before the function raised is not what is kept.
                after = function(None if before is None else make(*before), event)
                states[number] = None if after is None else kept(after)
            except Exception as error:
                reason = _reason(error)
                if caught() is not None:
                    raise
                if self._fold.on_error == STOP or isinstance(
                    error, RecursionError | MemoryError
                ):  # not by the event alone
                    raise self._stopped(reason, place(row)) from error
                refused[row] = reason
        return refused

    def _stopped(self, reason: str, where: str) -> DataError:
        return DataError(
            f"the fold of view {self._title} cannot take an event: {reason}",
            where=where,
            do='make the fold take it, with a new version; or let such events be dead letters: on_error="dead_letter"',
        )


def entities_of(projection: Projection) -> Entities | None:
    """What takes the entities of a projection on; None where that has no Python fold."""
    if projection.fold is None:
        return None
    (accumulator,) = projection.accumulators
    assert isinstance(accumulator, EntityStates)
    reads = [name.removeprefix("fold:") for name in projection.expressions() if name.startswith("fold:")]
    return Entities(projection.title, projection.fold, accumulator, reads)


def without_rows(ids: Ints, refused: Mapping[int, str]) -> Ints:
    return np.delete(ids, list(refused)) if refused else ids


# -- what a fold sees of an event


class _Columns(dict[str, Values]):
    """The columns of a slice as Python values, each made when it is first asked for."""

    def __init__(self, arrays: Mapping[str, pa.Array]) -> None:
        super().__init__()
        self._arrays = arrays

    def __missing__(self, name: str) -> Values:
        values = self[name] = python_values(self._arrays[f"fold:{name}"])
        return values


class _Event:
    """One row of a slice; the same object for all of them, one after the other."""

    __slots__ = ("_columns", "_row")
    _row: int

    def __init__(self, columns: _Columns) -> None:
        self._columns = columns

    def __repr__(self) -> str:
        names = [name for name, value in vars(type(self)).items() if isinstance(value, property)]
        return f"Event({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _event_class(names: Sequence[str]) -> type[_Event]:
    return type("Event", (_Event,), {"__slots__": (), **{name: property(_reader(name)) for name in names}})


def _reader(name: str) -> Callable[[_Event], Any]:
    def read(event: _Event) -> Any:
        return event._columns[name][event._row]

    return read


def python_values(array: pa.Array) -> Values:
    """An array as a list of what a fold works with; instants as aware datetimes."""
    if array.type == TEXTS:
        known = np.array([*array.dictionary.to_pylist(), None], object)  # the last one for -1
        return known[np.asarray(array.indices.fill_null(-1))].tolist()
    if array.type == pa.string():
        return array.to_numpy(zero_copy_only=False).tolist()
    if pa.types.is_decimal(array.type):
        return array.to_pylist()
    if pa.types.is_floating(array.type) or pa.types.is_boolean(array.type):
        return array.to_pylist() if array.null_count else array.to_numpy(zero_copy_only=False).tolist()
    numbers = array.cast(pa.int32()).cast(pa.int64()) if array.type == pa.date32() else array.cast(pa.int64())
    absent = np.asarray(array.is_null())
    return _from_numbers(array.type, np.asarray(numbers.fill_null(0)), absent)


def _from_numbers(kind: pa.DataType, numbers: Ints, absent: Mask) -> Values:
    if kind not in (TIMESTAMP, pa.date32(), pa.bool_()) or not absent.any():
        return _with_nulls(_present(kind, numbers), absent)
    values: Values = [None] * len(numbers)
    there = np.flatnonzero(~absent)
    for place, value in zip(there.tolist(), _present(kind, numbers[there]), strict=True):
        values[place] = value
    return values


def _present(kind: pa.DataType, numbers: Ints) -> Values:
    if kind == TIMESTAMP:
        return [naive.replace(tzinfo=dt.UTC) for naive in numbers.view("M8[us]").tolist()]
    if kind == pa.date32():
        return [dt.date.fromordinal(day + EPOCH_DAY) for day in numbers.tolist()]
    return (numbers != 0).tolist() if kind == pa.bool_() else numbers.tolist()


def _with_nulls(values: Values, absent: Mask) -> Values:
    for place in np.flatnonzero(absent).tolist():
        values[place] = None
    return values


# -- why an event was refused


def _reason(error: Exception) -> str:
    """Type and message of what a fold raised; no addresses, which are others in every run."""
    try:
        words = re.sub(r"0x[0-9a-fA-F]+", "0x…", str(error)).encode("utf-8", "replace").decode()
    except Exception:
        words = ""
    return f"{type(error).__name__}: {words}"[:REASON_MAX] if words else type(error).__name__


# -- between values and arrays


def _stored(field: Field) -> str:
    return f"value:{field.name}"


def _kind(field: Field) -> Any:
    return object if field.type == pa.string() else np.float64 if field.type == pa.float64() else np.int64


def _with_bits(fields: Sequence[Field]) -> list[tuple[Field, int]]:
    return [(field, 2 << place) for place, field in enumerate(fields)]


def _loaded(field: Field, array: npt.NDArray[Any], absent: Mask) -> Values:
    if field.type in (pa.string(), pa.float64()):
        return _with_nulls(array.tolist(), absent)
    return _from_numbers(field.type, array, absent)


def _numbers(field: Field, values: Sequence[Any]) -> Any:
    """Values of a field as what its array holds; nulls are zeros there."""
    if field.type == pa.string():
        texts = np.empty(len(values), object)
        texts[:] = values
        return texts
    if field.type == TIMESTAMP:
        return [0 if value is None else (value - EPOCH) // US for value in values]
    if field.type == pa.date32():
        return [0 if value is None else value.toordinal() - EPOCH_DAY for value in values]
    return [0 if value is None else value for value in values] if field.nullable else list(values)


def _column(field: Field, array: npt.NDArray[Any], absent: Mask) -> pa.Array:
    if field.type == pa.string():
        return pa.array(array, pa.string(), mask=absent)
    if field.type == pa.float64():
        return pa.array(array, pa.float64(), mask=absent, from_pandas=False)
    return from_order(array, absent, field.type)
