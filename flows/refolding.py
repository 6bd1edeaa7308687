"""Folding a view with a Python fold again in another process: with other hashes, another time zone and another time.

What a fold may refer to is checked before it runs (``flows.purity``), and some of what it does while it runs (``flows.fold_guard``). What
both miss (the order of a set, a clock behind a library) gives other rows here than it gave when the view was folded: text hashes by
another seed, local time is half a day off, and Python's clocks are more than a year ahead.

    python -m flows.refolding < task        (``elsewhere`` starts it; it ends when its parent does)
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from connectors.manifest import Manifest, from_bytes, to_bytes
from flows.projection import Projection
from schemas.errors import RefoldError, StoreError

if TYPE_CHECKING:
    from flows.job import Job
    from flows.verification import Refold

Place = tuple[str, int]

SEEDS = ("4242", "1717")
ZONES = ("XXX-13", "XXX+11")
SHIFT_S = 400 * 86_400
LOOK_S = 0.05
TELL_S = 0.2


def elsewhere(projection: Projection, manifest: Manifest, place: Path, how: Refold) -> str | None:
    """Fold to the cut of a manifest in another process, in a scratch store at ``place``; or until it is asked to stop.

    Returns None, or why that is not possible, in words. Raises what the fold raised there.
    """
    home = _home_of(projection)
    if home is None:
        return "the projection is not a name in a module that can be imported"
    if how.log is not None and not isinstance(how.log, str):
        return "the log was given as an object and not by its place"
    task = {
        "home": home,
        "fingerprint": projection.fingerprint,
        "manifest": to_bytes(manifest).decode(),
        "place": str(place),
        "log": how.log,
        "workers": how.workers,
        "raw": how.raw,
    }
    command = [sys.executable, "-m", "flows.refolding"]
    told = _Told()
    if how.watch:
        how.watch(told)  # type: ignore[arg-type]
    with subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        listener = threading.Thread(target=told.listen, args=(child.stdout,), daemon=True)
        listener.start()
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.flush()
        while child.poll() is None:
            if how.stop.wait(LOOK_S):
                child.terminate()
                child.wait()
        listener.join()
    if told.error is not None:
        raise told.error
    if told.why is None and child.returncode and not how.stop.is_set():
        raise StoreError(f"the process that folds the view again ended with {child.returncode}", do="verify it again")
    return told.why


@dataclass
class _Told:
    """What the other process has said: how far it is (as a job would say it), and how it ended."""

    until: object = "end"
    begins: dict[Place, int] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    positions: dict[Place, int] = field(default_factory=dict)
    why: str | None = None
    error: Exception | None = None

    def listen(self, lines: IO[bytes]) -> None:
        for line in lines:
            said = json.loads(line)
            self.why = said.get("why")
            if "error" in said:
                self.error = pickle.loads(base64.b64decode(said["error"]))  # of our own child
            for category, partition, begin, end, position in said.get("places", ()):
                place = (category, partition)
                self.begins[place], self.ends[place], self.positions[place] = begin, end, position


def _home_of(projection: Projection) -> tuple[str, str] | None:
    """The module and the name under which others find a projection."""
    assert projection.fold is not None
    modules = dict(sys.modules)
    modules.pop("__main__", None)
    first = projection.fold.function.__module__
    for name in sorted(modules, key=lambda name: (name != first, name)):
        for attribute, value in list(getattr(modules[name], "__dict__", {}).items()):
            if value is projection:
                return name, attribute
    return None


def _environment() -> dict[str, str]:
    here = os.environ
    return {
        **here,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONHASHSEED": SEEDS[here.get("PYTHONHASHSEED") == SEEDS[0]],
        "TZ": ZONES[here.get("TZ") == ZONES[0]],
    }


# -- in the other process


def main() -> int:
    """Do the task that stands on the first line of standard input; say on standard output how far it is."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shift_clocks()
    from flows.stopping import stop_on_signals
    from flows.verification import Refold, fold_in

    stop = stop_on_signals()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a module prints when it is imported

    def say(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    module, name = task["home"]
    try:
        projection = getattr(importlib.import_module(module), name)
        if projection.fingerprint != task["fingerprint"]:
            raise ImportError("it has another definition there")
    except Exception as error:
        say(why=f"`{module}.{name}` cannot be imported ({type(error).__name__}: {error})")
        return 1
    over, telling = threading.Event(), list[threading.Thread]()
    try:
        how = Refold(task["log"], task["workers"], stop, lambda job: telling.append(_tell(job, over, say)), task["raw"])
        manifest = from_bytes(task["manifest"].encode(), "the task")
        fold_in(projection, manifest, Path(task["place"]), how).close()
    except RefoldError as error:
        say(error=base64.b64encode(pickle.dumps(error)).decode())
        return 1
    finally:
        over.set()
        for thread in telling:  # so that no line is cut short
            thread.join()
    return 0


def _tell(job: Job, over: threading.Event, say: Callable[..., None]) -> threading.Thread:
    """Say now and then how far a job is, until all is over."""

    def tell() -> None:
        is_over = False
        while not is_over:
            is_over = over.wait(TELL_S)
            there = dict(job.positions)
            say(places=[[*place, job.begins[place], job.ends[place], at] for place, at in there.items()])

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    return thread


def _end_with_parent() -> None:
    sys.stdin.read()  # ends when the parent is gone, or has no more use for this
    os._exit(1)


def _shift_clocks() -> None:
    """Move the clocks that Python code reads; what waits goes by the monotonic one."""

    def moved(read: Any, unit: int) -> Any:
        return lambda: read() + SHIFT_S * unit

    def said_of_now(read: Any) -> Any:
        return lambda seconds=None: read(now() if seconds is None else seconds)

    for name, unit in (("time", 1), ("time_ns", 10**9)):
        setattr(time, name, moved(getattr(time, name), unit))
    now = getattr(time, "time")  # noqa: B009 - by name, as above: it is the moved one
    for name in ("gmtime", "localtime", "ctime"):
        setattr(time, name, said_of_now(getattr(time, name)))


if __name__ == "__main__":
    sys.exit(main())
