"""What expressions must not do with decimals: whatever Polars refuses for a whole batch because of one row.

A sum, product or rounded value of more than 38 digits raises, and so does a value that must take another's scale and has
no room for it. Casting with ``strict=False`` and comparing never do. A field of an event is no decimal, so one comes of a cast
or a literal, and its scale can be read off the expression.
"""

from __future__ import annotations

from typing import Any

COMPUTES = ("Plus", "Minus", "Multiply", "TrueDivide", "FloorDivide", "Modulus")
ROUNDS = ("Round", "Floor", "Ceil")


def fault(node: Any) -> tuple[str, str] | None:
    """What this node (of a serialised expression) does that may fail, and what to do instead; None: nothing."""
    if not isinstance(node, dict):
        return None
    ((kind, body),) = list(node.items())[:1]
    if kind == "BinaryExpr" and body["op"] in COMPUTES and (_scales(body["left"]) or _scales(body["right"])):
        return (
            "arithmetic with decimals, which fails for a whole batch,",
            "compute first and cast to a Decimal at the end",
        )
    if kind == "Function" and _name(body["function"]) in ROUNDS and _of_all(body["input"]):
        return (
            "rounding of decimals, which fails for a whole batch,",
            "cast to a Decimal of another scale, strict=False",
        )
    if kind in ("Function", "Ternary") and len(_scales(node)) > 1:
        return "a choice of decimals of different scales", "cast them to one scale, strict=False"
    return None


def _scales(node: Any) -> set[int]:
    """The scales that the value of a node may have; none: it is no decimal."""
    if not isinstance(node, dict):
        return set()
    ((kind, body),) = list(node.items())[:1]
    match kind:
        case "Cast":
            return _scale_of_type(body["dtype"])
        case "Literal":
            return _scale_of_literal(body)
        case "Alias":
            return _scales(body[0])
        case "Ternary":
            return _of_all([body["truthy"], body["falsy"]])
        case "Function" if _name(body["function"]) not in ("Boolean", "StringExpr", "TemporalExpr"):
            return _of_all(body["input"])
        case "BinaryExpr" if body["op"] in COMPUTES:
            return _of_all([body["left"], body["right"]])
    return set()


def _of_all(nodes: list[Any]) -> set[int]:
    return set().union(*map(_scales, nodes))


def _scale_of_type(kind: Any) -> set[int]:
    kind = kind.get("Literal") if isinstance(kind, dict) else None
    return {int(kind["Decimal"][1])} if isinstance(kind, dict) and "Decimal" in kind else set()


def _scale_of_literal(body: dict[str, Any]) -> set[int]:
    value = body.get("Scalar")
    return {int(value["Decimal"][2])} if isinstance(value, dict) and "Decimal" in value else set()


def _name(function: Any) -> str:
    return function if isinstance(function, str) else str(next(iter(function)))
