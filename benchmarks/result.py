"""What the process of a row prints when it has finished: what it did, and what that cost it.

The last line of its standard output is one JSON object: the fields of ``Result`` and of ``Usage``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

Detail = float | int | str


@dataclass(frozen=True)
class Result:
    """What one row did.

    ``events``: how many it took; ``counted`` and ``amount``: what its output says of them (None: nothing); ``seconds``:
    what the clock of its row says (see ``rows``). ``digest``: of the rows of its view. ``details``: figures that only rows
    of its kind have.
    """

    events: int
    counted: int
    amount: float | None
    seconds: float
    digest: str = ""
    details: dict[str, Detail] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """``peak_bytes``: the most memory that was resident at once (pages of mapped files too); ``cpu_seconds``: of all threads."""

    peak_bytes: int
    cpu_seconds: float


_cpu_at_start = 0.0


def begin() -> None:
    """CPU seconds count from here on: what comes before is imports."""
    global _cpu_at_start
    _cpu_at_start = time.process_time()


def report(result: Result, usage: Usage | None = None) -> None:
    """The last line that a row prints. ``usage``: of the process that did the work, when it is another one."""
    spent = usage or Usage(_own_peak(), time.process_time() - _cpu_at_start)
    json.dump(asdict(result) | asdict(spent), sys.stdout)
    print(flush=True)


def _own_peak() -> int:
    """``ru_maxrss`` would count what the parent held when it started this process; Linux's own figure does not."""
    status = Path("/proc/self/status")
    if status.exists():
        return _high_water(status)
    greatest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return greatest if sys.platform == "darwin" else greatest * 1024


def usage_of(pid: int) -> Usage:
    """What a process that still runs has used so far; zeros where there is no ``/proc``."""
    home = Path("/proc") / str(pid)
    if not home.exists():
        return Usage(0, 0.0)
    times = (home / "stat").read_text().rpartition(")")[2].split()
    ticks = int(times[11]) + int(times[12])  # utime and stime, fields 14 and 15 of proc(5)
    return Usage(_high_water(home / "status"), ticks / os.sysconf("SC_CLK_TCK"))


def _high_water(status: Path) -> int:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
