"""Are all projections well defined? Every module is looked at, whatever is wrong with the one before.

An *error* is what would stop a command that uses the projection; a *warning* is lawful and may hurt (``flows.risks``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from flows.discover import module_names
from flows.importing import Place, definitions, import_all, place_of, shown
from flows.projection import Projection
from flows.risks import risks_of
from schemas import Category
from schemas.errors import RefoldError

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """``where``: which projection or other thing; ``file`` and ``line``: where it was written, as far as that is known."""

    level: str
    what: str
    where: str | None = None
    why: str | None = None
    do: str | None = None
    file: str | None = None
    line: int | None = None

    def lines(self) -> Iterator[str]:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        yield f"{place + ': ' if place else ''}{self.level}: {self.what}"
        for label, text in (("where", self.where), ("why", self.why), ("do", self.do)):
            if text:
                yield f"  {label:<7} {text}".replace("\n", "\n          ")


@dataclass
class Checked:
    """``projections``: titles of those that could be made."""

    modules: list[str] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self._of(ERROR)

    def _of(self, level: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    def add(self, finding: Finding) -> None:
        """Once, though it may be met from several modules that import one."""
        if finding not in self.findings:
            self.findings.append(finding)

    def lines(self) -> Iterator[str]:
        for finding in self.findings:
            yield from finding.lines()
        counts = [_counted(len(self._of(level)), level) for level in (ERROR, WARNING)]
        looked = f"{_counted(len(self.projections), 'projection')} in {_counted(len(self.modules), 'module')}"
        yield f"{looked}: {', '.join(counts)}"


@dataclass(frozen=True, slots=True)
class _Found:
    """A projection, and where it was written."""

    projection: Projection
    place: Place

    def finding(self, level: str, what: str, do: str | None = None, why: str | None = None) -> Finding:
        return Finding(level, what, f"projection {self.projection.title}", why, do, *self.place)


def check(modules: Sequence[str] = ()) -> Checked:
    """Import the modules in which projections are found, those named included, and check every projection there."""
    checked, found = Checked(), list[_Found]()
    for name in dict.fromkeys(module_names(modules)):
        module, errors = import_all(name)
        checked.modules.append(name)
        for error in errors:
            checked.add(_of_error(error, name))
        here = [] if module is None else list(_projections(module))
        if not here and not errors and not name.startswith("flows."):
            checked.add(Finding(WARNING, f"module `{name}` holds no projection", do="leave it out of --flows"))
        _take(found, here)
    checked.projections = [one.projection.title for one in found]
    for finding in (*_twice(found), *_definitions(found), *_categories(found), *_versions(found), *_risky(found)):
        checked.add(finding)
    return checked


def _projections(module: ModuleType) -> Iterator[_Found]:
    places = definitions(module)
    file = getattr(module, "__file__", None)
    for name, value in list(vars(module).items()):
        if isinstance(value, Projection):
            yield _Found(value, places.get(name, (file and shown(file), None)))


def _take(found: list[_Found], here: Sequence[_Found]) -> None:
    """One entry a projection, at the line that made it and not where it was imported."""
    for one in here:
        known = next((at for at, other in enumerate(found) if other.projection is one.projection), None)
        if known is None:
            found.append(one)
        elif found[known].place[1] is None:
            found[known] = one


def _of_error(error: BaseException, module: str) -> Finding:
    file, line = place_of(error)
    if isinstance(error, RefoldError):
        return Finding(ERROR, error.what, error.where, error.why, error.do, file, line)
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    do = "install it, or correct the name" if isinstance(error, ModuleNotFoundError) else "correct the module"
    return Finding(ERROR, what, None if file else f"module {module}", None, do, file, line)


# -- all projections together


def _twice(found: Sequence[_Found]) -> Iterator[Finding]:
    known: dict[str, _Found] = {}
    for one in found:
        first = known.setdefault(one.projection.title, one)
        if first is not one:
            what = f"two projections are called {one.projection.title}"
            yield one.finding(ERROR, what, "rename one, or raise its version", f"the other is {_said(first.place)}")


def _definitions(found: Sequence[_Found]) -> Iterator[Finding]:
    for one in found:
        try:
            assert one.projection.definition and one.projection.fingerprint
        except Exception as error:
            do = error.do if isinstance(error, RefoldError) else None
            yield one.finding(ERROR, f"its definition cannot be written down: {error}", do)


def _categories(found: Sequence[_Found]) -> Iterator[Finding]:
    known: dict[str, tuple[Category, _Found]] = {}
    for one in found:
        for category in one.projection.categories:
            first, other = known.setdefault(category.name, (category, one))
            if first is not category:
                yield one.finding(
                    ERROR,
                    f"category `{category.name}` is declared twice",
                    "declare it once and import it",
                    f"{other.projection.title} is of another one ({_said(other.place)}); a run of both would be refused",
                )


def _versions(found: Sequence[_Found]) -> Iterator[Finding]:
    known: dict[tuple[str, str], _Found] = {}
    for one in found:
        first = known.setdefault((one.projection.name, one.projection.fingerprint), one)
        if first.projection.version != one.projection.version:
            versions = f"{first.projection.title} and {one.projection.title}"
            yield one.finding(
                WARNING,
                f"{versions} have one definition: their views are equal, and both are folded and kept",
                "remove one of them",
            )


def _risky(found: Sequence[_Found]) -> Iterator[Finding]:
    for one in found:
        yield from (one.finding(WARNING, risk.what, risk.do) for risk in risks_of(one.projection))


def _said(place: Place) -> str:
    return ":".join(str(part) for part in place if part is not None) or "in another module"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
