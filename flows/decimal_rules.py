"""What expressions must not do with decimals: whatever Polars refuses for a whole batch because of one row.

A sum, product or rounded value of more than 38 digits raises, and so does a value that must take another's scale and has
no room for it. Casting with ``strict=False`` and comparing never do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

COMPUTES = ("Plus", "Minus", "Multiply", "TrueDivide", "FloorDivide", "Modulus")
ROUNDS = ("Round", "Floor", "Ceil")


def fault(expression: pl.Expr, schema: Mapping[str, pl.DataType]) -> tuple[str, str] | None:
    """What the expression does that may fail over columns of these types, and what to do instead; None: nothing."""
    scales = {name: kind.scale for name, kind in schema.items() if isinstance(kind, pl.Decimal)}
    return _Rules(scales).of(json.loads(expression.meta.serialize(format="json")))


class _Rules:
    """``scales``: those of the columns that are decimals."""

    def __init__(self, scales: Mapping[str, int]) -> None:
        self._known = scales

    def of(self, node: Any) -> tuple[str, str] | None:
        """The first fault of a node (of a serialised expression) or of what is below it."""
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return self._own(node) or next((found for part in below if (found := self.of(part))), None)

    def _own(self, node: Any) -> tuple[str, str] | None:
        kind, body = _parts(node)
        if kind == "BinaryExpr" and body["op"] in COMPUTES and self._all([body["left"], body["right"]]):
            return (
                "arithmetic with decimals, which fails for a whole batch",
                "compute first, and cast to a Decimal at the end",
            )
        if kind == "Function" and _name(body["function"]) in ROUNDS and self._all(body["input"]):
            return (
                "rounding of decimals, which fails for a whole batch",
                "cast to a Decimal of another scale, strict=False",
            )
        if kind in ("Function", "Ternary") and len(self._scales(node)) > 1:
            return "a choice of decimals of different scales", "cast them to one scale, strict=False"
        return None

    def _scales(self, node: Any) -> set[int]:
        """The scales that the value of a node may have; none: it is no decimal."""
        kind, body = _parts(node)
        match kind:
            case "Column":
                return {self._known[body]} if body in self._known else set()
            case "Cast":
                return _scale_of_type(body["dtype"])
            case "Literal":
                return _scale_of_literal(body)
            case "Alias":
                return self._scales(body[0])
            case "Ternary":
                return self._all([body["truthy"], body["falsy"]])
            case "Function" if _name(body["function"]) not in ("Boolean", "StringExpr", "TemporalExpr"):
                return self._all(body["input"])
            case "BinaryExpr" if body["op"] in COMPUTES:
                return self._all([body["left"], body["right"]])
        return set()

    def _all(self, nodes: list[Any]) -> set[int]:
        return set().union(*map(self._scales, nodes))


def _parts(node: Any) -> tuple[str, Any]:
    """Kind and body of a node; no kind where it is none."""
    if not isinstance(node, dict) or len(node) != 1:
        return "", None
    ((kind, body),) = node.items()
    return (kind, body) if isinstance(body, dict | list | str) else ("", None)


def _scale_of_type(kind: Any) -> set[int]:
    kind = kind.get("Literal") if isinstance(kind, dict) else None
    return {int(kind["Decimal"][1])} if isinstance(kind, dict) and "Decimal" in kind else set()


def _scale_of_literal(body: Any) -> set[int]:
    value = body.get("Scalar") if isinstance(body, dict) else None
    return {int(value["Decimal"][2])} if isinstance(value, dict) and "Decimal" in value else set()


def _name(function: Any) -> str:
    return function if isinstance(function, str) else str(next(iter(function)))
