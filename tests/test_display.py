"""What is shown while a job works."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numba as nb
import pytest
from pipelines import flights_log

from flows import Meter, rebuild, run, shown
from flows.flights import departures_by_hour
from schemas.compiled import is_compiling


@dataclass
class Job:
    until: object = "end"
    begins: dict[tuple[str, int], int] = field(default_factory=lambda: {("orders", 0): 10, ("orders", 1): 0})
    ends: dict[tuple[str, int], int] = field(default_factory=lambda: {("orders", 0): 30, ("orders", 1): 80})
    positions: dict[tuple[str, int], int] = field(default_factory=lambda: {("orders", 0): 20, ("orders", 1): 15})


def test_a_meter_counts_from_where_reading_began() -> None:
    meter = Meter("Fold <a>")
    assert meter.counts == (0, None)
    meter.watch(Job())
    assert meter.counts == (25, 100)
    assert meter.line().startswith("Fold <a>  25 of 100 events")
    assert '<progress value="25" max="100">' in meter.html() and "Fold &lt;a&gt;  25 of 100 events" in meter.html()
    meter.watch(Job(until=None))
    assert meter.counts == (25, None) and "<progress" not in meter.html()


def test_a_job_is_shown_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = flights_log()
    run([departures_by_hour], log=log, store=tmp_path, until="end")
    with shown(Meter("Rebuild")) as meter:
        rebuild(departures_by_hour, log=log, store=tmp_path, watch=meter.watch)
    done, whole = meter.counts
    assert done == whole and f"Rebuild  {done:,} of {done:,} events" in capsys.readouterr().err


def test_what_is_compiled_is_said() -> None:
    meter = Meter("Fold")
    meter.watch(Job())
    assert not is_compiling() and "compiling" not in meter.line()
    said = []

    @nb.njit
    def fresh(n: int) -> int:
        return n + 1

    with mock.patch.object(fresh._compiler, "compile", lambda *a: (said.append(meter.line()), compiled(*a))[1]):
        compiled = type(fresh._compiler).compile.__get__(fresh._compiler)
        assert fresh(1) == 2
    assert said and said[0].endswith("(compiling kernels: once for an installation)") and not is_compiling()
