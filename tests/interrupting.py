"""Interrupts a work before every step on disk, by a kill and by a loss of power, and checks what is found and how it goes on.

A ``Work`` says how it begins, how it goes on, what must hold for those who look at an interrupted one, and what its
outcome is; the ``Rig`` finds out whether an interrupted work keeps its promises and comes to the same outcome.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import Disk, Plan, State, lay

Acknowledge = Callable[[int], None]


def lots_of_a_seed() -> random.Random:
    """Lots of a printed seed; REFOLD_TEST_SEED=... gives the same ones again."""
    seed = int(os.environ.get("REFOLD_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"REFOLD_TEST_SEED={seed}")
    return random.Random(seed)


class Work(ABC):
    """Something done in a directory."""

    def prepare(self, place: Path) -> None:  # noqa: B027 - often there is nothing before
        """What is there before, safely."""

    @abstractmethod
    def work(self, place: Path, acknowledge: Acknowledge) -> None:
        """Begin, or go on, to the end; ``acknowledge`` how much is promised to be there."""

    @abstractmethod
    def look(self, place: Path, acknowledged: int) -> None:
        """Check what readers see of an interrupted work, before anybody goes on."""

    @abstractmethod
    def outcome(self, place: Path) -> Any:
        """What is there at the end, in a form to compare."""


@dataclass(frozen=True)
class Effort:
    """``mixtures``: disks drawn for each state. ``again``: states at which going on is interrupted too, at ``later``
    moments. ``every``: look at each ``every``-th state only."""

    mixtures: int
    again: int
    later: int = 6
    every: int = 1


class Rig:
    """``points``: states at which something was interrupted. ``tried``: different disks that were gone on from."""

    def __init__(self, job: Work, scratch: Path) -> None:
        self.lots = lots_of_a_seed()
        self.points = self.tried = 0
        self._job, self._scratch = job, scratch
        self._numbers = itertools.count()
        self._seen: set[tuple[int, frozenset[tuple[str, Any]]]] = set()
        self._states = self._watched(self._prepared())
        self._wanted = self._undisturbed()

    def interrupt_everywhere(self, effort: Effort) -> None:
        for state in self._states[self.lots.randrange(effort.every) :: effort.every]:
            self._interrupt(state, effort.mixtures)
        for state in self.lots.sample(self._states, min(effort.again, len(self._states))):
            self._interrupt_again(state, effort.later)
        print(f"{type(self._job).__name__}: {self.points} crash points, {self.tried} different disks, no difference")

    def finish_after_kills(self) -> None:
        """Kill it before anything is synced, go on to the end, and lose power: what is promised must not lean on the killed one."""
        for state in [state for state in self._states if state.step.startswith("fsync")]:
            states = self._watched(lay(state.when_killed(), self._place()), since=state)
            self._interrupt(states[-1], mixtures=1)

    def _interrupt(self, state: State, mixtures: int) -> None:
        self.points += 1
        drawn = [state.after_power_loss(self.lots) for _ in range(mixtures)]
        for plan in (state.when_killed(), state.only_durable(), *drawn):
            self._try(plan, state)

    def _interrupt_again(self, state: State, later: int) -> None:
        """Go on, and lose power once more: after a kill, when what was not synced still is not, and after a loss of power."""
        killed = self._watched(lay(state.when_killed(), self._place()), since=state)
        lost = self._watched(lay(state.after_power_loss(self.lots), self._place()), promised=state.acknowledged)
        for states in (killed, lost):
            for found in self.lots.sample(states, min(later, len(states))):
                self._interrupt(found, mixtures=1)

    def _watched(self, place: Path, since: State | None = None, promised: int = 0) -> list[State]:
        with Disk(place, since=since) as disk:
            disk.acknowledge(since.acknowledged if since else promised)
            self._job.work(place, disk.acknowledge)
        shutil.rmtree(place)
        return disk.states

    def _undisturbed(self) -> Any:
        place = self._prepared()
        self._job.work(place, lambda _: None)
        self._job.look(place, self._states[-1].acknowledged)
        return self._job.outcome(place)

    def _try(self, plan: Plan, state: State) -> None:
        """Look at a disk and go on from there, unless one like it was tried before."""
        key = (state.acknowledged, frozenset(plan.items()))
        if key in self._seen:
            return
        self._seen.add(key)
        self.tried += 1
        place = lay(plan, self._place())
        try:
            self._job.look(place, state.acknowledged)
            self._job.work(place, lambda _: None)
            assert self._job.outcome(place) == self._wanted
        except BaseException as error:
            error.add_note(f"interrupted before: {state.step}; promised until then: {state.acknowledged}; see {place}")
            raise
        shutil.rmtree(place)

    def _prepared(self) -> Path:
        place = self._place()
        place.mkdir()
        self._job.prepare(place)
        return place

    def _place(self) -> Path:
        return self._scratch / str(next(self._numbers))
