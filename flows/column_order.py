"""The order of a view's columns is that of its first commit, whatever order the code has later.

The order of ``columns=`` is no part of a definition (the fingerprint is the same), but tables have one, and digests with them. So
whoever goes on with a view, folds it again or compares it takes the committed order; a new version takes that of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.projection import Projection


def column_order(projection: Projection) -> list[list[str]]:
    """The names in ``columns=``: of the projection, then of the one that it is a projection of, and so on."""
    below = column_order(projection.upstream) if projection.upstream else []
    return [list(projection.columns), *below]


def in_committed_order(projection: Projection, facts: Mapping[str, Any] | None) -> Projection:
    """The projection, its columns in the order that a manifest's facts tell; as it is, where they tell of another definition."""
    if facts is None or facts["fingerprint"] != projection.fingerprint or "column_order" not in facts:
        return projection
    order = facts["column_order"]
    return projection if order == column_order(projection) else _ordered(projection, order)


def _ordered(projection: Projection, order: list[list[str]]) -> Projection:
    columns = {name: projection.columns[name] for name in order[0]}
    if projection.upstream is None:
        return projection.but(columns=columns)
    return projection.but(columns=columns, source=_ordered(projection.upstream, order[1:]))
