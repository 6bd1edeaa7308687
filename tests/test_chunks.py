"""Where a chunk ends depends on the row there alone: so a row more or less leaves all other ends where they were."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_model import ROWS, Key, changes_of, facts, keys, scratch

from connectors.chunks import WRITER, dictionary_columns, ends_chunk, file_bytes
from connectors.table import open_writer


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=50), st.sampled_from([1, 2, 4, 64]))
def test_an_end_is_decided_by_its_key_alone(found: list[bytes], chunk_rows: int) -> None:
    together = ends_chunk(pa.array(found, pa.binary()), chunk_rows).tolist()
    assert together == [bool(ends_chunk(pa.array([key], pa.binary()), chunk_rows)[0]) for key in found]


@given(keys)
def test_a_new_row_changes_one_chunk(key: Key) -> None:
    many = {(window, f"{number}"): (1.0, None) for window in range(8) for number in range(10)}
    with scratch() as store, open_writer(store, "view", 1, [ROWS]) as writer:
        before = writer.commit({"rows": changes_of(many, set())}, facts(1)).tables["rows"].chunks
        after = writer.commit({"rows": changes_of({key: (2.0, None)}, set())}, facts(2)).tables["rows"].chunks
    assert len(before) > 10
    assert len(set(before) - set(after)) <= 1
    assert len(set(after) - set(before)) <= 2


@pytest.mark.parametrize("rows", [0, 1, 3, 1023, 1024, 1025, 70_000])
def test_columns_whose_values_repeat_have_a_dictionary(rows: int) -> None:
    columns = {
        "different": [f"customer-{i}" for i in range(rows)],
        "sorted": [i // 17 for i in range(rows)],
        "in_turns": [f"country {i % 30}" for i in range(rows)],
        "nothing": pa.nulls(rows, pa.int64()),
        "list": pa.array([[1, 1, 1]] * rows, pa.list_(pa.int64())),
    }
    found = set(dictionary_columns(pa.table(columns)))
    if rows > 1000:
        assert found == {"sorted", "in_turns", "nothing"}
    assert "list" not in found and found <= set(columns)
    with_all = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), with_all, use_dictionary=True, **WRITER)
    if rows == 70_000:
        assert len(file_bytes(pa.table(columns))) < with_all.tell() * 0.8
