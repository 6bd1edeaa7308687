"""Rows to local groups (flows/grouping.py): the same rows together as any dictionary of tuples would put them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import grouping
from flows.grouping import distinct_rows

VALUES = {
    pa.string(): st.sampled_from(["", "a", "b", "ab", "b\0"]),
    pa.int64(): st.sampled_from([0, 1, -1, 1 << 40, -(1 << 63), (1 << 63) - 1]),
    pa.float64(): st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, float("inf")]),
    pa.bool_(): st.booleans(),
}


@st.composite
def columns(draw: st.DrawFn) -> list[pa.Array]:
    n = draw(st.integers(0, 40))
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    return [
        pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=n, max_size=n)), kind, from_pandas=False)
        for kind in kinds
    ]


def places(keys: list[pa.Array]) -> tuple[list[int], list[int]]:
    """Group of each row, numbered as they appear, and the first row of each. (repr: 0.0 and -0.0 are two values.)"""
    known: dict[str, int] = {}
    firsts: list[int] = []
    ids = []
    for place, row in enumerate(map(repr, zip(*(key.to_pylist() for key in keys), strict=True))):
        if row not in known:
            known[row] = len(known)
            firsts.append(place)
        ids.append(known[row])
    return ids, firsts


@given(columns())
def test_rows_are_together_when_all_their_values_are_the_same(keys: list[pa.Array]) -> None:
    ids, firsts = distinct_rows(keys)
    assert (ids.tolist(), firsts.tolist()) == places(keys)


@given(st.lists(st.none() | st.sampled_from(["", "a", "b", "ab"]), max_size=40), st.integers(0, 40), st.booleans())
def test_texts_of_a_dictionary_are_grouped_whatever_else_is_in_it(
    names: list[str | None], first: int, are_two: bool
) -> None:
    beside = pa.array(["zz", *names], pa.string()).dictionary_encode()
    key = beside[1:].slice(first)
    keys = [key] * (2 if are_two else 1)
    ids, firsts = distinct_rows(keys)
    assert (ids.tolist(), firsts.tolist()) == places(keys)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_more_groups_than_the_first_table_holds(count: int) -> None:
    wide = np.random.default_rng(7).integers(0, 3 * grouping.FIRST_SLOTS, 8 * grouping.FIRST_SLOTS)
    keys = [pa.array(wide), pa.array(wide % 7), pa.array(wide % 2).cast(pa.bool_())][:count]
    ids, firsts = distinct_rows(keys)
    assert (ids.tolist(), firsts.tolist()) == places([keys[0]])
