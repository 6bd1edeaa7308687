"""JSON values to typed columns, in bulk, with the outcome of parsing each value alone.

**What a value means** is fixed by one rule: parse that value *alone* with ``pyarrow.json`` for one wanted path and its
type. The columns given here equal that rule for every record and path, whatever its neighbours hold. Speed comes from
parsing many values at once, which is accepted only where it provably gives the same (all values object-shaped, as many
rows as values, every text valid UTF-8); anything else is halved until it passes or one value is left. Before that a scanner of
our own (schemas/scanner.py) takes what is plain.

Beyond the parser's own grammar: a value must be exactly one object; NaN and infinities are invalid; missing and null
are the same; an instant is RFC 3339 text or whole milliseconds, a date is ``YYYY-MM-DD``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from schemas.event import TIMESTAMP
from schemas.instants import dates, instants, milliseconds
from schemas.json_scan import buffers, lines, object_shaped, picked
from schemas.scanner import Scanned, Scanner, merged

Path = tuple[str, ...]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

MAX_BLOCK_BYTES = 1 << 28
"""The parser takes a block at once and counts its bytes in 32 bits."""


@dataclass(frozen=True, slots=True)
class JsonColumns:
    """Columns by path, as long as the values. Where ``invalid[path]`` is set the column is null; where a column is null
    and not invalid, the value has no such member or a null there. ``not_object`` is set where a value is not one JSON object."""

    columns: dict[Path, pa.Array]
    invalid: dict[Path, Mask]
    not_object: Mask


def read_columns(values: pa.BinaryArray, wanted: Mapping[Path, pa.DataType]) -> JsonColumns:
    """Parse ``values`` (binary, no nulls) for the wanted paths. Types: string, int64, float64, bool, TIMESTAMP, date32.

    Texts come as codes and distinct values (type ``TEXTS``) where the scanner was of use, and else as strings.
    """
    data, offsets = buffers(values)
    scanner = _scanner(tuple(wanted.items()))
    if scanner is None or not len(values):
        return _parsed(data, offsets, wanted)
    scanned = scanner.scan(data, offsets)
    rows = np.flatnonzero(~scanned.accepted)
    if len(rows) == len(values):
        return _parsed(data, offsets, wanted)
    others = _parsed(*_picked(data, offsets, rows), wanted) if len(rows) else None
    return _joined(scanned, rows, others)


def read_exactly(values: pa.BinaryArray, wanted: Mapping[Path, pa.DataType]) -> JsonColumns:
    """The same by the exact parser alone."""
    return _parsed(*buffers(values), wanted)


@functools.lru_cache(maxsize=256)
def _scanner(wanted: tuple[tuple[Path, pa.DataType], ...]) -> Scanner | None:
    return Scanner.of(dict(wanted))


def _picked(data: Bytes, offsets: Rows, rows: Rows) -> tuple[Bytes, Rows]:
    """The values of some rows alone."""
    sizes = offsets[rows + 1] - offsets[rows]
    return picked(data, offsets, rows), np.concatenate([[0], np.cumsum(sizes)])


def _joined(scanned: Scanned, rows: Rows, others: JsonColumns | None) -> JsonColumns:
    """What was scanned, and for the ``rows`` that were not, what was parsed."""
    n = len(scanned.accepted)
    nothing = np.zeros(n, np.bool_)
    invalid = {path: scanned.invalid.get(path, nothing) for path in scanned.columns}
    if others is None:
        return JsonColumns(scanned.columns, invalid, nothing)
    for path, bad in others.invalid.items():
        invalid[path] = invalid[path].copy()
        invalid[path][rows] = bad
    not_object = nothing.copy()
    not_object[rows] = others.not_object
    return JsonColumns(merged(scanned, rows, others.columns), invalid, not_object)


def _parsed(data: Bytes, offsets: Rows, wanted: Mapping[Path, pa.DataType]) -> JsonColumns:
    shaped = object_shaped(data, offsets)
    rows = np.flatnonzero(shaped)
    parts = _parse(_Input(data, offsets, dict(wanted)), rows)
    return _assemble(parts, rows, len(offsets) - 1, wanted)


@dataclass(frozen=True, slots=True)
class _Input:
    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    wanted: dict[Path, pa.DataType]

    def bytes_of(self, rows: Rows) -> int:
        return int((self.offsets[rows + 1] - self.offsets[rows]).sum()) + len(rows)


@dataclass(frozen=True, slots=True)
class _Part:
    """The outcome for a run of rows: columns and masks as long as the run."""

    columns: dict[Path, pa.Array]
    invalid: dict[Path, Mask]
    not_object: Mask


def _parse(source: _Input, rows: Rows) -> list[_Part]:
    """Parts in row order."""
    if len(rows) == 0:
        return []
    if source.bytes_of(rows) < MAX_BLOCK_BYTES or len(rows) == 1:
        part = _parse_block(source, rows)
        if part is not None:
            return [part]
        if len(rows) == 1:
            return [_parse_alone(source, rows)]
    middle = len(rows) // 2
    return _parse(source, rows[:middle]) + _parse(source, rows[middle:])


def _parse_block(source: _Input, rows: Rows) -> _Part | None:
    """All rows at once, or None where that is not provably what each alone would give."""
    text = lines(source.data, source.offsets, rows)
    kinds = [pa.string(), pa.int64()] if TIMESTAMP in source.wanted.values() else [pa.string()]
    for instant_kind in kinds:
        table = _read(text, source.wanted, instant_kind)
        if table is not None and table.num_rows == len(rows):
            return _finish(table, source.wanted, len(rows))
    return None


def _parse_alone(source: _Input, rows: Rows) -> _Part:
    """One row that does not pass with all paths together: each path on its own."""
    columns: dict[Path, pa.Array] = {}
    invalid: dict[Path, Mask] = {}
    whole = _parse_block(_Input(source.data, source.offsets, {}), rows)  # is it one object at all?
    for path, kind in source.wanted.items():
        part = _parse_block(_Input(source.data, source.offsets, {path: kind}), rows) if whole else None
        columns[path] = part.columns[path] if part else pa.nulls(1, kind)
        invalid[path] = part.invalid[path] if part else np.array([whole is not None])
    return _Part(columns, invalid, np.array([whole is None]))


def _read(
    text: npt.NDArray[np.uint8], wanted: Mapping[Path, pa.DataType], instant_kind: pa.DataType
) -> pa.Table | None:
    # The parser gives no rows at all for a schema without columns: ask for a member whose name is longer than the text.
    absent = {} if wanted else {("x" * len(text),): pa.null()}
    schema = _nest({path: _raw_type(kind, instant_kind) for path, kind in wanted.items()} | absent)
    try:
        return pj.read_json(
            pa.BufferReader(pa.py_buffer(text)),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema(schema), newlines_in_values=False, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None


def _raw_type(kind: pa.DataType, instant_kind: pa.DataType) -> pa.DataType:
    if kind == TIMESTAMP:
        return instant_kind
    return pa.string() if kind == pa.date32() else kind


def _nest(paths: Mapping[Path, pa.DataType]) -> list[pa.Field]:
    """Fields of nested structs for dotted paths."""
    fields: list[pa.Field] = []
    for head in dict.fromkeys(path[0] for path in paths):
        below = {path[1:]: kind for path, kind in paths.items() if path[0] == head and len(path) > 1}
        fields.append(pa.field(head, pa.struct(_nest(below)) if below else paths[(head,)]))
    return fields


def _finish(table: pa.Table, wanted: Mapping[Path, pa.DataType], n: int) -> _Part | None:
    """Check what the parser does not, and convert; None when a text is not UTF-8 (it may be one row's fault)."""
    columns: dict[Path, pa.Array] = {}
    invalid: dict[Path, Mask] = {}
    for path, kind in wanted.items():
        array = _member(table, path)
        if pa.types.is_string(array.type):
            try:
                array.validate(full=True)
            except pa.ArrowInvalid:
                return None
        columns[path], invalid[path] = _convert(array, kind)
    return _Part(columns, invalid, np.zeros(n, np.bool_))


def _member(table: pa.Table, path: Path) -> pa.Array:
    array = table.column(path[0]).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    for name in path[1:]:
        array = pc.struct_field(array, name)
    return array


def _convert(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Mask]:
    """The column in its final type, and where a member that is there has no valid value."""
    if kind == pa.float64():
        bad = np.asarray(pc.fill_null(pc.invert(pc.is_finite(array)), False))
        return (pc.if_else(pa.array(~bad), array, None) if bad.any() else array), bad
    if kind not in (TIMESTAMP, pa.date32()):
        return array, np.zeros(len(array), np.bool_)
    read = dates if kind == pa.date32() else instants if pa.types.is_string(array.type) else milliseconds
    numbers, valid = read(array)
    numbers = numbers.astype(np.int32) if kind == pa.date32() else numbers
    return pa.array(numbers, mask=~valid).cast(kind), np.asarray(array.is_valid()) & ~valid


def _assemble(parts: Sequence[_Part], rows: Rows, n: int, wanted: Mapping[Path, pa.DataType]) -> JsonColumns:
    """Back to the places of all values; those that were not object-shaped are null and ``not_object``."""
    not_object = np.ones(n, np.bool_)
    columns: dict[Path, pa.Array] = {}
    invalid: dict[Path, Mask] = {}
    if parts:
        not_object[rows] = np.concatenate([part.not_object for part in parts])
    for path, kind in wanted.items():
        arrays = [part.columns[path] for part in parts]
        packed = pa.concat_arrays(arrays) if len(arrays) != 1 and arrays else arrays[0] if arrays else pa.nulls(0, kind)
        columns[path] = packed if len(rows) == n else _spread(packed, rows, n)
        invalid[path] = np.zeros(n, np.bool_)
        if parts:
            invalid[path][rows] = np.concatenate([part.invalid[path] for part in parts])
    return JsonColumns(columns, invalid, not_object)


def _spread(packed: pa.Array, rows: Rows, n: int) -> pa.Array:
    places = np.full(n, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return packed.take(pa.array(places, mask=places < 0))
