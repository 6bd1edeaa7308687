"""A cluster of processes on this machine: one engine, several processes, supervised.

The table is the checkpoint, so a process that dies costs nothing but the time to start again: the others are brought
down, and the next start goes on from the last commit. When a rebuild takes over a view, all start again by themselves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

from connectors.clock import monotonic
from flows.stopping import stop_seconds
from schemas.errors import RefoldError, Superseded

WAIT_S = 10
"""How long the other processes may take to end before they are killed."""
LAST_S = 0.3
"""How long they may take beyond what a stop may take."""
FAILED = 3
AGAIN = 75
"""Exit code of a process that asks for all of them to be started again (EX_TEMPFAIL of sysexits.h)."""

Children = list[subprocess.Popen[bytes]]


def supervise(processes: int) -> int:
    """Start this very command once per process; returns the exit code of the whole."""
    stop = threading.Event()
    children: Children = []

    def ask(*_: object) -> None:
        stop.set()
        _terminate(children)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    code = AGAIN
    while code == AGAIN:
        children[:] = _start(processes)
        if stop.is_set():
            _terminate(children)
        code = _wait(children, stop)
    return code


def _start(processes: int) -> Children:
    addresses = ";".join(f"127.0.0.1:{port}" for port in _free_ports(processes))
    command, *rest = sys.argv[1:]
    place = [sys.executable, "-m", "flows.cli", command, "--addresses", addresses]
    return [subprocess.Popen([*place, "--process-id", str(number), *rest]) for number in range(processes)]


def _wait(children: Children, stop: threading.Event) -> int:
    """All of them to their end; the first that fails ends all."""
    while True:
        codes = [child.poll() for child in children]
        if stop.is_set():
            return _stopped(children)
        if any(codes):
            return _failed(children)
        if None not in codes:
            return 0
        with suppress(subprocess.TimeoutExpired):
            children[codes.index(None)].wait(0.1)


def _stopped(children: Children) -> int:
    """All were asked to stop. One that had only just begun ends by the signal itself, and others may wait for it in vain:
    whoever has not ended in time is killed, and nothing is lost by it."""
    deadline = monotonic() + stop_seconds() + LAST_S
    for child in children:
        _end(child, max(0.0, deadline - monotonic()))
    failed = {child.returncode for child in children if child.returncode > 0} - {AGAIN}
    return next((known for known in (2, 1) if known in failed), FAILED) if failed else 0


def _failed(children: Children) -> int:
    """Bring down the others. A process that ended by itself has said why; one that was killed has not."""
    killed = [(number, -child.returncode) for number, child in enumerate(children) if (child.returncode or 0) < 0]
    _bring_down(children)
    for number, by in killed:
        print(
            f"error: process {number} of the cluster was killed by signal {by}; the others were stopped",
            file=sys.stderr,
        )
        print("  do      start it again: it goes on from the last commit", file=sys.stderr)
    codes = [child.returncode for child in children]
    return next((known for known in (AGAIN, 2, 1) if known in codes), FAILED)


def leave(error: BaseException) -> NoReturn:
    """End this process of a cluster at once, saying why: the others notice, and the supervisor does.

    An engine whose part raises waits for its other threads, and those for the other processes: that can take for ever.
    """
    if isinstance(error, RefoldError) and not os.environ.get("REFOLD_DEBUG"):
        if not isinstance(error, Superseded):
            print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(AGAIN if isinstance(error, Superseded) else error.exit_code if isinstance(error, RefoldError) else FAILED)


def _terminate(children: Children) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()


def _bring_down(children: Children) -> None:
    _terminate(children)
    for child in children:
        _end(child, WAIT_S)


def _end(child: subprocess.Popen[bytes], wait_s: float) -> None:
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
