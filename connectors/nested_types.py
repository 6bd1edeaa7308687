"""Types of lists and structs in words of our own, as a manifest has them.

    list<int64>        struct<"price": decimal128(38, 2), "at": timestamp[us, UTC]>        list<struct<"a": list<string>>>

Names are JSON texts, so that they may hold any character. This module imports fast: Arrow is imported where it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = re.compile(r"[a-z]+[0-9]*(\[[^\]]*\]|\([^)]*\))?")


def render(kind: pa.DataType, word: Callable[[pa.Field], str]) -> str | None:
    """The words for a list or struct (None: it is neither). ``word``: those for a field of it."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return f"list<{word(kind.value_field)}>"
    if not pa.types.is_struct(kind):
        return None
    fields = (kind.field(number) for number in range(kind.num_fields))
    return f"struct<{', '.join(f'{json.dumps(field.name)}: {word(field)}' for field in fields)}>"


def parse(text: str, plain: Callable[[str], pa.DataType]) -> pa.DataType:
    """The inverse. ``plain``: the type that a word which is neither list nor struct means. Raises ``ValueError``."""
    kind, end = _parse(text, 0, plain)
    if end != len(text):
        msg = f"{text!r} is no type"
        raise ValueError(msg)
    return kind


def _parse(text: str, at: int, plain: Callable[[str], pa.DataType]) -> tuple[pa.DataType, int]:
    """The type that begins here, and where it ends."""
    import pyarrow as pa

    if text.startswith("list<", at):
        kind, at = _parse(text, at + 5, plain)
        return pa.list_(kind), _past(text, at, ">")
    if not text.startswith("struct<", at):
        found = _PLAIN.match(text, at)
        if found is None:
            msg = f"{text!r} is no type"
            raise ValueError(msg)
        return plain(found[0]), found.end()
    fields: list[pa.Field] = []
    at += 7
    while not fields or text.startswith(", ", at):
        name, at = json.JSONDecoder().raw_decode(text, at + 2 * bool(fields))
        kind, at = _parse(text, _past(text, at, ": "), plain)
        fields.append(pa.field(name, kind))
    return pa.struct(fields), _past(text, at, ">")


def _past(text: str, at: int, word: str) -> int:
    if not text.startswith(word, at):
        msg = f"{text!r} is no type"
        raise ValueError(msg)
    return at + len(word)
