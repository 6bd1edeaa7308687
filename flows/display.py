"""What a person sees while a job works: a bar on a terminal and in a notebook, a plain line now and then elsewhere.

with shown(Meter("Rebuild")) as meter:
    rebuild(revenue, watch=meter.watch)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Protocol

from connectors.clock import monotonic
from connectors.points import cut_text, instant_text

__all__ = ["Meter", "cut_text", "instant", "shown"]

REFRESH_S = 0.2
PLAIN_S = 5.0
COMPILING = "(compiling kernels: once for an installation)"


class Watched(Protocol):
    """What can be watched: by place, where reading began, where it will end (``until`` None: it follows), and where it is."""

    @property
    def until(self) -> object: ...

    @property
    def begins(self) -> Mapping[tuple[str, int], int]: ...

    @property
    def ends(self) -> Mapping[tuple[str, int], int]: ...

    @property
    def positions(self) -> Mapping[tuple[str, int], int]: ...


@dataclass
class Meter:
    """Counts what a job has read, of what it has to read. ``quiet`` counts and shows nothing, ``is_told`` shows no more."""

    title: str
    quiet: bool = False

    def __post_init__(self) -> None:
        self.job: Watched | None = None
        self.is_told = False
        self.began = monotonic()

    def watch(self, job: Watched) -> None:
        """A job begins (a rebuild may run several, one after the other)."""
        self.job = job

    @property
    def counts(self) -> tuple[int, int | None]:
        """Records read in this job, and how many it has to read (None: it follows)."""
        job = self.job
        if job is None or not job.positions:
            return 0, None
        begins = sum(job.begins.values())
        done = sum(dict(job.positions).values()) - begins
        whole = sum(max(job.ends[place], at) for place, at in job.begins.items()) - begins
        return done, whole if job.until is not None else None

    @property
    def seconds(self) -> float:
        return max(monotonic() - self.began, 1e-9)

    def line(self) -> str:
        done, whole = self.counts
        rate = done / self.seconds
        left = f", {max(whole - done, 0) / rate:,.0f} s left" if whole and rate and done < whole else ""
        share = f" of {whole:,}" if whole is not None else ""
        throttle = getattr(self.job, "throttle", None)
        held = COMPILING if _is_compiling() else throttle.words if throttle else ""
        return f"{self.title}  {done:,}{share} events  {rate / 1e6:.2f} M/s  {self.seconds:.1f} s{left}{held and f'  {held}'}"

    def html(self) -> str:
        """A bar and the line, for a notebook."""
        done, whole = self.counts
        bar = f'<progress value="{done}" max="{max(whole, 1)}"></progress> ' if whole is not None else ""
        return f"<div>{bar}{escape(self.line())}</div>"


def _is_compiling() -> bool:
    """Kernels load when a job begins, not for its display."""
    compiled = sys.modules.get("schemas.compiled")
    return compiled is not None and compiled.is_compiling()


@contextmanager
def shown(meter: Meter) -> Iterator[Meter]:
    """Show the meter until the block ends; the last state stays on screen."""
    if meter.quiet:
        yield meter
        return
    over = threading.Event()
    show = _in_cell() or (_bar if sys.stderr.isatty() else _lines)
    thread = threading.Thread(target=show, args=(meter, over), daemon=True)
    thread.start()
    try:
        yield meter
    except Exception:
        meter.is_told = meter.counts[0] == 0  # nothing was done: the error says all
        raise
    finally:
        over.set()
        thread.join()


def _lines(meter: Meter, over: threading.Event) -> None:
    is_over = False
    while not is_over:
        is_over = over.wait(PLAIN_S)
        if meter.job is not None and not meter.is_told:  # nothing may have to be read at all
            print(meter.line(), file=sys.stderr, flush=True)


def _in_cell() -> Callable[[Meter, threading.Event], None] | None:
    """In a notebook: a place in the cell that runs, made now, and what keeps it up to date."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return None
    display = import_module("IPython.display")
    place = display.display(display.HTML(""), display_id=True)

    def show(meter: Meter, over: threading.Event) -> None:
        is_over = False
        while not is_over:
            is_over = over.wait(REFRESH_S)
            place.update(display.HTML(meter.html()))

    return show


def _bar(meter: Meter, over: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.fields[title]}"), BarColumn(bar_width=28), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None, title=meter.title, facts="")
        while True:
            last = over.wait(REFRESH_S)
            done, whole = meter.counts
            facts = meter.line().removeprefix(meter.title).strip()
            progress.update(task, completed=done, total=whole or (done if last else None), facts=facts)
            if last:
                return


def instant(us: int | None) -> str:
    """Microseconds since the epoch as UTC text; ``-`` for none."""
    return "-" if us is None else instant_text(us)
