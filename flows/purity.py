"""What the code of a Python fold may refer to: nothing that is not the same for every run, and nothing that can change.

``references`` follows a function through all it names, before it ever runs: functions and classes of the user's modules by their
source, constants by their value, everything of the standard library and of installed packages by its name. What is found
is the identity of the fold (it goes into the definition of the view). Refused with ``ImpureFold``:

- clocks (``time``, ``datetime.now``, ``utcnow``, ``today``, ``fromtimestamp``), randomness (``random``, ``secrets``, ``uuid1``,
  ``uuid4``, ``os.urandom``), the machine (``os``, ``sys``, ``platform``, ``locale``, ``socket``, files, processes, threads), ``id``,
  ``hash``, ``eval``, ``exec``: by name, through any alias, module or helper
- names that can change: lists, dicts, sets and other objects in globals, closures and defaults; ``global``, ``nonlocal``,
  assignments to what outlives the event; imports within the function

Not seen: what a function of an installed package does, what is reached by computed names (``getattr``), methods of values, the
order of a set. Of those ``flows.fold_guard`` catches some while the fold runs, and ``verify`` the rest by what comes of them.
"""

from __future__ import annotations

import ast
import builtins
import datetime as dt
import decimal
import dis
import enum
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from flows.code_text import text_hash, tree_of
from schemas import Event
from schemas.errors import ImpureFold

Reference = tuple[str, ...]
"""A name and the attributes asked of it: ``dt.datetime.now`` is ``("dt", "datetime", "now")``."""

IMPURE_MODULES = frozenset(
    "time random secrets os posix nt io _io socket _socket ssl select selectors subprocess threading _thread multiprocessing "
    "concurrent asyncio signal tempfile shutil pathlib glob urllib http ftplib smtplib sqlite3 shelve dbm platform locale "
    "getpass pwd sys gc ctypes importlib inspect faulthandler resource fileinput logging zoneinfo numpy.random requests httpx "
    "aiohttp psutil".split()
)
PURE_PARTS = frozenset(("urllib.parse", "http.HTTPStatus"))
"""What is pure for all that of such a module."""
IMPURE_NAMES = frozenset(
    "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.datetime.fromtimestamp datetime.date.today "
    "datetime.date.fromtimestamp uuid.uuid1 uuid.uuid4 uuid.getnode builtins.open builtins.input builtins.eval builtins.exec "
    "builtins.compile builtins.__import__ builtins.id builtins.hash builtins.globals builtins.locals builtins.vars "
    "builtins.breakpoint numpy.random".split()
)
CLOCK_METHODS = frozenset(("now", "utcnow", "today"))
"""Refused as a call on anything: ``event.event_time.now()`` is a clock, too."""
FIXED = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    dt.timezone,
)
MADE_BY_PYTHON = frozenset(("_fields", "_field_defaults", "_abc_impl"))
CODE = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
MISSING = object()
DISTURBING = ("STORE_GLOBAL", "DELETE_GLOBAL")


def references(function: types.FunctionType, state: type) -> dict[str, Any]:
    """All that the fold is made of, by name: for code a hash of its text, and what each name in it stands for."""
    found = _Search()
    found.code(function)
    found.code(state)
    return found.known


