"""The fast scanner of JSON: what it accepts is what the exact parser gives, and it stays within its bytes."""

from __future__ import annotations

import json
import random
import struct

import numpy as np
import pyarrow as pa
import pytest
from batch_fuzz.guarded import Guarded
from fuzz_scanner import TEXTS, WANTED, check, fuzz, record
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import lots_of_a_seed

from schemas import value_kernels
from schemas.dictionary import TEXTS as CODED
from schemas.dictionary import plain
from schemas.json_columns import read_columns, read_exactly
from schemas.scanner import Scanner


@pytest.mark.parametrize("inputs", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_what_is_accepted_is_what_the_exact_parser_gives(inputs: int) -> None:
    lots = lots_of_a_seed()
    done = fuzz(inputs, lots.randrange(2**32))
    print(f"{done.inputs:,} inputs, {done.accepted:,} accepted, no difference")
    assert done.accepted > inputs / 10


@given(st.lists(st.binary(max_size=80), max_size=5), st.randoms(use_true_random=False))
def test_any_bytes(values: list[bytes], lots: random.Random) -> None:
    with Guarded(1 << 12) as memory:
        check([*values, record(lots), *(b"{" + value + b"}" for value in values)], memory, lots)


@settings(max_examples=500)
@given(st.integers(0, 10**18 - 1), st.integers(0, 18))
def test_division_is_rounded_as_the_standard_library_does(number: int, decimals: int) -> None:
    ours = value_kernels.divided(np.uint64(number), decimals)
    assert struct.pack("d", ours) == struct.pack("d", float(f"{number}e-{decimals}"))


def test_division_at_ties() -> None:
    """Numbers half-way between two floats, and beside them."""
    for exponent in range(53, 59):
        for number in (2**exponent + 2 ** (exponent - 53), 2**exponent + 3 * 2 ** (exponent - 53), 2**53 + 1):
            for near in (number - 1, number, number + 1):
                assert value_kernels.divided(np.uint64(near), 0) == float(near)


def test_what_many_producers_write_needs_no_other_parser() -> None:
    """Spaces, other orders, nulls, arrays, nested objects, text beyond ASCII, 17 digits."""
    fields = {
        "n": 1,
        "x": 380.15000000000003,
        "text_with_a_long_name": "é",
        "b": None,
        "list": [1, {"a": "\n"}],
        "map": {"n": 2},
    }
    events = [{"type": "A", "time": "2013-01-01T00:00:00Z", "data": fields}]
    events += [{**event, "data": dict(reversed(fields.items()))} for event in events]
    values = [json.dumps(event, indent=indent, ensure_ascii=False).encode() for event in events for indent in (None, 2)]
    scanner = Scanner.of(WANTED)
    assert scanner is not None
    columns = read_columns(pa.array(values, pa.binary()), WANTED).columns
    assert columns["type",].type == CODED
    assert columns["data", "x"].to_pylist() == [380.15000000000003] * 4
    assert columns["data", "text_with_a_long_name"].to_pylist() == ["é"] * 4
    data, ends = np.frombuffer(b"".join(values), np.uint8), np.cumsum([0, *map(len, values)])
    assert scanner.scan(data, ends).accepted.all()


def test_spaces_are_no_matter_of_what_came_before() -> None:
    """Seen: where a record without spaces came first, all with spaces behind the same names were left to the exact parser."""
    event = {"type": "A", "more": "B", "data": {"n": 1, "x": 2.5}, "last": 3}
    styles = [(",", ":"), (", ", ": "), (" , ", " :\n"), (",", ":"), (",\t", ":\r\n  ")]
    values = [json.dumps(event, separators=style).encode() for style in styles for _ in range(10)] * 2
    scanner = Scanner.of(WANTED)
    assert scanner is not None
    data, ends = np.frombuffer(b"".join(values), np.uint8), np.cumsum([0, *map(len, values)])
    found = scanner.scan(data, ends)
    assert found.accepted.all()
    assert found.columns["data", "x"].to_pylist() == [2.5] * len(values)


def test_texts_of_both_parsers_share_one_column() -> None:
    good = [f'{{"type":{text}}}'.encode() for text in TEXTS]
    together = read_columns(pa.array([b'{"type":"a"}', *good, b'{"type":"a"}'], pa.binary()), WANTED)
    exact = read_exactly(pa.array([b'{"type":"a"}', *good, b'{"type":"a"}'], pa.binary()), WANTED)
    for path in WANTED:
        assert plain(together.columns[path]).equals(plain(exact.columns[path]))
        assert np.array_equal(together.invalid[path], exact.invalid[path])
    assert np.array_equal(together.not_object, exact.not_object)


def test_more_shapes_than_it_remembers() -> None:
    lots = random.Random(1)
    names = [f'"m{number}":{number}' for number in range(9)]
    values = []
    for number in range(4000):
        lots.shuffle(names)
        values.append((f'{{"data":{{{",".join(names)},"n":{number}}},' + f'"type":"t{number}"}}').encode())
    columns = read_columns(pa.array(values, pa.binary()), WANTED).columns
    assert columns["data", "n"].to_pylist() == list(range(4000))
    assert columns["type",].to_pylist() == [f"t{number}" for number in range(4000)]


def test_offsets_outside_the_data_are_refused() -> None:
    scanner = Scanner.of(WANTED)
    assert scanner is not None
    for offsets in ([0, 5], [-1, 2], [2, 1]):
        with pytest.raises(ValueError, match="outside its data"):
            scanner.scan(np.frombuffer(b"{}", np.uint8), np.array(offsets))


@pytest.mark.parametrize("wanted", [[("a",), ("a", "b")], [(f"m{n}",) for n in range(70)]])
def test_paths_that_cannot_be_scanned_are_parsed(wanted: list[tuple[str, ...]]) -> None:
    kinds = dict.fromkeys(wanted, pa.int64())
    assert Scanner.of(kinds) is None
    assert read_columns(pa.array([b'{"a":1,"m69":2}'], pa.binary()), kinds).columns[wanted[-1]][0].as_py() in (None, 2)
