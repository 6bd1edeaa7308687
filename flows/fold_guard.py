"""While a Python fold runs: no files, no sockets, no processes, whoever it is that the fold has called.

The interpreter tells of them (``sys.addaudithook``) whatever name they are reached by. It tells nothing of clocks, randomness and the
environment: those are refused by name before a fold ever runs (``flows.purity``), and what is reached in other ways shows
when ``verify`` folds again. Files of code may be read, since modules are loaded when they are first needed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import ImpureFold

REFUSED = frozenset(
    "open socket.__new__ socket.connect socket.bind socket.getaddrinfo socket.gethostname socket.gethostbyname "
    "subprocess.Popen os.system os.exec os.posix_spawn os.spawn os.fork os.forkpty os.putenv os.unsetenv os.remove os.rename "
    "os.mkdir os.rmdir os.truncate os.chmod os.link os.symlink shutil.copyfile shutil.rmtree sqlite3.connect "
    "urllib.Request time.sleep".split()
)
"""Names of audit events."""
CODE = (".py", ".pyc", ".so", ".pyd")

_here = threading.local()
_hooked = threading.Lock()


@contextmanager
def guarded() -> Iterator[None]:
    """While the block runs, what this thread does is watched. Raises ``ImpureFold``, also where the fold has swallowed it."""
    if _hooked.acquire(blocking=False):  # once a process: a hook stays for ever
        sys.addaudithook(_hook)
    _here.caught, _here.is_folding = None, True
    try:
        yield
    finally:
        _here.is_folding = False
        if _here.caught is not None:
            raise _here.caught


def caught() -> ImpureFold | None:
    """What the fold of this thread has been caught at."""
    return _here.caught


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in REFUSED or not getattr(_here, "is_folding", False):
        return
    if event == "open" and str(arguments[0]).endswith(CODE):
        return
    _here.caught = ImpureFold(
        f"a fold may not reach out of the process ({event}): a view is a pure function of its log",
        do="read what the fold needs when its module is loaded, and keep it in a constant; better, put it into the log",
    )
    raise _here.caught
