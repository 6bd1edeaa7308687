"""A cluster of processes on this machine: one engine, several processes, supervised.

The table is the checkpoint, so a process that dies costs nothing but the time to start again: the others are brought
down, and the next start goes on from the last commit.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

WAIT_S = 10
"""How long the other processes may take to end before they are killed."""
FAILED = 3


def supervise(processes: int) -> int:
    """Start this very command once per process; returns the exit code of the whole."""
    addresses = ";".join(f"127.0.0.1:{port}" for port in _free_ports(processes))
    command = [sys.executable, "-m", "flows.cli", *sys.argv[1:], "--addresses", addresses]
    children = [subprocess.Popen([*command, "--process-id", str(number)]) for number in range(processes)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _terminate(children))
    return _wait(children)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    """All of them to their end; the first that fails ends all."""
    while True:
        codes = [child.poll() for child in children]
        if all(code == 0 for code in codes):
            return 0
        failed = [number for number, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            _bring_down(children)
            code = codes[failed[0]]
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            print(f"error: process {failed[0]} of the cluster {how}; the others were stopped", file=sys.stderr)
            print("  do      start it again: it goes on from the last commit", file=sys.stderr)
            return code if code is not None and code in (1, 2, 3) else FAILED
        for child in children:
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                break


def _terminate(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()


def _bring_down(children: list[subprocess.Popen[bytes]]) -> None:
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
