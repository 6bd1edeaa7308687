"""The commands of the README and of docs/, run as they stand there, print what stands there; and their examples are projections that fold.

Times, rates and the directory differ from machine to machine; every other character must agree.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest

from connectors import open_log, open_view
from flows import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS, LANGUAGE = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("commands", "language"))
PYTHON = re.findall(r"```python\n(.*?)```", README + LANGUAGE, re.S)
CARTS = [("a", 1.5), ("b", 1.0), ("a", -1.0), ("a", 2.5)]
BIN = Path(sys.executable).parent


def consoles() -> list[tuple[str, str]]:
    """Every command of the console blocks with the output shown. Both the README and the page of commands go on from its tour."""
    found = []
    tour, *rest = re.findall(r"```console\n(.*?)```", README, re.S)
    for block in [tour, *re.findall(r"```console\n(.*?)```", COMMANDS, re.S), *rest]:
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def modules() -> list[tuple[str, str]]:
    """The README's Python blocks that begin with a file's name, and those names."""
    return [(name, block) for block, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", README, re.S)]


def normal(text: str, here: Path) -> str:
    text = text.replace(str(here), "…")
    text = re.sub(r"commit [\d,]+ [\d.]+ \w+ ago  [\d,]+ events/s", "commit N, T ago, R events/s", text)
    text = re.sub(r"commit [\d,]+", "commit N", text)
    text = re.sub(r"\d+\.\d+ s\b", "T s", text)
    text = re.sub(r"\d+\.\d+ M/s", "R M/s", text)
    text = re.sub(r"snapshots/\d{10}", "snapshots/N", text)  # how many commits it took depends on the pace
    lines = [line.rstrip() for line in text.splitlines()]
    # A slow machine prints progress more than once; the last line of each meter is the one shown.
    lines = [line for line in lines if not _is_on_the_way(line)]
    # Or it says twice that all has been read: before the last commit, and after it.
    shown = [line for before, line in pairwise(["", *lines]) if not (line == before and " M/s " in line)]
    return "\n".join(shown).rstrip()


def _is_on_the_way(line: str) -> bool:
    """Of a meter that has not come to its end, or is still told that kernels are being compiled."""
    counts = re.search(r" ([\d,]+) of ([\d,]+) events  R M/s", line)
    return counts is not None and (counts[1] != counts[2] or "(compiling" in line)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_the_commands_print_what_the_readme_says(place: Path) -> None:
    cache = os.environ.get("REFOLD_CACHE") or str(Path.cwd() / "data" / "cache")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "REFOLD_CACHE": cache, "COLUMNS": "200"}
    environment = {name: value for name, value in environment.items() if name not in ("REFOLD_LOG", "REFOLD_STORE")}
    for name, text in modules():
        (place / name).write_text(text)
    for command, expected in consoles():
        if command.startswith("export "):
            environment.update(pair.split("=", 1) for pair in command.removeprefix("export ").split())  # type: ignore[arg-type]
            continue
        shell = "refold demo" if command == "make demo" else command
        done = subprocess.run(
            shell,
            shell=True,
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert normal(done.stdout, place) == normal(expected, place), command


def test_the_tour_of_the_language_prints_what_stands_below_it(tmp_path: Path) -> None:
    ((code, expected),) = re.findall(r"```python\n([^`]*interval_join\([^`]*)```\n+```text\n([^`]*)```", LANGUAGE)
    (tmp_path / "tour.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "tour.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == expected, done.stderr


def test_the_python_fold_folds(tmp_path: Path) -> None:
    (code,) = [block for block in PYTHON if "python_fold(" in block]
    (tmp_path / "open_carts.py").write_text(code)
    spec = importlib.util.spec_from_file_location("open_carts", tmp_path / "open_carts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"open_carts": module}):
        spec.loader.exec_module(module)
        now, log, store = datetime.now(UTC) - timedelta(seconds=9), str(tmp_path / "log"), tmp_path / "store"
        filled = [module.CartFilled(subject=name, time=now, price=price) for name, price in CARTS]
        with open_log(log) as opened:
            opened.append(module.carts, [*filled, module.CartLeft(subject="b", time=now)])
        run([module.open_carts], log=log, store=store, until="end")
    view = open_view(store, "open_carts")
    assert view.scan().collect().rows() == [("a", 2, 4.0, now)]
    assert view.dead_letters().collect()["reason"].to_list() == ["ValueError: a negative price"]


def test_the_example_projection_folds(place: Path) -> None:
    (code,) = [block for block in PYTHON if "revenue = Projection(" in block]
    space: dict[str, object] = {"__name__": "example"}
    sys.modules["example"] = type(sys)("example")
    exec(code, space)
    (test,) = [block for block in PYTHON if "import fold_events" in block]
    exec(test, space)
    space["test_coupons_are_counted"]()  # type: ignore[operator]
    (usage,) = [block for block in PYTHON if "rebuild, repair" in block]
    usage = usage.replace("redpanda://localhost:9092", str(place / "log")).replace("data/store", str(place / "store"))
    usage = usage.replace("open_view(str", "frame = open_view(str").replace('open_view("', 'frame = open_view("')
    exec(usage, {**space, "now": datetime.now(UTC) - timedelta(seconds=1)})
