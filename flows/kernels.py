"""Sequential kernels of the fold: one pass in offset order over dense group ids.

``ids[i]`` is the group of row i, ``ok[i]`` whether the row contributes (an empty ``ok``: all do); ``n[g]`` counts contributions
of group g, and the first one initialises (so that -0.0 survives and nothing is ever added to an invented zero).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel, maker

Ints = npt.NDArray[np.int64]
Unsigned = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@kernel
def mark(ids: Ints, marked: Mask, fresh: Ints) -> int:
    """Mark ids; those that were not marked go to ``fresh``. Returns how many."""
    count = 0
    for i in range(len(ids)):
        if not marked[ids[i]]:
            marked[ids[i]] = True
            fresh[count] = ids[i]
            count += 1
    return count


@kernel
def count(ids: Ints, ok: Mask, n: Ints) -> None:
    everything = len(ok) == 0
    for i in range(len(ids)):
        n[ids[i]] += everything or ok[i]


@kernel
def sum_floats(ids: Ints, ok: Mask, values: Floats, n: Ints, total: Floats) -> None:
    everything = len(ok) == 0
    for i in range(len(ids)):
        if everything or ok[i]:
            g = ids[i]
            total[g] = values[i] if n[g] == 0 else total[g] + values[i]
            n[g] += 1


@kernel
def sum_ints(ids: Ints, ok: Mask, values: Ints, n: Ints, low: Unsigned, high: Ints) -> None:
    """128-bit two's complement: ``high * 2**64 + low``."""
    everything = len(ok) == 0
    for i in range(len(ids)):
        if everything or ok[i]:
            g = ids[i]
            before = low[g]
            low[g] = before + np.uint64(values[i])
            high[g] += (np.int64(1) if low[g] < before else np.int64(0)) - (
                np.int64(1) if values[i] < 0 else np.int64(0)
            )
            n[g] += 1


@kernel
def extreme(ids: Ints, ok: Mask, values: Ints, n: Ints, best: Ints, greatest: bool) -> None:
    everything = len(ok) == 0
    for i in range(len(ids)):
        if everything or ok[i]:
            g = ids[i]
            if n[g] == 0 or (values[i] > best[g] if greatest else values[i] < best[g]):
                best[g] = values[i]
            n[g] += 1


@kernel
def by_time(ids: Ints, ok: Mask, values: Ints, time: Ints, n: Ints, when: Ints, chosen: Ints, last: bool) -> None:
    """Of equal times the first row wins for ``first`` and the last row for ``last``: rows are in offset order."""
    everything = len(ok) == 0
    for i in range(len(ids)):
        if everything or ok[i]:
            g = ids[i]
            if n[g] == 0 or (time[i] >= when[g] if last else time[i] < when[g]):
                when[g], chosen[g] = time[i], values[i]
            n[g] += 1


@maker
def watermarks_before(time: Ints, moves: Mask, start: int) -> tuple[Ints, int]:
    """The watermark before every record, and after the last; ``moves``: whether the record has an event time."""
    before = np.empty(len(time), np.int64)
    for i in range(len(time)):
        before[i] = start
        if moves[i] and time[i] > start:
            start = time[i]
    return before, start
