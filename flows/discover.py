"""Finding projections by name: in the ``flows`` package and in the modules named by ``--flows`` or REFOLD_FLOWS."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

import flows
from flows.projection import Projection
from schemas import Category
from schemas.errors import UsageError
from schemas.hints import meant

ENGINE_ROOM = frozenset(
    (
        "accumulators agg alone "
        "calendars chained_merge chains changed checking cli cluster code_text column_order commits_ahead committer "
        "decimal_rules decimals definition delta demo derived diffing discover display doctor duplicates "
        "engine entities entries evaluation event_lines event_table explained_joins explained_text explained_words explaining expressions "
        "facts feeding findings finishing flights_facts flights_feed fold fold_guard "
        "grouping groups guessing "
        "hops "
        "importing inspected inspecting "
        "job join_kernels joins "
        "kernels key_list kinds "
        "leaving_cores log_ends "
        "matching memory merge merging "
        "naming newly "
        "one_partition ordered_merge "
        "pace_of_reading pacing partials picturing pipeline progress projection promoting purity python_folds "
        "query "
        "ranked refolding repairing returned risks room running "
        "said scratch session_merge sessions shapes sides sketches state_size status status_text stopping "
        "testing told touched "
        "upstream_rows "
        "variances verdicts verification "
        "waiting windows "
    ).split()
)
"""Modules of this package that hold no projections: not worth importing to look for them."""


def projections(modules: Sequence[str] = ()) -> dict[str, Projection]:
    """All projections by title (``name@version``). Raises ``UsageError`` for a module that cannot be imported."""
    found: dict[str, Projection] = {}
    for module in _modules(modules):
        for value in vars(module).values():
            if isinstance(value, Projection) and found.setdefault(value.title, value) is not value:
                raise UsageError(
                    f"two projections are called {value.title}",
                    where=module.__name__,
                    do="rename one, or raise its version",
                )
    return found


def category_named(name: str, modules: Sequence[str] = ()) -> Category:
    """A category that the code declares or a projection reads. Raises ``UsageError``."""
    found: dict[str, Category] = {}
    for module in _modules(modules):
        for value in vars(module).values():
            declared = (
                value.categories if isinstance(value, Projection) else [value] if isinstance(value, Category) else ()
            )
            for one in declared:
                if found.setdefault(one.name, one) is not one:
                    raise UsageError(
                        f"two categories are called {one.name}",
                        where=module.__name__,
                        do="declare it once, and import it",
                    )
    if name in found:
        return found[name]
    do = meant(name, found, f"declared are {', '.join(sorted(found)) or 'none'}")
    raise UsageError(f"no code declares a category `{name}`", do=f"{do}\nor name the module that does:  --flows MODULE")


def _modules(named: Sequence[str]) -> Iterable[ModuleType]:
    return map(imported, module_names(named))


def module_names(named: Sequence[str]) -> list[str]:
    """The modules to look through; ``named``: those of ``--flows``."""
    own = [f"flows.{info.name}" for info in pkgutil.iter_modules(flows.__path__) if not is_engine(info.name)]
    extra = [*named, *os.environ.get("REFOLD_FLOWS", "").split(",")]
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the project that refold is used in
    return [name.strip() for name in [*own, *extra] if name.strip()]


def is_engine(module: str) -> bool:
    """Whether a module of this package, by its last name, holds no projections."""
    return module in ENGINE_ROOM or module.startswith("cli_")


def imported(name: str) -> ModuleType:
    """A module. Raises ``UsageError`` where there is none of that name, and whatever importing it raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module `{name}`", do="check --flows and REFOLD_FLOWS") from None
        raise


def pick(names: Sequence[str], known: dict[str, Projection]) -> list[Projection]:
    """Projections by ``name`` (its newest version) or ``name@version``."""
    return [_pick(name, known) for name in names]


def _pick(name: str, known: dict[str, Projection]) -> Projection:
    if name in known:
        return known[name]
    versions = [projection for projection in known.values() if projection.name == name]
    if versions:
        return max(versions, key=lambda projection: projection.version)
    titles = known if "@" in name else {projection.name for projection in known.values()}
    hint = meant(name, titles, f"known are {', '.join(sorted(known)) or 'none'}")
    raise UsageError(
        f"there is no projection `{name}`",
        do=f"{hint}\nprojections are found in the package `flows` and in --flows MODULE",
    )
