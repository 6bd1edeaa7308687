"""What a Python fold may return, and the one form that its values are kept in.

A value is exactly of the type that its field says: a bool is no int, an int may stand for a float, a datetime has a time zone,
an int has 64 bits, a text can be written as UTF-8. Instants are kept in UTC and every NaN is the same one, so that a fold is
given the same state whether it was just returned or read from a store.
"""

from __future__ import annotations

import datetime as dt
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from schemas.event import TIMESTAMP, Field

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Check = Callable[[Any], Any]
Kept = Callable[[Any], tuple[Any, ...]]


def keeper(state: type, fields: Sequence[Field]) -> Kept:
    """A function that gives the values of the fields of what a fold returned. It raises ``TypeError``, ``ValueError`` or
    ``OverflowError`` for what is not such a state.

    What nearly every event leaves is in its form already. Whether it is, a condition says that is made for the state's fields (as
    ``dataclasses`` make their methods): one call, where there would be one a field.
    """
    exactly = _exact_keeper(state, fields)
    names = [f"v{number}" for number in range(len(fields))]
    taken = "; ".join(f"{name} = after.{field.name}" for name, field in zip(names, fields, strict=True))
    are_plain = " and ".join(_is_plain(field, name) for name, field in zip(names, fields, strict=True))
    if (own := _own_attributes(state, fields)) is not None:
        are_plain += f" and len(after.__dict__) == {own}"
    lines = [
        "def kept(after):",
        "    if type(after) is state:",
        f"        {taken}",
        f"        if {are_plain}:",
        f"            return ({', '.join(names)},)",
        "    return exactly(after)",
    ]
    space: dict[str, Any] = {
        "state": state,
        "exactly": exactly,
        "datetime": dt.datetime,
        "date": dt.date,
        "UTC": dt.UTC,
    }
    exec("\n".join(lines), space)
    return space["kept"]


_PLAIN: dict[pa.DataType, str] = {
    pa.int64(): "type({0}) is int and -0x8000000000000000 <= {0} <= 0x7FFFFFFFFFFFFFFF",
    pa.float64(): "type({0}) is float and {0} == {0}",
    pa.string(): "type({0}) is str and {0}.isascii()",
    pa.bool_(): "type({0}) is bool",
    pa.date32(): "type({0}) is date",
    TIMESTAMP: "type({0}) is datetime and {0}.tzinfo is UTC and not {0}.fold",
}


def _is_plain(field: Field, name: str) -> str:
    """A condition under which the value of a field is kept as it is."""
    plain = _PLAIN[field.type].format(name)
    return f"({name} is None or {plain})" if field.nullable else plain


def _own_attributes(state: type, fields: Sequence[Field]) -> int | None:
    """How many attributes an object keeps in its dictionary; None: it has none."""
    if not any("__dict__" in vars(base) for base in state.__mro__[:-1]):
        return None
    return 0 if "__slots__" in vars(state) else len(fields)


def _exact_keeper(state: type, fields: Sequence[Field]) -> Kept:
    names, own = [field.name for field in fields], _own_attributes(state, fields)
    get = operator.attrgetter(*names) if len(names) > 1 else lambda after: (getattr(after, names[0]),)

    def kept(after: Any) -> tuple[Any, ...]:
        if type(after) is not state:
            raise TypeError(f"the fold returned {_described(after)}, not {state.__name__} or None")
        if own is not None and len(vars(after)) != own:
            more = ", ".join(sorted(set(vars(after)) - set(names)))
            raise TypeError(f"the state was given attributes that are no fields of it: {more}")
        return tuple(_checked(field, value) for field, value in zip(fields, get(after), strict=True))

    return kept


def _checked(field: Field, value: Any) -> Any:
    if value is None and field.nullable:
        return None
    try:
        return _CHECKS[field.type](value)
    except (TypeError, ValueError, OverflowError) as error:
        became = str(error) if str(error) and not isinstance(error, UnicodeError) else _described(value)
        raise _kind_of(error)(f"field `{field.name}` became {became}, not {field.type}") from None


def _kind_of(error: Exception) -> type[Exception]:
    """The kind to raise instead: UnicodeEncodeError takes other arguments than a message."""
    return ValueError if isinstance(error, UnicodeError) else type(error)


def _described(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    if not -(2**63) <= value < 2**63:
        raise OverflowError("an int beyond 64 bits")
    return value


def _float(value: Any) -> float:
    if type(value) is float:
        return value if value == value else math.nan  # one NaN
    if type(value) is not int:
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode()  # half of a surrogate pair is no text
    return value


def _instant(value: Any) -> dt.datetime:
    if type(value) is not dt.datetime:
        raise TypeError
    if value.utcoffset() is None:
        raise ValueError("a datetime without a time zone")
    return EPOCH + (value - EPOCH)


def _exactly(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return check


_CHECKS: dict[pa.DataType, Check] = {
    pa.int64(): _int,
    pa.float64(): _float,
    pa.string(): _text,
    pa.bool_(): _exactly(bool),
    pa.date32(): _exactly(dt.date),
    TIMESTAMP: _instant,
}
