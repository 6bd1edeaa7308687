"""Differences between two states of a table are exactly those of the rows, found by reading only the chunks that differ."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from table_model import ROWS, Model, keys, scratch, table_of, values

from connectors.changes import Changes
from connectors.diff import changed_chunks, differences
from connectors.manifest import Chunk
from connectors.reading import load_chunk
from connectors.table import open_writer

rows = st.dictionaries(keys, values, max_size=30)
Found = set[tuple[tuple[Any, ...], str | None]]


def same(a: object, b: object) -> bool:
    return repr(a) == repr(b)  # tells 0.0 from -0.0, and NaN is like NaN


def expected(left: Model, right: Model) -> Found:
    found: Found = {(key, None) for key in left.keys() ^ right.keys()}
    for key in left.keys() & right.keys():
        pairs = zip(("amount", "note"), left[key], right[key], strict=True)
        found |= {(key, name) for name, a, b in pairs if not same(a, b)}
    return found


@given(rows, rows, st.sets(keys))
def test_differences_are_those_of_the_rows_and_only_differing_chunks_are_read(
    left: Model, change: Model, gone: set[Any]
) -> None:
    right = {key: value for key, value in (left | change).items() if key not in gone}
    with scratch() as store:
        committed = []
        for name, model in (("left", left), ("right", right)):
            with open_writer(store, name, 1, [ROWS]) as writer:
                committed.append(writer.commit({"rows": Changes(table_of(model))}, {"cut": {"orders": [1]}}))
        tables = [manifest.tables["rows"] for manifest in committed]
        read: list[str] = []
        loads = [counted(load_chunk(store, manifest, "rows"), read) for manifest in committed]
        found = list(differences(*tables, *loads))
        assert {(tuple(one.key.values()), one.column) for one in found} == expected(left, right)
        assert len(found) == len(expected(left, right))
        order = [(window, key is not None, key or "") for window, key in (tuple(one.key.values()) for one in found)]
        assert order == sorted(order, key=lambda one: (one[0], one[1], one[2].encode()))
        for one in found:
            check_values(one.key, one.column, one.left, one.right, left, right)
        common = {chunk.digest for chunk in tables[0].chunks} & {chunk.digest for chunk in tables[1].chunks}
        if not found:
            assert read == []
        assert {c.file for c in changed_chunks(*tables)} == {c.file for c in tables[0].chunks if c.digest not in common}


def counted(load: Any, read: list[str]) -> Any:
    def loading(chunk: Chunk) -> Any:
        read.append(chunk.file)
        return load(chunk)

    return loading


def check_values(key: dict[str, Any], column: str | None, ours: Any, theirs: Any, left: Model, right: Model) -> None:
    at = tuple(key.values())
    whole = [dict(zip(("amount", "note"), side[at], strict=True)) if at in side else None for side in (left, right)]  # type: ignore[index]
    if column is not None:
        assert whole[0] is not None and whole[1] is not None
        assert same((ours, theirs), (whole[0][column], whole[1][column]))
    else:
        assert same((ours, theirs), tuple(whole))
