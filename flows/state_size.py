"""What a view keeps in memory for each group: the fields of its accumulators, and what finds a group again.

A field has a fixed number of bytes or grows with something; only the former is added up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from flows import entries
from flows.accumulators import Count
from flows.partials import WINDOW_BYTES
from flows.projection import Projection
from flows.ranked import Entries, Limited
from flows.sketches import Quantile
from flows.windows import Session
from schemas.canonical import encode

TABLE_BYTES = 8 * 4 // 3 + 8
"""Of the table that finds a group: a slot and a third, and where the key ends."""
BOUNDS_BYTES = 8 + 8
"""Where a group's window starts and ends."""
SESSION_BYTES = 6 * 8
"""Where a session starts and ends, its key, its neighbour, its level, and what the view knows of it."""
COPIES = 2
"""The fold has the groups of its partition, and the merge those of all. (Keys it has in common with the folds of its process, where no
group is ever forgotten.)"""
SPARE = 2
"""Arrays grow by doubling: so many times as large as needed, at most. (More room than that takes no memory while it is empty.)"""


def state_of(projection: Projection) -> dict[str, Any] | None:
    """The state of one group in one partition. None: an event table keeps none."""
    if projection.select:
        return None
    columns = [_column(acc, projection) for acc in projection.accumulators]
    key = {name: _key_bytes(kind) for name, kind in zip(projection.key, projection.key_types, strict=True)}
    around = _around(projection)
    grows = [f"`{column['column']}`: {column['grows']}" for column in columns if column["grows"]]
    grows += [f"key `{name}`: its text" for name, kind in zip(key, projection.key_types, strict=True) if _is_text(kind)]
    fixed = around + sum(key.values()) + sum(column["bytes"] for column in columns)
    return {
        "columns": columns, "key_bytes": key, "bytes_to_find_it": around, "bytes": fixed, "grows": grows,
        "copies": COPIES, "spare": SPARE,
    }  # fmt: skip


def memory_of(state: dict[str, Any], partials: int) -> tuple[int, int]:
    """Bytes that so many partials take, at least and at most; what grows comes on top."""
    least = partials * state["bytes"] * state["copies"]
    return least, least * state["spare"]


def _around(projection: Projection) -> int:
    if isinstance(projection.window, Session):
        return TABLE_BYTES + SESSION_BYTES
    return TABLE_BYTES + BOUNDS_BYTES + (WINDOW_BYTES if projection.window else 0)


def _key_bytes(kind: pa.DataType) -> int:
    """The bytes of an encoded key column; of text, of the empty one."""
    least = "" if _is_text(kind) else False if pa.types.is_boolean(kind) else 0
    return len(encode([pa.array([least], kind)])[0].as_py())


def _column(acc: Count, projection: Projection) -> dict[str, Any]:
    fields = [
        {"field": name, "type": _type(kind), "bytes": np.dtype(object if kind is bytes else kind).itemsize}
        for name, kind in acc.fields.items()
    ]
    grows = _grows(acc, projection)
    return {"column": acc.name, "fields": fields, "bytes": sum(field["bytes"] for field in fields), "grows": grows}


def _type(kind: Any) -> str:
    return "bytes" if kind is bytes else "text" if kind is object else np.dtype(kind).name


def _grows(acc: Count, projection: Projection) -> str | None:
    """What the size of the state depends on; None where it has one."""
    if isinstance(acc, Quantile):
        return "16 bytes for every bucket that has a value"
    if isinstance(acc, Limited):
        return f"up to {acc.limit:,} {'entry' if acc.limit == 1 else 'entries'}, each what it is ranked by and what is shown"
    if isinstance(acc, Entries):
        assert acc.limit == entries.ALL
        return "every different value, without a bound"
    texts = [name for name, kind in acc.fields.items() if kind is object]
    if texts and projection.fold:
        return f"the text of {', '.join(name.removeprefix('value:') for name in texts)}"
    return "its text" if texts else "its decimal" if bytes in acc.fields.values() else None


def _is_text(kind: pa.DataType) -> bool:
    return kind == pa.string()
