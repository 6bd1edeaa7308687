"""The order of canonical keys is the order of their bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from connectors.sorting import sorted_order
from schemas.canonical import encode

texts = st.text(alphabet="ab\0é", max_size=20) | st.sampled_from(
    ["customer-1", "customer-10", "customer-100000000000", ""]
)
rows = st.lists(st.tuples(st.integers(-3, 3), texts | st.none(), st.sampled_from([0.0, -0.0, 1.5])), max_size=40)


@given(rows=rows, first=st.integers(0, 5))
def test_the_order_is_that_of_the_bytes_and_stable(rows: list[tuple[int, str | None, float]], first: int) -> None:
    kinds = [pa.int64(), pa.string(), pa.float64()]
    columns = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds)]
    keys = encode(columns).slice(min(first, len(rows)))
    assert sorted_order(keys).tolist() == pc.sort_indices(keys).to_pylist()


def test_many_keys_with_one_beginning() -> None:
    numbers = np.random.default_rng(1).integers(0, 3000, 20_000)
    keys = encode([pa.array([f"a long beginning that all of them have {number}" for number in numbers])])
    assert sorted_order(keys).tolist() == pc.sort_indices(keys).to_pylist()


def test_equal_keys_stay_in_their_order_in_short_runs_and_long() -> None:
    for distinct in (1, 3, 700):  # rows of a key: all, thousands (more than are sorted by insertion), and a few dozen
        numbers = np.random.default_rng(2).integers(0, distinct, 20_000)
        keys = encode([pa.array([f"{number:012}" for number in numbers])])
        assert sorted_order(keys).tolist() == np.argsort(numbers, kind="stable").tolist()


def test_none_and_one() -> None:
    assert sorted_order(pa.array([], pa.binary())).tolist() == []
    assert sorted_order(pa.array([b"x"], pa.binary())).tolist() == [0]
