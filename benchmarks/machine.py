"""The machine that was measured on: what it is, and how much of it was free beside each row."""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("bytewax", "kafka-python", "polars", "pyarrow", "numba", "numpy")
BROKER_JAR = "kafka_*.jar"
BUSY_BYTES = bytes(100_000_000)
ROOT = Path(__file__).resolve().parent.parent
KERNELS_OF = ("benchmarks", "connectors", "flows", "schemas")
GIB = 1 << 30
FRESH_BYTES = GIB // 4


@dataclass(frozen=True)
class Beside:
    """Taken just before a row. ``fixed_work_seconds``: the same work everywhere, on one core. ``cores_free``: how much of
    the machine a process that asks for every core was given. ``fresh_memory_seconds``: for a GiB that nobody had before, a page at a
    time; on a virtual machine it may take ten times as long as on another day."""

    fixed_work_seconds: float
    cores_free: float
    fresh_memory_seconds: float


def beside() -> Beside:
    """Once what was written so far is on the disk: a row does not wait for the input, or for what the row before it left."""
    os.sync()
    return Beside(_fixed_work_seconds(), _cores_free(), _fresh_memory_seconds())


def _fixed_work_seconds() -> float:
    """Half in the interpreter and half in compiled code."""
    started = time.perf_counter()
    sum(number * number for number in range(3_000_000))
    hashlib.sha256(bytes(200_000_000)).digest()
    return time.perf_counter() - started


def _cores_free() -> float:
    """CPU seconds that one busy thread a core got in a second."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as threads:
        started, spent = time.perf_counter(), time.process_time()
        list(threads.map(lambda _: hashlib.sha256(BUSY_BYTES).digest(), range(2 * cores)))
        return (time.process_time() - spent) / (time.perf_counter() - started)


def _fresh_memory_seconds() -> float:
    with mmap.mmap(-1, FRESH_BYTES) as memory:
        started = time.perf_counter()
        for page in range(0, FRESH_BYTES, mmap.PAGESIZE):
            memory[page] = 1
        return (time.perf_counter() - started) * (GIB / FRESH_BYTES)


def compiled_kernels() -> int:
    """How many there are in the packages' caches. A row in which this grows was slower than it will ever be again."""
    return sum(1 for package in KERNELS_OF for _ in (ROOT / package).glob("__pycache__/*.nbc"))


def facts() -> dict[str, str | int]:
    return {
        "cores": os.cpu_count() or 1,
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu_model() -> str:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def versions(jars: Path) -> dict[str, str]:
    """Python, the packages that matter, and the broker in the directory ``jars`` (when that is where it comes from)."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for jar in jars.glob(BROKER_JAR):
        found["kafka"] = jar.stem.rpartition("-")[2]
    return found


def revision() -> str:
    """Of the source, with a mark when it was changed since; empty where there is no repository."""
    asked = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
