"""Polars expressions in projections: which are allowed, and how they are written down.

An expression must be element-wise and deterministic, so that a row's value depends on that row alone. Polars' own
``is_row_separable`` is not enough (it accepts ``x / x.sum()``), so this is a list of allowed nodes; what is not on it is
refused. The rendering is ours: it stays the same when Polars changes its serialisation, since fingerprints depend on it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import polars as pl

from schemas.errors import UsageError

OPERATORS = {
    "Eq": "==", "NotEq": "!=", "Lt": "<", "LtEq": "<=", "Gt": ">", "GtEq": ">=", "And": "&", "Or": "|", "Xor": "^",
    "LogicalAnd": "and", "LogicalOr": "or", "Plus": "+", "Minus": "-", "Multiply": "*", "TrueDivide": "/",
    "FloorDivide": "//", "Modulus": "%", "EqValidity": "eq_missing", "NotEqValidity": "ne_missing",
}  # fmt: skip
FUNCTIONS = {
    "Abs": "abs", "Negate": "negate", "FillNull": "fill_null", "Coalesce": "coalesce", "Round": "round", "Floor": "floor",
    "Ceil": "ceil", "Clip": "clip", "Sign": "sign",
    "Boolean.IsNull": "is_null", "Boolean.IsNotNull": "is_not_null", "Boolean.Not": "not", "Boolean.IsIn": "is_in",
    "Boolean.IsNan": "is_nan", "Boolean.IsNotNan": "is_not_nan", "Boolean.IsFinite": "is_finite",
    "Boolean.IsInfinite": "is_infinite", "Boolean.IsBetween": "is_between",
    "StringExpr.Lowercase": "lower", "StringExpr.Uppercase": "upper", "StringExpr.LenBytes": "len_bytes",
    "StringExpr.LenChars": "len_chars", "StringExpr.StartsWith": "starts_with", "StringExpr.EndsWith": "ends_with",
    "StringExpr.Contains": "contains", "StringExpr.Slice": "slice", "StringExpr.Head": "head", "StringExpr.Tail": "tail",
    "StringExpr.StripChars": "strip_chars", "StringExpr.StripPrefix": "strip_prefix",
    "StringExpr.StripSuffix": "strip_suffix", "StringExpr.ConcatHorizontal": "concat_str",
    "TemporalExpr.Year": "year", "TemporalExpr.Month": "month", "TemporalExpr.Day": "day", "TemporalExpr.Hour": "hour",
    "TemporalExpr.Minute": "minute", "TemporalExpr.Second": "second", "TemporalExpr.WeekDay": "weekday",
    "TemporalExpr.OrdinalDay": "ordinal_day", "TemporalExpr.Date": "date", "TemporalExpr.Truncate": "truncate",
    "TemporalExpr.TotalMinutes": "total_minutes", "TemporalExpr.TotalSeconds": "total_seconds",
    "TemporalExpr.TotalHours": "total_hours", "TemporalExpr.TotalDays": "total_days",
}  # fmt: skip

PLAIN_LITERALS = ("", "Int", "Float", "Str", "String", "Boolean")
"""Kinds of literals whose text alone says what they are."""
FIXED_ARGUMENTS = ("StringExpr.Contains", "TemporalExpr.Truncate")
"""Functions whose further arguments are parsed (a pattern, a duration): they must be the same for every row."""


def render(expression: pl.Expr, where: str) -> str:
    """The canonical text of an expression. ``where`` names the place in the projection for the error.

    Raises ``UsageError`` for anything that is not element-wise and deterministic.
    """
    try:
        tree = json.loads(expression.meta.serialize(format="json"))
    except Exception as error:  # Polars raises whatever its serialiser meets in a Python function
        raise _refused(where, "a Python function", "say it with Polars expressions") from error
    return _render(tree, where)


def _render(node: Any, where: str) -> str:
    (kind, body), *rest = node.items() if isinstance(node, dict) else [(str(node), None)]
    if kind not in _NODES or rest:
        raise _refused(where, f"`{kind}`", "use element-wise expressions: one row's value from that row's columns")
    return _NODES[kind](body, where)


def _column(body: str, where: str) -> str:
    return f"col({json.dumps(body)})"


def _literal(body: dict[str, Any], where: str) -> str:
    ((_, value),) = body.items()
    if isinstance(value, dict) and "List" in value:
        items = pl.read_ipc_stream(io.BytesIO(bytes(value["List"]))).to_series()
        return f"list[{items.dtype}]({', '.join(json.dumps(item, default=str) for item in items.to_list())})"
    ((kind, scalar),) = value.items() if isinstance(value, dict) else [("", value)]
    if kind == "Null":
        return "null"
    text = json.dumps(scalar, sort_keys=True)
    # A number of a stated type is another thing than one that takes the type of its neighbours.
    return text if kind in PLAIN_LITERALS else f"{kind}({text})"


def _binary(body: dict[str, Any], where: str) -> str:
    if body["op"] not in OPERATORS:
        raise _refused(where, f"the operator `{body['op']}`", f"use one of {' '.join(OPERATORS.values())}")
    return f"({_render(body['left'], where)} {OPERATORS[body['op']]} {_render(body['right'], where)})"


def _cast(body: dict[str, Any], where: str) -> str:
    if body["options"] not in ("Strict", "NonStrict"):
        raise _refused(
            where, "a cast that wraps numbers around", "write cast(..., strict=False): what does not fit is null"
        )
    if body["options"] == "Strict":
        raise _refused(
            where,
            "a strict cast, which fails for a whole batch,",
            "write cast(..., strict=False): what does not fit is null",
        )
    kind = body["dtype"]["Literal"]
    if "Categorical" in str(kind) or "Enum" in str(kind):
        raise _refused(where, "a categorical", "keep it a string")
    return f"cast({_render(body['expr'], where)}, {json.dumps(kind, sort_keys=True)})"


def _ternary(body: dict[str, Any], where: str) -> str:
    parts = (_render(body[part], where) for part in ("predicate", "truthy", "falsy"))
    return f"when({', '.join(parts)})"


def _function(body: dict[str, Any], where: str) -> str:
    name, options = _function_name(body["function"])
    if name not in FUNCTIONS:
        raise _refused(where, f"the function `{name}`", "allowed are " + ", ".join(sorted(FUNCTIONS.values())))
    arguments = [_render(argument, where) for argument in body["input"]]
    if name in FIXED_ARGUMENTS and not all("Literal" in argument for argument in body["input"][1:]):
        raise _refused(
            where, f"`{FUNCTIONS[name]}` by a column, where one bad row fails a whole batch,", "give a literal"
        )
    if options:
        arguments.append(json.dumps(options, sort_keys=True))
    return f"{FUNCTIONS[name]}({', '.join(arguments)})"


def _function_name(function: Any) -> tuple[str, Any]:
    """``{"Boolean": {"IsIn": {...}}}`` is ``("Boolean.IsIn", {...})``."""
    if isinstance(function, str):
        return function, None
    ((name, inner),) = function.items()
    if name in ("Boolean", "StringExpr", "TemporalExpr"):
        below, options = _function_name(inner)
        return f"{name}.{below}", options
    return name, inner


_NODES: dict[str, Callable[[Any, str], str]] = {
    "Column": _column,
    "Literal": _literal,
    "BinaryExpr": _binary,
    "Cast": _cast,
    "Ternary": _ternary,
    "Function": _function,
    "Alias": lambda body, where: _render(body[0], where),
}


def _refused(where: str, what: str, do: str) -> UsageError:
    return UsageError(f"{what} is not allowed in a projection", where=where, do=do)
