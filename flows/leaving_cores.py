"""Lower priority for work that can wait: whoever else wants a core of this machine gets it first."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

NICENESS = 10


@contextlib.contextmanager
def leaving_cores(wanted: bool) -> Iterator[None]:
    """Within the block this thread, and the threads that it starts, have a niceness of 10 at least (Linux, where threads have one each).

    Without the right to go back, the thread stays there.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if not wanted or sys.platform != "linux" or before >= NICENESS:
        yield
        return
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