class _Search:
    """``known``: what was found, by the name it goes by. Code that is met again is not looked at again."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def code(self, thing: types.FunctionType | type) -> str:
        """The name that a function or class of the user's goes by; everything it refers to is looked at."""
        if id(thing) in self._names:
            return self._names[id(thing)]
        name, again = thing.__qualname__, 1
        while name in self.known:
            again += 1
            name = f"{thing.__qualname__} ({again})"
        self._names[id(thing)] = name
        entry = self.known[name] = {}
        if hasattr(thing, "__wrapped__"):
            raise _refused("it is wrapped by a decorator", name, "use the function itself")
        tree = tree_of(thing, name)
        entry["code"] = text_hash(tree)
        uses: dict[str, str] = {}
        for function in _functions(thing):
            if isinstance(thing, type) and function.__qualname__.rpartition(".")[0] != thing.__qualname__:
                if not _is_installed(function.__module__):  # ``enum`` puts some of its own into a class
                    uses[function.__qualname__] = self.code(function)
                continue
            _check_code(function, tree, name)
            space = _Space(function)
            for reference in sorted(set(_names(tree, space))):
                uses[".".join(reference)] = self._meaning(space.value(reference[0]), reference, name)
        found = {"uses": uses, "values": _values(thing, name), "bases": [self.code(base) for base in _bases(thing)]}
        entry.update({part: value for part, value in found.items() if value})
        return name

    def _meaning(self, value: Any, reference: Reference, where: str) -> str:
        """What a name stands for, as text."""
        said, rest = ".".join(reference), reference[1:]
        while isinstance(value, types.ModuleType) and rest:
            _refuse_impure(f"{value.__name__}.{rest[0]}", said, where)
            value, rest = getattr(value, rest[0], MISSING), rest[1:]
        if value is MISSING:
            raise _refused(f"`{said}` is not there yet", where, "define it above the projection")
        full = _full_name(value)
        _refuse_impure(".".join([full, *rest[:1]]) if isinstance(value, type) else full, said, where)
        if isinstance(value, enum.Enum):
            return f"{self.code(type(value))}.{value.name}"
        if isinstance(value, types.FunctionType | type):
            if isinstance(value, type) and issubclass(value, Event):
                return f"event {value.type_name}"
            return full if _is_installed(value.__module__) else self.code(value)
        if isinstance(value, (*CODE, types.ModuleType)):
            owner = _owner(value)
            is_free = owner is None or isinstance(owner, type)
            return full if is_free else f"{full} of {_constant(owner, f'`{said}`', where)}"
        return _constant(value, f"`{said}`", where)


class _Space:
    """What the names of a function stand for, outside of it."""

    def __init__(self, function: types.FunctionType) -> None:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._inner = {name: cell for name, cell in cells if name != "__class__"}
        self._globals: Mapping[str, Any] = function.__globals__
        self.names = {*self._inner, *_global_names(function.__code__)}

    def value(self, name: str) -> Any:
        """``MISSING`` where there is no such thing, or not yet."""
        try:
            if name in self._inner:
                return self._inner[name].cell_contents
        except ValueError:
            return MISSING
        return self._globals.get(name, getattr(builtins, name, MISSING))


def _functions(thing: types.FunctionType | type) -> list[types.FunctionType]:
    """The function itself; of a class, all that it has, wherever they were made (but by ``dataclasses``)."""
    if isinstance(thing, types.FunctionType):
        return [thing]
    parts = [part for value in vars(thing).values() for part in _parts(value)]
    return [part for part in parts if isinstance(part, types.FunctionType) and part.__code__.co_filename != "<string>"]


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, property):
        return value.fget, value.fset
    return (getattr(value, "__func__", value),)


def _values(thing: types.FunctionType | type, where: str) -> dict[str, str]:
    """What a function has as defaults and a class as plain attributes, as text. Raises ``ImpureFold`` for what can change."""
    if isinstance(thing, types.FunctionType):
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        found = {f"default {number}": value for number, value in enumerate(defaults)} | vars(thing)
    elif issubclass(thing, enum.Enum):
        found = {name: member.value for name, member in thing.__members__.items()}
    else:
        plain = {name: value for name, value in vars(thing).items() if not hasattr(type(value), "__get__")}
        found = {name: value for name, value in plain.items() if not (name[:2] == "__" or name in MADE_BY_PYTHON)}
    return {name: _constant(value, f"`{thing.__qualname__}.{name}`", where) for name, value in found.items()}


