"""The same digests everywhere: nothing of the machine, the interpreter or the clock shapes the flights views.

``golden/flights.json`` holds the digests, found once and for all. A run in a process of its own must come to them under
any hash seed, number of threads and workers, time zone, locale and clock, in either Python. The clock is moved twice:
Python's own functions by a preamble, and the system's by a small library put before it (needs a C compiler), which is
also what Rust and C++ see. The default profile changes many things at once over a week; slow tests take the whole year,
one thing at a time.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pipelines import NAMES, ROOT, append, flights_log

from connectors import open_view
from flows.flights_feed import events_table

GOLDEN = Path(__file__).resolve().parent / "golden" / "flights.json"
TABLES = ("rows", "late", "dead_letters")
YEAR_SECONDS = 31_556_952
PATIENCE_SECONDS = 900
"""A process that takes longer hangs; nothing is measured with it."""

CLOCK = """
import datetime, os, runpy, sys, time
shift, pace = float(os.environ["TEST_CLOCK_SHIFT"]), float(os.environ["TEST_CLOCK_PACE"])
def moved(read, unit, by):
    began = read()
    return lambda: type(began)(began + by * unit + (read() - began) * pace)
time.time, time.time_ns = moved(time.time, 1, shift), moved(time.time_ns, 10**9, shift)
time.monotonic, time.monotonic_ns = moved(time.monotonic, 1, 0), moved(time.monotonic_ns, 10**9, 0)
time.perf_counter = moved(time.perf_counter, 1, 0)
print("years", time.gmtime(time.time()).tm_year, datetime.datetime.now(datetime.timezone.utc).year, file=sys.stderr)
sys.argv[0] = "refold"
runpy.run_module("flows.cli", run_name="__main__")
"""
"""Runs the command line with a clock that is shifted and runs faster. What a lock waits for is not touched by it."""

SHIM = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) { const char *by = getenv("TEST_SYSTEM_CLOCK_SHIFT"); return by ? atol(by) : 0; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""The wall clock of the whole process. The monotonic one is left alone: the kernel would wait by the true one."""


@dataclass(frozen=True)
class Circumstances:
    """What is different about a process. ``years``: by how many its clock is wrong, as Python or the system tells it."""

    name: str
    workers: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    years: int = 0
    pace: int = 1
    system_years: int = 0
    python: str = sys.executable

    def command(self, log: str, store: Path) -> list[str]:
        clock = ["-c", CLOCK] if self.years or self.system_years or self.pace != 1 else ["-m", "flows.cli"]
        workers = [] if self.workers is None else ["--workers", str(self.workers)]
        places = ["--log", log, "--store", str(store)]
        return [self.python, *clock, "run", *NAMES, "--until", "end", "--quiet", *places, *workers]

    def variables(self, store: Path) -> dict[str, str]:
        moved = {"TEST_CLOCK_SHIFT": str(self.years * YEAR_SECONDS), "TEST_CLOCK_PACE": str(self.pace)}
        if self.system_years:
            moved |= {"LD_PRELOAD": shim(), "TEST_SYSTEM_CLOCK_SHIFT": str(self.system_years * YEAR_SECONDS)}
        return {**os.environ, "PYTHONPATH": str(ROOT), **moved, **self.environment}


