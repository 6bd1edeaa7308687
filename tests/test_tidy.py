"""What a reader may count on everywhere, checked so that nobody has to remember it.

Layers (``schemas <- connectors <- flows``), the one place of each engine and client, no hidden clocks or randomness,
rooms of a readable size that say what they are for, and commands that explain themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "connectors", "flows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LINES_MAX = 400

MAY_IMPORT = {"schemas": {"schemas"}, "connectors": {"schemas", "connectors"}, "flows": set(PACKAGES)}
ONLY_IN = {
    "bytewax": {"flows/engine.py"},
    "kafka": {"connectors/redpanda.py", "connectors/kafka_errors.py", "connectors/kafka_net.py"},
}
CLOCK, IDENTITY = "connectors/clock.py", "connectors/local.py"
BANNED = {
    "time.time": CLOCK,
    "time.time_ns": CLOCK,
    "datetime.now": CLOCK,
    "datetime.utcnow": CLOCK,
    "datetime.today": CLOCK,
    "date.today": CLOCK,
    "random": None,
    "numpy.random": None,
    "uuid": IDENTITY,
    "secrets": IDENTITY,
    "os.urandom": IDENTITY,
}
"""What would make a view depend on more than the log, and the module that may use it all the same."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names of imported modules, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@every_module
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize(("library", "homes"), ONLY_IN.items())
def test_the_engine_and_the_client_are_known_to_few(library: str, homes: set[str]) -> None:
    found = {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == library for name in imports(ast.parse(path.read_text())))
    }
    assert found == homes


@every_module
def test_kernels_are_compiled_one_way(path: Path) -> None:
    """A kernel that counts references is right and several times as slow: easy to write, hard to see."""
    assert name_of(path) == "schemas/compiled.py" or not re.search(r"\b(njit|jit)\(", path.read_text())


@every_module
def test_no_clock_and_no_randomness_but_in_their_own_modules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    used = {word for name in (*imports(tree), *dotted_names(tree)) if (word := banned(name))}
    assert {word for word in used if BANNED[word] != name_of(path)} == set()


def banned(name: str) -> str | None:
    """The entry of ``BANNED`` that a dotted name is or ends with or begins with, if any."""
    return next((word for word in BANNED if f".{name}.".find(f".{word}.") >= 0), None)


def dotted_names(tree: ast.Module) -> Iterator[str]:
    """Every ``a.b.c`` of the module, with the first name written out in full where it was imported under another."""
    aliases = {alias.asname: alias.name for node in ast.walk(tree) for alias in alias_nodes(node) if alias.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(root := innermost(node), ast.Name):
            first, _, rest = ast.unparse(node).partition(".")
            yield f"{aliases.get(root.id, first)}.{rest}"


def alias_nodes(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def innermost(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import time\ntime.time()", "time.time"),
        ("from time import time", "time.time"),
        ("import datetime as dt\ndt.datetime.now()", "datetime.now"),
        ("from datetime import datetime as d\nd.utcnow()", "datetime.utcnow"),
        ("import numpy as np\nnp.random.default_rng()", "random"),
        ("import random", "random"),
        ("from uuid import uuid4", "uuid"),
        ("import time\ntime.monotonic()", None),
        ("import datetime as dt\ndt.timedelta(1)", None),
    ],
)
def test_the_rule_itself_finds_what_it_bans(code: str, word: str | None) -> None:
    tree = ast.parse(code)
    assert next(filter(None, map(banned, (*imports(tree), *dotted_names(tree)))), None) == word


@every_module
def test_a_module_is_one_room_that_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"
    assert len(text.splitlines()) <= LINES_MAX
    assert not {"util", "utils", "helpers", "misc", "common"} & set(path.stem.split("_"))


def commands() -> list[tuple[str, click.Command]]:
    """Every command of the command line, by its full name, the group itself first."""
    from flows.cli import main

    return list(walk("refold", main))


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for below, sub in command.commands.items():
            yield from walk(f"{name} {below}", sub)


def test_every_command_and_option_has_help() -> None:
    silent = [name for name, command in commands() if not command.help]
    silent += [
        f"{name} --{option.name}" for name, command in commands() for option in options(command) if not option.help
    ]
    assert silent == []


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden]


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text() + (ROOT / "docs/commands.md").read_text()
    assert [name for name, command in commands() if not command.hidden and name not in readme] == []
