"""What becomes of each record of a slice, for one projection: one verdict a record, decided in one pass.

A record is folded, or it is one of the things that the books name: of another type, filtered, late, a dead letter, a tombstone, a
marker. What is dead by its envelope is dead for every projection; a bad field hurts only those who read it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.projection import Projection
from schemas.compiled import maker
from schemas.decode import DEAD, LIVE, MARKER, SUBJECT, TOMBSTONE, Column, Decoded, in_codes

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Verdicts = npt.NDArray[np.uint8]

NAMES = ("folded", "other_types", "late", "dead_letters", "tombstones", "markers", "filtered")
FOLDED, OF_OTHER_TYPE, LATE, DEAD_LETTER, A_TOMBSTONE, A_MARKER, FILTERED = range(len(NAMES))
"""Verdicts, and their names in ``Progress.counts``."""
_NOTHING = np.empty(0, np.bool_)


class Judge:
    """Decides for one projection."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    def verdicts(
        self, decoded: Decoded, ends: Ints | None, marks: Ints, passes: Mask = _NOTHING
    ) -> tuple[Verdicts, dict[str, int]]:
        """The verdict of each record and how many there are of each, by name. ``ends``: of the windows (None: there are none);
        ``marks``: the watermark before each record; ``passes``: the projection's filter (empty: it has none)."""
        wanted = np.zeros(len(decoded.types) + 1, np.bool_)  # the last for OTHER_TYPE, which is -1
        wanted[[code for code, event in enumerate(decoded.types) if event in self._projection.events]] = True
        closes = np.empty(0, np.int64) if ends is None else ends
        grace = self._projection.allowed_lateness_us
        found, counts = _judged(
            decoded.fate, decoded.type_code, wanted, self._bad(decoded), passes, closes, grace, marks
        )
        return found, dict(zip(NAMES, counts.tolist(), strict=True))

    def reason(self, decoded: Decoded, row: int) -> str:
        """Why the record in this row is a dead letter."""
        if row in decoded.reasons:
            return decoded.reasons[row]
        for name in self._projection.reads:
            if name in self._projection.fields:
                column = (name, self._projection.fields[name].type)
                if decoded.invalid[column][row]:
                    return f"field `{name}` is not a valid {column[1]}"
                if not decoded.columns[column][row].is_valid and self._requires(decoded, name)[row]:
                    return f"field `{name}` is missing"
        return "the subject is not text"

    def _bad(self, decoded: Decoded) -> Mask:
        """Where a column that is read is invalid, or required and missing; empty when nowhere."""
        bad = _NOTHING
        for name in self._projection.reads:
            column = self._column(name)
            if column is None:
                continue
            if decoded.invalid[column].any():
                bad = decoded.invalid[column] if bad is _NOTHING else bad | decoded.invalid[column]
            if column != SUBJECT and decoded.columns[column].null_count:
                missing = self._requires(decoded, name) & np.asarray(decoded.columns[column].is_null())
                bad = missing if bad is _NOTHING else bad | missing
        return bad

    def _column(self, name: str) -> Column | None:
        """The decoded column that ``name`` means; None for what every record has."""
        if name in self._projection.fields:
            return name, self._projection.fields[name].type
        return SUBJECT if name == "subject" else None

    def _requires(self, decoded: Decoded, name: str) -> Mask:
        codes = [c for c, event in enumerate(decoded.types) for f in event.fields if f.name == name and not f.nullable]
        return in_codes(decoded.type_code, codes, len(decoded.types))


@maker
def _judged(
    fate: Verdicts, type_code: Codes, wanted: Mask, bad: Mask, passes: Mask, ends: Ints, grace: int, marks: Ints
) -> tuple[Verdicts, Ints]:
    """``bad``, ``passes`` and ``ends`` may be empty: nothing is bad, there is no filter, there are no windows."""
    verdicts, counts = np.empty(len(fate), np.uint8), np.zeros(len(NAMES), np.int64)
    has_bad, has_filter, has_windows = len(bad) > 0, len(passes) > 0, len(ends) > 0
    for i in range(len(fate)):
        verdict = FOLDED
        if fate[i] == LIVE:
            if not wanted[type_code[i]]:
                verdict = OF_OTHER_TYPE
            elif has_bad and bad[i]:
                verdict = DEAD_LETTER
            elif has_filter and not passes[i]:
                verdict = FILTERED
            elif has_windows and marks[i] >= ends[i] + grace:
                verdict = LATE
        elif fate[i] == DEAD:
            verdict = DEAD_LETTER
        else:
            verdict = A_TOMBSTONE if fate[i] == TOMBSTONE else A_MARKER
        verdicts[i] = verdict
        counts[verdict] += 1
    return verdicts, counts


assert (LIVE, TOMBSTONE, MARKER, DEAD) == (0, 1, 2, 3), "the pass above knows all fates"
