"""The error for a view that a store does not have: with those that have a similar name, or else all that there are."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import UnknownView
from schemas.hints import meant


def unknown_view(store: str | Path, name: str, version: int | None = None) -> UnknownView:
    from connectors.view import list_views

    if not Path(store).exists():
        do = "name another with --store or REFOLD_STORE, or begin it:  refold run VIEW"
        return UnknownView("there is no store", where=str(store), do=do)
    known = {view.name: view.versions for view in list_views(store)}
    what = f"no view {name!r}" if version is None or name not in known else f"no version {version} of view {name!r}"
    return UnknownView(what, where=f"store {store}", do=_advice(name, known))


def _advice(name: str, known: dict[str, tuple[int, ...]]) -> str:
    if name in known:
        return f"it has {', '.join(f'{name}@{number}' for number in known[name])}"
    every = ", ".join(known)
    return meant(name, known, f"it knows {every}") if known else "it holds no view yet:  refold run VIEW"
