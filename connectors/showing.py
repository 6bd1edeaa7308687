"""How a view shows itself: a line in a shell, its facts and first rows in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from connectors.manifest import ROWS
from connectors.points import cut_text

if TYPE_CHECKING:
    from connectors.view import View

ROWS_SHOWN = 10


def line(view: View) -> str:
    return f"<View {view.name}@{view.version}: {_facts(view)}, digest {view.digest[:4]}…{view.digest[-4:]}>"


def html(view: View) -> str:
    """For Jupyter. The rows as Polars shows them."""
    title = escape(f"{view.name}@{view.version}")
    first = view.scan().head(ROWS_SHOWN).collect()._repr_html_()
    return f"<b>{title}</b> {escape(_facts(view))}<br><small>digest {view.digest}</small>{first}"


def _facts(view: View) -> str:
    return f"{view.manifest.tables[ROWS].rows:,} rows at {cut_text(view.cut)}, commit {view.seq:,}"
