"""An iterator whose next item is made in another thread while the one before is taken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")


def made_ahead(items: Iterator[Item], threads: Executor) -> Iterator[Item]:
    """The same items, none of which is None; the first is being made from now on. What making raises, taking raises."""
    return _following(items, threads.submit(next, items, None), threads)


def _following(items: Iterator[Item], coming: Future[Item | None], threads: Executor) -> Iterator[Item]:
    while (item := coming.result()) is not None:
        coming = threads.submit(next, items, None)
        yield item
