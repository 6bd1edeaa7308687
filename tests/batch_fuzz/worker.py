"""One fuzzing process: ``python -m batch_fuzz.worker SLATE SEED FIRST COUNT`` (started by fuzz_record_batch.py).

Every input goes on the slate before it is decoded. Failures are kept beside the slate and printed. Refuses to run
where compiled kernels do not check bounds, or do, against what NUMBA_BOUNDSCHECK says.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from batch_fuzz.answers import Answers
from batch_fuzz.corpus import corpus
from batch_fuzz.judge import LIBRARY_CODECS, Judge
from batch_fuzz.mutations import Mutator, seeds
from fuzz_record_batch import Slate, Verdict

from schemas.compiled import kernel

ANSWER_EVERY = 16
"""One input in so many is a whole answer on its way to slices, the others are batches to decode."""


@kernel
def _byte_at(data: npt.NDArray[np.uint8], at: int) -> int:
    return data[at]


def checks_bounds() -> bool:
    """Whether a kernel that reads beyond its array is stopped."""
    try:
        _byte_at(np.zeros(2, np.uint8)[:1], 1)
    except IndexError:
        return True
    return False


class Worker:
    def __init__(self, seed: int) -> None:
        known = list(corpus())
        self._mutator = Mutator(seeds(golden.raw for golden in known), seed)
        self._judge, self._answers = Judge(), Answers(known)

    def decide(self, number: int, slate: Slate) -> tuple[Verdict, str]:
        """The verdict on input ``number``, and why."""
        if number % ANSWER_EVERY == 0:
            slate.put(number, b"")
            return self._answers.judge(self._mutator.chance(number)), self._answers.why
        fetched = self._mutator.input_at(number)
        slate.put(number, fetched)
        return self._judge.judge(fetched, low=bool(number & 1)), self._judge.why


def main() -> None:
    path, seed, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
    faulthandler.enable()
    if checks_bounds() != (os.environ["NUMBA_BOUNDSCHECK"] == "1"):
        sys.exit("the cache holds kernels that were compiled with another NUMBA_BOUNDSCHECK")
    slate, worker = Slate(path), Worker(seed)
    print(f"codecs of the library: {', '.join(LIBRARY_CODECS)}", flush=True)
    for number in range(first, first + count):
        verdict, why = worker.decide(number, slate)
        slate.counts[verdict] += 1
        if verdict.is_failure:
            path.with_name(f"{verdict.name.lower()}-{number}.bin").write_bytes(slate.input)
            print(f"{verdict.name} input {number}: {why[:2000]}", flush=True)


if __name__ == "__main__":
    main()
