"""A cluster of processes on this machine: one engine, several processes, supervised.

The table is the checkpoint, so a process that dies costs nothing but the time to start again: the others are brought
down, and the next start goes on from the last commit. When a rebuild takes over a view, all start again by themselves.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

WAIT_S = 10
"""How long the other processes may take to end before they are killed."""
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
        code = _wait(children)
    return code


def _start(processes: int) -> Children:
    addresses = ";".join(f"127.0.0.1:{port}" for port in _free_ports(processes))
    command, *rest = sys.argv[1:]
    place = [sys.executable, "-m", "flows.cli", command, "--addresses", addresses]
    return [subprocess.Popen([*place, "--process-id", str(number), *rest]) for number in range(processes)]


def _wait(children: Children) -> int:
    """All of them to their end; the first that fails ends all."""
    while any([child.poll() is None for child in children]) and not any(child.returncode for child in children):
        running = next(child for child in children if child.returncode is None)
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.1)
    return _failed(children) if any(child.returncode for child in children) else 0


def _failed(children: Children) -> int:
    """Bring down the others. A process that ended by itself has said why; one that was killed has not."""
    killed = [(number, -child.returncode) for number, child in enumerate(children) if (child.returncode or 0) < 0]
    _bring_down(children)
    for number, by in killed:
        print(f"error: process {number} of the cluster was killed by signal {by}; the others were stopped", file=sys.stderr)
        print("  do      start it again: it goes on from the last commit", file=sys.stderr)
    codes = [child.returncode for child in children]
    return next((known for known in (AGAIN, 2, 1) if known in codes), FAILED)


def _terminate(children: Children) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()


def _bring_down(children: Children) -> None:
    _terminate(children)
    for child in children:
        try:
            child.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