def _bases(thing: types.FunctionType | type) -> list[type]:
    """The user's own classes that a class is made of."""
    return [base for base in thing.__bases__ if not _is_installed(base.__module__)] if isinstance(thing, type) else []


def _names(tree: ast.AST, space: _Space) -> Iterator[Reference]:
    """Every outer name in the code, with the attributes asked of it."""
    chained: set[int] = set()
    for node in ast.walk(tree):
        chain: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and id(inner) not in chained and inner.id in space.names:
            chained.add(id(inner))  # the walk meets the longest chain first
            yield (inner.id, *reversed(chain))


def _check_code(function: types.FunctionType, tree: ast.AST, where: str) -> None:
    """Refuse what changes things that outlive the event, and what cannot be looked at."""
    space = _Space(function)
    outer = set(function.__code__.co_freevars)
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname in DISTURBING or (step.opname == "STORE_DEREF" and step.argval in outer):
                raise _refused(f"it assigns to `{step.argval}`, which outlives the event", where)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            raise _refused(
                "it imports while it runs", where, "import at the top of the module, where it can be looked at"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_METHODS:
            raise _refused(f"`{ast.unparse(node.func)}` reads a clock", where, _INSTEAD)
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            root: ast.AST = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root.id in space.names:
                raise _refused(f"it changes `{root.id}`, which outlives the event", where)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _global_names(code: types.CodeType) -> set[str]:
    asking = ("LOAD_GLOBAL", "LOAD_NAME")
    return {step.argval for part in _codes(code) for step in dis.get_instructions(part) if step.opname in asking} - {
        "__name__",
        "__qualname__",
        "__module__",
    }


def _owner(value: Any) -> Any:
    """What a built-in method is bound to; None for a function."""
    owner = getattr(value, "__self__", None)
    return None if isinstance(owner, types.ModuleType) else owner


def _full_name(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    if (owner := _owner(value)) is not None:
        home = owner if isinstance(owner, type) else type(owner)
        return f"{home.__module__}.{home.__qualname__}.{value.__name__}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def _refuse_impure(full: str, said: str, where: str) -> None:
    parts = full.split(".")
    heads = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    if heads & PURE_PARTS or not (heads & IMPURE_NAMES or heads & IMPURE_MODULES):
        return
    raise _refused(f"`{said}` is not the same for every run", where, _INSTEAD)


_INSTEAD = "take it from the event: event.event_time is when it happened; what it needs to know must be in the log"


def _is_installed(module: str) -> bool:
    """Of the standard library, of an installed package, or of refold's own engine: known by its name."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names or top in ("schemas", "connectors") or module == "flows.python_folds":
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool(re.search(r"[/\\](site|dist)-packages[/\\]", file))


def _constant(value: Any, said: str, where: str) -> str:
    """A value that cannot change, as text that is the same for equal values. Raises ``ImpureFold`` for any other."""
    if type(value) in FIXED or isinstance(value, dt.datetime):
        return f"{type(value).__name__} {value!a}"
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!a}, {value.flags})"
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name} = {_constant(value.value, said, where)}"
    if type(value) is tuple:
        return f"tuple({', '.join(_constant(item, said, where) for item in value)})"
    if type(value) is frozenset:
        return f"frozenset({', '.join(sorted(_constant(item, said, where) for item in value))})"
    if type(value) is types.MappingProxyType:
        items = (f"{_constant(key, said, where)}: {_constant(item, said, where)}" for key, item in value.items())
        return f"mapping({', '.join(items)})"
    raise _refused(
        f"{said} is a {type(value).__name__}, which can change",
        where,
        "make it a number, text, tuple, frozenset or types.MappingProxyType(dict)",
    )


def _refused(what: str, where: str, do: str = "keep everything that it remembers in the state") -> ImpureFold:
    return ImpureFold(
        f"a fold must depend on its state and its event alone, and in `{where}` {what}",
        why="a view is a pure function of its log: run, rebuild and verify must all come to the same",
        do=do,
    )
