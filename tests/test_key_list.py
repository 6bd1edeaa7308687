"""Lists of keys (flows/key_list.py) that a fold shares with its view, and the groups that are told by them (flows/told.py)."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.groups import GroupTable
from flows.room import LARGE_BYTES, room_for, with_room
from flows.told import GroupsHere
from schemas.canonical import encode

names = st.lists(st.text(alphabet="ab\0é", max_size=6), max_size=12)


def keys_of(found: list[str]) -> pa.BinaryArray:
    return encode([pa.array(found, pa.string())])


def all_keys(table: GroupTable) -> pa.BinaryArray:
    return table.keys(np.arange(len(table)))


@given(st.lists(st.tuples(names, st.booleans(), names), max_size=6))
def test_a_view_knows_the_keys_it_was_told_however_they_come(steps: list[tuple[list[str], bool, list[str]]]) -> None:
    fold, view = GroupTable(), GroupTable()
    for arrived, is_sent, sought in steps:
        told = GroupsHere(np.unique(fold.intern(keys_of(arrived))), fold.shared())
        assert (pickle.loads(pickle.dumps(told)) if is_sent else told).are_taken_over_by(view)
        before = all_keys(view)
        fold.intern(keys_of(["behind", *sought]))  # what the fold goes on with is nothing to the view
        assert all_keys(view).equals(before)
        assert view.find(keys_of(["behind", *sought])).tolist() == [
            before.to_pylist().index(key) if key in before.to_pylist() else -1
            for key in keys_of(["behind", *sought]).to_pylist()
        ]
        told = GroupsHere(np.arange(len(fold)), fold.shared())
        assert told.are_taken_over_by(view)
        assert all_keys(view).equals(all_keys(fold))


@given(names, names, names)
def test_who_adds_to_a_list_that_is_shared_has_its_own(first: list[str], ours: list[str], theirs: list[str]) -> None:
    fold, view = GroupTable(), GroupTable()
    fold.intern(keys_of(first))
    assert view.share(fold.shared())
    view.intern(keys_of(ours))
    fold.intern(keys_of(theirs))
    for table, more in ((view, ours), (fold, theirs)):
        assert all_keys(table).to_pylist() == keys_of(list(dict.fromkeys([*first, *more]))).to_pylist()


@pytest.mark.parametrize(
    ("here", "there"), [(["a", "b"], ["a", "c"]), (["a", "b"], ["a"]), (["ab"], ["a", "b"]), (["b", "a"], ["a", "b"])]
)
def test_a_list_that_does_not_begin_with_the_keys_that_are_known_is_refused(here: list[str], there: list[str]) -> None:
    view, fold = GroupTable(), GroupTable()
    view.intern(keys_of(here))
    fold.intern(keys_of(there))
    assert not view.share(fold.shared())
    assert all_keys(view).equals(keys_of(here))


@pytest.mark.parametrize("count", [0, 1, 513, LARGE_BYTES // 16, LARGE_BYTES, 1 << 30])
def test_room_is_at_least_twice_what_is_wanted_and_no_more_than_addresses_can_bear(count: int) -> None:
    assert 2 * count <= room_for(count, 8) <= max(2 * count, 8 * count)
    assert room_for(count, 8) <= max(2 * count, count + (1 << 25))


def test_what_is_there_stays_and_zeros_follow() -> None:
    larger = with_room(np.arange(1, 4), 5)
    assert larger[:5].tolist() == [1, 2, 3, 0, 0]
    assert with_room(larger, len(larger)) is larger
