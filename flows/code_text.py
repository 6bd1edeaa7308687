"""The source of a function or class as canonical text: the same code has the same text, wherever it stands and however it is set.

Comments, layout, docstrings and annotations do not count; names, constants and their types do. The text is written by us from
the syntax tree, not by ``ast.unparse`` or ``ast.dump``, whose output differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from typing import Any

from schemas.errors import UsageError

_LEFT_OUT = frozenset(("ctx", "kind", "annotation", "returns", "type_comment", "type_params"))
_WITH_DOCSTRING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def tree_of(thing: Any, where: str) -> ast.stmt:
    """The definition of a function or class. Raises ``UsageError`` where there is no source, or it is no ``def`` or ``class``."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    except (OSError, TypeError, SyntaxError, ValueError, IndentationError) as error:
        raise UsageError(
            f"the source of `{thing.__qualname__}` cannot be found",
            where=where,
            why="a view is known by what its fold does, so the code must be there to be compared",
            do="define it in a module that is a file",
        ) from error
    if not isinstance(tree, ast.FunctionDef | ast.ClassDef):
        raise UsageError(
            f"`{thing.__qualname__}` is not defined by a statement of its own",
            where=where,
            do="give it a name:  def ...",
        )
    return tree


def text_hash(tree: ast.AST) -> str:
    return hashlib.blake2b(code_text(tree).encode(), digest_size=8).hexdigest()


def code_text(node: Any) -> str:
    """Canonical text of a syntax tree, ``(Kind field=... ...)``; fields that are not there are left out."""
    if isinstance(node, list):
        return f"[{' '.join(map(code_text, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _WITH_DOCSTRING):
        fields["body"] = _without_docstring(node.body)
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some format specifications with an empty text
        fields["values"] = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    said = [
        f"{name}={code_text(value)}"
        for name, value in sorted(fields.items())
        if name not in _LEFT_OUT and value is not None and value != []
    ]
    if isinstance(node, ast.Constant):
        said = [f"{type(node.value).__name__} {node.value!a}"]
    return f"({' '.join([type(node).__name__, *said])})"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_text else body
