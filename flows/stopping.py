"""Ctrl-C and SIGTERM: commit what was folded and end; where that takes too long, end without.

Promises: a command that was asked to stop has ended ``REFOLD_STOP_SECONDS`` later, whatever it waits for: a broker that does
not answer, a large commit, another process. What was not committed then is folded again by the next start, as after any
crash: the table is the checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading

from schemas.errors import UsageError

STOP_S = 1.5
_SETTING = "REFOLD_STOP_SECONDS"


def stop_on_signals(unfinished: int = 0) -> threading.Event:
    """Set by the first signal; a second Ctrl-C does not wait. ``unfinished``: the exit code when time ran out.

    Raises ``UsageError`` when ``REFOLD_STOP_SECONDS`` is no number of seconds.
    """
    stop, patience_s = threading.Event(), stop_seconds()

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.set()
        timer = threading.Timer(patience_s, _leave, (unfinished,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def stop_seconds() -> float:
    text = os.environ.get(_SETTING) or STOP_S
    try:
        seconds = float(text)
        if not 0 <= seconds <= threading.TIMEOUT_MAX:
            raise ValueError(text)
    except ValueError:
        msg = f"{_SETTING} is no number of seconds: {text!r}"
        raise UsageError(msg, do="set it to how long a command may take to stop, such as 1.5") from None
    return seconds


def _leave(code: int) -> None:
    """Say why and end, past all that may be stuck: also a stream that nobody reads, or its lock."""
    try:
        os.write(2, b"stopped at once, without a last commit: the next start goes on from the last one\n")
    finally:
        os._exit(code)
