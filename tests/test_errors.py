"""What one sees who mistypes something, or whose broker is not there: the table of tests/errors.txt, command by command.

Each block is a command as it is typed, what is said, and the exit code. No command may change anything, or show a traceback.
To write the table anew after a change:  python -m tests.test_errors
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from pipelines import contents, flights_log, here

from flows import run
from flows.cli import main
from flows.flights import aircraft, departures_by_hour

TABLE = Path(__file__).with_name("errors.txt")
MISTYPED = """
from flows import Projection, agg
from schemas.flights import flights

aircraft = Projection(name="flown", category=flights, key=["carrier"], columns={"miles": agg.sum("mils")})
"""
READ_THE_LOG = frozenset("inspect new produce run status verify rebuild doctor archive demo".split())
"""Commands that cannot do without their log. (`repair` reads it when something is damaged, `promote` and `diff` when they fold on.)"""


def blocks(text: str) -> list[tuple[str, str]]:
    """Commands, and what follows each up to the line with its exit code."""
    return re.findall(r"^\$ (.*)\n((?:.*\n)*?\[\d\]\n)", text, re.M)


def said(command: str) -> str:
    """What a command says, in this process, and its exit code. ``echo TEXT | refold ...`` is understood."""
    words = shlex.split(command)
    given = words[1] if words[0] == "echo" else ""
    arguments = words[words.index("refold") + 1 :]
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode() + b"\n"))):
        told = here(*arguments)
    return f"{told.out}{told.err}".rstrip("\n").lstrip() + f"\n[{told.code}]\n"


@contextlib.contextmanager
def standing_in(place: Path) -> Iterator[None]:
    """In a project with a log, a store, and a module with a typing error; the broker is waited for as shortly as may be."""
    (place / "data").mkdir()
    (place / "data/log").symlink_to(flights_log())
    run([aircraft, departures_by_hour], log=flights_log(), store=place / "data/store", until="end")
    (place / "mistyped.py").write_text(MISTYPED)
    (place / "README").write_text("a file, no directory")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REFOLD_")}
    cache = {name: os.environ[name] for name in ("REFOLD_CACHE",) if name in os.environ}
    with (
        mock.patch.dict(os.environ, {**kept, **cache, "REFOLD_BROKER_TIMEOUT": "1"}, clear=True),
        mock.patch.object(sys, "path", [str(place), *sys.path]),
        contextlib.chdir(place),
    ):
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("project")
    with standing_in(place):
        yield place


@pytest.mark.parametrize(("command", "expected"), blocks(TABLE.read_text()), ids=lambda text: text.partition("\n")[0])
def test_an_error_says_what_is_in_the_table_and_changes_nothing(project: Path, command: str, expected: str) -> None:
    before = _kept(project)
    assert said(command) == expected
    assert _kept(project) == before


def _kept(project: Path) -> dict[str, bytes | str]:
    """Without the marks of generations that rebuilds began and left empty."""
    return {name: content for name, content in contents(project / "data").items() if not name.endswith("/.place")}


def test_every_command_is_mistyped_and_meets_a_broker_that_is_not_there() -> None:
    assert len(blocks(TABLE.read_text())) == len(re.findall(r"^\$ ", TABLE.read_text(), re.M))
    used: dict[str, set[str]] = {}
    for command, _ in blocks(TABLE.read_text()):
        words = shlex.split(command)
        name = words[words.index("refold") + 1]
        used.setdefault(name, set()).add("broker" if "redpanda://127.0.0.1:1" in command else "typo")
    for name in main.commands:
        assert "typo" in used[name], name
        assert ("broker" in used[name]) == (name in READ_THE_LOG), name


def test_no_error_is_a_traceback_and_each_says_what_to_do() -> None:
    for command, told in blocks(TABLE.read_text()):
        assert ("Traceback" not in told and "error: " in told) or command.startswith("refold doctor"), command
        assert re.search(r"^ +(do|fix) +\S", told, re.M), command


def _write_anew() -> None:
    """The table with what its commands say now; headings and commands stay."""
    import tempfile

    lines = [line for line in TABLE.read_text().splitlines() if line.startswith(("#", "$ "))]
    with tempfile.TemporaryDirectory() as place, standing_in(Path(place).resolve()):
        told = [f"\n{line}\n" if line.startswith("#") else f"{line}\n{said(line[2:])}" for line in lines]
    TABLE.write_text("".join(told).lstrip())


if __name__ == "__main__":
    _write_anew()
