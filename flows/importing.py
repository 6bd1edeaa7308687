"""Importing modules with definitions, and finding everything that is wrong in one that cannot be imported.

A module that fails is run again, statement by statement: what a failed statement would have made is missing, and whatever fails for want
of that alone is not told. So three bad projections in a module are three findings, each at its own line.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType

import connectors
import flows
import schemas
from flows.discover import imported, is_engine

HOMES = [Path(package.__path__[0]).resolve() for package in (schemas, connectors, flows)]
INSTALLED = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")]
Place = tuple[str | None, int | None]
"""File and line, where they are known."""


def import_all(name: str) -> tuple[ModuleType | None, list[BaseException]]:
    """The module, as far as it can be made, and all that is wrong with it."""
    with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no part of an answer
        try:
            return imported(name), []
        except (Exception, SystemExit) as error:  # a module may say anything, that it ends the process, too
            return _in_parts(name, error)


def _in_parts(name: str, first: BaseException) -> tuple[ModuleType | None, list[BaseException]]:
    """``first``: why it could not be imported as a whole."""
    spec = _spec_of(name)
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return None, [first]
    try:
        tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
    except (SyntaxError, ValueError):
        return None, [first]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes look up the module that they are in
    try:
        found = list(_faults(module, tree, spec.origin))
    finally:
        sys.modules.pop(name, None)
    return module, found or [first]


def _spec_of(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (Exception, SystemExit):
        return None


def _faults(module: ModuleType, tree: ast.Module, file: str) -> Iterator[BaseException]:
    flags, missing = _future_flags(tree), set[str]()
    for statement in tree.body:
        try:
            exec(compile(ast.Module([statement], []), file, "exec", flags, dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            missing |= set(_made(statement))
            if not (isinstance(error, NameError) and error.name in missing):
                yield error


def _future_flags(tree: ast.Module) -> int:
    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    ]
    return sum({getattr(__future__, name).compiler_flag for name in names})


def _made(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement gives something to."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name


# -- places


def place_of(error: BaseException) -> Place:
    """Where the user wrote what is wrong: the innermost frame that is not of refold's own machinery or of an installed package."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return shown(error.filename), error.lineno
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_file(frame)]
    written = [pair for pair in frames if _is_definition(pair[0])]
    own = [pair for pair in written if not _is_below(pair[0].f_code.co_filename, INSTALLED)]
    for frame, line in (own or written)[-1:]:
        return shown(frame.f_code.co_filename), line
    return None, None


def definitions(module: ModuleType) -> dict[str, Place]:
    """Of the names that a module's text assigns, the place (of the last time)."""
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return {}
    places: dict[str, Place] = {}
    for statement in ast.parse(Path(file).read_bytes()).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            places |= {name: (shown(file), statement.lineno) for name in _made(statement)}
    return places


def shown(file: str) -> str:
    """A path as a person in this directory says it."""
    path, here = Path(file).resolve(), Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_file(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith("<")


def _is_definition(frame: FrameType) -> bool:
    """Not a function of refold's, unless its module is one for projections."""
    file = Path(frame.f_code.co_filename)
    if not _is_below(str(file), HOMES) or frame.f_code.co_name == "<module>":
        return True
    return _is_below(str(file), HOMES[2:]) and not (is_engine(file.stem) or file.stem in {"__init__", "discover"})


def _is_below(file: str, homes: list[Path]) -> bool:
    path = Path(file).resolve()
    return any(path.is_relative_to(home) for home in homes)