@functools.cache
def shim() -> str:
    """The library that moves the system's clock; skips the test where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the system's clock cannot be moved: that takes Linux and a C compiler (cc, gcc or clang)")
    place = _scratch("clock")
    (place / "clock.c").write_text(SHIM)
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", "clock.so", "clock.c"], cwd=place, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"the system's clock cannot be moved: {compiler} failed: {made.stderr[:200]}")
    return str(place / "clock.so")


def _scratch(what: str) -> Path:
    place = tempfile.mkdtemp(prefix=f"refold-test-{what}-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


@functools.cache
def year_log() -> str:
    log = str(_scratch("year"))
    append(log, events_table())
    return log


def run(circumstances: Circumstances, log: str, store: Path) -> dict[str, dict[str, str]]:
    """The digests of all tables that readers see, after a run in these circumstances."""
    variables = circumstances.variables(store)
    done = subprocess.run(
        circumstances.command(log, store), cwd=store.parent, env=variables, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _check_clock(circumstances, done.stderr)
    return {name: _digests(store, name) for name in NAMES}


def _digests(store: Path, name: str) -> dict[str, str]:
    tables = open_view(store, name).manifest.tables
    return {table: tables[table].digest for table in TABLES}


def _check_clock(circumstances: Circumstances, said: str) -> None:
    """A clock that was not moved would prove nothing."""
    if circumstances.years or circumstances.system_years:
        by_python, by_system = next(line for line in said.splitlines() if line.startswith("years ")).split()[1:]
        apart = int(by_python) - int(by_system)
        assert abs(apart - circumstances.years) <= 1, said
    if circumstances.system_years:
        true = subprocess.run(["date", "-u", "+%Y"], capture_output=True, text=True, check=True).stdout
        assert abs(int(by_system) - int(true) - circumstances.system_years) <= 1, said


def expected(span: str) -> Any:
    return json.loads(GOLDEN.read_text())[span]


AT_ONCE = [
    Circumstances(
        "hash seed 0, one thread, one worker, Kathmandu, ten years ahead, a thousand times as fast",
        workers=1,
        environment={"PYTHONHASHSEED": "0", "POLARS_MAX_THREADS": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
        years=10,
        pace=1000,
    ),
    Circumstances(
        "hash seed 1, eight threads, four workers, Newfoundland, Turkish, thirty years back",
        workers=4,
        environment={"PYTHONHASHSEED": "1", "POLARS_MAX_THREADS": "8", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8"},
        years=-30,
    ),
    Circumstances(
        "a random hash seed, two workers, the system's clock thirty years back",
        workers=2,
        environment={"PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "3", "TZ": "Pacific/Apia"},
        system_years=-30,
    ),
]  # fmt: skip
ALONE = [
    Circumstances("as it is"),
    *(Circumstances(f"hash seed {seed}", environment={"PYTHONHASHSEED": seed}) for seed in ("0", "1", "random")),
    *(Circumstances(f"{n} Polars threads", environment={"POLARS_MAX_THREADS": n}) for n in ("1", "8")),
    *(Circumstances(f"{n} workers", workers=n) for n in (1, 2, 4)),
    Circumstances("another time zone", environment={"TZ": "America/St_Johns"}),
    Circumstances("another locale", environment={"LC_ALL": "tr_TR.UTF-8"}),
    Circumstances("ten years ahead", years=10),
    Circumstances("thirty years back", years=-30),
    Circumstances("a thousand times as fast", pace=1000),
    Circumstances("the system's clock ten years ahead", system_years=10),
    Circumstances("the system's clock thirty years back", system_years=-30),
]


def named(circumstances: Circumstances) -> str:
    return circumstances.name


@pytest.mark.parametrize("circumstances", AT_ONCE, ids=named)
def test_a_week_of_flights_is_the_same_with_everything_changed_at_once(
    circumstances: Circumstances, tmp_path: Path
) -> None:
    assert run(circumstances, flights_log(), tmp_path / "store") == expected("7 days")


@pytest.mark.slow
@pytest.mark.parametrize("circumstances", ALONE, ids=named)
def test_the_year_of_flights_is_the_same_with_one_thing_changed(circumstances: Circumstances, tmp_path: Path) -> None:
    assert run(circumstances, year_log(), tmp_path / "store") == expected("the year")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_year_of_flights_is_the_same_in_either_python(version: str, tmp_path: Path) -> None:
    python = sys.executable if _version(sys.executable) == version else environment_of(version)
    assert run(Circumstances(version, python=python), year_log(), tmp_path / "store") == expected("the year")


def environment_of(version: str) -> str:
    """The interpreter of an environment with what refold depends on, made once under build/; skips where none can be."""
    home = ROOT / "build" / f"python-{version}"
    python = str(home / "bin" / "python")
    if (home / ".installed").exists() and _version(python) == version:
        return python
    base = _interpreter(version)
    if base is None:
        pytest.skip(f"Python {version} is neither on the PATH nor under ~/.pyenv/versions")
    shutil.rmtree(home, ignore_errors=True)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for step in ([base, "-m", "venv", str(home)], [python, "-m", "pip", "install", "--quiet", *wanted]):
        made = subprocess.run(step, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if made.returncode:
            pytest.skip(f"no environment for Python {version}: {made.stderr[-300:]}")
    (home / ".installed").touch()
    return python


def _interpreter(version: str) -> str | None:
    """The first that runs and is of this version: a name on the PATH may be a shim that does not run."""
    installed = Path.home().glob(f".pyenv/versions/*/bin/python{version}")
    there = [shutil.which(f"python{version}"), *map(str, sorted(installed))]
    return next((python for python in there if python and _version(python) == version), None)


def _version(python: str) -> str:
    ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
