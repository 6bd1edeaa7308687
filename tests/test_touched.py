"""The groups of a commit: dealt to blocks, put into order, found in every place; and tables that take ids over."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import Projection, agg
from flows.groups import GroupTable
from flows.partials import Partials
from flows.told import GroupsSent
from flows.touched import Touched, blocks
from schemas import Category, Event
from schemas.canonical import encode
from schemas.errors import StoreError


class Seen(Event):
    name: str


projection = Projection(
    name="seen", category=Category("things", [Seen]), events=[Seen], key=["name"], columns={"n": agg.count()}
)
texts = (
    st.text(alphabet="ab\0é", max_size=12)
    | st.sampled_from(["a beginning", "a beginning of", "a beginning of many"])
    | st.none()
)


def keys_of(names: list[str | None]) -> pa.BinaryArray:
    return encode([pa.array(names, pa.string())])


def place(names: list[str | None]) -> Partials:
    found = Partials(projection)
    found.intern(keys_of(names))
    return found


@given(
    names=st.lists(st.lists(texts, max_size=30, unique=True), min_size=1, max_size=3),
    count=st.integers(1, 20),
    data=st.data(),
)
def test_blocks_follow_each_other_and_find_every_group(
    names: list[list[str | None]], count: int, data: st.DataObject
) -> None:
    places = [place(found) for found in names]
    given = [
        np.array(sorted(data.draw(st.sets(st.integers(0, len(found) - 1)))) if found else [], np.int64)
        for found in names
    ]
    wanted = sorted({keys_of([found[i]])[0].as_py() for found, ids in zip(names, given, strict=True) for i in ids})
    is_all = [len(ids) == len(found) for ids, found in zip(given, names, strict=True)]
    groups, ids = [], [[] for _ in names]
    for block in blocks(places, given, count):
        touched = Touched.of(places, block, is_all)
        groups += touched.groups.to_pylist()
        for known, found in zip(ids, touched.ids, strict=True):
            known += found.tolist()
    assert groups == wanted  # distinct and ascending, within blocks and from one to the next
    for found, known in zip(names, ids, strict=True):
        numbers = {key.as_py(): i for i, key in enumerate(keys_of(found))}
        assert known == [numbers.get(group, -1) for group in wanted]


def test_many_groups_are_dealt_to_blocks_of_about_the_size_asked_for() -> None:
    names = [f"customer-{n}" for n in np.random.default_rng(1).permutation(50_000)]
    dealt = blocks(
        [place([None, *names[:30_000]]), place(names[30_000:])], [np.arange(30_001), np.arange(20_000)], 5_000
    )
    assert sum(len(ids) for block in dealt for ids in block) == 50_001
    assert max(sum(len(ids) for ids in block) for block in dealt) < 10_000


def test_a_table_that_takes_ids_over_finds_what_the_other_finds() -> None:
    first, second = GroupTable(), GroupTable()
    for names in [["b", "a"], ["c", "a", None], ["d"] * 2, [f"{n}" for n in range(5_000)], ["a", "5", "zz"]]:
        ids = np.unique(first.intern(keys_of(names)))
        assert second.follow(first.keys(ids), ids)
        assert len(first) == len(second)
        if names[0] != "c":
            assert second.find(keys_of(["a", "zz", None])).tolist() == first.find(keys_of(["a", "zz", None])).tolist()
    assert second.intern(keys_of(["new", "a"])).tolist() == [len(first), 1]
    assert second.keys(np.arange(len(first))).equals(first.keys(np.arange(len(first))))


@pytest.mark.parametrize("ids", [[1, 2], [0, 3], [3, 4]])
def test_ids_that_do_not_belong_to_their_keys_are_refused(ids: list[int]) -> None:
    table = place(["a", "b"])
    batch = table.get(np.arange(2)).remove_column(0)
    with pytest.raises(StoreError, match="numbers"):
        table.put(batch, GroupsSent(np.array(ids), keys_of(["a", "c"])))
    assert len(table) == 2
